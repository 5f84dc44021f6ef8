"""Rows of Parquet and JSON lines: reading, drawing, hostile input, and what comes from a benchmark's test split.

The data sets themselves cannot be had without a network: here as in the other tests of their loaders, the input is
small files of the published form, written by hand.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipe_core.errors import BadInput
from source_tasks import questions, tables
from source_tasks.benchmarks import named_benchmark, refuse_benchmark
from source_tasks.build import rejected_row, row
from source_tasks.given import OVERSIZE, REPEATED
from source_tasks.heldout import SPLITS, leaks
from source_tasks.source import Candidate, GivenSource
from source_tasks.tables import NO_TEXT, find_tables, is_held_split, json_cell, read_tables

NEEDED = (("question", "conversations"),)


def lines(path: Path, *rows: dict[str, Any] | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join((one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in rows))
    return path


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def everything(source: Any, seed: int = 0) -> list[Candidate]:
    return [one for split in SPLITS for one in source.generate(split, seed, source.families())]


def test_parquet_and_json_lines_give_the_same_tasks(tmp_path: Path) -> None:
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1), "domain": "math", "ignored": n} for n in range(40)]
    one = questions.open_source(parquet(tmp_path / "a.parquet", rows))
    random.Random(0).shuffle(rows)
    parquet(tmp_path / "many" / "train-0.parquet", rows[:11])
    lines(tmp_path / "many" / "deep" / "b.jsonl", *rows[11:])
    two = questions.open_source(tmp_path / "many")
    assert isinstance(two, GivenSource)
    for split in SPLITS:
        made = [list(source.generate(split, 5, source.families())) for source in (one, two)]
        assert made[0] == made[1]
        assert made[0] != list(one.generate(split, 6, one.families()))
    assert len(everything(one)) == 40
    sides = {split: [row("questions", c) for c in one.generate(split, 0, one.families())] for split in SPLITS}
    assert leaks(sides["train"], sides["test"]) == []
    assert one.digest() != two.digest()


def test_rows_are_drawn_one_by_one(tmp_path: Path) -> None:
    source = questions.open_source(lines(tmp_path / "a.jsonl", *({"question": f"q {n}"} for n in range(100))))
    first = itertools.islice(source.generate("train", 0, source.families()), 3)
    assert [one.question for one in first] == [
        one.question for one in itertools.islice(source.generate("train", 0, source.families()), 10)
    ][:3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no line in it"),
        (b"\n\n", "no line in it"),
        (b'{"question": "a"}\n{"question": ', "line 2: not JSON"),
        (b"[" * 100_000, "line 1: not JSON"),
        (b"[]", "line 1: not a JSON object"),
        (b'{"question": "\xff"}', "line 1: not UTF-8 text"),
        (b'{"qestion": "a"}', "line 1: no key 'question' or 'conversations'; did you mean 'qestion'?"),
        (b"{}", "it has none"),
    ],
)
def test_json_lines_that_cannot_be_read_are_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadInput) as error:
        list(read_tables([path], NEEDED, ()))
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_huge_line_ends_the_run_and_a_huge_row_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_TASK_BYTES", 1000)
    path = lines(tmp_path / "a.jsonl", {"question": "x" * 2000}, {"question": "short"})
    huge, short = sorted(everything(questions.open_source(path)), key=lambda one: one.reason is None)
    assert (huge.reason, huge.files, short.question) == (OVERSIZE, {}, "short")
    assert rejected_row("questions", huge, OVERSIZE)["task_binary"] is None
    monkeypatch.setattr(tables, "MAX_LINE_BYTES", 1000)
    with pytest.raises(BadInput, match="line 1: longer than 1000 bytes"):
        everything(questions.open_source(path))


def test_parquet_without_the_columns_or_truncated_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no column 'question' or 'problem' or 'input' or 'conversations'; it has text"):
        everything(questions.open_source(parquet(tmp_path / "a.parquet", [{"text": "x"}])))
    path = parquet(tmp_path / "b.parquet", [{"question": "x"}])
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(BadInput, match="truncated or not a Parquet file"):
        everything(questions.open_source(path))


def test_cells_without_text_reject_their_row_alone(tmp_path: Path) -> None:
    column = pa.array([b"What is 1?", b"\xff\xfe", None, b"  "], pa.binary()).cast(pa.binary())
    text = pa.Array.from_buffers(pa.string(), 4, column.buffers())
    pq.write_table(pa.table({"question": text}), tmp_path / "a.parquet")
    lines(tmp_path / "b.jsonl", {"question": "What is 2?"}, {"question": 7}, {"question": "\ud800"}, {})
    found = everything(questions.open_source(tmp_path))
    assert sorted(one.question for one in found if one.reason is None) == ["What is 1?", "What is 2?"]
    rejected = [one for one in found if one.reason is not None]
    assert len(rejected) == 6
    # Rows without any content are one and the same, and none of them is a task.
    assert {one.reason for one in rejected} == {NO_TEXT}
    assert {one.meta["detail"] for one in rejected} == {"question or conversations"}


def test_a_repeated_row_is_taken_once(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", *[{"question": "Same?"}] * 3)
    assert sorted(str(one.reason) for one in everything(questions.open_source(path))) == ["None", REPEATED, REPEATED]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root, "no .parquet or .jsonl file"),
        (lambda root: root / "absent", "no such file or folder; source questions reads"),
        (lambda root: lines(root / "a.csv", {}), "no .parquet or .jsonl file"),
        (lambda root: lines(root / "test.jsonl", {}), "by its name a test or validation split"),
        (lambda root: lines(root / "data" / "validation-0.jsonl", {}).parent, "by its name a test or validation split"),
        (lambda root: lines(root / "manifest.json", {}).parent, "an artifact of this project"),
    ],
)
def test_a_wrong_input_is_one_line(tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        questions.open_source(make(tmp_path))


def test_files_of_other_splits_and_hidden_ones_are_left_alone(tmp_path: Path) -> None:
    for name in ("data/train-0.jsonl", "data/test-0.jsonl", "valid/a.jsonl", ".cache/b.jsonl", "testing.jsonl"):
        lines(tmp_path / name, {"question": name})
    found = find_tables(tmp_path, "questions")
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["data/train-0.jsonl", "testing.jsonl"]
    assert is_held_split(tmp_path / "dev.parquet", tmp_path)


@pytest.mark.parametrize(
    ("cells", "named"),
    [
        ({"instance_id": "django__django-11099"}, True),
        ({"instance_id": "oauthlib__oauthlib.1fd52536.combine_file__09vlzwgc"}, False),
        ({"instance_id": "getmoto__moto-5752"}, False),
        ({"instance_id": None, "split": "test"}, True),
        ({"split": "train"}, False),
        ({"dataset": "princeton-nlp/SWE-bench_Verified"}, True),
        ({"source": "SWE-bench, test split"}, True),
        ({"source": "SWE-bench/SWE-smith"}, False),
        ({"origin": "swe bench lite"}, True),
        ({"problem_statement": "We test SWE-bench_Verified."}, False),
    ],
)
def test_what_names_a_benchmarks_test_split_is_found(cells: dict[str, Any], named: bool) -> None:
    assert (named_benchmark(cells) is not None) == named
    if named:
        with pytest.raises(BadInput, match=r"^row 3: from a benchmark's test split \(.*\); take these rows out"):
            refuse_benchmark(cells, "row 3")


def test_json_cells() -> None:
    found: Iterator[Any] = map(json_cell, ([1], '{"a": 1}', "x", "3", None, 4, "[" * 100_000))
    assert list(found) == [[1], {"a": 1}, None, None, None, None, None]
