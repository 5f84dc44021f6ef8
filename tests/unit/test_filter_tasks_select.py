from __future__ import annotations

import math
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from recipe_core.select import Measured, reasons, rows_of_fraction

values = st.one_of(st.none(), st.floats(width=16))
cells = st.lists(st.tuples(values, st.sampled_from(["shell", "humaneval", None])), max_size=40)
rows = cells.map(lambda pairs: [Measured(f"{i:03d}", value, source) for i, (value, source) in enumerate(pairs)])
ends = st.sampled_from(["highest", "lowest"])


def by_group(measured, decided):
    groups = defaultdict(list)
    for row, reason in zip(measured, decided, strict=True):
        groups[row.group].append((row, reason))
    return groups


@given(rows, ends, st.integers(1, 9))
def test_each_source_keeps_what_it_would_keep_alone(measured, keep, count):
    for group in by_group(measured, reasons(measured, keep=keep, count=count)).values():
        alone = [Measured(row.task_id, row.value) for row, _ in group]
        assert reasons(alone, keep=keep, count=count) == [reason for _, reason in group]


@given(rows, ends, st.integers(1, 100))
def test_a_share_of_each_source_is_rounded_for_each(measured, keep, percent):
    fraction = f"{percent / 100:.2f}"
    for group in by_group(measured, reasons(measured, keep=keep, fraction=fraction)).values():
        inside = [row for row, reason in group if reason != "no-value"]
        kept = [row for row, reason in group if reason is None]
        assert len(kept) == rows_of_fraction(fraction, len(inside))


@given(rows, ends, st.integers(1, 9), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(measured, keep, count, random):
    decided = dict(zip([row.task_id for row in measured], reasons(measured, keep=keep, count=count), strict=True))
    shuffled = random.sample(measured, len(measured))
    again = dict(zip([row.task_id for row in shuffled], reasons(shuffled, keep=keep, count=count), strict=True))
    assert decided == again


@given(rows, ends, st.integers(1, 9))
def test_kept_values_are_at_the_asked_end_and_numbers(measured, keep, count):
    for group in by_group(measured, reasons(measured, keep=keep, count=count)).values():
        kept = [row.value for row, reason in group if reason is None]
        cut = [row.value for row, reason in group if reason == f"not-{keep}"]
        assert not any(value is None or math.isnan(value) for value in kept)
        if kept and cut:
            assert min(kept) >= max(cut) if keep == "highest" else max(kept) <= min(cut)


def test_reasons_have_plain_names_and_bounds_come_first():
    measured = [Measured("a", 1.0), Measured("b", 2.0), Measured("c", 3.0), Measured("d", 9.0), Measured("e", None)]
    decided = reasons(measured, keep="highest", count=1, low=2.0, high=3.0)
    assert decided == ["below-min", "not-highest", None, "above-max", "no-value"]
    assert reasons(measured, keep="lowest", fraction="0.25") == [None, *["not-lowest"] * 3, "no-value"]


def test_infinite_values_are_values():
    measured = [Measured("a", math.inf), Measured("b", 0.0), Measured("c", -math.inf)]
    assert reasons(measured, keep="highest", count=1) == [None, "not-highest", "not-highest"]
    assert reasons(measured, keep="lowest", count=1) == ["not-lowest", "not-lowest", None]


def test_ties_go_to_the_smaller_task_id_in_each_source():
    measured = [Measured("b", 1.0, "x"), Measured("a", 1.0, "x"), Measured("c", 1.0, "y")]
    assert reasons(measured, keep="lowest", count=1) == ["not-lowest", None, None]
