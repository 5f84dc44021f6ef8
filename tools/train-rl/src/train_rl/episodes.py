"""From a trial's row to what a trainer needs: one reward, and one sequence of tokens with a mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from recipe_core.terms import INFRASTRUCTURE, MODEL_ERRORS


@dataclass
class Episode:
    """One trial as a sequence: a prompt, then what the model sampled and what it was told, in turn.

    Attributes:
        reward: None when the trial ended in an infrastructure error.
        prompt_ids: tokens before the first sampled one.
        completion_ids: all tokens after it.
        sampled: 1 for a token that the model sampled, 0 for one it was given; as long as `completion_ids`.
        logprobs: the sampler's log-probabilities, 0 where `sampled` is 0.
        dropped_turns: turns left out because the server had tokenised their past anew.
    """

    reward: float | None
    prompt_ids: list[int] = field(default_factory=list)
    completion_ids: list[int] = field(default_factory=list)
    sampled: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    dropped_turns: int = 0


def reward(row: Mapping[str, Any]) -> float | None:
    """Return the reward that training sees: None for an infrastructure error, 0 for the model's own failures."""
    if row["error_class"] == INFRASTRUCTURE:
        return None
    # The model's own failures score 0 whatever state they left behind.
    if row["error_class"] in MODEL_ERRORS:
        return 0.0
    return float(row["reward"] or 0.0)


def episode(row: Mapping[str, Any]) -> Episode:
    """Return a trial's episode, made of the server's own token ids; nothing is tokenised again.

    A later prompt begins with the earlier prompt and answer, token for token, unless the model sampled an answer in
    other tokens than a tokenizer would choose. Where it does not, the sequence begins anew there, so that every token
    keeps the context it was sampled in; the turns before are left out and counted.
    """
    made = Episode(reward(row))
    turns = zip(row["prompt_token_ids"], row["completion_token_ids"], row["logprobs"], strict=True)
    for number, (prompt, completion, logprobs) in enumerate(turns):
        past = made.prompt_ids + made.completion_ids
        if number and prompt[: len(past)] == past:
            told = prompt[len(past) :]
            made.completion_ids += told
            made.sampled += [0] * len(told)
            made.logprobs += [0.0] * len(told)
        else:
            made = Episode(made.reward, prompt_ids=list(prompt), dropped_turns=number)
        made.completion_ids += completion
        made.sampled += [1] * len(completion)
        made.logprobs += logprobs
    return made
