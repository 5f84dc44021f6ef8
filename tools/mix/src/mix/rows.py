"""Reading many task files as one, and writing their rows in any order, in bounded memory."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recipe_core.errors import BadInput
from recipe_core.records import TASK_SCHEMA, Row, read_batches, read_schema

# Unpacked rows held at a time while writing; more rows go through parts of about this size on disk.
MAX_BYTES_HELD = 128 * 1024 * 1024
# Parts written at a time, of which each is an open file; beyond 256 times the bytes above the parts get larger.
_MOST_PARTS = 256
_POSITION = "position in the output"


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
    for file, path in enumerate(paths):
        number = 0
        # Whatever may differ between rows of one task: all but the task itself, whose digest the id is.
        held = read_schema(path).names
        columns = [name for name in TASK_SCHEMA.names if name != "task_binary"]
        columns += sorted(name for name in held if name not in TASK_SCHEMA.names)
        for batch in read_batches(path, columns):
            for row in batch.to_pylist():
                for name in ("task_id", "source"):
                    if not row[name]:
                        raise BadInput(f"{path}: row {number} has no {name}; rebuild the artifact with source-tasks")
                text = "\x1f".join(str(row[name]) for name in columns)
                # Sixteen digits, and one text a source for all its rows: a million rows are held at a time.
                fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
                yield Candidate(row["task_id"], sys.intern(row["source"]), fingerprint, Place(file, number))
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


def gather(paths: Sequence[Path], places: Sequence[Place], held: int, folder: Path | None = None) -> Iterator[Row]:
    """Yield the rows at `places`, in that order; a place may occur more than once.

    The files are read once. When the places are more than `held`, the rows go through temporary files, compressed: each
    takes the rows of one part of the output and is then sorted in memory. So memory is bounded by the rows of a part.

    Args:
        paths: the files.
        places: which rows.
        held: rows that fit in memory.
        folder: where the temporary files go, which are gone in the end; by default where the system keeps such.
    """
    if len(places) <= held:
        found = _read(paths, set(places))
        yield from (found[place] for place in places)
        return
    size = max(held, -(-len(places) // _MOST_PARTS))
    with tempfile.TemporaryDirectory(dir=folder, prefix="parts-") as scratch:
        parts = [Path(scratch) / f"{number:03d}.arrow" for number in range(-(-len(places) // size))]
        _divide(paths, places, size, parts)
        for part in parts:
            with pa.OSFile(str(part)) as stream, pa.ipc.open_stream(stream) as reader:
                table = reader.read_all()
            part.unlink()
            order = np.argsort(table.column(_POSITION).to_numpy())
            # In one chunk: taking rows from many chunks would copy them all each time.
            yield from _sorted_rows(table.drop_columns([_POSITION]).combine_chunks(), order)


def _sorted_rows(table: pa.Table, order: np.ndarray, step: int = 256) -> Iterator[Row]:
    for start in range(0, len(order), step):
        yield from table.take(pa.array(order[start : start + step])).to_pylist()


def _divide(paths: Sequence[Path], places: Sequence[Place], size: int, parts: Sequence[Path]) -> None:
    """Write every wanted row, with its position in the output, into the file of the part that the position is in."""
    schema = union_schema(paths)
    positioned = schema.append(pa.field(_POSITION, pa.int64()))
    files = np.fromiter((place.file for place in places), dtype=np.int64, count=len(places))
    rows = np.fromiter((place.row for place in places), dtype=np.int64, count=len(places))
    # Wanted places in the order of the input, each with its position.
    order = np.lexsort((np.arange(len(places)), rows, files))
    files, rows = files[order], rows[order]
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with ExitStack() as stack:
        writers = []
        for part in parts:
            stream = stack.enter_context(pa.OSFile(str(part), "wb"))
            writers.append(stack.enter_context(pa.ipc.new_stream(stream, positioned, options=options)))
        for file, path in enumerate(paths):
            low, high = np.searchsorted(files, [file, file + 1]).tolist()
            for first, batches in _chunks(path, size) if low < high else ():
                table = _as(pa.Table.from_batches(batches), schema).combine_chunks()
                start, stop = (low + np.searchsorted(rows[low:high], [first, first + table.num_rows])).tolist()
                target = order[start:stop] // size
                # Stable, so that what goes into a part is in the order of the input.
                turn = np.argsort(target, kind="stable")
                bounds = np.searchsorted(target[turn], np.arange(len(parts) + 1)).tolist()
                for number in np.unique(target).tolist():
                    chosen = turn[bounds[number] : bounds[number + 1]] + start
                    taken = table.take(pa.array(rows[chosen] - first))
                    writers[number].write_table(taken.append_column(_POSITION, pa.array(order[chosen])))


def _chunks(path: Path, size: int) -> Iterator[tuple[int, list[pa.RecordBatch]]]:
    """Yield successive batches of a file, of about `size` rows together, and the number of their first row."""
    first = number = 0
    batches: list[pa.RecordBatch] = []
    for batch in read_batches(path):
        batches.append(batch)
        number += batch.num_rows
        if number - first >= size:
            yield first, batches
            first, batches = number, []
    if batches:
        yield first, batches


def _as(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the table with the columns of a schema, null where it has none."""
    columns = [
        table.column(field.name).cast(field.type)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


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
