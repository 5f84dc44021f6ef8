"""Which split a key belongs to, and whether two sets of tasks share one.

A held-out key is whatever must not be seen in training when a test asks for it: a file name or a line of text
(`shell`), a problem (`humaneval`), a function (`pybugs`). Every task lists its keys in `meta["held_out"]`. A key's
split follows from its own hash, so it is the same for every seed, count, recipe and machine, and a later source gets
the rule for nothing by listing its keys.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

SPLITS = ("train", "test")
# Both: for what the user gives, where the evaluation tasks come from elsewhere, or it is itself one.
ALL = "all"

# One key in this many is held out for tests.
_TEST_SHARE = 4


def split_of(key: str) -> str:
    """Return `train` (about 3 keys in 4) or `test` for a held-out key.

    >>> split_of("amber-falcon") in SPLITS
    True
    """
    first = hashlib.sha256(f"split\x1f{key}".encode()).digest()[0]
    return "test" if first % _TEST_SHARE == 0 else "train"


def in_split(key: str, split: str) -> bool:
    """Tell whether a held-out key is of a split; every key is of `all`."""
    return split in (ALL, split_of(key))


class Leak(NamedTuple):
    """Something that a training task and a test task share."""

    source: str
    kind: str
    """`key` (a held-out key), `task` (the very same task) or `instruction` (the same request)."""
    value: str
    train_task: str
    test_task: str


def held_out_keys(row: Mapping[str, Any]) -> list[str]:
    """Return the held-out keys of a task row, whose `meta` is JSON text or already a dictionary."""
    meta = row["meta"]
    parsed = json.loads(meta) if isinstance(meta, str) else meta
    return list(parsed["held_out"])


def _marks(row: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    source = row["source"]
    for key in held_out_keys(row):
        yield source, "key", key
    yield source, "task", row["task_id"]
    yield source, "instruction", " ".join(row["instruction"].split())


def leaks(train_rows: Iterable[Mapping[str, Any]], test_rows: Iterable[Mapping[str, Any]]) -> list[Leak]:
    """Return everything that test tasks share with training tasks; an empty list means the test is held out.

    Rows are task rows with at least `task_id`, `source`, `instruction` and `meta`. Each shared thing is reported once a
    test task, with the first training task that has it. Keys are compared within a source.
    """
    seen: dict[tuple[str, str, str], str] = {}
    for row in train_rows:
        for mark in _marks(row):
            seen.setdefault(mark, row["task_id"])
    found = []
    for row in test_rows:
        for mark in sorted(set(_marks(row))):
            if mark in seen:
                found.append(Leak(*mark, train_task=seen[mark], test_task=row["task_id"]))
    return found
