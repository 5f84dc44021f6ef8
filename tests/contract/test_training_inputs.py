"""What the tools that make and train models say to input they cannot use; none of it takes long to say."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipe_core.artifact import ArtifactWriter
from recipe_core.records import TASK_SCHEMA, TRAJECTORY_SCHEMA, write_rows

pytestmark = pytest.mark.full  # starts the training stacks


def write(out: Path, stage: str, files: dict[str, object]) -> Path:
    with ArtifactWriter(out, stage=stage, params={}, seed=0, inputs={}, tier="T0", package=[]) as writer:
        for name, content in files.items():
            if isinstance(content, str):
                writer.path(name).write_text(content)
            else:
                write_rows(writer.path(name), *content)
        writer.count(rows_in=None, rows_out=0)
    return out


@pytest.fixture
def inputs(tmp_path: Path, tasks_artifact) -> dict[str, Path]:
    failed = {
        **dict.fromkeys(TRAJECTORY_SCHEMA.names),
        "conversations": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        "error_class": "infrastructure",
        "trial_name": "t__0",
    }
    return {
        "model": write(tmp_path / "model", "init-model", {"config.json": "{}", "tokenizer.json": "{}"}),
        "empty": write(tmp_path / "empty", "filter-turns", {"trajectories.parquet": (TRAJECTORY_SCHEMA, [])}),
        "failed": write(tmp_path / "failed", "rollout", {"trajectories.parquet": (TRAJECTORY_SCHEMA, [failed])}),
        "no-tasks": write(tmp_path / "no-tasks", "mix", {"tasks.parquet": (TASK_SCHEMA, [])}),
        "tasks": tasks_artifact(2),
    }


CASES = [
    ("init-model", ["--trajectories", "empty"], "no trajectories to train a tokenizer on"),
    ("init-model", ["--trajectories", "model"], "has no trajectories.parquet"),
    ("init-model", [], "one of the arguments --trajectories --pretrained --hub is required"),
    ("train-sft", ["--model", "model", "--trajectories", "empty"], "no trajectories to train on"),
    ("train-sft", ["--model", "model", "--trajectories", "failed"], "trial t__0: ended in an infrastructure error"),
    ("train-sft", ["--model", "empty", "--trajectories", "failed"], "has no config.json"),
    ("train-sft", ["--model", "model", "--trajectories", "failed", "--micro-batch-size", "3"], "is no multiple of"),
    ("train-sft", ["--model", "model", "--trajectories", "failed", "--learning-rate", "nan"], "'nan' is not a number"),
    ("train-rl", ["--model", "model", "--tasks", "no-tasks"], "0 tasks, but a step takes --prompts 8"),
    ("train-rl", ["--model", "model", "--tasks", "tasks", "--samples", "2"], "is below --least-samples 4"),
    ("train-rl", ["--model", "tasks", "--tasks", "tasks"], "has no config.json"),
    ("evaluate", ["--model", "model", "--tasks", "no-tasks", "--label", "sft"], "no tasks to evaluate on"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[2][:30]}")
def test_unusable_input_is_one_line(case: tuple[str, list[str], str], tool, inputs, tmp_path: Path):
    stage, words, said = case
    done = tool(stage, *(inputs.get(word, word) for word in words), "--out", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"{stage}: error: "), done.stderr
    assert said in lines[0]
    assert not (tmp_path / "out").exists()
