"""Source `pybugs`: a fault injected into a real pure-Python package, to be found from the tests that fail.

The procedure of SWE-smith with syntax-tree operators only (:mod:`source_tasks.mutate`). A fault makes a task if the
package's own tests pass without it (the reference solution shows that) and at least one fails with it; the instruction
shows the failing tests and the errors, the solution puts the original lines back. A function belongs
to one split: no function that a test task breaks is broken in a training task.
"""

from __future__ import annotations

import difflib
import itertools
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any, Literal, TypeVar

from recipe_core.seeds import row_random
from recipe_core.tasks import TaskFile
from source_tasks import mutate, sdist
from source_tasks.files.suite_run import UNFINISHED
from source_tasks.heldout import split_of
from source_tasks.source import Candidate, Rejected, dockerfile, script, task_toml, text, verifier

T = TypeVar("T")

_END = "END_OF_FIX"
_SHOWN_FAILURES = 5
_RUN_TIMEOUT_SEC = 60.0

SURVIVES = "the tests pass with the fault"
BREAKS_IMPORT = "the fault breaks the import of the tests"


@dataclass(frozen=True)
class Project:
    """A package's files, split into what the agent sees and what the verifier brings."""

    package: sdist.Package
    files: Mapping[str, bytes]

    def _below(self, roots: Sequence[str]) -> dict[str, bytes]:
        return {
            path: content
            for path, content in self.files.items()
            if any(path == root or path.startswith(f"{root}/") for root in roots)
        }

    @cached_property
    def code(self) -> dict[str, bytes]:
        """Files below `code`, by path."""
        return self._below(self.package.code)

    @cached_property
    def tests(self) -> dict[str, bytes]:
        """Files below `tests`, by path."""
        return self._below(self.package.tests)

    def faults(self) -> Iterator[tuple[str, mutate.Mutant]]:
        """Yield path and fault of everything that can be broken, in the order of paths and text."""
        for path in sorted(self.code):
            if path.endswith(".py"):
                for mutant in mutate.mutants(self.code[path]):
                    yield path, mutant


def function_key(package: str, path: str, function: str) -> str:
    """Return the held-out key of a function.

    >>> function_key("xmltodict", "xmltodict.py", "_DictSAXHandler.push_data")
    'xmltodict:xmltodict.py:_DictSAXHandler.push_data'
    """
    return f"{package}:{path}:{function}"


def repair(path: str, broken: bytes, fixed: bytes) -> str:
    """Return a solve.sh that puts the lines of `fixed` back where `broken` differs, and changes nothing else."""
    old, new = broken.split(b"\n"), fixed.split(b"\n")
    start = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False)))
    same_end = itertools.takewhile(
        lambda pair: pair[0] == pair[1], zip(reversed(old[start:]), reversed(new[start:]), strict=False)
    )
    kept = sum(1 for _ in same_end)
    lines = [f"    {line.decode()!r}," for line in new[start : len(new) - kept]]
    return "\n".join(
        [
            "#!/bin/bash",
            f"python3 - <<'{_END}'",
            "from pathlib import Path",
            "",
            f"path = Path({path!r})",
            'lines = path.read_bytes().decode().split("\\n")',
            f"lines[{start}:{len(old) - kept}] = [",
            *lines,
            "]",
            'path.write_bytes("\\n".join(lines).encode())',
            _END,
            "",
        ]
    )


def patch(path: str, broken: bytes, fixed: bytes) -> str:
    """Return the repair as a unified diff, for people."""
    old, new = (content.decode().splitlines(keepends=True) for content in (broken, fixed))
    return "".join(difflib.unified_diff(old, new, f"a/{path}", f"b/{path}"))


def suite(package: sdist.Package) -> dict[str, str]:
    """Return what `files/suite_run.py` needs to run a package's tests."""
    root = package.import_root
    return {
        "code": "/app" if root == "." else f"/app/{root}",
        "tests": "/tests/suite",
        "start": package.discover["start"],
        "top": package.discover["top"],
        "pattern": package.discover["pattern"],
    }


def command_line(package: sdist.Package) -> str:
    """Return how to run the visible tests by hand, in `/app`."""
    found = package.discover
    where = f"-s {found['start']} -t {found['top']} -p '{found['pattern']}'"
    return f"PYTHONPATH={package.import_root} python3 -m unittest discover {where}"


def instruction(package: sdist.Package, failed: Mapping[str, str]) -> str:
    """Return what the agent is asked; it names failing tests, not the place of the fault."""
    count = len(failed)
    lines = [
        f"The Python package {package.name} {package.version} in /app has a bug: "
        f"{count} of its tests {'fails' if count == 1 else 'fail'}. Find the cause in the code and fix it; "
        "leave the tests as they are.",
        "",
        f"Run the tests in /app with `{command_line(package)}`.",
    ]
    if failed:
        shown = sorted(failed)[:_SHOWN_FAILURES]
        lines += [
            "",
            "Failing tests:" if count <= _SHOWN_FAILURES else f"The first {_SHOWN_FAILURES} failing tests:",
            "",
        ]
        lines += [f"- {name}\n  {failed[name]}" for name in shown]
    return "\n".join(lines) + "\n"


def judge(outcome: Mapping[str, Any]) -> dict[str, str]:
    """Return the failing tests of a report, by id; raise :class:`Rejected` where the fault makes no task."""
    if "error" in outcome:
        raise Rejected(outcome["error"] + " with the fault")
    failed: dict[str, str] = dict(outcome["failed"])
    if not failed:
        raise Rejected(SURVIVES)
    if any(name.startswith("unittest.loader.") for name in failed):
        raise Rejected(BREAKS_IMPORT)
    return failed


