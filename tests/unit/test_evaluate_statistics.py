from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluate.statistics import (
    NEWCOMBE,
    WIDER,
    WILSON,
    Outcome,
    bootstrap_interval,
    difference,
    interval_of_mean,
    newcombe_interval,
    outcomes,
    score,
    scores_by_source,
    task_means,
    wilson_interval,
)

trials = st.lists(
    st.builds(
        Outcome,
        task_id=st.sampled_from([f"t{i}" for i in range(8)]),
        source=st.just("shell"),
        attempt=st.integers(0, 2),
        reward=st.sampled_from([0.0, 1.0]),
        error_class=st.sampled_from([None, None, None, "timeout", "infrastructure"]),
    ),
    max_size=30,
)
values = st.lists(st.sampled_from([0.0, 1 / 3, 2 / 3, 1.0]), min_size=1, max_size=30)


def attempts_at(rewards: dict[str, list[float | None]], source: str = "shell") -> list[Outcome]:
    return [
        Outcome(task_id, source, attempt, reward, "infrastructure" if reward is None else None)
        for task_id, given_rewards in rewards.items()
        for attempt, reward in enumerate(given_rewards)
    ]


def test_pass_at_1_is_the_mean_over_tasks_of_the_share_of_attempts():
    found = score(attempts_at({"a": [1, 1, 1], "b": [0, 1, 0], "c": [0, 0, 0]}), source="shell", attempts=3, seed=0)
    assert found.pass_at_1 == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert (found.n_tasks, found.valid_attempts, found.infra_errors, found.method) == (3, 9, 0, WIDER)


def test_an_infrastructure_error_counts_neither_for_nor_against():
    with_errors = attempts_at({"a": [1, None, 1], "b": [None, 0, None], "c": [None, None, None]})
    found = score(with_errors, source="shell", attempts=3, seed=0)
    assert found.pass_at_1 == 0.5
    assert (found.n_tasks, found.valid_attempts, found.infra_errors, found.unscored_tasks) == (2, 3, 6, 1)


def test_other_errors_count_as_they_were_rewarded_and_a_missing_reward_is_a_failure():
    rows = [
        Outcome("a", "s", 0, 1.0, "output_length"),
        Outcome("b", "s", 0, 0.0, "timeout"),
        Outcome("c", "s", 0, None, "parse"),
        Outcome("d", "s", 0, 0.999, None),
    ]
    assert task_means(rows) == {"a": 1.0, "b": 0.0, "c": 0.0, "d": 0.0}


def test_nothing_to_score_gives_no_number():
    for rows in ([], attempts_at({"a": [None]})):
        found = score(rows, source="shell", attempts=3, seed=0)
        assert (found.pass_at_1, found.ci95, found.n_tasks) == (None, None, 0)
    assert difference([], attempts_at({"a": [1]}), seed=0).diff is None


@settings(max_examples=50)
@given(trials, st.randoms(use_true_random=False))
def test_a_score_does_not_depend_on_the_order_of_trials(rows, shuffle):
    shuffled = shuffle.sample(rows, len(rows))
    assert score(rows, source="s", attempts=3, seed=1) == score(shuffled, source="s", attempts=3, seed=1)
    other = attempts_at({f"t{i}": [i % 2] for i in range(8)})
    assert difference(rows, other, seed=1) == difference(shuffled, other[::-1], seed=1)


@settings(max_examples=50)
@given(trials)
def test_a_score_lies_inside_its_interval_and_both_inside_0_and_1(rows):
    found = score(rows, source="s", attempts=3, seed=1)
    if found.ci95 is not None:
        low, high = found.ci95
        assert 0 <= low <= found.pass_at_1 <= high <= 1
        assert low < high


@settings(max_examples=50)
@given(trials, trials)
def test_swapping_the_models_mirrors_the_difference(first, second):
    there, back = difference(first, second, seed=5), difference(second, first, seed=5)
    assert there.n_tasks == back.n_tasks
    if there.diff is None:
        assert back.diff is None
    else:
        assert back.diff == pytest.approx(-there.diff)
        assert back.ci95 == pytest.approx((-there.ci95[1], -there.ci95[0]))
        assert -1 <= there.ci95[0] <= there.ci95[1] <= 1


@settings(max_examples=30)
@given(values)
def test_negating_the_values_mirrors_the_bootstrap(sample):
    low, high = bootstrap_interval(sample, seed=3, resamples=400)
    assert bootstrap_interval([-value for value in sample], seed=3, resamples=400) == (-high, -low)


