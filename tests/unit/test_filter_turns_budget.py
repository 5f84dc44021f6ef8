"""Random parts of so many rows or tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filter_turns.budget import Ranked, count_recorded, count_text, keep_rows, keep_tokens, rank
from recipe_core.tokens import words

sizes = st.lists(st.integers(0, 50), max_size=30)


def row(task_id: str, **changes) -> dict:
    return {"task_id": task_id, "attempt": 0, "conversations": [{"role": "user", "content": task_id}], **changes}


def ranked(tokens: list[int], seed: int = 0) -> list[Ranked]:
    return [Ranked(rank(row(f"t{place}"), seed), size, place) for place, size in enumerate(tokens)]


@given(sizes, st.integers(1, 600))
def test_the_budget_is_kept_and_what_is_missing_is_less_than_a_row_that_remains(tokens, budget):
    rows = ranked(tokens)
    kept = keep_tokens(rows, budget)
    total = sum(found.tokens for found in kept)
    remaining = [found.tokens for found in rows if found not in kept]
    assert total <= budget
    assert not remaining or budget - total < max(remaining)


@given(sizes, st.integers(1, 600), st.integers(0, 5), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_decides_nothing(tokens, budget, seed, random):
    rows = ranked(tokens, seed)
    shuffled = [found._replace(place=place) for place, found in enumerate(random.sample(rows, len(rows)))]
    for keep in (keep_tokens, keep_rows):
        assert {found.rank for found in keep(rows, budget)} == {found.rank for found in keep(shuffled, budget)}


@given(sizes, st.integers(1, 300), st.integers(0, 300))
def test_a_larger_budget_keeps_what_a_smaller_one_keeps(tokens, budget, more):
    rows = ranked(tokens)
    for keep in (keep_tokens, keep_rows):
        assert keep(rows, budget + more)[: len(keep(rows, budget))] == keep(rows, budget)


@given(sizes, st.integers(1, 40))
def test_rows_are_counted(tokens, count):
    assert len(keep_rows(ranked(tokens), count)) == min(count, len(tokens))


def test_a_row_too_large_for_the_rest_ends_it():
    rows = [Ranked((place, ""), size, place) for place, size in enumerate([4, 9, 1])]
    assert [found.place for found in keep_tokens(rows, 10)] == [0]
    assert [found.place for found in keep_tokens(rows, 13)] == [0, 1]


def test_the_seed_decides_which_rows():
    first, second = (keep_rows(ranked([1] * 100, seed), 10) for seed in (1, 2))
    assert {found.place for found in first} != {found.place for found in second}


def test_short_rows_are_not_favoured():
    tokens = [10, 1000] * 500
    kept = keep_tokens(ranked(tokens), sum(tokens) // 4)
    assert 0.4 < sum(found.tokens == 10 for found in kept) / len(kept) < 0.6


def test_rows_that_agree_in_their_ids_are_told_apart_by_what_they_say():
    other = [{"role": "user", "content": "something else"}]
    same = [row("t"), row("t", attempt=1), row("t", conversations=other), row("t", conversations=None)]
    assert len({rank(found, 0) for found in same}) == 4
    assert rank(row("t"), 0) == rank(row("t", reward=1.0), 0)


def test_tokens_of_a_text_are_those_of_its_contents():
    talk = [{"role": "user", "content": "Sort it."}, {"role": "assistant", "content": None}]
    assert count_text(talk, words) == 3
    assert count_text(None, words) == 0


@pytest.mark.parametrize(
    ("prompts", "completions", "expected"),
    [
        ([[1, 2], [1, 2, 3, 4]], [[3], [5, 6]], 6),
        ([[1] * 9, [1, 2]], [[3], [5]], 10),
        ([[1, 2]], [[]], 2),
        (None, None, None),
        ([], [], None),
        ([[1]], None, None),
        ([[1], [1]], [[2]], None),
        ([[1], None], [[2], [3]], None),
    ],
)
def test_recorded_tokens_are_the_longest_prompt_with_its_completion(prompts, completions, expected):
    assert count_recorded(prompts, completions) == expected
