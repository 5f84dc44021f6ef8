"""Source `r2egym`: commits of Python repositories with generated tests (the data set R2E-Gym-Subset).

`--input` names the Parquet files of R2E-Gym/R2E-Gym-Subset, or JSON lines with its columns: `repo_name`,
`docker_image`, `commit_hash`, `problem_statement`, `expected_output_json` (test name to outcome),
`execution_result_content` (JSON with `test_file_names` and `test_file_codes`) and `parsed_commit_content` (JSON whose
`file_diffs` hold each file before and after). A repository belongs to one split.

The image that a row names has the repository in /testbed and `run_tests.sh` in it. The sandbox has no such image, so
these tasks are not validated: `meta` says `"validated": false` and names it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from recipe_core.tasks import TaskFile
from source_tasks.benchmarks import COLUMNS, refuse_benchmark
from source_tasks.source import Rejected, script, text, verifier
from source_tasks.swesmith import checker, image_of, image_settings
from source_tasks.tables import Made, Row, TableSource, json_cell, text_of, text_or_none

LICENCE = "unknown (the data set); the code in it keeps its project's licence"

NO_EXPECTED = "expected_output_json is no JSON object of test names and outcomes"
NO_TEST_FILES = "execution_result_content is no JSON with as many test_file_names as test_file_codes"

_OUTCOMES = ("PASSED", "FAILED", "ERROR", "SKIPPED", "XFAIL", "XPASS")


def is_test(path: str) -> bool:
    """Tell whether a path of a repository is a test's.

    >>> is_test("tests/helpers.py"), is_test("src/test_x.py"), is_test("src/contest.py")
    (True, True, False)
    """
    name = PurePosixPath(path)
    folders = {part.lower() for part in name.parent.parts}
    return bool(folders & {"test", "tests"}) or name.stem.startswith("test_") or name.stem.endswith("_test")


def test_files(row: Row) -> dict[str, str]:
    """Return the hidden test files by name.

    Raises:
        Rejected: they are not there.
    """
    content = json_cell(row.get("execution_result_content"))
    found = content if isinstance(content, Mapping) else {}
    names, codes = found.get("test_file_names"), found.get("test_file_codes")
    if not isinstance(names, list) or not isinstance(codes, list) or not len(names) == len(codes) > 0:
        raise Rejected(NO_TEST_FILES)
    if not all(isinstance(value, str) and value for value in (*names, *codes)):
        raise Rejected(NO_TEST_FILES)
    # Names come with or without the folder that run_tests.sh looks into.
    return {name.removeprefix("r2e_tests/"): code for name, code in zip(names, codes, strict=True)}


def fixed_files(row: Row) -> dict[str, str | None]:
    """Return what the commit made of each file that is no test: its text, or None where it was deleted.

    Empty where `parsed_commit_content` does not say it.
    """
    content = json_cell(row.get("parsed_commit_content"))
    diffs = content.get("file_diffs") if isinstance(content, Mapping) else None
    found: dict[str, str | None] = {}
    for diff in diffs if isinstance(diffs, list) else ():
        try:
            path, old, new = diff["header"]["file"]["path"], diff["old_file_content"], diff["new_file_content"]
        except (KeyError, TypeError):
            return {}
        if isinstance(path, str) and not is_test(path) and old != new:
            found[path] = new if isinstance(new, str) and new else None
    return found


def expected_outcomes(row: Row) -> dict[str, str]:
    """Return what each test has to say.

    Raises:
        Rejected: the cell does not hold it.
    """
    found = json_cell(row.get("expected_output_json"))
    if not isinstance(found, dict) or not found or not all(value in _OUTCOMES for value in found.values()):
        raise Rejected(NO_EXPECTED)
    return found


def task_files(row: Row) -> dict[str, TaskFile]:
    """Return the Harbor task folder of a row.

    Raises:
        Rejected: a cell that it needs is missing or cannot be used.
    """
    expected: dict[str, Any] = {
        "command": "bash /testbed/run_tests.sh",
        "restore": [],
        "names": "test",
        "exact": True,
        "expected": expected_outcomes(row),
    }
    files = {
        "instruction.md": text(
            f"{text_of(row, 'problem_statement').strip()}\n\n"
            "The repository is in /testbed. Fix it there so that hidden tests pass.\n"
        ),
        "task.toml": image_settings("r2egym"),
        # The image ships the hidden tests; the agent must not find them.
        "environment/Dockerfile": text(
            f"FROM {image_of(row, 'docker_image')}\nWORKDIR /testbed\nRUN rm -rf /r2e_tests /testbed/r2e_tests\n"
        ),
        "tests/test.sh": verifier(
            "rm -rf /testbed/r2e_tests && cp -r /tests/r2e_tests /testbed/r2e_tests && cd /testbed && "
            "python3 -I /tests/check.py /tests/expected.json"
        ),
        "tests/check.py": checker(),
        "tests/expected.json": text(json.dumps(expected, indent=1) + "\n"),
        **{f"tests/r2e_tests/{name}": text(code) for name, code in test_files(row).items()},
    }
    fixed = fixed_files(row)
    if fixed:
        lines = ["#!/bin/bash", "cd /testbed || exit 1"]
        for number, (path, content) in enumerate(sorted(fixed.items())):
            if content is None:
                lines.append(f"rm -f -- {shlex.quote(path)}")
            else:
                files[f"solution/fixed/{number}"] = text(content)
                lines.append(f"mkdir -p -- {shlex.quote(str(PurePosixPath(path).parent))}")
                lines.append(f"cp -- /solution/fixed/{number} {shlex.quote(path)}")
        files["solution/solve.sh"] = script("\n".join(lines) + "\n")
    return files


class R2EGym(TableSource):
    """Rows of R2E-Gym-Subset."""

    name: ClassVar[str] = "r2egym"
    needed = tuple(
        (name,) for name in ("docker_image", "problem_statement", "expected_output_json", "execution_result_content")
    )
    optional = (*COLUMNS, "repo_name", "commit_hash", "parsed_commit_content")
    label = ("docker_image",)

    def check(self, row: Row, where: str) -> None:
        """Refuse rows of SWE-bench."""
        refuse_benchmark(row, where)

    def key(self, row: Row) -> str | None:
        """Return the repository: that of `repo_name`, or the image's name without its tag."""
        repository = text_or_none(row, "repo_name") or (text_or_none(row, "docker_image") or "").partition(":")[0]
        return f"repository:{repository}" if repository else None

    def make(self, row: Row) -> Made:
        """Return the task folder."""
        files = task_files(row)
        image = image_of(row, "docker_image")
        meta = {"solution": "solution/solve.sh" in files, "validated": False, "image": image}
        meta["commit"] = text_or_none(row, "commit_hash")
        return Made(files, licence=LICENCE, meta=meta, validate=False)


def open_source(given: Path) -> R2EGym:
    """Return the source; `given` is the file or folder of tables."""
    return R2EGym(given)
