"""A reply as a row of `recipe_core.records.TRAJECTORY_SCHEMA`, and why a reply is no answer. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from answers.final import THINK_END, final_answer, without_reasoning
from answers.keep import Sample
from answers.question import Question
from recipe_core.terms import INFRASTRUCTURE
from teacher.request import Reply

_CUT = "output_length"
_CUT_MESSAGE = "the answer was cut at the most tokens allowed"


@dataclass(frozen=True)
class Source:
    """Who answers, as every row says it."""

    model: str
    provider: str
    trace_source: str
    date: str
    run_id: str


def content_of(reply: Reply) -> str:
    """Return an answer's text, with the reasoning in front of it where the server gives that apart."""
    if not reply.reasoning:
        return reply.text
    return f"<think>\n{reply.reasoning.strip()}\n{THINK_END}\n\n{reply.text}"


def reason_by_reply(reply: Reply, *, keep_cut: bool) -> str | None:
    """Return why a reply is dropped before any filter: `refused`, `cut` or `empty`; None when it is an answer.

    Reasoning without an answer after it is empty.
    """
    if reply.refused is not None or reply.finish_reason == "content_filter":
        return "refused"
    if reply.finish_reason == "length" and not keep_cut:
        return "cut"
    return None if without_reasoning(content_of(reply)) else "empty"


def sample_of(index: int, reply: Reply) -> Sample:
    """Return what filters look at."""
    content = content_of(reply)
    return Sample(index, reply.completion_tokens, len(content), final_answer(without_reasoning(content)))


def trajectory_row(
    question: Question,
    index: int,
    messages: Sequence[dict[str, str]],
    reply: Reply | None,
    source: Source,
    *,
    reward: float | None = None,
    failure: str | None = None,
) -> dict[str, Any]:
    """Return one sample's row; it depends on the arguments alone.

    Args:
        question: what was asked.
        index: which sample it is, from 0.
        messages: as what it was asked.
        reply: the answer; None where nothing was asked.
        source: who answered.
        reward: 1 or 0 from a verifier, None where none judged it.
        failure: an error outside the model that kept the verifier from judging.
    """
    answered = reply is not None and bool(content_of(reply))
    turn = [{"role": "assistant", "content": content_of(reply)}] if reply is not None and answered else []
    cut = reply is not None and reply.finish_reason == "length"
    refused = reply.refused if reply is not None else None
    error_class = INFRASTRUCTURE if failure is not None else _CUT if cut else None
    return {
        "agent": "answers",
        "conversations": [*messages, *turn],
        "date": source.date,
        "episode": "episode-0",
        "model": source.model,
        "model_provider": source.provider,
        "result": "InfrastructureError" if failure is not None else None if reward is None else str(reward),
        "run_id": source.run_id,
        "task": question.path,
        "trace_source": source.trace_source,
        "trial_name": f"{question.task_id}__{index}",
        "task_id": question.task_id,
        "source": question.source,
        "attempt": index,
        "reward": reward,
        "turns": len(turn),
        "prompt_token_ids": [],
        "completion_token_ids": [],
        "logprobs": [],
        "error_class": error_class,
        "error_message": failure or refused or (_CUT_MESSAGE if cut else None),
    }
