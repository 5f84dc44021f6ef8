"""What is compared, and what is inside the noise."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluate.statistics import Outcome, difference
from rank.__main__ import rank
from rank.noise import combine, distance, probability_best
from rank.table import recipe_lines, verdict, yaml_name
from rank.trials import check_candidates, common_benchmarks
from recipe_core.errors import BadInput
from recipe_core.seeds import row_seed
from recipe_core.terms import INFRASTRUCTURE


def attempts(rewards: dict[str, list[float | None]], source: str = "shell") -> list[Outcome]:
    """Return an outcome for each reward; None stands for a failure outside the model."""
    return [
        Outcome(task, source, number, reward, INFRASTRUCTURE if reward is None else None)
        for task, row in rewards.items()
        for number, reward in enumerate(row)
    ]


def solved(count: int, of: int = 40, source: str = "shell") -> list[Outcome]:
    """Return one attempt at each of `of` tasks, the first `count` solved."""
    return attempts({f"t{number:02d}": [float(number < count)] for number in range(of)}, source)


def shell(**counts: int):
    return common_benchmarks({name: {"shell": solved(count)} for name, count in counts.items()})


def test_a_task_that_one_candidate_could_not_try_is_left_out_for_all_and_is_no_zero():
    trials = {
        "a": {"shell": attempts({"t1": [1.0, None], "t2": [None, None], "t3": [0.0, 1.0]})},
        "b": {"shell": attempts({"t1": [0.0, 0.0], "t2": [1.0, 1.0], "t3": [1.0, 1.0]})},
    }
    (found,) = common_benchmarks(trials)
    assert (found.tasks, found.excluded) == (["t1", "t3"], 1)
    assert found.infra_errors == {"a": 3, "b": 0}
    assert found.shares() == {"a": [1.0, 0.5], "b": [0.0, 1.0]}
    result = rank([found], None, 0)
    rates = {row["name"]: row["benchmarks"]["shell"]["pass_at_1"] for row in result["candidates"]}
    assert rates == {"a": 0.75, "b": 0.5}
    assert result["benchmarks"][0]["excluded_tasks"] == 1


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"other": solved(3)}, "candidate 'a' has no trials of 'other', which 'b' has"),
        ({"shell": solved(3, of=41)}, "different tasks of 'shell': 0 only by the first, 1 only by the second"),
        ({"shell": solved(3, of=30)}, "different tasks of 'shell': 10 only by the first, 0 only by the second"),
        ({"shell": attempts({f"t{n:02d}": [None] for n in range(40)})}, "no task of 'shell' has a valid attempt by"),
    ],
)
def test_candidates_that_cannot_be_compared_are_one_line(second, message):
    with pytest.raises(BadInput, match=message):
        common_benchmarks({"a": {"shell": solved(5)}, "b": second})


def test_fewer_than_two_candidates_are_no_ranking(tmp_path):
    with pytest.raises(BadInput, match="1 candidate cannot be ranked"):
        check_candidates({"a": [tmp_path]}, None)
    with pytest.raises(BadInput, match="--top 3 is more than the 2 candidates"):
        check_candidates({"a": [tmp_path], "b": [tmp_path]}, 3)


def test_of_one_benchmark_the_interval_is_the_paired_one_on_the_scale_of_z():
    benchmarks = shell(a=30, b=20, c=5)
    found = distance("a", "b", benchmarks, {"shell": 0.25}, seed=3)
    (benchmark,) = benchmarks
    split = row_seed(3, "pair", "shell")
    paired = difference(benchmark.trials["b"], benchmark.trials["a"], seed=split)
    assert found.mean_z == pytest.approx(paired.diff / 0.25)
    assert found.ci95 == pytest.approx(tuple(end / 0.25 for end in paired.ci95))
    assert not found.inside_noise


def test_a_small_difference_is_inside_the_noise_and_a_large_one_is_not():
    generator = random.Random(0)
    rewards = {f"t{number}": float(generator.random() < 0.5) for number in range(100)}
    flipped = {task: [1 - reward if generator.random() < 0.1 else reward] for task, reward in rewards.items()}
    trials = {
        "a": {"shell": attempts({task: [reward] for task, reward in rewards.items()})},
        "b": {"shell": attempts(flipped)},
        "c": {"shell": attempts({task: [0.0] for task in rewards})},
    }
    result = rank(common_benchmarks(trials), None, 0)
    assert result["order"][-1] == "c"
    assert [step["inside_noise"] for step in result["neighbours"]] == [True, False]
    assert "inside the noise" in verdict(result["neighbours"][0])
    assert verdict(result["neighbours"][1]).endswith("better")


def test_few_tasks_do_not_make_a_winner():
    trials = {"a": {"shell": solved(1, of=2)}, "b": {"shell": solved(0, of=2)}}
    (step,) = rank(common_benchmarks(trials), None, 0)["neighbours"]
    assert step["benchmarks"]["shell"]["method"] == "newcombe"
    assert step["inside_noise"]


def test_candidates_that_score_alike_share_the_first_place():
    result = rank(shell(b=7, a=7), None, 0)
    assert result["order"] == ["a", "b"]
    assert [row["mean_z"] for row in result["candidates"]] == [0, 0]
    assert [row["probability_best"] for row in result["candidates"]] == [0.5, 0.5]
    assert result["neighbours"][0]["inside_noise"]


@settings(max_examples=25)
@given(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 40), min_size=2), st.integers(0, 9))
def test_probabilities_add_up_and_the_order_of_candidates_decides_nothing(counts, seed):
    found = probability_best(shell(**counts), {"shell": 0.3}, seed, resamples=200)
    assert sum(found.values()) == pytest.approx(1)
    backwards = dict(reversed(counts.items()))
    assert probability_best(shell(**backwards), {"shell": 0.3}, seed, resamples=200) == found


def test_a_candidate_that_is_never_worse_is_the_best_in_nearly_all_resamples():
    found = probability_best(shell(a=30, b=20, c=5), {"shell": 0.25}, seed=0)
    assert found["a"] > 0.999
    assert found["c"] == 0


def test_the_probability_of_two_opposite_candidates_is_even_within_its_error():
    trials = {"a": {"shell": solved(20)}, "b": {"shell": [t._replace(reward=1 - t.reward) for t in solved(20)]}}
    found = probability_best(common_benchmarks(trials), {"shell": 0.25}, seed=0)
    # Ten thousand resamples: a standard error of half a point.
    assert found["a"] == pytest.approx(0.5, abs=0.02)


def test_intervals_of_independent_benchmarks_combine_as_roots_of_sums_of_squares():
    assert combine([(2.0, 0.1, (0.0, 0.4))]) == (0.2, pytest.approx((0.0, 0.8)))
    total, (low, high) = combine([(1.0, 0.5, (0.2, 0.9)), (1.0, 0.5, (0.1, 0.8))])
    assert (total, low, high) == pytest.approx((1.0, 0.5, 1.5))
    assert combine([]) == (0.0, (0.0, 0.0))


def test_each_benchmark_counts_the_same_however_many_tasks_it_has():
    few, many = solved(10, of=10, source="few"), solved(0, of=200, source="many")
    none, half = solved(0, of=10, source="few"), solved(100, of=200, source="many")
    result = rank(common_benchmarks({"a": {"few": few, "many": many}, "b": {"few": none, "many": half}}), None, 0)
    assert [row["mean_z"] for row in result["candidates"]] == pytest.approx([0, 0])


def test_the_lines_for_a_recipe_are_yaml():
    import yaml

    names = ["swe-smith", "no", "3b", "a b", "x: y", "größe", "null", '"']
    (order,) = recipe_lines({"order": names, "top": None})
    assert yaml.safe_load(order) == {"order": names}
    assert recipe_lines({"order": ["a", "b"], "top": 1}) == ["order: [a, b]", "top: 1"]
    assert yaml_name("swe-smith") == "swe-smith"
