"""How many rows each task gives, and which of several equal rows stays."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from augment.plan import Share, first_of_equals, rank, shares

IDS = st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=30, unique=True)


def total(divided: dict[str, Share]) -> int:
    return sum(share.original + share.copies for share in divided.values())


@given(IDS, st.integers(1, 200), st.booleans(), st.integers(0, 9))
def test_rows_are_divided_evenly_whatever_the_order(ids: list[str], rows: int, keep: bool, seed: int):
    divided = shares(ids, copies=None, rows=rows, keep_original=keep, seed=seed)
    assert total(divided) == rows
    sizes = {share.original + share.copies for share in divided.values()}
    assert max(sizes) - min(sizes) <= 1
    assert all(share.original == (keep and share.original + share.copies > 0) for share in divided.values())
    shuffled = random.Random(seed).sample(ids, len(ids))
    assert shares(shuffled, copies=None, rows=rows, keep_original=keep, seed=seed) == divided


@given(IDS, st.integers(1, 100), st.booleans())
def test_more_rows_take_from_no_task(ids: list[str], rows: int, keep: bool):
    fewer = shares(ids, copies=None, rows=rows, keep_original=keep, seed=0)
    more = shares(ids, copies=None, rows=rows + 1, keep_original=keep, seed=0)
    assert all(more[task_id].copies >= share.copies for task_id, share in fewer.items())


def test_who_gives_one_more_depends_on_the_seed():
    ids = [f"t{index}" for index in range(50)]
    favoured = set()
    for seed in range(3):
        divided = shares(ids, copies=None, rows=75, keep_original=False, seed=seed)
        favoured.add(frozenset(task_id for task_id, share in divided.items() if share.copies == 2))
    assert len(favoured) == 3


@pytest.mark.parametrize("keep", [True, False])
def test_copies_do_not_count_the_original(keep: bool):
    assert shares(["a", "b"], copies=3, rows=None, keep_original=keep, seed=0) == dict.fromkeys("ab", Share(keep, 3))


def test_the_published_count_of_tezos_tasks():
    divided = shares([f"t{index}" for index in range(997)], copies=None, rows=21_486, keep_original=True, seed=0)
    assert total(divided) == 21_486
    assert {share.copies for share in divided.values()} == {20, 21}


def test_rows_of_equal_id_leave_the_lowest_copy_and_then_the_lowest_task():
    claims = [("x", 2, "a"), ("x", 1, "b"), ("x", 1, "c"), ("y", 3, "a")]
    assert first_of_equals(claims) == {("b", 1), ("a", 3)}
    assert first_of_equals(reversed(claims)) == {("b", 1), ("a", 3)}
    assert first_of_equals([]) == set()


def test_the_order_mixes_tasks_and_copies():
    picks = sorted(((f"t{task}", copy) for task in range(20) for copy in range(3)), key=lambda pick: rank(0, *pick))
    assert [task_id for task_id, _ in picks] != sorted(task_id for task_id, _ in picks)
    assert len({rank(0, *pick) for pick in picks}) == 60
