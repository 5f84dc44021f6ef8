"""Benchmark sets: files of prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from recipe_core.artifact import file_digest
from recipe_core.errors import BadInput, nearest

COLUMNS = ("prompt", "question", "instruction", "problem_statement", "text")
KINDS = (".jsonl", ".parquet", ".txt")


class Prompt(NamedTuple):
    """One prompt: the set it is of, its row there counted from 1 (in text files its line), and its text."""

    benchmark: str
    row: int
    text: str


class Benchmark(NamedTuple):
    """A set: its name (the file's, without the ending), its file, and the SHA-256 of that."""

    name: str
    path: Path
    digest: str


def find_sets(paths: Sequence[Path]) -> list[Benchmark]:
    """Return the sets in order of name, whatever the order of the files.

    Raises:
        BadInput: a file that is missing or of another kind, or two with one name.
    """
    sets: dict[str, Benchmark] = {}
    for path in paths:
        if path.suffix not in KINDS:
            raise BadInput(f"{path}: not a benchmark file; give {', '.join(KINDS[:-1])} or {KINDS[-1]}")
        if not path.is_file():
            raise BadInput(f"{path}: no such file; correct the path of --benchmarks")
        if path.stem in sets:
            raise BadInput(f"{path}: names the set {path.stem!r} as {sets[path.stem].path} does; rename one of them")
        sets[path.stem] = Benchmark(path.stem, path, file_digest(path))
    return [sets[name] for name in sorted(sets)]


def sets_digest(sets: Sequence[Benchmark]) -> str:
    """Return one digest over the names and contents of all sets, as `sha256:` and hex."""
    lines = sorted(f"{benchmark.name}={benchmark.digest}\n" for benchmark in sets)
    return "sha256:" + sha256("".join(lines).encode()).hexdigest()


def read_prompts(benchmark: Benchmark, column: str | None = None) -> Iterator[Prompt]:
    """Yield a set's prompts; rows without one (null, empty, blanks alone) are passed over.

    Args:
        benchmark: the set.
        column: where its prompts are; by default the first of `COLUMNS` that it has. Plain text has no columns.

    Raises:
        BadInput: an unreadable file, no such column, a prompt that is not text, or no prompt at all.
    """
    found = 0
    for row, text in _cells(benchmark.path, column):
        if text is not None and not isinstance(text, str):
            kind = type(text).__name__
            raise BadInput(f"{benchmark.path}: row {row} has a prompt of type {kind}, not text; see --benchmark-column")
        if text and not text.isspace():
            if not _is_unicode(text):
                raise BadInput(f"{benchmark.path}: row {row} has half a surrogate pair in its prompt; mend the file")
            found += 1
            yield Prompt(benchmark.name, row, text)
    if not found:
        raise BadInput(f"{benchmark.path}: no prompts; give a file that has some, or leave it out")


def choose_column(known: Sequence[str], column: str | None, where: str) -> str:
    """Return the column that holds the prompts; raises BadInput with the nearest name when there is none such."""
    if column is not None:
        if column not in known:
            hint = nearest(column, list(known)) or f"; it has {', '.join(known)}"
            raise BadInput(f"{where}: no column {column!r}{hint}")
        return column
    for name in COLUMNS:
        if name in known:
            return name
    raise BadInput(
        f"{where}: none of the columns {', '.join(COLUMNS)} (it has {', '.join(known)}); name one by --benchmark-column"
    )


def _cells(path: Path, column: str | None) -> Iterator[tuple[int, Any]]:
    if path.suffix == ".parquet":
        from recipe_core.records import read_rows, read_schema

        name = choose_column(read_schema(path).names, column, str(path))
        for number, row in enumerate(read_rows(path, [name]), 1):
            yield number, row[name]
    elif path.suffix == ".jsonl":
        yield from _json_cells(path, column)
    else:
        yield from _lines(path)


def _is_unicode(text: str) -> bool:
    # JSON can spell what no UTF-8 file can hold: half a surrogate pair, such as "\ud800".
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                yield number, line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 text ({error.reason}); convert it") from None


def _json_cells(path: Path, column: str | None) -> Iterator[tuple[int, Any]]:
    name: str | None = None
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BadInput(f"{path}: line {number} is not JSON ({error}); it should be one object a line") from None
        if not isinstance(row, dict):
            raise BadInput(f"{path}: line {number} is a JSON {type(row).__name__}; it should be one object a line")
        if name is None or name not in row:
            # Every row must have the column that the first one settled.
            name = choose_column(list(row), name or column, f"{path}: line {number}")
        yield number, row[name]
