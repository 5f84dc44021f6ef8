"""Source `nemotron-code`: programming problems with a written answer (the code rows of Nemotron's post-training data).

`--input` names Parquet or JSON lines with `input` (the request, a text or a list of messages) and `output`, or with
`messages` (role and content); `category` and `license` are read where they are, and rows of another category than code
are rejected.

The data have no tests. What decides is every example of input and output that the statement itself shows, so the agent
sees the tests (`meta["verifier"]` says so). The reference solution is the last Python program of the answer.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any, ClassVar

from source_tasks.given import UNKNOWN_LICENCE, instruction_key
from source_tasks.programs import Case, chosen_cases, task_files
from source_tasks.source import Rejected
from source_tasks.tables import NO_TEXT, Made, Row, TableSource, json_cell, text_or_none

VERIFIER = "the examples that the statement shows"

NOT_CODE = "a row of another category than code"
NO_EXAMPLES = "the statement shows no example of input and output"
NO_PROGRAM = "the answer has no Python program"

_PROGRAM = re.compile(r"```(?:python3?|py)[ \t]*\n(.*?)\n?```", re.DOTALL | re.IGNORECASE)
_EXAMPLES = re.compile(r"^[\W_]*(?:sample|example)s?\b[^\n]*$", re.MULTILINE | re.IGNORECASE)
_LABEL = re.compile(r"^[\W_]*(?:sample |example )?(input|output|explanation|note)s?\b[ \t]*\d*[\W_]*$", re.IGNORECASE)


def messages_of(row: Row) -> list[tuple[str, str]]:
    """Return role and content of a row's messages, the answer last."""
    found: list[tuple[str, str]] = []
    for cell in (row.get("messages"), row.get("input")):
        listed = json_cell(cell)
        for message in listed if isinstance(listed, list) else ():
            role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else ("", None)
            if isinstance(content, str):
                found.append((str(role), content))
        if not isinstance(listed, list) and isinstance(cell, str):
            found.append(("user", cell))
    if isinstance(answer := row.get("output"), str):
        found.append(("assistant", answer))
    return found


def statement_of(row: Row) -> str | None:
    """Return the first request of a row, or None."""
    requests = (content for role, content in messages_of(row) if role == "user")
    return text_or_none({"statement": next(requests, None)}, "statement")


def examples(statement: str) -> list[Case]:
    """Return the examples of input and output that a statement shows under a heading `Example`.

    >>> examples("Add.\\n\\n-----Examples-----\\nInput\\n1 2\\n\\nOutput\\n3\\n")
    [Case(input='1 2\\n', output='3\\n')]
    """
    heading = _EXAMPLES.search(statement)
    if heading is None:
        return []
    # The heading can be a label itself: `Sample Input`.
    lines = [line for line in statement[heading.start() :].splitlines() if not line.strip().startswith("```")]
    parts: list[tuple[str, list[str]]] = []
    for line in lines:
        label = _LABEL.match(line)
        if label:
            parts.append((label[1].lower(), []))
        elif _EXAMPLES.match(line):
            parts.append(("", []))
        elif parts:
            parts[-1][1].append(line)
    cases = []
    for (first, given), (second, wanted) in itertools.pairwise(parts):
        if (first, second) == ("input", "output"):
            cases.append(Case(*("\n".join(part).strip("\n") + "\n" for part in (given, wanted))))
    return cases


def program_of(row: Row) -> str:
    """Return the last Python program of a row's answer.

    Raises:
        Rejected: there is none.
    """
    answers = [content for role, content in messages_of(row) if role == "assistant"]
    found: list[Any] = _PROGRAM.findall(answers[-1]) if answers else []
    program = text_or_none({"program": found[-1]}, "program") if found else None
    if program is None:
        raise Rejected(NO_PROGRAM)
    return program


class NemotronCode(TableSource):
    """Problems of Nemotron's post-training data."""

    name: ClassVar[str] = "nemotron-code"
    needed = (("input", "messages"),)
    optional = ("output", "category", "license", "uuid")
    label = ("uuid",)

    def key(self, row: Row) -> str | None:
        """Return the key of the statement."""
        statement = statement_of(row)
        return instruction_key(statement) if statement else None

    def make(self, row: Row) -> Made:
        """Return the task folder."""
        category = text_or_none(row, "category")
        if category is not None and category.strip().lower() != "code":
            raise Rejected(NOT_CODE, category[:100])
        statement = statement_of(row)
        if statement is None:
            raise Rejected(NO_TEXT, "input or messages")
        cases = chosen_cases(examples(statement))
        if not cases:
            raise Rejected(NO_EXAMPLES)
        files = task_files(self.name, statement, cases, program_of(row))
        meta = {"solution": True, "cases": len(cases), "verifier": VERIFIER}
        return Made(files, licence=text_or_none(row, "license") or UNKNOWN_LICENCE, meta=meta)


def open_source(given: Path) -> NemotronCode:
    """Return the source; `given` is the file or folder of tables."""
    return NemotronCode(given)
