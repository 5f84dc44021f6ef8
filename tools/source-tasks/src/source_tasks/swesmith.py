"""Source `swe-smith`: faults put into Python repositories, with the tests that show them (the data set SWE-smith).

`--input` names the Parquet files of SWE-bench/SWE-smith, or JSON lines with its columns: `instance_id`, `repo`,
`patch` (the fault; taking it back is the fix), `problem_statement`, `FAIL_TO_PASS`, `PASS_TO_PASS`, `image_name`. A
repository belongs to one split.

The environment is the container image that a row names, with the repository in /testbed, so the sandbox cannot
validate these tasks: `meta` says `"validated": false` and names the image. They need a place that runs images.
"""

from __future__ import annotations

import json
import re
import shlex
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any, ClassVar

from recipe_core.tasks import TaskFile
from source_tasks.benchmarks import COLUMNS, refuse_benchmark
from source_tasks.source import Rejected, script, task_toml, text, verifier
from source_tasks.tables import Made, Row, TableSource, json_cell, text_of, text_or_none

LICENCE = "MIT (the data set); the code in it keeps its project's licence"

NO_TESTS = "FAIL_TO_PASS or PASS_TO_PASS is no list of test names, or names no test that has to pass"
BAD_IMAGE = "the name of the container image is none"

_IMAGE = re.compile(r"[a-z0-9][\w./:@-]{0,254}")
# One commit and no other: the history would show the fault.
_FORGET = (
    "rm -rf .git && git init -q && git add -A && "
    "git -c user.name=task -c user.email=task@localhost commit -q -m start && git tag start"
)


def image_of(row: Row, name: str) -> str:
    """Return the container image that a cell names.

    Raises:
        Rejected: it is no image's name.
    """
    image = text_of(row, name).strip()
    if not _IMAGE.fullmatch(image):
        raise Rejected(BAD_IMAGE, image[:100])
    return image


def tests_of(cell: Any) -> list[str]:
    """Return a cell of test names, a list or its JSON text, without repeats.

    Raises:
        Rejected: it is none.
    """
    found = json_cell(cell)
    if not isinstance(found, list) or not all(isinstance(name, str) and name.strip() for name in found):
        raise Rejected(NO_TESTS)
    return sorted(set(found))


def image_settings(source: str) -> TaskFile:
    """Return `task.toml` of a task in a container image of a whole repository."""
    return task_toml(source, "task", agent_sec=1800, verifier_sec=900, memory_mb=4096, storage_mb=10240)


def checker() -> TaskFile:
    """Return the program that runs a repository's tests and compares what they say."""
    return text(package_files("source_tasks").joinpath("files/tests_check.py").read_text(encoding="utf-8"))


def task_files(row: Row) -> dict[str, TaskFile]:
    """Return the Harbor task folder of a row.

    Raises:
        Rejected: a cell that it needs is missing or cannot be used.
    """
    fault = text_of(row, "patch")
    failing, passing = tests_of(row.get("FAIL_TO_PASS")), tests_of(row.get("PASS_TO_PASS") or [])
    if not failing:
        raise Rejected(NO_TESTS)
    names = sorted({*failing, *passing})
    paths = sorted({name.partition("::")[0] for name in names})
    expected = {
        "command": f"python -m pytest -rA --tb=no -p no:cacheprovider {shlex.join(paths)}",
        "restore": paths,
        "names": "path",
        "exact": False,
        "expected": dict.fromkeys(names, "PASSED"),
    }
    diff = text(fault if fault.endswith("\n") else f"{fault}\n")
    return {
        "instruction.md": text(
            f"{text_of(row, 'problem_statement').strip()}\n\n"
            "The repository is in /testbed. Fix it there so that its tests pass; do not change the tests.\n"
        ),
        "task.toml": image_settings("swe-smith"),
        "environment/Dockerfile": text(
            f"FROM {image_of(row, 'image_name')}\nWORKDIR /testbed\nCOPY fault.patch /tmp/fault.patch\n"
            f"RUN git apply /tmp/fault.patch && rm /tmp/fault.patch && {_FORGET}\n"
        ),
        "environment/fault.patch": diff,
        "solution/fault.patch": diff,
        "solution/solve.sh": script("#!/bin/bash\ncd /testbed && git apply -R /solution/fault.patch\n"),
        "tests/test.sh": verifier(
            "cd /testbed && source /opt/miniconda3/bin/activate testbed && "
            "python3 -I /tests/check.py /tests/expected.json"
        ),
        "tests/check.py": checker(),
        "tests/expected.json": text(json.dumps(expected, indent=1) + "\n"),
    }


class SweSmith(TableSource):
    """Rows of SWE-smith."""

    name: ClassVar[str] = "swe-smith"
    needed = tuple((name,) for name in ("instance_id", "patch", "FAIL_TO_PASS", "problem_statement", "image_name"))
    optional = (*COLUMNS[1:], "repo", "PASS_TO_PASS", "base_commit")
    label = ("instance_id",)

    def check(self, row: Row, where: str) -> None:
        """Refuse rows of SWE-bench."""
        refuse_benchmark(row, where)

    def key(self, row: Row) -> str | None:
        """Return the repository: that of `repo`, or what `instance_id` begins with."""
        repository = text_or_none(row, "repo")
        if repository is None and (instance := text_or_none(row, "instance_id")):
            # owner__name.commit.kind__digest
            repository = ".".join(instance.split(".")[:-1]) or instance
        return f"repository:{repository.rpartition('/')[2]}" if repository else None

    def make(self, row: Row) -> Made:
        """Return the task folder."""
        files = task_files(row)
        meta = {"solution": True, "validated": False, "image": image_of(row, "image_name")}
        return Made(files, licence=LICENCE, meta=meta, validate=False)


def open_source(given: Path) -> SweSmith:
    """Return the source; `given` is the file or folder of tables."""
    return SweSmith(given)
