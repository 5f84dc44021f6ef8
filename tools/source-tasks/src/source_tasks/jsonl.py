"""Source `jsonl`: one JSON object a line, made into a Harbor task folder.

Keys: `instruction` and `tests` (needed), `files` (path below `/app` -> text), `solution`, `id` and `licence`. `tests`
and `solution` are Bash scripts that are run in `/app`. One rule for `tests`: exit code 0 is reward 1, any other is 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from recipe_core.artifact import value_digest
from recipe_core.errors import BadInput, nearest
from recipe_core.seeds import row_seed
from recipe_core.tasks import TaskFile
from source_tasks.given import (
    BAD_PATH,
    FAMILY,
    OVERSIZE,
    UNKNOWN_LICENCE,
    bad_path,
    input_digest,
    instruction_key,
    mark_repeats,
    must_exist,
    too_large,
)
from source_tasks.heldout import in_split
from source_tasks.source import Candidate, dockerfile, script, task_toml, text, verifier

_TEXTS = ("instruction", "tests", "solution", "id", "licence")
_NEEDED = ("instruction", "tests")
_KEYS = (*_TEXTS, "files")


class Row(NamedTuple):
    """One line; an empty `solution` stands for none."""

    instruction: str
    tests: str
    solution: str
    files: dict[str, str]
    id: str
    licence: str


def read_row(line: str, where: str) -> Row:
    """Read one line.

    Args:
        line: JSON text.
        where: file and line, for errors.

    Raises:
        BadInput: not a JSON object with the keys of this source, or a value that is no text.
    """
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise BadInput(f"{where}: not JSON ({error}); expected one object a line") from None
    if not isinstance(row, dict):
        raise BadInput(f"{where}: not a JSON object; expected one with {' and '.join(_NEEDED)}")
    for key in row:
        if key not in _KEYS:
            hint = nearest(key, list(_KEYS)) or f"; the keys are {', '.join(_KEYS)}"
            raise BadInput(f"{where}: no such key {key!r}{hint}")
    texts = {key: row.get(key) or "" for key in _TEXTS}
    files = row.get("files") or {}
    if not isinstance(files, dict):
        raise BadInput(f"{where}: files: expected an object that maps paths to texts")
    values = [*texts.items(), *((f"files: {path}", content) for path, content in files.items())]
    for key, value in [*values, *((f"files: {path}", path) for path in files)]:
        if not isinstance(value, str):
            raise BadInput(f"{where}: {key}: expected a text, found {type(value).__name__}")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadInput(f"{where}: {key!r}: half a surrogate pair, which is no text; correct the escape") from None
    for key in _NEEDED:
        if not texts[key].strip():
            raise BadInput(f"{where}: {key}: missing or empty; expected a text")
    return Row(**texts, files=files)


def read_table(path: Path) -> list[Row]:
    """Read all lines; a row without an `id` is named by a digest of its content.

    Raises:
        BadInput: a line cannot be read, or an `id` occurs twice.
    """
    rows: list[Row] = []
    lines_of: dict[str, int] = {}
    try:
        # Only "\n" ends a line: others that Python knows may stand inside a JSON string.
        lines = path.read_bytes().decode().split("\n")
    except UnicodeDecodeError as error:
        raise BadInput(f"--input {path}: not UTF-8 text (byte {error.start}); expected JSON lines") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row = read_row(line, f"--input {path} line {number}")
        if row.id and row.id in lines_of:
            raise BadInput(f"--input {path} line {number}: id {row.id!r} is that of line {lines_of[row.id]} too")
        lines_of[row.id] = number
        rows.append(row if row.id else row._replace(id=value_digest(row._asdict())[:16]))
    if not rows:
        raise BadInput(f"--input {path}: no line in it; expected one JSON object a line")
    return rows


def _script(content: str) -> TaskFile:
    return script(content if content.endswith("\n") else f"{content}\n")


def task_files(row: Row) -> dict[str, TaskFile]:
    """Return the Harbor task folder of a row whose paths are good."""
    files = {
        "instruction.md": text(f"{row.instruction.strip()}\n"),
        "task.toml": task_toml("jsonl", FAMILY),
        "environment/Dockerfile": dockerfile(copies=bool(row.files)),
        "tests/test.sh": verifier("bash /tests/check.sh"),
        "tests/check.sh": _script(row.tests),
        **{f"environment/files/{path}": text(content) for path, content in row.files.items()},
    }
    if row.solution.strip():
        files["solution/solve.sh"] = _script(row.solution)
    return files


class JsonLines:
    """Rows of one file."""

    name: Literal["jsonl"] = "jsonl"

    def __init__(self, path: Path) -> None:
        must_exist(path, self.name, "a JSON-lines file")
        if not path.is_file():
            raise BadInput(f"--input {path}: not a file; source jsonl reads a JSON-lines file")
        self.path = path

    def digest(self) -> str:
        """Return the digest of the file."""
        return input_digest(self.path, ())

    def families(self) -> tuple[str, ...]:
        """Return the one kind of task there is."""
        return (FAMILY,)

    def generate(self, split: str, seed: int, families: tuple[str, ...]) -> Iterator[Candidate]:
        """Yield the rows of a split in an order drawn from the seed; errors as in :func:`read_table`."""
        keyed = ((instruction_key(row.instruction), row) for row in read_table(self.path))
        rows = [(row_seed(seed, self.name, split, key), row.id, key, row) for key, row in keyed]
        drawn = sorted((entry for entry in rows if in_split(entry[2], split)), key=lambda entry: entry[:2])
        return mark_repeats(self._candidate(split, key, row) for _, _, key, row in drawn)

    def _candidate(self, split: str, key: str, row: Row) -> Candidate:
        meta: dict[str, Any] = {
            "family": FAMILY,
            "parameters": {"id": row.id},
            "split": split,
            "held_out": [key],
            "solution": bool(row.solution.strip()),
        }
        licence = row.licence.strip() or UNKNOWN_LICENCE
        origin = f"{self.name}: {row.id}"
        files = task_files(row)
        reason = None
        if (wrong := bad_path(files)) is not None:
            reason, meta["detail"] = BAD_PATH, wrong
        elif too_large(files):
            reason = OVERSIZE
        if reason:
            files = {"instruction.md": files["instruction.md"]}
        return Candidate(FAMILY, files, licence, origin, meta, reason=reason)


def open_source(given: Path) -> JsonLines:
    """Return the source; `given` is the file."""
    return JsonLines(given)
