"""The order of candidates by mean z-score."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank.order import deviation, mean_z, order_by, z_scores, z_table

rates = st.floats(0, 1)
tables = st.integers(1, 4).flatmap(
    lambda benchmarks: st.dictionaries(
        st.text("abcdef", min_size=1, max_size=3),
        st.fixed_dictionaries({f"b{number}": rates for number in range(benchmarks)}),
        min_size=2,
        max_size=6,
    )
)

# Points on SWE-bench-Verified-100, OT-TBLite and Terminal-Bench 2.0 as published. The published z-scores are among more
# candidates than are listed, so only their order is compared, but for the mixes, where these five give the same.
TEACHERS = {
    "glm-4.7-awq": (28.00, 17.86, 8.61),
    "kimi-k2.5": (33.33, 14.19, 8.24),
    "glm-5": (33.00, 14.30, 7.50),
    "glm-4.6-awq": (26.00, 16.99, 6.37),
    "gpt-5.3-codex": (21.67, 10.42, 3.75),
}
MIXES = {
    "top-1": (30.67, 14.80, 4.49),
    "top-2": (29.00, 18.12, 7.12),
    "top-4": (29.33, 17.00, 8.24),
    "top-8": (28.00, 15.86, 8.61),
    "top-32": (20.33, 18.67, 5.99),
}


def published(points):
    return {name: dict(zip(("swe", "lite", "tb2"), triple, strict=True)) for name, triple in points.items()}


def test_teachers_stand_in_the_published_order_which_is_not_that_of_raw_means():
    scores = mean_z(published(TEACHERS))
    assert order_by(scores) == ["glm-4.7-awq", "kimi-k2.5", "glm-5", "glm-4.6-awq", "gpt-5.3-codex"]
    assert scores["glm-5"] > 0 > scores["gpt-5.3-codex"]
    assert order_by({name: sum(triple) for name, triple in TEACHERS.items()})[0] == "kimi-k2.5"


def test_the_mix_of_four_sources_is_the_best_with_the_published_z_score():
    scores = mean_z(published(MIXES))
    assert order_by(scores)[0] == "top-4"
    assert round(scores["top-4"], 2) == 0.49


def test_z_scores_by_hand():
    found = z_table({"a": {"x": 0.1, "y": 0.5}, "b": {"x": 0.3, "y": 0.5}, "c": {"x": 0.8, "y": 0.5}})
    # Mean 0.4, mean squared distance (0.09 + 0.01 + 0.16) / 3.
    scale = (0.26 / 3) ** 0.5
    assert [found[name]["x"] for name in "abc"] == pytest.approx([-0.3 / scale, -0.1 / scale, 0.4 / scale])
    assert [found[name]["y"] for name in "abc"] == [0, 0, 0]


@given(st.lists(rates, min_size=2, max_size=20))
def test_the_deviation_is_that_of_a_population(values):
    assert deviation(values) == pytest.approx(statistics.pstdev(values), abs=1e-9)


@given(st.dictionaries(st.text("abc", min_size=1), rates, min_size=2))
def test_z_scores_have_mean_0_and_deviation_1_or_are_all_0(values):
    found = list(z_scores(values).values())
    assert statistics.fmean(found) == pytest.approx(0, abs=1e-3)
    assert not any(found) or statistics.pstdev(found) == pytest.approx(1, rel=1e-3)


@given(tables, st.randoms(use_true_random=False))
def test_the_order_of_candidates_and_benchmarks_decides_nothing(table, random):
    shuffled = {
        name: dict(random.sample(sorted(table[name].items()), len(table[name])))
        for name in random.sample(sorted(table), len(table))
    }
    assert mean_z(shuffled) == mean_z(table)
    assert order_by(mean_z(shuffled)) == order_by(mean_z(table))


@given(tables)
def test_a_candidate_at_least_as_good_everywhere_does_not_stand_below(table):
    first, second, *_ = sorted(table)
    better = {**table, first: {name: max(table[first][name], table[second][name]) for name in table[first]}}
    scores = mean_z(better)
    assert scores[first] >= scores[second] - 1e-9


@pytest.mark.parametrize("values", [[0.1 + 0.2, 0.3], [1 / 3 + 2 / 3, 1.0], [0.7, 0.7, 0.7]])
def test_equal_rates_do_not_deviate_whatever_their_rounding(values):
    assert deviation(values) == 0
    assert set(z_scores({str(place): value for place, value in enumerate(values)}).values()) == {0}


def test_equal_scores_stand_by_name():
    assert order_by({"b": 0.1 + 0.2, "a": 0.3, "c": 0.5}) == ["c", "a", "b"]
