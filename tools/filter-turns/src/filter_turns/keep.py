"""Whether a trajectory is kept: one pure function over plain values."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from recipe_core.terms import INFRASTRUCTURE

SOLVED = 1.0


@dataclass(frozen=True)
class Rules:
    """What a filter drops.

    Attributes:
        min_turns: fewest turns (assistant messages) that a kept trajectory has.
        solved_only: drop trajectories whose reward is below 1 or missing.
        errors: error classes to drop.
        subagents: drop traces of subagents and summarisations.
    """

    min_turns: int = 1
    solved_only: bool = False
    errors: Collection[str] = ()
    subagents: bool = False


def is_subagent(trace_source: str | None) -> bool:
    """Tell whether a trace is a subagent's or a summarisation's rather than the agent's own.

    The published rows call them `summarization-1-summary`, `summarization-2-questions` and the like.

    >>> is_subagent("summarization-1-summary"), is_subagent("main"), is_subagent(None)
    (True, False, False)
    """
    return (trace_source or "").lower().startswith(("summarization", "subagent"))


def reason_to_drop(
    *, turns: int, reward: float | None, error_class: str | None, trace_source: str | None, rules: Rules
) -> str | None:
    """Return the first reason that applies, from the most to the least telling, or None to keep the trajectory."""
    if error_class == INFRASTRUCTURE:
        return INFRASTRUCTURE
    if rules.subagents and is_subagent(trace_source):
        return "subagent"
    if error_class is not None and error_class in rules.errors:
        return error_class
    if rules.solved_only and (reward is None or reward < SOLVED):
        return "not-solved"
    if turns < rules.min_turns:
        return "too-few-turns"
    return None


def count_turns(conversations: Collection[dict[str, str]] | None) -> int:
    """Return the number of assistant messages."""
    return sum(message["role"] == "assistant" for message in conversations or ())
