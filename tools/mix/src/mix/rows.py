"""Reading many task files as one, and writing their rows in any order, in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from recipe_core.errors import BadInput
from recipe_core.records import TASK_SCHEMA, Row, read_batches, read_schema

# Unpacked rows held at a time while writing; more rows than this are written in several passes over the input.
MAX_BYTES_HELD = 128 * 1024 * 1024


class Place(NamedTuple):
    """Where a row stands: which input file, and which row of it."""

    file: int
    row: int


class Candidate(NamedTuple):
    """What is known of a row before its task is read."""

    task_id: str
    source: str
    fingerprint: str
    place: Place


def scan(paths: Sequence[Path]) -> Iterator[Candidate]:
    """Yield every row of the files, without the packed tasks.

    Raises:
        BadInput: an unreadable file, or a row without task_id or source.
    """
    columns = ("task_id", "source", "path", "licence", "origin", "meta")
    for file, path in enumerate(paths):
        number = 0
        for batch in read_batches(path, columns):
            for row in batch.to_pylist():
                for name in ("task_id", "source"):
                    if not row[name]:
                        raise BadInput(f"{path}: row {number} has no {name}; rebuild the artifact with source-tasks")
                text = "\x1f".join(str(row[name]) for name in columns)
                fingerprint = hashlib.sha256(text.encode()).hexdigest()
                yield Candidate(row["task_id"], row["source"], fingerprint, Place(file, number))
                number += 1


def without_duplicates(candidates: Iterable[Candidate]) -> tuple[dict[str, Candidate], list[Candidate]]:
    """Return one candidate a task id, and the others.

    Of rows that hold the same task, the one with the smallest source and fingerprint stays, so that the choice does not
    depend on the order of the inputs.
    """
    kept: dict[str, Candidate] = {}
    others = []
    for candidate in candidates:
        rival = kept.get(candidate.task_id)
        if rival is None:
            kept[candidate.task_id] = candidate
        elif (candidate.source, candidate.fingerprint) < (rival.source, rival.fingerprint):
            kept[candidate.task_id] = candidate
            others.append(rival)
        else:
            others.append(candidate)
    return kept, sorted(others)


def union_schema(paths: Sequence[Path]) -> pa.Schema:
    """Return the schema of all files together: the columns of a task, then any others by name.

    Raises:
        BadInput: an unreadable file, or a column that has different types in two files.
    """
    extra: dict[str, tuple[pa.DataType, Path]] = {}
    for path in paths:
        schema = read_schema(path)
        for column in schema:
            if column.name in TASK_SCHEMA.names:
                continue
            known, first = extra.setdefault(column.name, (column.type, path))
            if known != column.type:
                raise BadInput(
                    f"{path}: column {column.name!r} is {column.type}, but {known} in {first}; make them agree"
                )
    return pa.schema([*TASK_SCHEMA, *(pa.field(name, extra[name][0]) for name in sorted(extra))])


def rows_held(paths: Sequence[Path], max_bytes: int = MAX_BYTES_HELD) -> int:
    """Return how many rows fit `max_bytes`, by the files' mean row size."""
    rows = size = 0
    for path in paths:
        metadata = pq.read_metadata(path)
        rows += metadata.num_rows
        size += sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    return max(1, max_bytes * rows // size) if size else 1


def gather(paths: Sequence[Path], places: Sequence[Place], held: int) -> Iterator[Row]:
    """Yield the rows at `places`, in that order; a place may occur more than once.

    The files are read once for every `held` rows, and no more than those are in memory.
    """
    for start in range(0, len(places), held):
        part = places[start : start + held]
        found = _read(paths, set(part))
        yield from (found[place] for place in part)
        # Else these rows would stay in memory while the next ones are read.
        del found


def _read(paths: Sequence[Path], wanted: set[Place]) -> dict[Place, Row]:
    found: dict[Place, Row] = {}
    for file, path in enumerate(paths):
        rows = {place.row for place in wanted if place.file == file}
        first = 0
        for batch in read_batches(path) if rows else ():
            inside = [row - first for row in range(first, first + batch.num_rows) if row in rows]
            taken = batch.take(pa.array(inside, type=pa.int64())).to_pylist()
            found.update((Place(file, first + index), row) for index, row in zip(inside, taken, strict=True))
            first += batch.num_rows
    return found
