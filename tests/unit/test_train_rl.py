from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe_core.errors import BadInput
from train_rl.episodes import episode, reward
from train_rl.estimators import rloo_n
from train_rl.sampler import Sampler, SamplingSettings

rewards = st.lists(st.one_of(st.none(), st.floats(-1, 1)), min_size=1, max_size=12)


@given(rewards)
def test_advantage_is_the_reward_less_the_mean_of_the_others(values):
    advantages = rloo_n(values)
    counted = [value for value in values if value is not None]
    if len(counted) < 4 or len(set(counted)) == 1:
        assert advantages == [0.0] * len(values)
        return
    for index, value in enumerate(values):
        if value is None:
            assert advantages[index] == 0.0
            continue
        others = [other for at, other in enumerate(values) if at != index and other is not None]
        assert advantages[index] == pytest.approx(value - sum(others) / len(others), abs=1e-9)


@given(rewards)
def test_advantages_of_a_prompt_sum_to_nothing(values):
    assert sum(rloo_n(values)) == pytest.approx(0.0, abs=1e-9)


@given(rewards, st.randoms())
def test_excluding_a_sample_is_as_if_it_had_not_been_drawn(values, random):
    at = random.randint(0, len(values))
    longer = [*values[:at], None, *values[at:]]
    advantages = rloo_n(longer)
    assert advantages[:at] + advantages[at + 1 :] == pytest.approx(rloo_n(values))


def test_known_values():
    assert rloo_n([1, 0, 0, 0]) == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    assert rloo_n([1, 0, None, 0]) == [0.0] * 4
    assert rloo_n([1, 0, None, 0], least=2) == pytest.approx([1, -0.5, 0, -0.5])


@pytest.mark.parametrize(
    ("error_class", "given_reward", "seen"),
    [
        (None, 1.0, 1.0),
        (None, 0.0, 0.0),
        ("infrastructure", None, None),
        ("timeout", 1.0, 0.0),
        ("parse", 1.0, 0.0),
        ("context", 1.0, 0.0),
        ("output_length", 1.0, 0.0),
    ],
)
def test_rewards_by_error_class(error_class, given_reward, seen):
    assert reward({"error_class": error_class, "reward": given_reward}) == seen


def trial(*turns: tuple[list[int], list[int]], error_class: str | None = None) -> dict:
    return {
        "error_class": error_class,
        "reward": 1.0,
        "prompt_token_ids": [prompt for prompt, _ in turns],
        "completion_token_ids": [completion for _, completion in turns],
        "logprobs": [[-float(token) for token in completion] for _, completion in turns],
    }


def test_turns_become_one_sequence_with_a_mask():
    made = episode(trial(([1, 2], [3, 4]), ([1, 2, 3, 4, 5, 6], [7])))
    assert made.prompt_ids == [1, 2]
    assert made.completion_ids == [3, 4, 5, 6, 7]
    assert made.sampled == [1, 1, 0, 0, 1]
    assert made.logprobs == [-3, -4, 0, 0, -7]
    assert made.dropped_turns == 0


def test_a_past_that_was_tokenised_anew_starts_the_sequence_again():
    made = episode(trial(([1, 2], [3, 4]), ([1, 2, 34, 5], [7]), ([1, 2, 34, 5, 7, 8], [9])))
    assert made.prompt_ids == [1, 2, 34, 5]
    assert made.completion_ids == [7, 8, 9]
    assert made.sampled == [1, 0, 1]
    assert made.dropped_turns == 1


def test_a_trial_without_answers_has_no_tokens():
    made = episode(trial(error_class="infrastructure"))
    assert made.reward is None
    assert made.prompt_ids == made.completion_ids == made.sampled == []


tokens = st.lists(st.integers(0, 9), min_size=1, max_size=5)


@given(st.lists(st.tuples(tokens, tokens), min_size=1, max_size=4))
def test_every_sampled_token_keeps_its_log_probability_and_its_past(parts):
    past: list[int] = []
    turns = []
    for told, completion in parts:
        prompt = past + told
        turns.append((prompt, completion))
        past = prompt + completion
    made = episode(trial(*turns))
    assert made.prompt_ids + made.completion_ids == past
    assert sum(made.sampled) == sum(len(completion) for _, completion in turns)
    assert len(made.sampled) == len(made.completion_ids) == len(made.logprobs)
    for flag, token, logprob in zip(made.sampled, made.completion_ids, made.logprobs, strict=True):
        assert logprob == (-token if flag else 0)


def test_a_worker_that_ends_is_said_and_stops_the_server(tmp_path: Path):
    settings = SamplingSettings(1.0, 1.0, -1, 8, 1, 64, 1, 1.0, 1.0, "auto", 0, "2026-01-01")
    sampler = Sampler(tmp_path, tmp_path / "tasks.parquet", settings, tmp_path)
    stopped = []
    server = contextlib.ExitStack()
    server.callback(stopped.append, True)
    server.model, server.base_url = "policy", "http://127.0.0.1:9/v1"
    sampler._server = server
    ended = subprocess.Popen(["sh", "-c", "exit 3"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    ended.wait()
    sampler._trials._worker = ended
    with pytest.raises(BadInput, match="the rollout worker ended with code 3"):
        try:
            sampler.sample(0, ["a"])
        finally:
            sampler.__exit__(None, None, None)
    assert stopped
