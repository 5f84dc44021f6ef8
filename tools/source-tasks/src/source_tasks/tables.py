"""What the sources share whose rows stand in Parquet or JSON lines: reading, drawing, and making tasks of rows.

Only the columns that a source names are read. Rows wait on disk, in a private SQLite database, until they are drawn, so
that the tasks of a split come in an order that follows from the seed and their own content while memory stays bounded.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from recipe_core.artifact import is_artifact
from recipe_core.errors import BadInput, nearest
from recipe_core.seeds import row_seed
from recipe_core.tasks import TaskFile
from source_tasks.given import (
    BAD_PATH,
    FAMILY,
    MAX_TASK_BYTES,
    OVERSIZE,
    UNKNOWN_LICENCE,
    bad_path,
    files_below,
    input_digest,
    mark_repeats,
    must_exist,
    too_large,
)
from source_tasks.heldout import in_split
from source_tasks.source import Candidate, Rejected

Row = dict[str, Any]

SUFFIXES = (".parquet", ".jsonl")
# The longest line that is read; a row that makes a task is far below it.
MAX_LINE_BYTES = 2 * MAX_TASK_BYTES

NO_TEXT = "a cell that the task needs is missing, empty or no UTF-8 text"

# How the files of a split are named where a data set has several: `test-00000-of-00001.parquet`, `test/0.jsonl`.
_HELD_SPLIT = re.compile(r"(test|valid|validation|dev|eval)([-_.\d]|$)", re.IGNORECASE)


class Made(NamedTuple):
    """What a row becomes: a task folder, or a question."""

    files: dict[str, TaskFile] = {}  # noqa: RUF012
    question: str | None = None
    family: str = FAMILY
    licence: str = UNKNOWN_LICENCE
    meta: Mapping[str, Any] = {}
    validate: bool = True


def is_held_split(path: Path, root: Path) -> bool:
    """Tell whether a file is named as that of a test or validation split, by its own name or a folder's below `root`.

    >>> is_held_split(Path("d/data/test-00000-of-00001.parquet"), Path("d"))
    True
    >>> (
    ...     is_held_split(Path("test/data/train-00000.parquet"), Path("test")),
    ...     is_held_split(Path("d/testing.jsonl"), Path("d")),
    ... )
    (False, False)
    """
    parts = (path.name,) if path == root else path.relative_to(root).parts
    return any(_HELD_SPLIT.match(part) for part in parts)


def find_tables(root: Path, source: str) -> list[Path]:
    """Return the Parquet and JSON-lines files that `--input` names; files of a test split are left alone.

    Raises:
        BadInput: nothing is there, nothing that can be read, or nothing but a test split.
    """
    must_exist(root, source, "a .parquet or .jsonl file, or a folder of them")
    if root.is_dir() and is_artifact(root):
        raise BadInput(f"--input {root}: an artifact of this project; give the data set it is to be made of")
    found = [root] if root.is_file() else files_below(root)
    # What downloads leave beside the data lies in hidden folders.
    hidden = [path for path in found if any(part.startswith(".") for part in path.relative_to(root).parts)]
    tables = [path for path in found if path.suffix in SUFFIXES and path not in hidden]
    if not tables:
        raise BadInput(f"--input {root}: no {' or '.join(SUFFIXES)} file; source {source} reads these")
    kept = [path for path in tables if not is_held_split(path, root)]
    if not kept:
        raise BadInput(
            f"--input {root}: by its name a test or validation split; source {source} takes train files only"
        )
    return kept


def _check_names(known: Sequence[str], needed: Sequence[Sequence[str]], where: str, kind: str) -> None:
    for choices in needed:
        if not any(name in known for name in choices):
            hint = nearest(choices[0], list(known)) or f"; it has {', '.join(known) or 'none'}"
            raise BadInput(f"{where}: no {kind} {' or '.join(map(repr, choices))}{hint}")


def _parquet_rows(path: Path, needed: Sequence[Sequence[str]], optional: Sequence[str]) -> Iterator[tuple[str, Row]]:
    from recipe_core.records import read_batches, read_schema

    known = read_schema(path).names
    _check_names(known, needed, f"--input {path}", "column")
    columns = [name for name in (*(name for choices in needed for name in choices), *optional) if name in known]
    number = 0
    for batch in read_batches(path, columns, checked=False):
        for index in range(batch.num_rows):
            number += 1
            # Row by row: a batch of large rows as Python values is several times the batch.
            cells = batch.slice(index, 1)
            yield f"--input {path} row {number}", {name: _cell(cells.column(name)) for name in columns}


def _cell(column: Any) -> Any:
    try:
        return column.to_pylist()[0]
    # Text that is not UTF-8, or a time that Python has no value for: as good as missing.
    except (UnicodeDecodeError, ValueError, OverflowError):
        return None


def _json_rows(path: Path, needed: Sequence[Sequence[str]], optional: Sequence[str]) -> Iterator[tuple[str, Row]]:
    names = (*(name for choices in needed for name in choices), *optional)
    number = 0
    checked = False
    with path.open("rb") as stream:
        while line := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            where = f"--input {path} line {number}"
            if len(line) > MAX_LINE_BYTES:
                raise BadInput(f"{where}: longer than {MAX_LINE_BYTES} bytes; expected one JSON object a line")
            try:
                row = json.loads(line.decode()) if line.strip() else None
            except UnicodeDecodeError:
                raise BadInput(f"{where}: not UTF-8 text; convert the file") from None
            except (ValueError, RecursionError) as error:
                raise BadInput(f"{where}: not JSON ({error}); expected one object a line") from None
            if row is None:
                continue
            if not isinstance(row, dict):
                raise BadInput(f"{where}: not a JSON object; expected one a line")
            if not checked:
                _check_names(list(row), needed, where, "key")
                checked = True
            yield where, {name: row[name] for name in names if name in row}
    if not checked:
        raise BadInput(f"--input {path}: no line in it; expected one JSON object a line")


def read_tables(
    tables: Sequence[Path], needed: Sequence[Sequence[str]], optional: Sequence[str]
) -> Iterator[tuple[str, Row]]:
    """Yield where a row stands and its cells, file by file.

    Args:
        tables: `.parquet` and `.jsonl` files.
        needed: groups of names; every file has a column of each group.
        optional: further columns that are read where they are.

    Raises:
        BadInput: a file or line that cannot be read, or a group without a column (of JSON lines the first one counts).
    """
    for path in tables:
        reader = _parquet_rows if path.suffix == ".parquet" else _json_rows
        yield from reader(path, needed, optional)


class Drawn(NamedTuple):
    """A row in its turn."""

    key: str
    """Its held-out key."""
    mark: str
    """16 hex digits over its content."""
    row: Row | None
    """Its cells; None where they are larger than a task may be."""


def draw(rows: Iterator[tuple[str | None, Row]], split: str, seed: int, source: str) -> Iterator[Drawn]:
    """Yield the rows of a split in an order drawn from the seed, whatever order they come in.

    Args:
        rows: held-out key and cells; a row without a key goes by its content.
        split: `train` or `test`.
        seed: the step's seed.
        source: part of what the order is drawn from.
    """
    # A nameless SQLite database is a temporary file of its own that is gone when it is closed.
    with closing(sqlite3.connect("")) as spool:
        spool.execute("PRAGMA journal_mode = OFF")
        spool.execute("CREATE TABLE rows (place INTEGER, mark TEXT, key TEXT, cells TEXT)")
        spool.executemany("INSERT INTO rows VALUES (?, ?, ?, ?)", _places(rows, split, seed, source))
        spool.execute("CREATE INDEX drawn ON rows (place, mark)")
        for mark, key, cells in spool.execute("SELECT mark, key, cells FROM rows ORDER BY place, mark"):
            yield Drawn(key, mark, None if cells is None else json.loads(cells))


def _places(
    rows: Iterator[tuple[str | None, Row]], split: str, seed: int, source: str
) -> Iterator[tuple[int, str, str, str | None]]:
    for found, row in rows:
        # ASCII keeps half surrogate pairs, which JSON allows and SQLite does not.
        cells = json.dumps(row, sort_keys=True, default=str)
        mark = hashlib.sha256(cells.encode()).hexdigest()[:16]
        key = found or f"row:{mark}"
        if in_split(key, split):
            yield row_seed(seed, source, split, key), mark, key, cells if len(cells) <= MAX_TASK_BYTES else None


def text_of(row: Mapping[str, Any], *names: str) -> str:
    """Return the first of some cells that holds text.

    Raises:
        Rejected: none does.
    """
    for name in names:
        if (found := text_or_none(row, name)) is not None:
            return found
    raise Rejected(NO_TEXT, " or ".join(names))


def text_or_none(row: Mapping[str, Any], name: str) -> str | None:
    """Return a cell's text, or None where it holds none that can be written."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value


