"""Signals of tasks: where they come from and what is said when there is none of that name."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from recipe_core.errors import BadInput
from recipe_core.records import TASK_SCHEMA, write_rows
from recipe_core.signals import find_signal, meta_value

META = json.dumps({"tokens": 7, "model": {"words": 3}, "family": "text", "solved": True})


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.parquet"
    schema = TASK_SCHEMA.append(pa.field("difficulty", pa.float32()))
    write_rows(path, schema, [{"task_id": "a"}, {"task_id": "b", "meta": META}])
    return path


def test_signals_come_from_columns_meta_and_counts(tasks: Path):
    assert find_signal("difficulty", tasks).measure(2.5) == 2.5
    assert find_signal("meta.tokens", tasks).measure(META) == 7
    assert find_signal("meta.model.words", tasks).measure(META) == 3
    assert find_signal("instruction_words", tasks).measure(" two  words ") == 2
    assert find_signal("instruction_chars", tasks).measure(None) is None
    assert find_signal("binary_bytes", tasks).measure(b"1234") == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("instruction_char", "did you mean 'instruction_chars'"),
        ("meta.token", "did you mean 'meta.tokens'"),
        ("meta.family", "no signal 'meta.family'"),
        ("meta.solved", "no signal 'meta.solved'"),
        ("licence", "holds string, not numbers"),
        ("zzz", "the signals are binary_bytes"),
    ],
)
def test_an_unknown_signal_is_answered_with_the_nearest(tasks: Path, name: str, message: str):
    with pytest.raises(BadInput, match=message):
        find_signal(name, tasks)


@pytest.mark.parametrize("text", [None, "", "not json", "[1]", '{"a": 1}', '{"b": null}'])
def test_a_missing_meta_value_is_none(text):
    assert meta_value(text, ["b"]) is None
