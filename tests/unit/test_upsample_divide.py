from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe_core.errors import BadInput
from upsample.divide import divide, whole_weights

weights = st.lists(st.floats(0, 1e6), min_size=1, max_size=30)


def names(count: int) -> list[str]:
    return [f"t{index:03d}" for index in range(count)]


@given(weights, st.integers(0, 500))
def test_counts_sum_exactly_and_no_task_is_left_out(values: list[float], spare: int):
    counts = divide(len(values) + spare, names(len(values)), values)
    assert sum(counts) == len(values) + spare
    assert min(counts) >= 1


@given(weights, st.integers(0, 500))
def test_a_larger_weight_never_gets_fewer(values: list[float], spare: int):
    counts = divide(len(values) + spare, names(len(values)), values)
    for heavy, more in zip(values, counts, strict=True):
        for light, fewer in zip(values, counts, strict=True):
            if heavy > light:
                assert more >= fewer


@given(weights, st.integers(0, 500))
def test_no_count_is_a_whole_row_off_its_quota(values: list[float], spare: int):
    total = sum(Fraction(value) for value in values)
    for value, count in zip(values, divide(len(values) + spare, names(len(values)), values), strict=True):
        quota = spare * (Fraction(value) / total if total else Fraction(1, len(values)))
        assert math.floor(quota) <= count - 1 <= math.ceil(quota)


@given(weights, st.integers(0, 500), st.randoms(use_true_random=False))
def test_the_order_of_tasks_decides_nothing(values: list[float], spare: int, random):
    tasks = list(zip(names(len(values)), values, strict=True))
    shuffled = random.sample(tasks, len(tasks))
    rows = len(values) + spare

    def counts(order: list[tuple[str, float]]) -> dict[str, int]:
        ids, weights = [name for name, _ in order], [value for _, value in order]
        return dict(zip(ids, divide(rows, ids, weights), strict=True))

    assert counts(tasks) == counts(shuffled)


def test_known_values():
    assert divide(10, ["a", "b", "c"], [1, 1, 2]) == [3, 3, 4]
    assert divide(10, ["a", "b", "c"], [3, 0, 0]) == [8, 1, 1]
    assert divide(5, ["a", "b"], [0, 0]) == [3, 2]


def test_equal_fractions_go_by_task_id():
    assert divide(4, ["b", "a", "c"], [1, 1, 1]) == [1, 2, 1]


@given(st.lists(st.floats(0, allow_infinity=False), min_size=1, max_size=8))
def test_whole_weights_have_the_proportion_of_the_weights(values: list[float]):
    whole = whole_weights(values)
    scale = max(value.as_integer_ratio()[1] for value in values)
    assert [Fraction(number, scale) for number in whole] == [Fraction(value) for value in values]


@pytest.mark.parametrize(
    ("rows", "values", "message"),
    [
        (2, [1.0, 1.0, 1.0], "--rows 2 is below the 3 tasks"),
        (5, [1.0, -1.0], "task t001: weight -1 is negative"),
        (5, [1.0, math.inf], "task t001: weight inf"),
        (5, [math.nan], "task t000: weight nan"),
        (5, [], "no tasks"),
    ],
)
def test_bad_weights_are_one_line(rows: int, values: list[float], message: str):
    with pytest.raises(BadInput, match=message):
        divide(rows, names(len(values)), values)
