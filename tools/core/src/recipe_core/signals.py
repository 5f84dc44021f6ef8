"""Where a task's signal comes from: a column, its `meta` JSON, or a count made here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from recipe_core.errors import BadInput, nearest
from recipe_core.records import read_batches, read_schema

META = "meta."

COMPUTED: dict[str, tuple[str, Callable[[Any], int]]] = {
    "instruction_chars": ("instruction", len),
    "instruction_words": ("instruction", lambda text: len(text.split())),
    "binary_bytes": ("task_binary", len),
}


class Signal(NamedTuple):
    """A named signal: the stored column it is read from, and how a cell of it becomes a number."""

    name: str
    column: str
    measure: Callable[[Any], float | None]


def number(value: Any) -> float | None:
    """Return a JSON or Parquet value as a number, or None where it is not one.

    Booleans are not numbers here, though Python takes them for integers.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def meta_value(text: str | None, keys: Sequence[str]) -> Any:
    """Return the value that a path of keys leads to inside a JSON object, or None where the path ends.

    >>> meta_value('{"a": {"b": 3}}', ["a", "b"])
    3
    """
    try:
        value = json.loads(text or "null")
    except (ValueError, RecursionError):
        return None
    for key in keys:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def meta_names(texts: Sequence[str | None]) -> set[str]:
    """Return `meta.name` for every number found in the JSON objects, nested ones with dots."""
    names: set[str] = set()

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                walk(f"{prefix}.{key}", item)
        elif number(value) is not None:
            names.add(prefix)

    for text in texts:
        walk("meta", meta_value(text, []))
    return names


def find_signal(name: str, path: Path) -> Signal:
    """Find a signal of a task file by name.

    Args:
        name: what `--column` says.
        path: a `tasks.parquet`; its `meta` cells are read as far as the first that has the signal.

    Raises:
        BadInput: an unreadable file, no such signal (the nearest known one is named), or a column without numbers.
    """
    schema = read_schema(path)
    numeric = [field.name for field in schema if _is_numeric(field.type)]
    if name in schema.names:
        if name not in numeric:
            raise BadInput(
                f"{path}: column {name!r} holds {schema.field(name).type}, not numbers{_hint(name, numeric)}"
            )
        return Signal(name, name, number)
    if name in COMPUTED and COMPUTED[name][0] in schema.names:
        column, count = COMPUTED[name]
        return Signal(name, column, lambda cell: None if cell is None else float(count(cell)))
    keys = name.removeprefix(META).split(".")
    in_meta: set[str] = set()
    for batch in read_batches(path, ["meta"]) if "meta" in schema.names else ():
        in_meta |= meta_names(batch.column("meta").to_pylist())
        if name in in_meta:
            return Signal(name, "meta", lambda cell: number(meta_value(cell, keys)))
    computed = [known for known, (column, _) in COMPUTED.items() if column in schema.names]
    if name in COMPUTED:
        raise BadInput(f"{path}: no signal {name!r}, which is counted from the column {COMPUTED[name][0]!r}")
    raise BadInput(f"{path}: no signal {name!r}{_hint(name, [*numeric, *computed, *in_meta])}")


def _is_numeric(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _hint(name: str, known: list[str]) -> str:
    more = f" and {len(known) - 12} more" if len(known) > 12 else ""
    return nearest(name, known) or f"; the signals are {', '.join(sorted(known)[:12])}{more}"


def measure(path: Path, signal: Signal) -> Iterator[tuple[str, float | None]]:
    """Yield task id and value for every row of a file.

    Raises:
        BadInput: an unreadable file.
    """
    for batch in read_batches(path, ("task_id", signal.column)):
        cells = batch.column(signal.column).to_pylist()
        for task_id, cell in zip(batch.column("task_id").to_pylist(), cells, strict=True):
            yield task_id, signal.measure(cell)
