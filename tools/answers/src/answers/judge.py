"""Asking a judge whether an answer is right, and reading what it says. Pure functions over text."""

from __future__ import annotations

import re

from answers.final import without_reasoning

_ROLE = (
    "You check answers. You are shown a question and an answer to it. Work out for yourself what the answer should be, "
    "then decide whether the answer shown is correct and complete. End with a line that holds one word only: yes if it "
    "is correct, no if it is not."
)
_VERDICT = re.compile(r"\b(yes|no)\b", re.I)


def judge_messages(question: str, answer: str) -> list[dict[str, str]]:
    """Return what the judge is asked about an answer, given without its reasoning."""
    shown = f"Question:\n{question}\n\nAnswer:\n{answer}\n\nIs the answer correct?"
    return [{"role": "system", "content": _ROLE}, {"role": "user", "content": shown}]


def verdict(reply: str) -> bool | None:
    """Return what a judge decided: its last yes or no after its reasoning, or None where it said neither.

    >>> verdict("The sum is right, no step is missing.\\n\\nYes")
    True
    """
    found = _VERDICT.findall(without_reasoning(reply))
    return found[-1].lower() == "yes" if found else None
