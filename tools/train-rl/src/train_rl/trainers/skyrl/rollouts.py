"""Trials as SkyRL's trainer takes them: a `GeneratorOutput`, made of the server's own token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recipe_core.errors import BadInput
from recipe_core.terms import INFRASTRUCTURE
from train_rl.episodes import Episode, episode


def trajectory_output(rows: Sequence[Mapping[str, Any]], *, end: int) -> dict[str, Any]:
    """Return the trials' rows as a `skyrl.train.generators.base.GeneratorOutput`.

    A trial that ended in an infrastructure error keeps its place: its tokens are all masked out of the loss, and its
    stop reason tells it from the others (:func:`excluded`). SkyRL wants a number where it has no reward; nothing reads
    it.

    Args:
        rows: trials, in the order of the batch.
        end: the token that stands where a trial has no token at all; masked out too.

    Raises:
        BadInput: not one trial is left, or the server gave no token ids.
    """
    episodes = [episode(row) for row in rows]
    if all(one.reward is None for one in episodes):
        raise BadInput(
            f"all {len(rows)} trials of the step ended in infrastructure errors, the first: "
            f"{rows[0]['error_message']}; mend that and run the same command again to go on"
        )
    if not any(one.completion_ids for one in episodes):
        raise BadInput(
            f"none of {len(rows)} trials has token ids: the inference server answers no chat completion, or gives no "
            "ids (return_token_ids); see the logs folder beside the checkpoints"
        )
    return {
        "prompt_token_ids": [one.prompt_ids or [end] for one in episodes],
        "response_ids": [one.completion_ids or [end] for one in episodes],
        "rewards": [0.0 if one.reward is None else one.reward for one in episodes],
        "loss_masks": [_loss_mask(one) for one in episodes],
        "stop_reasons": [row["error_class"] or "complete" for row in rows],
        "rollout_logprobs": [one.logprobs or [0.0] for one in episodes],
        "rollout_metrics": _metrics(rows, episodes),
    }


def excluded(stop_reasons: Sequence[str]) -> list[bool]:
    """Tell for each sample whether it is left out of baseline, loss and metrics.

    A trial that ran out of time before its first answer has no token to learn from either, but its reward of 0 counts.
    """
    return [reason == INFRASTRUCTURE for reason in stop_reasons]


def without(output: Mapping[str, Any], left_out: Sequence[bool]) -> dict[str, Any]:
    """Return a `GeneratorOutput` without some of its samples."""
    return {
        key: [item for item, out in zip(value, left_out, strict=True) if not out]
        if isinstance(value, list) and len(value) == len(left_out)
        else value
        for key, value in output.items()
    }


def _loss_mask(one: Episode) -> list[int]:
    if one.reward is None or not one.completion_ids:
        return [0] * max(len(one.completion_ids), 1)
    return one.sampled


def _metrics(rows: Sequence[Mapping[str, Any]], episodes: Sequence[Episode]) -> dict[str, float]:
    counted = [one.reward for one in episodes if one.reward is not None]
    return {
        "trials/reward_mean": sum(counted) / len(counted),
        "trials/pass_rate": sum(reward == 1 for reward in counted) / len(counted),
        "trials/excluded": float(len(episodes) - len(counted)),
        "trials/turns": sum(row["turns"] for row in rows) / len(rows),
        "trials/dropped_turns": float(sum(one.dropped_turns for one in episodes)),
    }
