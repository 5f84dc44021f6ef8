"""The command line of `export-data`: what is published reads back as what went in."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from export_data.forms import SFT_COLUMNS, messages_of
from recipe_core.artifact import ArtifactWriter, file_digest, open_artifact
from recipe_core.records import TASK_SCHEMA, TRAJECTORY_SCHEMA, read_rows, write_rows
from recipe_core.tasks import pack_files, read_files, task_row


def croissant_rows(out: Path, caplog) -> list[dict]:
    """Read a data set through its Croissant metadata, offline, and check that its library has nothing to say of it."""
    import mlcroissant

    with caplog.at_level(logging.WARNING):
        dataset = mlcroissant.Dataset(str(out / "croissant.json"))
    # A data set that no paper describes has nothing to be cited by.
    lines = [line for record in caplog.records for line in record.getMessage().splitlines()[1:] if "citeAs" not in line]
    assert lines == [] and not dataset.metadata.ctx.issues.errors
    for entry in dataset.metadata.file_objects:
        assert file_digest(out / entry.content_url) == entry.sha256
    return [dict(record) for record in dataset.records("rows")]


def plain(value: object) -> object:
    """Return a record of Croissant with bytes as text and names without their path."""
    if isinstance(value, dict):
        return {name.rpartition("/")[2]: plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [plain(part) for part in value]
    return value.decode() if isinstance(value, bytes) else value


@pytest.fixture
def runs(trajectories: Path, tmp_path: Path) -> Path:
    """Return the trajectories with names, and characters that formats trip over."""
    rows = list(read_rows(trajectories / "trajectories.parquet"))
    for number, row in enumerate(rows):
        row |= {"trial_name": f"task-{number}__0", "agent": "terminus-2", "date": "2026-01-01", "model": "m"}
    rows[3]["conversations"][0]["content"] = 'a\u2028b\r\n"c"\t\\ é 😀\x00'
    out = tmp_path / "runs"
    with ArtifactWriter(out, stage="rollout", params={}, seed=0, inputs={}, tier="T1", package=[]) as writer:
        write_rows(writer.path("trajectories.parquet"), TRAJECTORY_SCHEMA, rows)
        writer.count(rows_in=None, rows_out=len(rows))
    return out


@pytest.mark.parametrize("form", ["sft", "sharegpt", "openai"])
def test_trajectories_read_back(form: str, tool, runs: Path, tmp_path: Path, caplog):
    out = tmp_path / "out"
    line = ["export-data", "--rows", runs, "--form", form, "--name", "demo", "--shard-rows", 10, "--out", out]
    line += ["--date", "2026-01-31"]
    done = tool(*line)
    assert done.returncode == 0, done.stderr
    files = sorted((out / "data").iterdir())
    assert [path.stem for path in files] == [f"train-{shard:05d}-of-00003" for shard in range(3)]
    asked = list(read_rows(runs / "trajectories.parquet"))
    rows: list[dict] = []
    for path in files:
        if form == "sft":
            assert pq.read_schema(path).equals(pa.schema([TRAJECTORY_SCHEMA.field(name) for name in SFT_COLUMNS]))
            rows += pq.read_table(path).to_pylist()
        else:
            with path.open(encoding="utf-8") as lines:
                rows += [json.loads(text) for text in lines]
    assert [messages_of(row) for row in rows] == [row["conversations"] for row in asked]
    if form == "sft":
        assert rows == [{name: row[name] for name in SFT_COLUMNS} for row in asked]
    else:
        assert [row["id"] for row in rows] == [row["trial_name"] for row in asked]
    assert [plain(record) for record in croissant_rows(out, caplog)] == rows
    again = tool(*line)
    assert again.returncode == 0 and "up to date" in again.stderr


def test_tasks_read_back_byte_for_byte(tool, tasks_artifact, tmp_path: Path, caplog):
    tasks, out = tasks_artifact(4), tmp_path / "out"
    words = ["--rows", tasks, "--form", "tasks", "--name", "demo", "--step", f"source-tasks/shell={tasks}"]
    done = tool("export-data", *words, "--date", "2026-01-31", "--out", out)
    assert done.returncode == 0, done.stderr
    (path,) = (out / "data").iterdir()
    assert pq.read_schema(path).names == ["path", "task_binary"]
    before = {row["path"]: row["task_binary"] for row in read_rows(tasks / "tasks.parquet")}
    after = {row["path"]: row["task_binary"] for row in pq.read_table(path).to_pylist()}
    assert after == before
    assert all(pack_files(read_files(binary)) == binary for binary in after.values())
    records = croissant_rows(out, caplog)
    assert {record["rows/path"].decode(): record["rows/task_binary"] for record in records} == before
    card = (out / "README.md").read_text()
    assert "| shell | Apache-2.0 | test | 4 |" in card
    assert f"`{open_artifact(tasks).digest[:16]}`" in card


@pytest.mark.full
def test_published_tasks_are_the_same_when_read_as_a_source(tool, tasks_artifact, tmp_path: Path):
    tasks, out = tasks_artifact(6), tmp_path / "out"
    done = tool("export-data", "--rows", tasks, "--form", "tasks", "--name", "demo", "--out", out)
    assert done.returncode == 0, done.stderr
    rows = list(read_rows(tasks / "tasks.parquet"))
    found = {}
    from source_tasks.given import instruction_key
    from source_tasks.heldout import split_of

    for split in ("train", "test"):
        count = sum(split_of(instruction_key(row["instruction"])) == split for row in rows)
        if not count:
            continue
        words = ["--source", "hf", "--input", out / "data", "--split", split, "--count", count]
        done = tool("source-tasks", *words, "--out", tmp_path / split)
        assert done.returncode == 0, done.stderr
        found |= {row["task_id"]: row for row in read_rows(tmp_path / split / "tasks.parquet")}
    assert set(found) == {row["task_id"] for row in rows}
    for row in rows:
        again = found[row["task_id"]]
        assert (again["task_binary"], again["instruction"]) == (row["task_binary"], row["instruction"])


def test_trajectories_take_licences_from_their_tasks(tool, trajectories: Path, tasks_artifact, tmp_path: Path):
    tasks = tasks_artifact(2, source="")
    words = ["--rows", trajectories, "--form", "sft", "--name", "demo", "--step", f"source-tasks/shell={tasks}"]
    done = tool("export-data", *words, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Apache-2.0 | test | 24 |" in card and "| Apache-2.0 | 24 |" in card


def test_the_card_holds_what_a_decontamination_found(tool, tasks_artifact, tmp_path: Path):
    tasks = tasks_artifact(4)
    leaked = next(read_rows(tasks / "tasks.parquet"))["instruction"]
    (tmp_path / "bench.txt").write_text(f"{leaked}\nSomething else entirely that shares nothing\n")
    clean = tmp_path / "clean"
    words = ["--method", "indel", "--similarity", 99, "--benchmarks", tmp_path / "bench.txt", "--out", clean]
    assert tool("decontaminate", "--tasks", tasks, *words).returncode == 0
    report = json.loads((clean / "report.json").read_text())
    assert report["dropped"] == 1
    steps = ["--step", f"source-tasks/shell={tasks}", "--step", f"decontaminate/train={clean}"]
    done = tool("export-data", "--rows", clean, "--form", "tasks", "--name", "demo", *steps, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "out" / "README.md").read_text()
    assert "`decontaminate/train` compared column `instruction` of 4 rows" in card and "and dropped 1." in card
    assert f"| bench | 2 | 0 | 1 | `{report['benchmarks'][0]['sha256'][:16]}` |" in card
    assert "| decontaminate/train | 4 | 3 | 1 similar | T0 |" in card
    lineage = json.loads((tmp_path / "out" / "lineage.json").read_text())
    assert lineage["decontamination"]["decontaminate/train"]["benchmarks"] == report["benchmarks"]
    assert leaked not in card


@pytest.mark.parametrize("form", ["sft", "openai", "tasks"])
def test_the_cards_example_runs(form: str, tool, tasks_artifact, runs: Path, tmp_path: Path):
    rows = tasks_artifact(3) if form == "tasks" else runs
    out = tmp_path / "out"
    done = tool("export-data", "--rows", rows, "--form", form, "--name", "demo", "--shard-rows", 2, "--out", out)
    assert done.returncode == 0, done.stderr
    (example,) = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-I", "-c", example], cwd=out, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if form == "tasks":
        for row in read_rows(rows / "tasks.parquet"):
            for name, file in read_files(row["task_binary"]).items():
                assert (out / "tasks" / row["path"] / name).read_bytes() == file.content
    elif form == "sft":
        assert done.stdout == f"24 rows of {', '.join(SFT_COLUMNS)}\n"
    else:
        *_, last = read_rows(runs / "trajectories.parquet")
        assert last["conversations"][-1]["content"].splitlines()[0][:20] in done.stdout


@pytest.mark.parametrize(
    ("form", "said"),
    [("tasks", "a filter-turns artifact has no tasks.parquet"), ("parquet", "invalid choice: 'parquet'")],
)
def test_a_form_that_does_not_fit_is_one_line(form: str, said: str, tool, trajectories: Path, tmp_path: Path):
    done = tool("export-data", "--rows", trajectories, "--form", form, "--name", "x", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1 and said in done.stderr
    assert not (tmp_path / "out").exists()


def of_rows(out: Path, name: str, schema: pa.Schema, rows: list[dict]) -> Path:
    with ArtifactWriter(out, stage="mix", params={}, seed=0, inputs={}, tier="T0", package=[]) as writer:
        write_rows(writer.path(name), schema, rows)
        writer.count(rows_in=None, rows_out=len(rows))
    return out


def broken_text(out: Path) -> Path:
    """Write conversations whose text is not UTF-8."""
    text = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.array([0, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfe")]
    )
    names = [field.name for field in TRAJECTORY_SCHEMA]
    columns = [pa.nulls(1, field.type) for field in TRAJECTORY_SCHEMA]
    turns = pa.StructArray.from_arrays([pa.array(["user"]), text], ["role", "content"])
    columns[names.index("conversations")] = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), turns)
    with ArtifactWriter(out, stage="rollout", params={}, seed=0, inputs={}, tier="T1", package=[]) as writer:
        pq.write_table(pa.Table.from_arrays(columns, names=names), writer.path("trajectories.parquet"))
        writer.count(rows_in=None, rows_out=1)
    return out


def same_path(content: str) -> dict:
    files = {"instruction.md": b"do", "task.toml": b"", "tests/test.sh": content.encode()}
    from recipe_core.tasks import TaskFile

    packed = {name: TaskFile(data) for name, data in files.items()}
    return task_row(packed, path="one", source="a", licence="MIT", origin="test", meta={})


@pytest.mark.parametrize(
    ("rows", "form", "said"),
    [
        (lambda out: of_rows(out, "tasks.parquet", TASK_SCHEMA, []), "tasks", "no rows to publish"),
        (broken_text, "openai", "column 'conversations' holds text that is not UTF-8"),
        (
            lambda out: of_rows(out, "tasks.parquet", TASK_SCHEMA, [same_path("a"), same_path("b")]),
            "tasks",
            "row 1 has the path 'one' of another task",
        ),
        (
            lambda out: of_rows(out, "tasks.parquet", TASK_SCHEMA, [{**same_path("a"), "path": "../x"}]),
            "tasks",
            "row 0 has the path '../x', which leaves the folder",
        ),
        (
            lambda out: of_rows(out, "trajectories.parquet", TRAJECTORY_SCHEMA, [{"conversations": None}]),
            "sharegpt",
            "row 0 has no conversation",
        ),
    ],
)
def test_rows_that_cannot_be_published_are_one_line(rows, form: str, said: str, tool, tmp_path: Path):
    done = tool(
        "export-data", "--rows", rows(tmp_path / "in"), "--form", form, "--name", "x", "--out", tmp_path / "out"
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and said in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_task_that_is_repeated_may_be(tool, tmp_path: Path):
    rows = of_rows(tmp_path / "in", "tasks.parquet", TASK_SCHEMA, [same_path("a")] * 3)
    done = tool("export-data", "--rows", rows, "--form", "tasks", "--name", "x", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert open_artifact(tmp_path / "out").manifest["rows_out"] == 3


def test_a_name_of_two_lines_is_one_line(tool, tasks_artifact, tmp_path: Path):
    words = ["--rows", tasks_artifact(1), "--form", "tasks", "--out", tmp_path / "out"]
    for name in ("a\nb", " "):
        done = tool("export-data", *words, "--name", name)
        assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
        assert "is not a name of one line" in done.stderr
