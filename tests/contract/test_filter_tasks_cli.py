"""The command line of `filter-tasks`."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow as pa
import pytest

from recipe_core.artifact import ArtifactWriter, file_digest, open_artifact
from recipe_core.records import TASK_SCHEMA, read_rows, write_rows

SCHEMA = TASK_SCHEMA.append(pa.field("difficulty", pa.float64()))


def task(index: int, source: str, **changes) -> dict:
    return {
        **dict.fromkeys(TASK_SCHEMA.names),
        "task_id": f"{source}-{index:03d}",
        "source": source,
        "instruction": "word " * (index + 1),
        "meta": json.dumps({"tokens": index}),
        "difficulty": float(index),
        **changes,
    }


def write(out: Path, rows: list[dict]) -> Path:
    with ArtifactWriter(out, stage="score", params={}, seed=0, inputs={}, tier="T0", package=[]) as writer:
        write_rows(writer.path("tasks.parquet"), SCHEMA, rows)
        writer.count(rows_in=None, rows_out=len(rows))
    return out


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    rows = [task(index, source) for source, count in (("a", 6), ("b", 2)) for index in range(count)]
    return write(tmp_path / "tasks", [*rows, task(9, "b", difficulty=None)])


def ids(out: Path, name: str = "tasks.parquet") -> list[str]:
    return [row["task_id"] for row in read_rows(out / name, ["task_id"])]


def test_it_keeps_one_end_and_counts_the_rest(tool, tasks, tmp_path):
    out = tmp_path / "out"
    line = ("filter-tasks", "--tasks", tasks, "--column", "difficulty", "--keep", "highest", "--rows", 3, "--min", 1)
    done = tool(*line, "--out", out)
    assert done.returncode == 0, done.stderr
    assert ids(out) == ["a-003", "a-004", "a-005"]
    manifest = open_artifact(out).manifest
    assert manifest["dropped"] == {"below-min": 2, "no-value": 1, "not-highest": 3}
    assert (manifest["rows_in"], manifest["rows_out"], manifest["tier"]) == (9, 3, "T0")
    values = {row["task_id"]: row["value"] for row in read_rows(out / "rejects.parquet")}
    assert values["a-002"] == 2.0 and values["b-009"] is None
    again = tool(*line, "--out", out)
    assert again.returncode == 0 and "up to date" in again.stderr


def test_within_source_no_source_crowds_out_another(tool, tasks, tmp_path):
    line = ("--column", "difficulty", "--keep", "highest", "--fraction", "0.5", "--within-source")
    done = tool("filter-tasks", "--tasks", tasks, *line, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert ids(tmp_path / "out") == ["a-003", "a-004", "a-005", "b-001"]


@pytest.mark.parametrize("column", ["meta.tokens", "instruction_chars"])
def test_any_signal_will_do(column, tool, tasks, tmp_path):
    line = ("--column", column, "--keep", "lowest", "--rows", 2, "--out", tmp_path / "out")
    assert tool("filter-tasks", "--tasks", tasks, *line).returncode == 0
    assert ids(tmp_path / "out") == ["a-000", "b-000"]


def test_order_and_copies_of_an_id_do_not_matter(tool, tmp_path):
    rows = [task(index % 7, "a", difficulty=float(index % 3)) for index in range(20)]
    digests = set()
    for seed in range(2):
        source = write(tmp_path / f"in{seed}", random.Random(seed).sample(rows, len(rows)))
        line = ("--column", "difficulty", "--keep", "lowest", "--rows", 9, "--out", tmp_path / f"out{seed}")
        assert tool("filter-tasks", "--tasks", source, *line).returncode == 0
        digests.add(tuple(sorted(ids(tmp_path / f"out{seed}"))))
    assert len(digests) == 1


def test_no_rows_give_no_rows(tool, tmp_path):
    empty = write(tmp_path / "empty", [])
    line = ("--column", "difficulty", "--min", 1, "--within-source", "--keep", "highest", "--rows", 1)
    done = tool("filter-tasks", "--tasks", empty, *line, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert open_artifact(tmp_path / "out").manifest["rows_out"] == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--min", 1], "--column"),
        (["--column", "difficulty"], "nothing to filter by"),
        (["--column", "difficulty", "--keep", "longest", "--rows", 1], "invalid choice: 'longest'"),
        (["--column", "difficulty", "--keep", "highest"], "--keep needs --rows or --fraction"),
        (["--column", "difficulty", "--min", 3, "--max", 1], "--min 3 is above --max 1"),
        (["--column", "difficulty", "--min", 1, "--within-source"], "--within-source says of what --keep"),
        (["--column", "dificulty", "--min", 1], "did you mean 'difficulty'"),
        (["--column", "instruction", "--min", 1], "holds string, not numbers"),
        (["--column", "difficulty", "--min", "nan"], "'nan' is not a number"),
    ],
)
def test_flags_that_make_no_sense_are_one_line(flags, message, tool, tasks, tmp_path):
    done = tool("filter-tasks", "--tasks", tasks, *flags, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
    assert not list(tmp_path.glob("out*"))


def test_it_decides_as_filter_length_does(tool, tasks, tmp_path):
    both = {"filter-tasks": ("highest", "--within-source"), "filter-length": ("longest",)}
    for name, (keep, *more) in both.items():
        line = ("--column", "meta.tokens", "--keep", keep, "--rows", 20, *more, "--out", tmp_path / name)
        assert tool(name, "--tasks", tasks, *line).returncode == 0
    assert len({file_digest(tmp_path / name / "tasks.parquet") for name in both}) == 1
