"""Tasks that ask for a program that reads standard input: what `code-contests` and `nemotron-code` share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files as package_files
from typing import NamedTuple

from recipe_core.tasks import TaskFile
from source_tasks.source import Rejected, dockerfile, script, task_toml, text, verifier

# A case may take 10 s, and all of them have to fit into the verifier's time.
MAX_CASES = 20
MAX_CASE_BYTES = 1024 * 1024
VERIFIER_SEC = 240

UNWRITABLE = "the program holds the line that ends it in solve.sh"

_END = "END_OF_PROGRAM"


class Case(NamedTuple):
    """What a program reads and has to print."""

    input: str
    output: str


def chosen_cases(cases: Sequence[Case]) -> list[Case]:
    """Return the first different cases with an output, as many as the verifier has time for, none of them huge."""
    found: dict[str, Case] = {}
    for case in cases:
        if case.output.strip() and len(case.input) + len(case.output) <= MAX_CASE_BYTES:
            found.setdefault(case.input, case)
    return list(found.values())[:MAX_CASES]


def task_files(source: str, statement: str, cases: Sequence[Case], program: str) -> dict[str, TaskFile]:
    """Return the Harbor task folder that asks for a Python program.

    Args:
        source: the source's name.
        statement: what the program is to do.
        cases: what decides; the agent does not see them.
        program: the reference solution.

    Raises:
        Rejected: the program cannot be written by `solve.sh`.
    """
    if _END in program:
        raise Rejected(UNWRITABLE)
    checker = package_files("source_tasks").joinpath("files/cases_check.py").read_text(encoding="utf-8")
    solution = program if program.endswith("\n") else f"{program}\n"
    return {
        "instruction.md": text(
            f"{statement.strip()}\n\nWrite the Python 3 program /app/solution.py, which reads standard input and "
            "writes to standard output. Hidden tests compare what it prints, word by word.\n"
        ),
        "task.toml": task_toml(source, "task", verifier_sec=VERIFIER_SEC),
        "environment/Dockerfile": dockerfile(copies=False),
        "solution/solve.sh": script(f"#!/bin/bash\ncat > /app/solution.py <<'{_END}'\n{solution}{_END}\n"),
        "tests/test.sh": verifier("python3 -I /tests/check.py /tests/cases.json"),
        "tests/check.py": text(checker),
        "tests/cases.json": text(json.dumps([case._asdict() for case in cases], indent=1) + "\n"),
    }