@given(values, st.integers(0, 2**40))
@settings(max_examples=30)
def test_a_bootstrap_interval_stays_inside_the_sample(sample, seed):
    low, high = bootstrap_interval(sample, seed, resamples=200)
    assert min(sample) - 1e-12 <= low <= high <= max(sample) + 1e-12


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_or_nothing_gets_a_wilson_interval_with_width(share):
    found = score(attempts_at({f"t{i}": [share] * 3 for i in range(20)}), source="s", attempts=3, seed=0)
    assert found.method == WILSON
    assert found.ci95 == pytest.approx((0.0, 0.1611) if share == 0 else (0.8389, 1.0), abs=1e-4)


def test_wilson_matches_published_values():
    # Newcombe, Stat. Med. 17 (1998), 857-872, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    table = [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
    for solved, n, low, high in table:
        assert wilson_interval(solved / n, n) == pytest.approx((low, high), abs=5e-5)


def test_newcombe_matches_published_values():
    # Newcombe, Stat. Med. 17 (1998), 873-890, table II, method 10: 56 of 70 against 48 of 80.
    first, second = wilson_interval(48 / 80, 80), wilson_interval(56 / 70, 70)
    assert newcombe_interval(first, second, 48 / 80, 56 / 70) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_two_models_that_fail_everything_differ_by_nothing_but_not_certainly():
    nothing = attempts_at({f"t{i}": [0, 0, 0] for i in range(20)})
    found = difference(nothing, nothing, seed=0)
    assert (found.diff, found.method) == (0.0, NEWCOMBE)
    assert found.ci95[0] < -0.1
    assert found.ci95[1] > 0.1


def test_a_difference_uses_only_tasks_both_models_have():
    first = attempts_at({"a": [0], "b": [0], "c": [1]})
    second = attempts_at({"a": [1], "b": [0], "c": [None], "d": [1]})
    found = difference(first, second, seed=0)
    assert (found.n_tasks, found.diff) == (2, 0.5)


def test_a_paired_interval_is_narrower_than_two_apart_when_the_tasks_decide():
    generator = random.Random(0)
    hard = {f"t{i}": float(generator.random() < 0.5) for i in range(60)}
    first = attempts_at({task: [value] for task, value in hard.items()})
    second = attempts_at({task: [1.0 if i < 6 else value] for i, (task, value) in enumerate(hard.items())})
    paired = difference(first, second, seed=0)
    low, high = score(second, source="s", attempts=1, seed=0).ci95
    assert paired.ci95[1] - paired.ci95[0] < (high - low) / 2


def test_sources_are_scored_apart_and_together():
    rows = attempts_at({"a": [1, 1], "b": [0, 1]}, "shell") + attempts_at({"c": [0, 0]}, "pybugs")
    found = {entry.source: entry for entry in scores_by_source(rows, attempts=2, seed=0)}
    assert list(found) == ["pybugs", "shell", "all"]
    assert [entry.n_tasks for entry in found.values()] == [1, 2, 3]
    assert found["all"].pass_at_1 == pytest.approx((1 + 0.5 + 0) / 3)


def test_the_same_seed_gives_the_same_interval_and_another_may_not():
    sample = [i % 3 / 2 for i in range(15)]
    found = [bootstrap_interval(sample, seed, resamples=50) for seed in (1, 1, 2, 3, 4)]
    assert found[0] == found[1]
    assert len(set(found)) > 1


@pytest.mark.parametrize(("tasks", "easy"), [(40, 0.5), (40, 0.015), (4, 0.3), (12, 0.05)])
def test_the_interval_covers_the_truth_as_often_as_it_says(tasks: int, easy: float):
    # 300 evaluations, 3 attempts a task, of a model whose skill varies with the task: its rate is easy / (easy + 1).
    covered = 0
    for run in range(300):
        generator = random.Random(run)
        means = []
        for _ in range(tasks):
            skill = generator.betavariate(easy, 1.0)
            means.append(sum(generator.random() < skill for _ in range(3)) / 3)
        (low, high), _ = interval_of_mean(means, seed=run, resamples=400)
        covered += low <= easy / (easy + 1) <= high
    # The standard error of a coverage of 0.95 over 300 runs is 0.013.
    assert covered / 300 >= 0.92


def test_few_tasks_give_a_difference_its_doubt():
    first = attempts_at({"a": [0, 0, 0], "b": [0, 0, 1]})
    second = attempts_at({"a": [1, 1, 1], "b": [1, 1, 1]})
    found = difference(first, second, seed=0)
    assert found.method == NEWCOMBE
    assert found.ci95[0] < 0.2


def test_rows_become_outcomes():
    row = {"task_id": "a", "source": "s", "attempt": 1, "reward": None, "error_class": "infrastructure", "turns": 3}
    assert outcomes([row]) == [Outcome("a", "s", 1, None, "infrastructure")]
    assert not outcomes([row])[0].valid
    assert math.isclose(wilson_interval(0.5, 10)[0] + wilson_interval(0.5, 10)[1], 1.0)
