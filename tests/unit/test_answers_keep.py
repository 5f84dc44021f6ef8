from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from answers.keep import Sample, by_chance, by_length, by_majority

FINALS = st.sampled_from(["", "1/2", "2/4", "3", "3/1", "4"])
samples = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), FINALS), max_size=12).map(
    lambda cells: [Sample(index, *cell) for index, cell in enumerate(cells)]
)


def equal(left: str, right: str) -> bool:
    return Fraction(left) == Fraction(right)


def by_index(decided, given_samples):
    return {sample.index: reason for sample, reason in zip(given_samples, decided, strict=True)}


@given(samples, st.integers(1, 12), st.randoms(use_true_random=False))
def test_no_filter_depends_on_the_order_of_the_samples(rows, keep, random):
    shuffled = random.sample(rows, len(rows))
    for decide in (
        lambda some: by_chance(some, keep=keep, seed=3, task_id="t"),
        lambda some: by_length(some, keep=keep, prefer="longest", low=2),
        lambda some: by_majority(some, same=equal),
    ):
        assert by_index(decide(rows), rows) == by_index(decide(shuffled), shuffled)


@given(samples, st.integers(1, 12), st.integers(0, 9))
def test_chance_keeps_so_many(rows, keep, seed):
    decided = by_chance(rows, keep=keep, seed=seed, task_id="t")
    assert decided.count(None) == min(keep, len(rows))
    assert set(decided) <= {None, "not-drawn"}


def test_chance_depends_on_seed_and_task_and_not_on_the_other_samples():
    rows = [Sample(index) for index in range(8)]
    drawn = {(seed, task): tuple(by_chance(rows, keep=4, seed=seed, task_id=task)) for seed in (0, 1) for task in "ab"}
    assert len(set(drawn.values())) == 4
    fewer = by_chance(rows[:7], keep=7, seed=0, task_id="a")
    assert fewer == [None] * 7


@given(samples, st.integers(1, 12), st.sampled_from(["longest", "shortest"]))
def test_length_keeps_the_asked_end(rows, keep, prefer):
    decided = by_length(rows, keep=keep, prefer=prefer)
    kept = [(row.tokens, row.characters) for row, reason in zip(rows, decided, strict=True) if reason is None]
    cut = [(row.tokens, row.characters) for row, reason in zip(rows, decided, strict=True) if reason]
    assert len(kept) == min(keep, len(rows))
    if kept and cut:
        assert min(kept) >= max(cut) if prefer == "longest" else max(kept) <= min(cut)


def test_length_bounds_come_first_and_need_a_count():
    rows = [Sample(index, tokens) for index, tokens in enumerate((0, 3, 5, 9))]
    assert by_length(rows, keep=1, prefer="longest", low=4, high=8) == [
        *("no-token-count", "too-short", None, "too-long"),
    ]
    assert by_length(rows, keep=None, prefer="longest", high=5) == ["no-token-count", None, None, "too-long"]


@given(samples)
def test_the_majority_is_one_answer_and_no_other_is_more_frequent(rows):
    decided = by_majority(rows, same=equal)
    kept = [row for row, reason in zip(rows, decided, strict=True) if reason is None]
    values = [Fraction(row.final) for row in rows if row.final]
    assert [reason == "no-answer" for reason in decided] == [not row.final for row in rows]
    assert len({Fraction(row.final) for row in kept}) == (1 if values else 0)
    assert len(kept) == max((values.count(value) for value in values), default=0)


@pytest.mark.parametrize(
    ("finals", "kept"),
    [(["4", "3", "3/1", "4"], [0, 3]), (["5", "6", "7"], [0]), (["3", "4", "8/2", "4"], [1, 2, 3])],
)
def test_ties_go_to_the_answer_that_was_given_first(finals, kept):
    rows = [Sample(index, final=final) for index, final in enumerate(finals)]
    decided = by_majority(rows, same=equal)
    assert [index for index, reason in enumerate(decided) if reason is None] == kept
