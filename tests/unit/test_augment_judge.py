"""What a model's answer is worth."""

from __future__ import annotations

import pytest

from augment.judge import Verdict, answer_of, judge, without_repeats
from teacher import Reply

ORIGINAL = "In /app: Create the file done.txt with 3 lines."
GOOD = "Please create done.txt with 3 lines in /app."


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (f"<instruction>\n{GOOD}\n</instruction>", GOOD),
        (f"Sure, here it is:\n<instruction>{GOOD}</instruction>\nAnything else?", GOOD),
        (f"<think>done.txt, <instruction>no</instruction></think>\n<instruction>{GOOD}</instruction>", GOOD),
        (f"<instruction>{GOOD}", GOOD),
        (f"  {GOOD}\n", GOOD),
        (f"```markdown\n{GOOD}\n```", GOOD),
        ("```\na\n```\nand\n```\nb\n```", "```\na\n```\nand\n```\nb\n```"),
        ("half a character: \ud800", "half a character: ?"),
        ("", ""),
    ],
)
def test_the_instruction_in_an_answer(said: str, answer: str):
    assert answer_of(said) == answer


@pytest.mark.parametrize(
    ("reply", "reason", "detail"),
    [
        (Reply(GOOD), None, None),
        (Reply("", refused="HTTP 400: too long"), "refused", "HTTP 400: too long"),
        (Reply("", finish_reason="content_filter"), "refused", "content filter"),
        (Reply("I’m sorry, I cannot do that."), "refused", "by the model"),
        (Reply("I can't help with /app, done.txt or 3."), "refused", "by the model"),
        (Reply("<instruction>I can't create done.txt in /app, 3 lines.</instruction>"), None, None),
        (Reply(GOOD, finish_reason="length", completion_tokens=12), "cut", "12 tokens"),
        (Reply("", finish_reason="length", completion_tokens=9), "cut", "9 tokens"),
        (Reply(""), "empty", None),
        (Reply("<instruction> \n</instruction>"), "empty", None),
        (Reply("in /APP:\ncreate the file  done.txt with 3 lines."), "unchanged", None),
        (Reply("Create done.txt in /app."), "lost-detail", "3"),
        (Reply("Create a file."), "lost-detail", "/app, done.txt, 3"),
    ],
)
def test_one_reason_for_each_way_to_fail(reply: Reply, reason: str | None, detail: str | None):
    verdict = judge(reply, ORIGINAL)
    assert (verdict.reason, verdict.detail) == (reason, detail)


def test_the_first_of_equal_texts_stays_and_a_dropped_one_hides_none():
    verdicts = [Verdict("B c", "lost-detail"), Verdict("A b"), Verdict("b  C"), Verdict("a B"), Verdict("d")]
    decided = without_repeats(verdicts)
    assert [verdict.reason for verdict in decided] == ["lost-detail", None, None, "repeated", None]
    assert decided[3].detail == "copy 2"
    assert without_repeats([]) == []
