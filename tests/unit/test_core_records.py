from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe_core.artifact import file_digest
from recipe_core.errors import BadInput
from recipe_core.records import TASK_SCHEMA, TRAJECTORY_SCHEMA, TableWriter, read_rows, write_rows
from recipe_core.seeds import row_random, row_seed


def task(index: int) -> dict:
    return {
        **dict.fromkeys(TASK_SCHEMA.names, "x"),
        "task_id": f"{index:05d}",
        "task_binary": bytes([index % 256]) * 50,
    }


@pytest.mark.parametrize("n", [0, 1, 256, 700])
def test_rows_round_trip_in_order(n: int, tmp_path: Path):
    rows = [task(index) for index in range(n)]
    assert write_rows(tmp_path / "t.parquet", TASK_SCHEMA, rows) == n
    assert list(read_rows(tmp_path / "t.parquet")) == rows


def test_the_same_rows_give_the_same_bytes(tmp_path: Path):
    for name in "ab":
        write_rows(tmp_path / name, TASK_SCHEMA, map(task, range(300)))
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b")


def test_trajectories_keep_token_ids_and_nulls(tmp_path: Path):
    row = {
        **dict.fromkeys(TRAJECTORY_SCHEMA.names),
        "conversations": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "\N{SNOWMAN}"}],
        "completion_token_ids": [[1, 2], []],
        "reward": None,
        "turns": 1,
    }
    write_rows(tmp_path / "t.parquet", TRAJECTORY_SCHEMA, [row])
    assert list(read_rows(tmp_path / "t.parquet")) == [row]


def test_unknown_columns_are_a_bug_and_not_dropped(tmp_path: Path):
    with TableWriter(tmp_path / "t.parquet", TASK_SCHEMA) as writer, pytest.raises(ValueError, match="colour"):
        writer.write({"colour": 1})


def test_truncated_file_is_one_clear_line(tmp_path: Path):
    path = tmp_path / "t.parquet"
    write_rows(path, TASK_SCHEMA, map(task, range(300)))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadInput, match="truncated or not a Parquet file") as error:
        list(read_rows(path))
    assert "\n" not in str(error.value)


def test_missing_file_and_column_are_named(tmp_path: Path):
    with pytest.raises(BadInput, match="no such file"):
        list(read_rows(tmp_path / "absent.parquet"))
    write_rows(tmp_path / "t.parquet", TASK_SCHEMA, [task(1)])
    with pytest.raises(BadInput, match=r"no column 'instructoin'; did you mean 'instruction'\?"):
        list(read_rows(tmp_path / "t.parquet", ["instructoin"]))


@given(st.integers(), st.text(), st.text())
def test_row_seeds_depend_on_every_part_and_fit_63_bits(seed: int, first: str, second: str):
    value = row_seed(seed, first, second)
    assert 0 <= value < 2**63
    assert value == row_seed(seed, first, second)
    assert row_seed(seed, first, second, "") != value
    assert row_random(seed, first).random() == row_random(seed, first).random()


def test_parts_do_not_run_together():
    assert row_seed(0, "ab", "c") != row_seed(0, "a", "bc")


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("task_id", pa.array([1]), "column 'task_id' holds int64, expected string"),
        ("reward", pa.array(["1"]), "column 'reward' holds string, expected double"),
        ("conversations", pa.array(["hello"]), "column 'conversations' holds string, expected list"),
        ("conversations", pa.array([[{"content": "hello"}]]), "expected list<"),
    ],
)
def test_a_column_of_another_kind_is_one_line(column: str, values: pa.Array, said: str, tmp_path: Path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({column: values, "more": pa.array([1.5])}), path)
    with pytest.raises(BadInput, match=re.escape(said)):
        list(read_rows(path))
    assert list(read_rows(path, ["more"])) == [{"more": 1.5}]


def test_columns_that_read_alike_are_accepted(tmp_path: Path):
    path = tmp_path / "rows.parquet"
    columns = {"task_id": pa.array(["a"], pa.large_string()), "turns": pa.array([1], pa.int64()), "meta": pa.nulls(1)}
    pq.write_table(pa.table(columns), path)
    assert list(read_rows(path)) == [{"task_id": "a", "turns": 1, "meta": None}]


def test_text_that_is_not_utf_8_is_one_line_that_names_the_column(tmp_path: Path):
    path = tmp_path / "tasks.parquet"
    data = pa.array([b"a", b"\xff"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"task_id": ["a", "b"], "instruction": data}), path)
    with pytest.raises(BadInput, match="column 'instruction' holds text that is not UTF-8"):
        list(read_rows(path))
    assert [row["task_id"] for row in read_rows(path, ["task_id"])] == ["a", "b"]
