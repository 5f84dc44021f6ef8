"""What a model's answer is worth: the new instruction in it, or why it is dropped. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from augment.details import lost
from recipe_core.text import normalise
from teacher import Reply

OPEN, CLOSE = "<instruction>", "</instruction>"
_THOUGHT = "</think>"
_REFUSAL = re.compile(r"(i(['’]m| am) (sorry|unable)|sorry,|i can(['’]t| ?not)|as an ai)\b", re.IGNORECASE)
_WRAPPED = re.compile(r"```[\w-]*\n(.*)\n```", re.DOTALL)


@dataclass(frozen=True)
class Verdict:
    """A rewriting, and why it is dropped (None where it is kept)."""

    text: str
    reason: str | None = None
    detail: str | None = None


def answer_of(text: str) -> str:
    """Return the instruction that an answer gives: what stands between the tags it was asked for, else all of it."""
    text = text.rpartition(_THOUGHT)[2]
    start = text.find(OPEN)
    if start >= 0:
        end = text.rfind(CLOSE)
        text = text[start + len(OPEN) : end if end > start else None]
    # JSON can carry halves of characters, which no file can.
    text = text.encode("utf-8", errors="replace").decode().strip()
    wrapped = _WRAPPED.fullmatch(text)
    return wrapped[1].strip() if wrapped and "```" not in wrapped[1] else text


def judge(reply: Reply, original: str, decided_by: str = "") -> Verdict:
    """Judge one answer by itself; whether it repeats another is for :func:`without_repeats`.

    Args:
        reply: the model's.
        original: the instruction that was to be rewritten.
        decided_by: the text of the tests and the solution, see :func:`augment.details.details`.
    """
    text = answer_of(reply.text)
    reason, detail = next(_objections(reply, text, original, decided_by), (None, None))
    return Verdict(text, reason, detail)


def _objections(reply: Reply, text: str, original: str, decided_by: str) -> Iterator[tuple[str, str | None]]:
    if reply.refused is not None:
        yield "refused", reply.refused
    if reply.finish_reason == "content_filter":
        yield "refused", "content filter"
    if reply.finish_reason == "length":
        yield "cut", f"{reply.completion_tokens} tokens"
    if not text:
        yield "empty", None
    if OPEN not in reply.text and _REFUSAL.match(text) and not _REFUSAL.match(original):
        yield "refused", "by the model"
    if normalise(text) == normalise(original):
        yield "unchanged", None
    missing = lost(original, text, decided_by)
    if missing:
        yield "lost-detail", ", ".join(missing)


def without_repeats(verdicts: list[Verdict]) -> list[Verdict]:
    """Drop, of a task's verdicts in the order of its copies, those whose text an earlier kept one has."""
    seen: dict[str, int] = {}
    decided = []
    for copy, verdict in enumerate(verdicts, start=1):
        if verdict.reason is None:
            first = seen.setdefault(normalise(verdict.text), copy)
            decided.append(verdict if first == copy else Verdict(verdict.text, "repeated", f"copy {first}"))
        else:
            decided.append(verdict)
    return decided