def json_cell(value: Any) -> Any:
    """Return a cell that holds a list or an object, be it as such or as JSON text; None where it is neither."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, list | dict) else None


class TableSource:
    """A source whose tasks are the rows of tables."""

    name: ClassVar[str]
    needed: ClassVar[Sequence[Sequence[str]]]
    """Groups of columns; of each group one has to be there."""
    optional: ClassVar[Sequence[str]] = ()
    label: ClassVar[Sequence[str]] = ()
    """Columns that name a row, the first that has text."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tables = find_tables(root, self.name)

    def digest(self) -> str:
        """Return the digest over the tables."""
        return input_digest(self.root, self.tables)

    def families(self) -> tuple[str, ...]:
        """Return the kinds of task there are."""
        return (FAMILY,)

    def check(self, row: Row, where: str) -> None:
        """Raise BadInput where a row must not be in the input at all."""

    def key(self, row: Row) -> str | None:
        """Return a row's held-out key, or None where it has none."""
        raise NotImplementedError

    def make(self, row: Row) -> Made:
        """Return what a row becomes.

        Raises:
            Rejected: it is no task.
        """
        raise NotImplementedError

    def _keyed(self) -> Iterator[tuple[str | None, Row]]:
        for where, row in read_tables(self.tables, self.needed, self.optional):
            self.check(row, where)
            yield self.key(row), row

    def _candidate(self, drawn: Drawn, split: str) -> Candidate:
        row = drawn.row or {}
        label = next((found for name in self.label if (found := text_or_none(row, name))), drawn.mark)[:200]
        meta: dict[str, Any] = {"family": FAMILY, "parameters": {"row": label}, "split": split}
        meta["held_out"] = [drawn.key]
        origin = f"{self.name}: {label}"
        try:
            if drawn.row is None:
                raise Rejected(OVERSIZE)
            made = self.make(row)
            if (wrong := bad_path(made.files)) is not None:
                raise Rejected(BAD_PATH, wrong)
            if too_large(made.files):
                raise Rejected(OVERSIZE)
        except Rejected as reason:
            detail = {"detail": reason.detail} if reason.detail else {}
            return Candidate(FAMILY, {}, UNKNOWN_LICENCE, origin, {**meta, **detail}, reason=str(reason))
        return Candidate(
            made.family,
            made.files,
            made.licence,
            origin,
            {**meta, "family": made.family, **made.meta},
            question=made.question,
            validate=made.validate,
        )

    def generate(self, split: str, seed: int, families: tuple[str, ...]) -> Iterator[Candidate]:
        """Yield the rows of a split in an order drawn from the seed; errors as in :func:`read_tables`."""
        drawn = draw(self._keyed(), split, seed, self.name)
        made = (self._candidate(row, split) for row in drawn)
        # What is rejected has no family yet, and is counted whatever families are asked for.
        return mark_repeats(one for one in made if one.reason is not None or one.family in families)
