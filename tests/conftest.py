"""Fixtures that all tests share."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from recipe_core.artifact import ArtifactWriter
from recipe_core.records import TASK_SCHEMA, TRAJECTORY_SCHEMA, write_rows
from recipe_core.tasks import TaskFile, task_row
from sandbox.backends import BACKENDS

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venvs" / "bin"
# How long an example takes says more of what else the machine does than of the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
WORDS = ["amber", "brisk", "coral", "dusty", "eager", "frosty", "gentle", "humble"]


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their place: their content may hold the time, and all of xdist's workers must find one name."""
    return argname if isinstance(val, bytes) else None


def small_task(
    name: str, *, solution: str = "echo done > done.txt", check: str = "test -f done.txt"
) -> dict[str, TaskFile]:
    """Return the files of a task whose verifier runs `check` in /app."""
    verifier = f"#!/bin/bash\ncd /app\nif {check}; then echo 1; else echo 0; fi > /logs/verifier/reward.txt\n"
    return {
        "instruction.md": TaskFile(f"Do what {name} asks for: create `done.txt`.\n".encode()),
        "task.toml": TaskFile(b'version = "1.0"\n[agent]\ntimeout_sec = 60.0\n[verifier]\ntimeout_sec = 30.0\n'),
        "environment/Dockerfile": TaskFile(b"FROM scratch\nWORKDIR /app\n"),
        "solution/solve.sh": TaskFile(f"#!/bin/bash\n{solution}\n".encode(), 0o755),
        "tests/test.sh": TaskFile(verifier.encode(), 0o755),
    }


def write_tasks(out: Path, rows: list[dict]) -> Path:
    """Write a tasks artifact with exactly these rows."""
    with ArtifactWriter(out, stage="source-tasks", params={}, seed=0, inputs={}, tier="T0", package=[]) as writer:
        write_rows(writer.path("tasks.parquet"), TASK_SCHEMA, rows)
        writer.count(rows_in=None, rows_out=len(rows))
    return out


@pytest.fixture
def tasks_artifact(tmp_path: Path) -> Callable[..., Path]:
    """Return a maker of tasks artifacts with `n` small tasks of one source."""

    def make(n: int = 3, source: str = "shell", name: str = "tasks") -> Path:
        rows = [
            task_row(
                small_task(f"{source}-{index}"),
                path=f"{source}-{index}",
                source=source,
                licence="Apache-2.0",
                origin="test",
                meta={"index": index},
            )
            for index in range(n)
        ]
        return write_tasks(tmp_path / name, rows)

    return make


@pytest.fixture
def trajectories(tmp_path: Path) -> Path:
    """Return an artifact of 24 conversations of one question and one answer, each about another file."""
    rows = []
    for index in range(24):
        name = f"{WORDS[index % 8]}-{WORDS[index // 8]}"
        turns = [("user", f"Create the file {name}.txt."), ("assistant", f'{{"keystrokes": "touch {name}.txt\\n"}}')]
        conversation = [{"role": role, "content": content} for role, content in turns]
        rows.append({**dict.fromkeys(TRAJECTORY_SCHEMA.names), "conversations": conversation, "turns": 1})
    out = tmp_path / "trajectories"
    with ArtifactWriter(
        out, stage="filter-turns", params={}, seed=0, inputs={}, tier="T0", package=["recipe_core"]
    ) as writer:
        write_rows(writer.path("trajectories.parquet"), TRAJECTORY_SCHEMA, rows)
        writer.count(rows_in=len(rows), rows_out=len(rows))
    return out


@pytest.fixture
def tool() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a runner of the project's commands, as a user types them."""

    def run(*words: object, timeout: float = 300, **options) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **options.pop("env", {})}
        command = [str(word) for word in words]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, **options)

    return run


# The profile of a laptop takes bubblewrap; starting Apptainer for each test takes longer than the fast tests have.
@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.full] * (name != "bubblewrap")) for name in BACKENDS])
def backend(request: pytest.FixtureRequest) -> str:
    """Each back end of the sandbox, one that is not installed skipped."""
    if BACKENDS[request.param].program() is None:
        pytest.skip(f"{request.param} is not installed: {BACKENDS[request.param].mend}")
    return request.param
