"""Fixtures that all tests share."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from recipe_core.artifact import ArtifactWriter
from recipe_core.records import TASK_SCHEMA, TRAJECTORY_SCHEMA, write_rows
from recipe_core.tasks import TaskFile, task_row

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venvs" / "bin"


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
def tool() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a runner of the project's commands, as a user types them."""

    def run(*words: object, timeout: float = 300, **options) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **options.pop("env", {})}
        command = [str(word) for word in words]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, **options)

    return run


HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
PROMPT = (
    "You solve tasks.\n\nTask Description:\n{task}\n\n\n"
    "Current terminal state:\nCurrent Terminal Screen:\nroot@sandbox:/app#\n\n\n\n"
)


def conversation(task: str, turns: int, *, junk: bool = False) -> list[dict[str, str]]:
    """Return a conversation in terminus-2's protocol; with `junk` the last answer is no JSON."""
    messages = [{"role": "user", "content": PROMPT.format(task=task)}]
    for turn in range(turns):
        reply = {
            "analysis": f"Step {turn + 1}: the terminal shows {HOSTILE if turn == 1 else 'the last result'}.",
            "plan": "Run the next command.",
            "commands": [{"keystrokes": f"ls -la step-{turn}\n", "duration": 0.1}] if turn < turns - 1 else [],
            "task_complete": turn == turns - 1,
        }
        said = "I do not know." if junk and turn == turns - 1 else json.dumps(reply)
        messages.append({"role": "assistant", "content": said})
        if turn < turns - 1:
            screen = f"root@sandbox:/app# ls -la step-{turn}\ntotal 0\n{HOSTILE}\nroot@sandbox:/app#\n\n\n"
            messages.append({"role": "user", "content": f"New Terminal Output:\n\n{screen}"})
    return messages


def trajectory(task_id: str, source: str, attempt: int = 0, *, turns: int = 3, **changes) -> dict:
    """Return a trajectory row that solved its task, with `changes`."""
    return {
        **dict.fromkeys(TRAJECTORY_SCHEMA.names),
        "agent": "terminus-2",
        "conversations": conversation(f"Create `{task_id}.txt`.", turns, junk=changes.get("error_class") == "parse"),
        "model": "reference",
        "task": f"{source}/{task_id}",
        "trial_name": f"{task_id}__{attempt}",
        "task_id": task_id,
        "source": source,
        "attempt": attempt,
        "reward": 1.0,
        "turns": turns,
        **changes,
    }


def write_artifact(out: Path, stage: str, files: dict[str, object], *, dropped: dict | None = None, **params) -> Path:
    """Write an artifact; lists of rows become Parquet by the file's name, anything else is text."""
    rows_out = 0
    with ArtifactWriter(out, stage=stage, params=params, seed=0, inputs={}, tier="T0", package=[]) as writer:
        for name, content in files.items():
            if isinstance(content, str):
                writer.path(name).write_text(content)
            else:
                schema = TASK_SCHEMA if name == "tasks.parquet" else TRAJECTORY_SCHEMA
                rows_out = write_rows(writer.path(name), schema, content)
        rows_in = rows_out + sum(dropped.values()) if dropped is not None else None
        writer.count(rows_in=rows_in, rows_out=rows_out, dropped=dropped)
        writer.provenance(seconds=12.5)
    return out


def _evaluation(out: Path, label: str, solved: int) -> Path:
    from evaluate.__main__ import scores_json
    from evaluate.statistics import outcomes, scores_by_source

    rows = []
    for number in range(12):
        for attempt in range(3):
            good = number * 3 + attempt < solved
            error = None if good else ("timeout", "parse", None)[attempt]
            changes = {"reward": float(good), "error_class": error, "model": f"results/{label}"}
            rows.append(trajectory(f"e{number:02d}", "shell" if number < 8 else "pybugs", attempt, **changes))
    rows[-1] |= {"reward": None, "error_class": "infrastructure", "error_message": "sandbox went away", "turns": 0}
    rows[-1]["conversations"] = []
    scores = scores_by_source(outcomes(rows), attempts=3, seed=0)
    files = {"trials.parquet": rows, "scores.json": json.dumps(scores_json(label, 0, scores))}
    return write_artifact(out, "evaluate", files, label=label)


@pytest.fixture
def finished_recipe(tmp_path: Path) -> dict[str, Path]:
    """Every artifact of a small finished recipe, by `stage/step`; its trajectories hold hostile text."""
    home = tmp_path / "results"
    tasks = [dict.fromkeys(TASK_SCHEMA.names, "x") | {"task_binary": b"x", "task_id": f"t{i}"} for i in range(20)]
    traces = [
        trajectory(f"t{i:02d}", ("shell", "pybugs")[i % 2], turns=2 + i % 5, reward=float(i % 4 > 0)) for i in range(20)
    ]
    sft = "".join(
        json.dumps({"step": step, "epoch": step / 10, "loss": 2.5 / step, "lr": 1e-4}) + "\n" for step in range(1, 41)
    )
    rl = "".join(
        json.dumps({"step": step, "reward": 0.5 + step / 40, "pass_rate": 0.5 + step / 40}) + "\n"
        for step in range(1, 9)
    )
    made = {
        "source-tasks/shell": ("source-tasks", {"tasks.parquet": tasks}, {"noop-passes": 2}),
        "mix/train": ("mix", {"tasks.parquet": tasks}, {"duplicate": 1, "not-drawn": 9}),
        "filter-length/train": ("filter-length", {"tasks.parquet": tasks}, {}),
        "rollout/train": ("rollout", {"trajectories.parquet": traces}, {}),
        "filter-turns/train": (
            "filter-turns",
            {"trajectories.parquet": traces[:9]},
            {"too-few-turns": 4, "not-solved": 7},
        ),
        "train-sft/sft": ("train-sft", {"metrics.jsonl": sft, "config.json": "{}"}, None),
        "train-rl/rl": ("train-rl", {"metrics.jsonl": rl, "config.json": "{}"}, None),
    }
    artifacts = {
        name: write_artifact(home / name.replace("/", "-"), stage, files, dropped=dropped)
        for name, (stage, files, dropped) in made.items()
    }
    for label, solved in (("base", 0), ("sft", 25), ("rl", 29)):
        artifacts[f"evaluate/{label}"] = _evaluation(home / f"evaluate-{label}", label, solved)
    return artifacts


@pytest.fixture
def report_flags(finished_recipe: dict[str, Path]) -> list[str]:
    """The flags that name every artifact of the finished recipe to `report`."""
    return [word for name, path in finished_recipe.items() for word in ("--artifact", f"{name}={path}")]
