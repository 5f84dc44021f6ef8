"""`rloo_n` as SkyRL's advantage estimators are called: tensors in, tensors out, the formula that of `estimators`."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch

from train_rl.estimators import rloo_n


def rloo_n_advantages(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: Sequence[Hashable],
    *,
    least: int = 4,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return advantages and returns, the same thing here; every token of a sample has the sample's.

    Args:
        token_level_rewards: batch x tokens; a sample's reward is their sum.
        response_mask: batch x tokens; 1 for a token of the response. A sample without any is excluded.
        index: each sample's prompt.
        least: see :func:`train_rl.estimators.rloo_n`.
    """
    with torch.no_grad():
        rewards = token_level_rewards.double().sum(dim=-1).tolist()
        counted = (response_mask > 0).any(dim=-1).tolist()
        groups: dict[Hashable, list[int]] = {}
        for row, prompt in enumerate(index):
            groups.setdefault(prompt, []).append(row)
        scores = torch.zeros(len(rewards), dtype=token_level_rewards.dtype, device=token_level_rewards.device)
        for rows in groups.values():
            advantages = rloo_n([rewards[row] if counted[row] else None for row in rows], least=least)
            for row, advantage in zip(rows, advantages, strict=True):
                scores[row] = advantage
        spread = scores.unsqueeze(-1) * response_mask
    return spread, spread
