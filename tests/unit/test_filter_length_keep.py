from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from filter_length.__main__ import WORDS
from recipe_core import select
from recipe_core.select import Measured, rows_of_fraction

values = st.one_of(st.none(), st.floats(allow_infinity=False, width=16))
rows = st.lists(values, max_size=40).map(lambda cells: [Measured(f"{i:03d}", value) for i, value in enumerate(cells)])


def reasons(measured, **how):
    return select.reasons(measured, words=WORDS, **how)


def is_number(value):
    return value is not None and not math.isnan(value)


@given(rows, st.sampled_from(["longest", "shortest"]), st.integers(1, 50), st.randoms(use_true_random=False))
def test_which_rows_stay_does_not_depend_on_their_order(measured, keep, count, random):
    decided = dict(zip(measured, reasons(measured, keep=keep, count=count), strict=True))
    shuffled = random.sample(measured, len(measured))
    again = dict(zip(shuffled, reasons(shuffled, keep=keep, count=count), strict=True))
    assert {row.task_id: reason for row, reason in decided.items()} == {
        row.task_id: reason for row, reason in again.items()
    }


@given(rows, st.sampled_from(["longest", "shortest"]), st.integers(1, 50))
def test_every_kept_value_is_at_the_asked_end(measured, keep, count):
    decided = reasons(measured, keep=keep, count=count)
    kept = [row.value for row, reason in zip(measured, decided, strict=True) if reason is None]
    cut = [row.value for row, reason in zip(measured, decided, strict=True) if reason == f"not-{keep}"]
    numbers = [row.value for row in measured if is_number(row.value)]
    assert len(kept) == min(count, len(numbers))
    assert len(kept) + len(cut) == len(numbers)
    if kept and cut:
        assert min(kept) >= max(cut) if keep == "longest" else max(kept) <= min(cut)


@given(rows, st.floats(-100, 100), st.floats(0, 100))
def test_bounds_keep_exactly_the_values_inside(measured, low, width):
    decided = reasons(measured, low=low, high=low + width)
    for row, reason in zip(measured, decided, strict=True):
        assert (reason is None) == (is_number(row.value) and low <= row.value <= low + width)
        assert (reason == "no-value") == (not is_number(row.value))


@given(st.integers(1, 999), st.integers(0, 5000))
def test_a_fraction_is_taken_as_written(thousandths, count):
    kept = rows_of_fraction(f"0.{thousandths:03d}", count)
    assert kept == min(count, max(1, thousandths * count // 1000))


def test_ties_go_to_the_smaller_task_id():
    measured = [Measured("b", 1.0), Measured("a", 1.0), Measured("c", 1.0)]
    assert reasons(measured, keep="longest", count=2) == [None, None, "not-longest"]


def test_bounds_come_before_the_share():
    measured = [Measured("a", 1.0), Measured("b", 2.0), Measured("c", 3.0), Measured("d", None)]
    assert reasons(measured, keep="longest", fraction="0.5", high=2.0) == ["not-longest", None, "too-long", "no-value"]
