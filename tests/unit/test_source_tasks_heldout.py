"""The rule that decides whether a test is held out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from source_tasks.heldout import SPLITS, Leak, leaks, split_of


def row(task: str, *keys: str, source: str = "shell", instruction: str | None = None) -> dict[str, Any]:
    return {
        "task_id": task,
        "source": source,
        "instruction": instruction or f"do {task}",
        "meta": json.dumps({"held_out": list(keys)}),
    }


def test_distinct_tasks_do_not_leak() -> None:
    assert leaks([row("a", "k1"), row("b", "k2")], [row("c", "k3")]) == []


def test_a_shared_key_is_reported_with_both_tasks() -> None:
    assert leaks([row("a", "k1"), row("b", "k1")], [row("c", "k0", "k1")]) == [Leak("shell", "key", "k1", "a", "c")]


def test_keys_of_different_sources_are_different_things() -> None:
    assert leaks([row("a", "k1", source="humaneval")], [row("b", "k1")]) == []


def test_the_same_task_and_the_same_request_are_leaks_without_keys() -> None:
    found = leaks([row("a", instruction="do  it\n")], [row("a", instruction="do it")])
    assert {leak.kind for leak in found} == {"task", "instruction"}


def test_meta_may_be_a_dictionary() -> None:
    plain = {"task_id": "a", "source": "s", "instruction": "x", "meta": {"held_out": ["k"]}}
    assert [leak.value for leak in leaks([plain], [{**plain, "task_id": "b", "instruction": "y"}])] == ["k"]


@pytest.mark.parametrize("prefix", ["problem", "package:function"])
def test_about_a_quarter_of_all_keys_is_held_out(prefix: str) -> None:
    splits = [split_of(f"{prefix}{n}") for n in range(2000)]
    assert set(splits) == set(SPLITS)
    assert 0.2 < splits.count("test") / len(splits) < 0.3
