"""Decides what a finished trial was: its error class, its reward, its row. Pure functions over plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from recipe_core.terms import INFRASTRUCTURE

AGENT = "terminus-2"

# A verifier that gave no usable reward, and a sandbox that went over its limits or was found unfit to judge in. Tasks
# are validated before use, so the agent brought it about (it broke a tool the verifier needs, or wrote code that never
# ends): its failure, reward 0.
_AGENT_FAILURES = (
    "SandboxKilled",
    "VerifierTimeoutError",
    "RewardFileNotFoundError",
    "RewardFileEmptyError",
    "VerifierOutputParseError",
)


@dataclass(frozen=True)
class Turn:
    """One completion as the server returned it. Token ids and log-probabilities are empty where it gives none."""

    content: str
    finish_reason: str = "stop"
    prompt_token_ids: Sequence[int] = ()
    completion_token_ids: Sequence[int] = ()
    logprobs: Sequence[float] = ()
    parses: bool = True


@dataclass(frozen=True)
class TrialFacts:
    """What is known of a finished trial.

    Args:
        messages: the prompt messages of the last answered request.
        turns: all completions, in order.
        exception: name of the exception that Harbor recorded, if any, and its message.
        reward: what the verifier gave.
        failed_request: why the pending request could not be answered; empty when none failed.
        ended: `context` when the conversation no longer fitted the model.
    """

    messages: Sequence[dict[str, str]] = ()
    turns: Sequence[Turn] = ()
    exception: str = ""
    message: str = ""
    reward: float | None = None
    failed_request: str = ""
    ended: str = ""
    seconds: dict[str, float] = field(default_factory=dict)


def classify(facts: TrialFacts) -> tuple[str | None, str | None]:
    """Return the error class and message of a trial; (None, None) for one that ended by itself.

    A request that could not be answered makes the trial an infrastructure error even when the agent's time ran out
    while it was being repeated. An exception without a name of its own is one too: the model cannot raise in Harbor.
    """
    if facts.failed_request:
        return INFRASTRUCTURE, facts.failed_request
    if facts.exception == "AgentTimeoutError":
        return "timeout", facts.message
    if facts.exception and facts.exception not in _AGENT_FAILURES:
        return INFRASTRUCTURE, f"{facts.exception}: {facts.message}"
    note = f"{facts.exception}: {facts.message}" if facts.exception else None
    last = facts.turns[-1] if facts.turns else Turn("")
    error_class, why = None, None
    if facts.ended == "context":
        error_class, why = "context", "the conversation no longer fits the model's context"
    elif last.finish_reason == "length":
        error_class, why = "output_length", "the last answer was cut at the most tokens allowed"
    elif not last.parses:
        error_class, why = "parse", "the last answer was not in terminus-2's format"
    return error_class, note or why


def final_reward(facts: TrialFacts, error_class: str | None) -> float | None:
    """Return the trial's reward: None after an infrastructure error, else what the verifier gave, or 0."""
    if error_class == INFRASTRUCTURE:
        return None
    return facts.reward if facts.reward is not None else 0.0


def conversation(messages: Sequence[dict[str, str]], turns: Sequence[Turn]) -> list[dict[str, str]]:
    """Return the last answered prompt and its answer as one list of role and content."""
    seen = [{"role": message["role"], "content": message["content"]} for message in messages]
    return [*seen, {"role": "assistant", "content": turns[-1].content}] if turns else seen


def trajectory_row(
    facts: TrialFacts,
    *,
    task_id: str,
    path: str,
    source: str,
    attempt: int,
    model: str,
    provider: str,
    trace_source: str,
    date: str,
    run_id: str,
    verifiable: bool = True,
) -> dict[str, Any]:
    """Return a row of `records.TRAJECTORY_SCHEMA`; it depends on the arguments alone (no clock, no random names)."""
    error_class, message = classify(facts)
    reward = final_reward(facts, error_class) if verifiable else None
    named = {"timeout": "AgentTimeoutError", INFRASTRUCTURE: "InfrastructureError"}
    result = named.get(error_class or "", str(reward) if verifiable else "unverified")
    tokens = any(turn.completion_token_ids for turn in facts.turns)
    return {
        "agent": AGENT,
        "conversations": conversation(facts.messages, facts.turns),
        "date": date,
        "episode": f"episode-{max(len(facts.turns) - 1, 0)}",
        "model": model,
        "model_provider": provider,
        "result": result,
        "run_id": run_id,
        "task": path,
        "trace_source": trace_source,
        "trial_name": f"{task_id}__{attempt}",
        "task_id": task_id,
        "source": source,
        "attempt": attempt,
        "reward": reward,
        "turns": len(facts.turns),
        "prompt_token_ids": [list(turn.prompt_token_ids) for turn in facts.turns] if tokens else [],
        "completion_token_ids": [list(turn.completion_token_ids) for turn in facts.turns] if tokens else [],
        "logprobs": [list(turn.logprobs) for turn in facts.turns] if tokens else [],
        "error_class": error_class,
        "error_message": message,
    }
