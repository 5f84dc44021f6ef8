"""What a model is told for each method. A change here changes the tool's digest and the key of every cached reply."""

from __future__ import annotations

from augment.judge import CLOSE, OPEN
from augment.subject import Subject
from recipe_core.seeds import row_seed

REWRITE, HARDEN, CONSTRAIN, HINTS = METHODS = ("rewrite", "harden", "constrain", "hints")

_SYSTEM = f"""\
You edit the instructions of tasks that a computer agent is to solve. Automatic tests decide whether a task is solved. \
They are fixed: whoever follows your instruction must still pass them, and nobody who ignores the original may.

Rules:
- Keep exactly as they are written, letter by letter: file names, paths, numbers in digits, names of commands, \
options, functions and variables, code, URLs, and everything in quotation marks or backticks.
- Leave out nothing that the original asks for, and add nothing that it does not say but what you are told to add.
- Give no solution, and say nothing of tests, of an original or of a rewriting.
- Write in the language of the original.

Answer with the new instruction alone, between {OPEN} and {CLOSE}.\
"""

_TOLD = {
    REWRITE: """\
Say the same in other words: another order, other sentences, another tone. What is asked for stays the same. \
Write it {manner}.""",
    HARDEN: """\
Make the task more demanding, so that it takes more care or more steps: ask for one or two things more that go well \
with it. The tests below must still pass when everything you ask for is done, and still tell a solution from none.""",
    CONSTRAIN: """\
Add one constraint on how the task may be solved (tools that may not be used, things that must stay untouched, a way \
it must be done). A solution that keeps it must exist, and the tests below must not contradict it.""",
    HINTS: """\
Add one to three hints from the reference solution below: which commands, places or ideas lead there. \
Do not copy the solution; the work is still to be done.""",
}

# Copies of a task go through all of them before one comes again.
_MANNERS = (
    "as a short and plain order",
    "as a polite request to a colleague",
    "as somebody who explains first why it is needed",
    "as a ticket with a title line and a few points",
    "in full, formal sentences",
    "as a casual chat message",
    "with the result that is wanted first and the circumstances after it",
    "as somebody who is in a hurry",
    "as a question",
    "step by step, in the order in which one would go about it",
    "as an owner describes what the finished state looks like",
    "for a reader who is new to the subject",
)


def manner(seed: int, task_id: str, copy: int) -> str:
    """Return the manner of one copy of a task."""
    return _MANNERS[(row_seed(seed, "manner", task_id) + copy) % len(_MANNERS)]


def messages(method: str, subject: Subject, *, seed: int, copy: int) -> list[dict[str, str]]:
    """Return the conversation that asks for one new form of a task.

    Raises:
        KeyError: no such method.
    """
    parts = [_TOLD[method].format(manner=manner(seed, subject.task_id, copy))]
    if method in (HARDEN, CONSTRAIN):
        parts.append(_section("tests", subject.shown("tests") or "(not shown)"))
    if method == HINTS:
        parts.append(_section("solution", subject.shown("solution")))
    parts.append(_section("original", subject.instruction))
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": "\n\n".join(parts)}]


def _section(name: str, text: str) -> str:
    return f"<{name}>\n{text}\n</{name}>"
