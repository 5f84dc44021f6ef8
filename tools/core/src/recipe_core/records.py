"""The two kinds of rows, and streaming Parquet for them.

Column names and types are the published ones where there are any: `path` and `task_binary` for tasks, the supervised
fine-tuning columns for trajectories.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recipe_core.errors import BadInput, nearest

Row = dict[str, Any]

TASK_SCHEMA = pa.schema(
    [
        ("task_id", pa.string()),
        ("path", pa.string()),
        ("task_binary", pa.binary()),
        ("source", pa.string()),
        ("instruction", pa.string()),
        ("licence", pa.string()),
        ("origin", pa.string()),
        ("meta", pa.string()),
    ]
)

# A column that `upsample` adds to tasks: how many attempts a rollout makes at the task.
ATTEMPTS = "attempts"

TRAJECTORY_SCHEMA = pa.schema(
    [
        ("agent", pa.string()),
        ("conversations", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("date", pa.string()),
        ("episode", pa.string()),
        ("model", pa.string()),
        ("model_provider", pa.string()),
        ("result", pa.string()),
        ("run_id", pa.string()),
        ("task", pa.string()),
        ("trace_source", pa.string()),
        ("trial_name", pa.string()),
        ("task_id", pa.string()),
        ("source", pa.string()),
        ("attempt", pa.int32()),
        ("reward", pa.float64()),
        ("turns", pa.int32()),
        ("prompt_token_ids", pa.list_(pa.list_(pa.int32()))),
        ("completion_token_ids", pa.list_(pa.list_(pa.int32()))),
        ("logprobs", pa.list_(pa.list_(pa.float32()))),
        ("error_class", pa.string()),
        ("error_message", pa.string()),
    ]
)

# Rows a record batch: large enough to stream fast, small enough that packed tasks of some megabytes fit in memory.
_BATCH_ROWS = 256

_KNOWN_TYPES = {field.name: field.type for field in [*TASK_SCHEMA, *TRAJECTORY_SCHEMA]}


def _alike(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Tell whether a column's cells read as the Python values that a column of the wanted type has."""
    if pa.types.is_list(wanted):
        listed = pa.types.is_list(found) or pa.types.is_large_list(found)
        return listed and _alike(found.value_type, wanted.value_type)
    if pa.types.is_struct(wanted):
        return pa.types.is_struct(found) and all(
            found.get_field_index(part.name) >= 0 and _alike(found.field(part.name).type, part.type) for part in wanted
        )
    kinds = {
        pa.types.is_string: (pa.types.is_string, pa.types.is_large_string),
        pa.types.is_binary: (pa.types.is_binary, pa.types.is_large_binary),
        pa.types.is_integer: (pa.types.is_integer,),
        pa.types.is_floating: (pa.types.is_floating, pa.types.is_integer),
    }
    accepted = next(accepted for kind, accepted in kinds.items() if kind(wanted))
    return pa.types.is_null(found) or any(kind(found) for kind in accepted)


def with_reason(schema: pa.Schema) -> pa.Schema:
    """Return the schema of `rejects.parquet` for rows of `schema`."""
    return schema.append(pa.field("reason", pa.string()))


def read_schema(path: Path) -> pa.Schema:
    """Return the columns of a Parquet file; raises BadInput when it is missing, truncated or not Parquet."""
    with _readable(path), pq.ParquetFile(path, pre_buffer=False) as file:
        return file.schema_arrow


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what an unreadable Parquet file raises into one line."""
    try:
        yield
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; build the artifact that should hold it") from None
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(
            f"{path}: truncated or not a Parquet file ({reason}); delete its artifact and rebuild it"
        ) from None


def read_batches(path: Path, columns: Sequence[str] | None = None, *, checked: bool = True) -> Iterator[pa.RecordBatch]:
    """Stream a Parquet file.

    Args:
        path: the file.
        columns: which to read, all by default.
        checked: whether texts are checked to be UTF-8; without, whoever reads a cell has to expect that it is not.

    Raises:
        BadInput: the file is missing, truncated, not Parquet, lacks one of `columns`, or holds text that is not UTF-8.
    """
    with _readable(path), pq.ParquetFile(path, pre_buffer=False) as file:
        known = file.schema_arrow.names
        for name in columns or ():
            if name not in known:
                hint = nearest(name, known) or f"; it has {', '.join(known)}"
                raise BadInput(f"{path}: no column {name!r}{hint}")
        for field in file.schema_arrow:
            wanted = _KNOWN_TYPES.get(field.name)
            if wanted is not None and (not columns or field.name in columns) and not _alike(field.type, wanted):
                raise BadInput(f"{path}: column {field.name!r} holds {field.type}, expected {wanted}; convert it")
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=list(columns) if columns else None):
            if checked:
                _check_text(batch, path)
            yield batch


def _check_text(batch: pa.RecordBatch, path: Path) -> None:
    """Raise BadInput where a text is not UTF-8, which Parquet does not check when it is written."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            raise BadInput(f"{path}: column {name!r} holds text that is not UTF-8; mend or convert the file") from None


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Stream a Parquet file as plain dictionaries; errors as in :func:`read_batches`."""
    for batch in read_batches(path, columns):
        yield from batch.to_pylist()


class TableWriter:
    """Writes rows to a Parquet file whose bytes depend on schema, rows and the locked pyarrow alone."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.schema = schema
        self.rows = 0
        self._pending: list[Row] = []
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", compression_level=3, write_statistics=False)

    def write(self, row: Row) -> None:
        """Append one row; keys that the schema does not have are an error, missing ones become null."""
        unknown = row.keys() - set(self.schema.names)
        if unknown:
            raise ValueError(f"row has columns the schema lacks: {sorted(unknown)}")
        self._pending.append(row)
        self.rows += 1
        if len(self._pending) >= _BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._pending, schema=self.schema))
            self._pending = []

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()


def write_rows(path: Path, schema: pa.Schema, rows: Iterable[Row]) -> int:
    """Write all rows to a Parquet file and return how many there were."""
    with TableWriter(path, schema) as writer:
        for row in rows:
            writer.write(row)
    return writer.rows
