"""Questions: what a task row asks, what is known of its answer, and how it is put to a model."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from answers.final import last_boxed, last_python_block, sayable
from recipe_core.errors import BadInput
from recipe_core.records import ATTEMPTS

COLUMNS = ("task_id", "path", "source", "instruction", "meta")
CODE = "code"


class Question(NamedTuple):
    """A task row as far as it is a question.

    Attributes:
        text: the question, from `instruction`.
        domain: `math`, `code`, `science` or another word; empty where the row has none.
        answer: the reference answer, or None.
        tests: Python assert statements about the code that answers it, or None.
        solution: Python code that answers it, or None.
        attempts: how many times `--samples` samples it gets: 1 but for upsampled tasks.
    """

    task_id: str
    path: str
    source: str | None
    text: str
    domain: str = ""
    answer: str | None = None
    tests: str | None = None
    solution: str | None = None
    attempts: int = 1

    @property
    def is_code(self) -> bool:
        """Whether tests rather than a reference answer decide: domain `code`, or no domain and there are tests."""
        return self.domain == CODE or (not self.domain and self.tests is not None)


def question_of(row: Mapping[str, Any], where: str) -> Question:
    """Read a task row.

    Args:
        row: the columns `COLUMNS`, and `attempts` where there are any.
        where: the file, for messages.

    Raises:
        BadInput: no task id, no instruction, or `meta` that cannot be used.
    """
    task_id = row["task_id"]
    if not task_id:
        raise BadInput(f"{where}: a row has no task_id; rebuild the tasks")
    here = f"{where}: task {task_id}"
    if not (row["instruction"] or "").strip():
        raise BadInput(f"{here}: has no instruction, which is the question; drop the row or mend its source")
    try:
        meta = json.loads(row["meta"] or "{}")
    except (ValueError, RecursionError):
        meta = None
    if not isinstance(meta, dict):
        raise BadInput(f"{here}: meta is not a JSON object; rebuild the tasks")
    return Question(
        task_id=task_id,
        path=row["path"] or task_id,
        source=row["source"],
        text=row["instruction"],
        domain=_text(meta, "domain", here) or "",
        answer=_text(meta, "answer", here),
        tests=_text(meta, "tests", here),
        solution=_text(meta, "solution", here),
        attempts=row.get(ATTEMPTS) or 1,
    )


def _text(meta: Mapping[str, Any], key: str, here: str) -> str | None:
    value = meta.get(key)
    if isinstance(value, list) and key == "tests" and all(isinstance(line, str) for line in value):
        value = "\n".join(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if value is not None and not isinstance(value, str):
        raise BadInput(f"{here}: meta.{key} holds a {type(value).__name__}, expected text; mend the source")
    value = sayable(value) if value else None
    return value if value and value.strip() else None


def messages_of(question: Question, system: str | None, suffix: str | None) -> list[dict[str, str]]:
    """Return the conversation that asks a question; a suffix follows it as a paragraph of its own."""
    asked = f"{question.text}\n\n{suffix}" if suffix else question.text
    head = [{"role": "system", "content": system}] if system else []
    return [*head, {"role": "user", "content": asked}]


def reference_text(question: Question) -> str | None:
    r"""Return the known answer as a teacher would write it, or None where the row holds none.

    A code question is answered by `meta.solution` in a Python block, any other by `meta.answer`: in `\boxed{…}`, or on
    a last line where braces that do not balance would break a box, and in the domain `science`.
    """
    if question.is_code:
        if question.solution is None:
            return None
        fence = "```"
        while fence in question.solution:
            fence += "`"
        text = f"This solves it.\n\n{fence}python\n{question.solution.rstrip()}\n{fence}"
        return text if last_python_block(text) is not None else None
    if question.answer is None:
        return None
    answer = question.answer if last_boxed(question.answer) is None else last_boxed(question.answer)
    boxed = f"The known result is put down directly.\n\nThe answer is \\boxed{{{answer}}}"
    if question.domain == "science" or last_boxed(boxed) != (answer or "").strip():
        return f"The known result is put down directly.\n\nAnswer: {answer}"
    return boxed


class Questions:
    """Questions on disk, read back one by one in the order of their task ids; a context manager.

    Where each lies stands in memory, about 200 bytes a question.

    Args:
        folder: where they are put down, in a file without a name, which goes with this process.
        rows: questions in any order.
        where: where they come from, for messages.

    Raises:
        BadInput: two questions have one task id.
    """

    def __init__(self, folder: Path, rows: Iterable[Question], where: str) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        self.attempts = 0
        try:
            self._places = self._put_down(rows, where)
        except BaseException:
            self._file.close()
            raise

    def _put_down(self, rows: Iterable[Question], where: str) -> list[tuple[int, int]]:
        places: dict[str, tuple[int, int]] = {}
        end = 0
        for question in rows:
            if question.task_id in places:
                raise BadInput(
                    f"{where}: task {question.task_id} occurs more than once; "
                    "make the rows distinct and ask for --samples"
                )
            line = json.dumps(question).encode()
            self._file.write(line)
            places[question.task_id] = (end, len(line))
            end += len(line)
            self.attempts += question.attempts
        self._file.flush()
        return [places[task_id] for task_id in sorted(places)]

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Question]:
        for offset, length in self._places:
            yield Question(*json.loads(os.pread(self._file.fileno(), length, offset)))

    def __enter__(self) -> Questions:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
