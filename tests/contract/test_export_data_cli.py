"""The command line of `export-data`: what is published reads back as what went in."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from export_data.forms import SFT_COLUMNS, messages_of
from recipe_core.artifact import file_digest, open_artifact
from recipe_core.records import read_rows
from recipe_core.tasks import pack_files, read_files


@pytest.mark.parametrize("form", ["sft", "sharegpt", "openai"])
def test_trajectories_read_back(form: str, tool, trajectories: Path, tmp_path: Path):
    out = tmp_path / "out"
    line = ["export-data", "--rows", trajectories, "--form", form, "--name", "demo", "--shard-rows", 10, "--out", out]
    done = tool(*line)
    assert done.returncode == 0, done.stderr
    files = sorted((out / "data").iterdir())
    assert [path.stem for path in files] == [f"train-{shard:05d}-of-00003" for shard in range(3)]
    rows = []
    for path in files:
        if form == "sft":
            assert tuple(pq.read_schema(path).names) == SFT_COLUMNS
            rows += pq.read_table(path).to_pylist()
        else:
            rows += [json.loads(text) for text in path.read_text().splitlines()]
    asked = [row["conversations"] for row in read_rows(trajectories / "trajectories.parquet")]
    assert [messages_of(row) for row in rows] == asked
    about = json.loads((out / "croissant.json").read_text())
    for entry in about["distribution"][:-1]:
        assert file_digest(out / entry["contentUrl"]) == entry["sha256"]
    again = tool(*line)
    assert again.returncode == 0 and "up to date" in again.stderr


def test_tasks_read_back_byte_for_byte(tool, tasks_artifact, tmp_path: Path):
    tasks, out = tasks_artifact(4), tmp_path / "out"
    words = ["--rows", tasks, "--form", "tasks", "--name", "demo", "--step", f"source-tasks/shell={tasks}"]
    done = tool("export-data", *words, "--out", out)
    assert done.returncode == 0, done.stderr
    (path,) = (out / "data").iterdir()
    assert pq.read_schema(path).names == ["path", "task_binary"]
    before = {row["path"]: row["task_binary"] for row in read_rows(tasks / "tasks.parquet")}
    after = {row["path"]: row["task_binary"] for row in pq.read_table(path).to_pylist()}
    assert after == before
    assert all(pack_files(read_files(binary)) == binary for binary in after.values())
    card = (out / "README.md").read_text()
    assert "| shell | Apache-2.0 | test | 4 |" in card
    assert f"`{open_artifact(tasks).digest[:16]}`" in card


def test_trajectories_take_licences_from_their_tasks(tool, trajectories: Path, tasks_artifact, tmp_path: Path):
    tasks = tasks_artifact(2, source="")
    words = ["--rows", trajectories, "--form", "sft", "--name", "demo", "--step", f"source-tasks/shell={tasks}"]
    done = tool("export-data", *words, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "Apache-2.0 | test | 24 |" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("form", "said"),
    [("tasks", "a filter-turns artifact has no tasks.parquet"), ("parquet", "invalid choice: 'parquet'")],
)
def test_a_form_that_does_not_fit_is_one_line(form: str, said: str, tool, trajectories: Path, tmp_path: Path):
    done = tool("export-data", "--rows", trajectories, "--form", form, "--name", "x", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1 and said in done.stderr
    assert not (tmp_path / "out").exists()
