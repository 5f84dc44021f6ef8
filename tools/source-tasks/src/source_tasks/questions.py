"""Source `questions`: questions of mathematics, science and code, which have no environment.

`--input` names Parquet or JSON lines with `question` (or `problem`, or `input`), or with `conversations` (the published
form of OpenThoughts3: `from` and `value`, of which the first human one is the question); where they are known `answer`,
`domain` (math, science or code), `tests`, `solution`, `source`, `id`, `licence`. A question makes a row whose
`task_binary` is null and whose `meta` holds `domain`, `answer`, `tests`, `solution` and `source`, null where unknown.
The sandbox has nothing to validate in it. A question that occurs several times is taken once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from source_tasks.given import UNKNOWN_LICENCE, instruction_key
from source_tasks.source import Rejected
from source_tasks.tables import NO_TEXT, Made, Row, TableSource, json_cell, text_or_none

DOMAINS = ("math", "science", "code")
UNKNOWN_DOMAIN = "question"

# What published data sets call a question.
NAMES = ("question", "problem", "input")

BAD_DOMAIN = "domain is not math, science or code"


def question_of(row: Row) -> str | None:
    """Return a row's question, or None where it has none."""
    for name in NAMES:
        if (found := text_or_none(row, name)) is not None:
            return found.strip()
    turns = json_cell(row.get("conversations"))
    for turn in turns if isinstance(turns, list) else ():
        if isinstance(turn, dict) and turn.get("from") in ("human", "user"):
            found = text_or_none(turn, "value")
            return found.strip() if found else None
    return None


def plain(value: Any) -> str | None:
    """Return a cell as text: a number as it is written, a list or an object as JSON, null for nothing.

    >>> plain(" 3/4 "), plain(12), plain([1]), plain("")
    ('3/4', '12', '[1]', None)
    """
    if isinstance(value, str):
        found = text_or_none({"cell": value}, "cell")
        return found.strip() if found else None
    if value is None or value in ([], {}):
        return None
    return json.dumps(value, sort_keys=True)


class Questions(TableSource):
    """Questions of a file."""

    name: ClassVar[str] = "questions"
    needed = ((*NAMES, "conversations"),)
    optional = ("answer", "domain", "tests", "solution", "source", "id", "licence", "license")
    label = ("id",)

    def families(self) -> tuple[str, ...]:
        """Return the domains, and what is said of a question of none."""
        return (*DOMAINS, UNKNOWN_DOMAIN)

    def key(self, row: Row) -> str | None:
        """Return the key of the question."""
        question = question_of(row)
        return instruction_key(question) if question else None

    def make(self, row: Row) -> Made:
        """Return the question."""
        question, domain = question_of(row), text_or_none(row, "domain")
        if question is None:
            raise Rejected(NO_TEXT, "question or conversations")
        domain = domain.strip().lower() if domain else None
        if domain is not None and domain not in DOMAINS:
            raise Rejected(BAD_DOMAIN, domain[:100])
        meta = {name: plain(row.get(name)) for name in ("answer", "tests", "solution", "source")}
        # A list of assertions is a program of so many lines.
        if isinstance(tests := json_cell(row.get("tests")), list) and all(isinstance(line, str) for line in tests):
            meta["tests"] = plain("\n".join(tests))
        licence = text_or_none(row, "licence") or text_or_none(row, "license") or UNKNOWN_LICENCE
        family = domain or UNKNOWN_DOMAIN
        return Made(
            {}, question=question, family=family, licence=licence, meta={"domain": domain, **meta}, validate=False
        )


def open_source(given: Path) -> Questions:
    """Return the source; `given` is the file or folder of tables."""
    return Questions(given)
