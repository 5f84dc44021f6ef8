"""The command line of dedup."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pytest

from recipe_core.artifact import ArtifactWriter, open_artifact
from recipe_core.records import TASK_SCHEMA, read_rows, write_rows

LONG = "Read the access log in /app/logs, count the requests of every address and write the ten largest to top.txt"


def task(task_id: str, instruction: str | None, **changes) -> dict:
    return {
        "task_id": task_id,
        "path": task_id,
        "task_binary": task_id.encode(),
        "source": "shell",
        "instruction": instruction,
        "licence": "Apache-2.0",
        "origin": "test",
        "meta": "{}",
        **changes,
    }


ROWS = [
    task("d", LONG.replace("ten", "two")),
    task("b", f"  {LONG.upper()}\n"),
    task("a", LONG),
    task("c", None),
    task("e", "Something else altogether"),
    task("f", None, task_binary=b"a"),
]


def write(out: Path, rows: list[dict], schema: pa.Schema = TASK_SCHEMA) -> Path:
    with ArtifactWriter(out, stage="mix", params={}, seed=0, inputs={}, tier="T0", package=[]) as writer:
        write_rows(writer.path("tasks.parquet"), schema, rows)
        writer.count(rows_in=None, rows_out=len(rows))
    return out


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    return write(tmp_path / "tasks", ROWS)


def kept_and_dropped(out: Path) -> tuple[list[str], dict[str, tuple[str, float]]]:
    kept = [row["task_id"] for row in read_rows(out / "tasks.parquet")]
    rejects = {row["task_id"]: (row["kept"], row["similarity"]) for row in read_rows(out / "rejects.parquet")}
    assert {row["reason"] for row in read_rows(out / "rejects.parquet")} <= {"duplicate"}
    return kept, rejects


@pytest.mark.full
@pytest.mark.parametrize(
    ("flags", "dropped"),
    [
        ([], {"b": "a"}),
        (["--raw"], {}),
        (["--column", "task_binary"], {"f": "a"}),
        (["--column", "source"], {"b": "a", "c": "a", "d": "a", "e": "a", "f": "a"}),
        (["--method", "indel"], {"b": "a", "d": "a"}),
        (["--method", "indel", "--threshold", 99], {"b": "a"}),
        (["--method", "minhash", "--ngram", 2, "--threshold", "0.7"], {"b": "a", "d": "a"}),
        (["--method", "minhash"], {"b": "a"}),
    ],
)
def test_each_method_keeps_the_smallest_task_id_and_the_order_of_the_input(flags, dropped, tool, tasks, tmp_path):
    done = tool("dedup", "--tasks", tasks, *flags, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    kept, rejects = kept_and_dropped(tmp_path / "out")
    assert kept == [row["task_id"] for row in ROWS if row["task_id"] not in dropped]
    assert {task_id: hit for task_id, (hit, _) in rejects.items()} == dropped
    manifest = open_artifact(tmp_path / "out").manifest
    assert (manifest["rows_in"], manifest["rows_out"]) == (len(ROWS), len(kept))
    assert manifest["dropped"] == ({"duplicate": len(dropped)} if dropped else {})
    assert manifest["tier"] == "T0"


def test_kept_rows_are_untouched_and_rejects_say_how_similar(tool, tasks, tmp_path):
    line = ("--method", "indel", "--out", tmp_path / "out")
    assert tool("dedup", "--tasks", tasks, *line).returncode == 0
    assert list(read_rows(tmp_path / "out" / "tasks.parquet")) == [ROWS[index] for index in (2, 3, 4, 5)]
    _, rejects = kept_and_dropped(tmp_path / "out")
    assert rejects["b"] == ("a", 100.0)
    assert rejects["d"][1] == pytest.approx(100 * (1 - 4 / (2 * len(LONG))))


@pytest.mark.parametrize("method", ["exact", "indel", "minhash"])
def test_the_decision_does_not_depend_on_the_order_of_the_input(method, tool, tmp_path):
    seen = set()
    for seed in range(2):
        source = write(tmp_path / f"in{seed}", random.Random(seed).sample(ROWS, len(ROWS)))
        assert tool("dedup", "--tasks", source, "--method", method, "--out", tmp_path / f"{seed}").returncode == 0
        kept, rejects = kept_and_dropped(tmp_path / f"{seed}")
        seen.add((tuple(sorted(kept)), tuple(sorted(rejects.items()))))
    assert len(seen) == 1


def test_a_rerun_is_a_no_op_and_another_threshold_is_not(tool, tasks, tmp_path):
    line = ("dedup", "--tasks", tasks, "--method", "indel", "--out", tmp_path / "out")
    assert tool(*line).returncode == 0
    assert "up to date" in tool(*line, "--threshold", 90).stderr
    assert "up to date" not in tool(*line, "--threshold", 91).stderr


def test_no_rows_in_are_no_rows_out(tool, tmp_path):
    empty = write(tmp_path / "empty", [])
    for method in ("exact", "indel", "minhash"):
        done = tool("dedup", "--tasks", empty, "--method", method, "--out", tmp_path / method)
        assert done.returncode == 0, done.stderr
        assert open_artifact(tmp_path / method).manifest["rows_out"] == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--threshold", 90], "--threshold belongs to --method indel or minhash"),
        (["--method", "indel", "--ngram", 5], "--ngram belongs to --method minhash"),
        (["--permutations", 64], "--permutations belongs to --method minhash"),
        (["--method", "indel", "--threshold", "0.9"], "indel takes per cent, such as 90"),
        (["--method", "minhash", "--threshold", 80], "minhash takes a share, such as 0.8"),
        (["--method", "indel", "--threshold", "nan"], "'nan' is not a number"),
        (["--column", "instructions"], "did you mean 'instruction'?"),
        (["--method", "indel", "--column", "task_binary"], "column 'task_binary' holds binary; indel compares task_id"),
    ],
)
def test_flags_that_make_no_sense_are_one_line(flags, message, tool, tasks, tmp_path):
    done = tool("dedup", "--tasks", tasks, *flags, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert message in done.stderr
    assert not list(tmp_path.glob("out*"))


def test_a_row_without_a_task_id_and_a_column_in_the_way_are_one_line(tool, tmp_path):
    nameless = write(tmp_path / "nameless", [task("a", "x"), {**task("b", "y"), "task_id": None}])
    done = tool("dedup", "--tasks", nameless, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "row 1 has no task_id" in done.stderr
    wider = TASK_SCHEMA.append(pa.field("similarity", pa.float64()))
    taken = write(tmp_path / "taken", [task("a", "x", similarity=1.0)], wider)
    done = tool("dedup", "--tasks", taken, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "has a column 'similarity' already" in done.stderr
    assert not list(tmp_path.glob("out*"))


def test_help_has_an_example_and_every_flag(tool):
    shown = tool("dedup", "--help")
    assert shown.returncode == 0
    assert "    dedup --tasks" in shown.stdout
    assert all(flag in shown.stdout for flag in ("--method", "--column", "--threshold", "--out", "--seed"))