def task_files(project: Project, operator: str, path: str, broken: bytes) -> dict[str, TaskFile]:
    """Return the task folder before the failing tests are known."""
    package, fixed = project.package, project.code[path]
    runner = package_files("source_tasks").joinpath("files/suite_run.py").read_text(encoding="utf-8")
    visible = {**project.code, **project.tests, package.licence_file: project.files[package.licence_file], path: broken}
    return {
        "instruction.md": text(instruction(package, {})),
        "task.toml": task_toml("pybugs", operator, verifier_sec=120),
        "environment/Dockerfile": dockerfile(copies=True),
        **{f"environment/files/{name}": TaskFile(content) for name, content in visible.items()},
        "solution/solve.sh": script(repair(path, broken, fixed)),
        "solution/fix.patch": text(patch(path, broken, fixed)),
        "tests/test.sh": verifier("python3 -I /tests/run.py /tests/suite.json /tests/expected.json"),
        "tests/run.py": text(runner),
        "tests/suite.json": text(json.dumps(suite(package), indent=1) + "\n"),
        "tests/expected.json": text(json.dumps({"ran": 1, "failed": []}) + "\n"),
        **{f"tests/suite/{name}": TaskFile(content) for name, content in project.tests.items()},
    }


async def run_tests(files: Mapping[str, TaskFile]) -> dict[str, Any]:
    """Run the hidden tests of a task on its untouched environment and return the report."""
    from sandbox import Sandbox, SandboxKilled

    environment = {
        path.removeprefix("environment/"): file for path, file in files.items() if path.startswith("environment/")
    }
    async with Sandbox.start(environment) as box:
        try:
            await box.upload({f"/{path}": file for path, file in files.items() if path.startswith("tests/")})
            result = await box.exec("python3 -I /tests/run.py /tests/suite.json", timeout=_RUN_TIMEOUT_SEC)
        except SandboxKilled:
            return {"error": UNFINISHED}
    try:
        return json.loads(result.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": UNFINISHED}


async def finish(candidate: Candidate, package: sdist.Package) -> Candidate:
    """Add the failing tests to a candidate's instruction and verifier."""
    outcome = await run_tests(candidate.files)
    failed = judge(outcome)
    expected = {"ran": outcome["ran"], "failed": sorted(failed)}
    files = {
        **candidate.files,
        "instruction.md": text(instruction(package, failed)),
        "tests/expected.json": text(json.dumps(expected, indent=1) + "\n"),
    }
    return replace(candidate, files=files, refine=None)


def in_turn(streams: Iterable[Iterator[T]]) -> Iterator[T]:
    """Yield one item of each stream after the other, round and round, until all are exhausted.

    >>> list(in_turn([iter("ab"), iter("c"), iter("def")]))
    ['a', 'c', 'd', 'b', 'e', 'f']
    """
    waiting = deque(streams)
    while waiting:
        stream = waiting.popleft()
        for item in stream:
            yield item
            waiting.append(stream)
            break


class PyBugs:
    """Faults in the packages of `pybugs.lock.json`, which `source-tasks fetch` brings into the cache."""

    name: Literal["pybugs"] = "pybugs"

    def __init__(self, cache: Path) -> None:
        self.cache = cache

    def families(self) -> tuple[str, ...]:
        """Return the mutation operators."""
        return tuple(mutate.OPERATORS)

    def generate(self, split: str, seed: int, families: tuple[str, ...]) -> Iterator[Candidate]:
        """Yield faults in an order drawn from the seed, operators and packages in turn."""
        faults: dict[tuple[str, str], list[tuple[Project, str, mutate.Mutant]]] = {}
        packages = sdist.load_lock()
        for package in packages:
            project = Project(package, sdist.read_sdist(self.cache, package))
            for path, mutant in project.faults():
                if split_of(function_key(package.name, path, mutant.function)) == split:
                    faults.setdefault((mutant.operator, package.name), []).append((project, path, mutant))
        streams = []
        for family in families:
            of_packages = [faults.get((family, package.name), []) for package in packages]
            rng = row_random(seed, "pybugs", split, family)
            for found in of_packages:
                rng.shuffle(found)
            rng.shuffle(of_packages)
            streams.append(in_turn(map(iter, of_packages)))
        for fault in in_turn(streams):
            if candidate := self._candidate(split, *fault):
                yield candidate

    def _candidate(self, split: str, project: Project, path: str, mutant: mutate.Mutant) -> Candidate | None:
        broken = mutate.inject(project.code[path], mutant)
        if broken is None:
            return None
        package = project.package
        line = project.code[path].count(b"\n", 0, mutant.edit.start) + 1
        candidate = Candidate(
            family=mutant.operator,
            files=task_files(project, mutant.operator, path, broken),
            licence=package.licence,
            origin=package.origin,
            meta={
                "family": mutant.operator,
                "parameters": {
                    "package": f"{package.name}=={package.version}",
                    "file": path,
                    "function": mutant.function,
                    "line": line,
                },
                "split": split,
                "held_out": [function_key(package.name, path, mutant.function)],
            },
        )
        return replace(candidate, refine=partial(finish, candidate, package))


def open_source(cache: Path) -> PyBugs:
    """Return the source; `cache` is where the source distributions lie."""
    return PyBugs(cache)
