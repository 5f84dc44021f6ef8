"""Advantage estimators over the samples of one prompt. Plain numbers in, plain numbers out."""

from __future__ import annotations

from collections.abc import Sequence


def rloo_n(rewards: Sequence[float | None], *, least: int = 4) -> list[float]:
    """Return leave-one-out advantages over the samples that count.

    With n samples left after exclusion, A_i = (r_i - mean(r)) * n / (n - 1), which is r_i minus the mean of the others
    (Kool et al. 2019, "Buy 4 REINFORCE Samples, Get a Baseline for Free!"). The name, the exclusion and the least
    number are those of the run that trained OpenThinkerAgent-8B-RL.

    Args:
        rewards: one reward a sample; None for a sample that is excluded (an infrastructure error).
        least: samples that must remain, else there is no baseline and every advantage is 0.

    Returns:
        One advantage a sample; 0 for an excluded one, and for all where the rewards are equal.
    """
    counted = [reward for reward in rewards if reward is not None]
    n = len(counted)
    if n < max(least, 2) or min(counted) == max(counted):
        return [0.0] * len(rewards)
    mean = sum(counted) / n
    return [0.0 if reward is None else (reward - mean) * n / (n - 1) for reward in rewards]
