"""Source `code-contests`: problems of programming contests with tests and solutions (the data set CodeContests).

`--input` names the Parquet files of deepmind/code_contests (train), or JSON lines with its columns: `name`,
`description`, `public_tests`, `private_tests`, `generated_tests` (each `input` and `output`, lists of equal length),
`solutions` (`language` and `solution`, lists of equal length) and `input_file`.

The verifier runs private tests before public and generated ones, at most 20. The reference solution is the shortest
recorded one in Python 3; a problem with several right answers
is a task only if that solution prints the recorded one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from source_tasks.given import instruction_key
from source_tasks.programs import Case, chosen_cases, task_files
from source_tasks.source import Rejected
from source_tasks.tables import Made, Row, TableSource, json_cell, text_of, text_or_none

LICENCE = "CC-BY-4.0"
# In the data set's list of languages: 0 unknown, 1 Python 2, 2 C++, 3 Python 3, 4 Java.
PYTHON3 = 3

NO_CASES = "no test with an output"
NO_SOLUTION = "no recorded solution in Python 3"
NEEDS_FILES = "the program has to read a file, not standard input"
NEEDS_PICTURE = "the statement shows a picture that is not there"


def cases_of(cell: Any) -> list[Case]:
    """Return the tests of one of the three columns; none where it does not hold two lists of texts of equal length."""
    found = json_cell(cell)
    inputs, outputs = (found.get("input"), found.get("output")) if isinstance(found, Mapping) else (None, None)
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        return []
    pairs = zip(inputs, outputs, strict=True)
    return [Case(given, wanted) for given, wanted in pairs if isinstance(given, str) and isinstance(wanted, str)]


def solution_of(cell: Any) -> str:
    """Return the shortest solution in Python 3.

    Raises:
        Rejected: there is none.
    """
    found = json_cell(cell)
    languages, programs = (found.get("language"), found.get("solution")) if isinstance(found, Mapping) else (None, None)
    pairs = zip(languages, programs, strict=False) if isinstance(languages, list) and isinstance(programs, list) else ()
    mine = [text_or_none({"program": program}, "program") for language, program in pairs if language == PYTHON3]
    kept = [program for program in mine if program is not None]
    if not kept:
        raise Rejected(NO_SOLUTION)
    return min(kept, key=lambda program: (len(program), program))


class CodeContests(TableSource):
    """Problems of CodeContests."""

    name: ClassVar[str] = "code-contests"
    needed = (("description",), ("solutions",), ("private_tests", "public_tests", "generated_tests"))
    optional = ("name", "input_file")
    label = ("name",)

    def key(self, row: Row) -> str | None:
        """Return the key of the statement."""
        statement = text_or_none(row, "description")
        return instruction_key(statement) if statement else None

    def make(self, row: Row) -> Made:
        """Return the task folder."""
        statement = text_of(row, "description")
        if text_or_none(row, "input_file"):
            raise Rejected(NEEDS_FILES)
        if "<image>" in statement:
            raise Rejected(NEEDS_PICTURE)
        columns = ("private_tests", "public_tests", "generated_tests")
        cases = chosen_cases([case for name in columns for case in cases_of(row.get(name))])
        if not cases:
            raise Rejected(NO_CASES)
        files = task_files(self.name, statement, cases, solution_of(row.get("solutions")))
        return Made(files, licence=LICENCE, meta={"solution": True, "cases": len(cases)})


def open_source(given: Path) -> CodeContests:
    """Return the source; `given` is the file or folder of tables."""
    return CodeContests(given)
