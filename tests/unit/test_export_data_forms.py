from __future__ import annotations

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export_data.forms import FORMS, SFT_COLUMNS, Conversations, messages_of, published_batch
from recipe_core.errors import BadInput
from recipe_core.records import TASK_SCHEMA, TRAJECTORY_SCHEMA

CONVERSATIONS = TRAJECTORY_SCHEMA.field("conversations").type
text = st.text(st.characters(exclude_categories=["Cs"]))
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": text}), max_size=6
)


def batch_of(rows: list[dict], schema: pa.Schema = TRAJECTORY_SCHEMA) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(rows, schema=schema)


def schema_of(form: str) -> pa.Schema:
    known = TASK_SCHEMA if form == "tasks" else TRAJECTORY_SCHEMA
    return pa.schema([known.field(name) for name in FORMS[form].columns])


@given(st.lists(messages, max_size=5), st.integers(0, 5))
def test_every_form_of_a_conversation_gives_it_back(rows: list[list[dict[str, str]]], start: int):
    whole = batch_of([{"conversations": turns, "trial_name": f"a__{number}"} for number, turns in enumerate(rows)])
    # A slice, since a shard may begin inside a batch.
    batch, rows = whole.slice(start), rows[start:]
    parquet = published_batch(batch, schema_of("sft"), "file", 0).to_pylist()
    assert [messages_of(row) for row in parquet] == rows
    for name in ("sharegpt", "openai"):
        line = FORMS[name].line
        assert line is not None
        lines = [line("a__0", turns) for turns in Conversations(batch.column("conversations"), "file", 0)]
        published = json.loads(json.dumps(lines))
        assert [messages_of(row) for row in published] == rows
        assert all(set(row) == set(FORMS[name].published) for row in published)


def test_published_columns_and_no_others():
    batch = batch_of([{"conversations": [], "reward": 1.0, "task_id": "a", "agent": "x"}])
    published = published_batch(batch, schema_of("sft"), "file", 0)
    assert tuple(published.schema.names) == SFT_COLUMNS == tuple(FORMS["sft"].published)
    assert published.to_pylist() == [{**dict.fromkeys(SFT_COLUMNS), "agent": "x", "conversations": []}]
    task = {"path": "p", "task_binary": b"x"}
    published = published_batch(batch_of([{**task, "source": "s"}], TASK_SCHEMA), schema_of("tasks"), "file", 0)
    assert published.to_pylist() == [task]


def test_turns_with_more_parts_in_another_order_are_published_as_the_two():
    kind = pa.large_list(pa.struct([("content", pa.large_string()), ("name", pa.string()), ("role", pa.string())]))
    column = pa.array([[{"content": "hi", "name": "n", "role": "user"}], []], kind)
    found = Conversations(column, "file", 0).array(CONVERSATIONS)
    assert found.to_pylist() == [[{"role": "user", "content": "hi"}], []]


TURN = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([[TURN], None], "file: row 11 has no conversation"),
        ([[TURN], [], [TURN, {"role": None, "content": "x"}]], "file: row 12 has a message without role"),
        ([[TURN, {"role": "user", "content": None}]], "file: row 10 has a message without content"),
        ([[], [None]], "file: row 11 has a message without role"),
    ],
)
def test_a_row_that_is_no_conversation_is_named(rows: list, said: str):
    with pytest.raises(BadInput, match=said):
        Conversations(pa.array(rows, CONVERSATIONS), "file", 10)


def test_a_role_without_a_name_in_sharegpt_is_said():
    line = FORMS["sharegpt"].line
    assert line is not None
    with pytest.raises(BadInput, match="role 'tool' has no name in ShareGPT"):
        line("a", [("user", "x"), ("tool", "y")])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"path": None, "task_binary": b"x"}, "row 8 has no path"),
        ({"path": "", "task_binary": b"x"}, "row 8 has no path"),
        ({"path": "a", "task_binary": None}, "row 8 has no task_binary"),
        ({"path": "a", "task_binary": b""}, "row 8 has no task_binary"),
    ],
)
def test_a_row_that_is_no_task_is_named(row: dict, said: str):
    batch = batch_of([{"path": "z", "task_binary": b"z"}, row], TASK_SCHEMA)
    with pytest.raises(BadInput, match=said):
        published_batch(batch, schema_of("tasks"), "file", 7)
