"""Selecting tasks by a number: bounds, and the rows at one end of what lies inside them.

What `filter-length` and `filter-tasks` share. Each says the same decision in words of its own (:class:`Words`).
"""

from __future__ import annotations

import argparse
import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from recipe_core.artifact import ArtifactWriter
from recipe_core.cli import finite, positive
from recipe_core.errors import BadInput

NO_VALUE = "no-value"


class Words(NamedTuple):
    """How a tool calls the two ends of a signal, and what lies outside its bounds."""

    highest: str = "highest"
    lowest: str = "lowest"
    below: str = "below-min"
    above: str = "above-max"


PLAIN = Words()


class Measured(NamedTuple):
    """One row's task id and signal (None or NaN where it has none), and the group it competes in."""

    task_id: str
    value: float | None
    group: str | None = None


def reason_by_bounds(value: float | None, low: float | None, high: float | None, words: Words = PLAIN) -> str | None:
    """Return why a value is dropped before ranking, or None when it is not. The bounds themselves are inside.

    >>> reason_by_bounds(3.0, 4.0, None)
    'below-min'
    """
    if value is None or math.isnan(value):
        return NO_VALUE
    if low is not None and value < low:
        return words.below
    if high is not None and value > high:
        return words.above
    return None


def rows_of_fraction(fraction: str, rows: int) -> int:
    """Return how many of `rows` a fraction is: rounded down, but at least one where there is one.

    The fraction is taken as it is written: 0.29 of 100 rows are 29, which binary floating point would make 28.

    >>> rows_of_fraction("0.29", 100)
    29
    """
    return min(rows, max(1, math.floor(Fraction(fraction) * rows)))


def reasons(
    rows: Sequence[Measured],
    *,
    keep: str | None = None,
    count: int | None = None,
    fraction: str | None = None,
    low: float | None = None,
    high: float | None = None,
    words: Words = PLAIN,
) -> list[str | None]:
    """Decide each row: None to keep it, else the reason it is dropped.

    Args:
        rows: what was measured, in any order; the decision on a row does not depend on it.
        keep: `words.highest` or `words.lowest`, or None to apply the bounds alone.
        count: with `keep`, how many rows to keep of each group.
        fraction: with `keep` and instead of `count`, the share to keep of each group's rows inside the bounds.
        low: smallest value kept.
        high: largest value kept.
        words: how the reasons are called.
    """
    decided = [reason_by_bounds(row.value, low, high, words) for row in rows]
    if keep is None:
        return decided
    groups: dict[str | None, list[int]] = defaultdict(list)
    for index, reason in enumerate(decided):
        if reason is None:
            groups[rows[index].group].append(index)
    for inside in groups.values():
        wanted = rows_of_fraction(fraction, len(inside)) if fraction is not None else (count or 0)
        kept = set(_first(inside, rows, wanted, highest=keep == words.highest))
        for index in inside:
            if index not in kept:
                decided[index] = f"not-{keep}"
    return decided


def _first(inside: Iterable[int], rows: Sequence[Measured], wanted: int, *, highest: bool) -> list[int]:
    # The position comes last: it separates only rows that are equal in everything the decision may look at.
    def order(index: int) -> tuple[float, str, int]:
        task_id, value, _ = rows[index]
        assert value is not None  # `inside` holds rows with a value only
        return (-value if highest else value, task_id, index)

    return heapq.nsmallest(wanted, inside, key=order)


def fraction(text: str) -> str:
    """Check that a fraction is above 0 and at most 1; it stays text, so that it is taken exactly as written."""
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a fraction above 0 and at most 1")
    return text


def add_select_flags(parser: argparse.ArgumentParser, words: Words = PLAIN) -> None:
    """Add `--keep`, `--rows`, `--fraction`, `--min` and `--max`."""
    parser.add_argument(
        "--keep", choices=(words.highest, words.lowest), help="which end to keep; needs --rows or --fraction"
    )
    parser.add_argument("--rows", type=positive, metavar="N", help="with --keep: how many rows to keep")
    parser.add_argument("--fraction", type=fraction, metavar="F", help="with --keep: the share of rows to keep")
    parser.add_argument("--min", type=finite, metavar="X", help="drop rows with a smaller value")
    parser.add_argument("--max", type=finite, metavar="X", help="drop rows with a larger value")


def check_select_flags(args: argparse.Namespace) -> None:
    """Raise BadInput for flags that contradict each other or ask for nothing."""
    if args.rows is not None and args.fraction is not None:
        raise BadInput("--rows and --fraction both say how many rows to keep; give one of them")
    if (args.keep is None) != (args.rows is None and args.fraction is None):
        raise BadInput("--keep needs --rows or --fraction, and they need --keep; give both or neither")
    if args.keep is None and args.min is None and args.max is None:
        raise BadInput("nothing to filter by; give --keep with --rows or --fraction, or --min, or --max")
    if args.min is not None and args.max is not None and args.min > args.max:
        raise BadInput(f"--min {args.min:g} is above --max {args.max:g}; no value lies between them")


def select_parameters(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the flags decide, for the manifest."""
    return {name: getattr(args, name) for name in ("column", "keep", "rows", "fraction", "min", "max")}


def write_selection(
    args: argparse.Namespace,
    path: Path,
    writer: ArtifactWriter,
    *,
    label: str,
    words: Words = PLAIN,
    group: str | None = None,
) -> None:
    """Write the selected rows of a task file to `tasks.parquet` and the others to `rejects.parquet`.

    Args:
        args: the flags of :func:`add_select_flags`, and `column`.
        path: the tasks.
        writer: the artifact's.
        label: what the progress is called.
        words: how the reasons are called.
        group: a column of text; the rows of each of its values compete among themselves.

    Raises:
        BadInput: no such signal, or no such column.
    """
    import pyarrow as pa

    from recipe_core.progress import progress
    from recipe_core.records import TableWriter, read_rows, read_schema, with_reason
    from recipe_core.signals import find_signal, measure

    schema = read_schema(path)
    signal = find_signal(args.column, path)
    groups = _cells(path, group)
    rows = [Measured(task_id, value, next(groups)) for task_id, value in measure(path, signal)]
    decided = reasons(
        rows, keep=args.keep, count=args.rows, fraction=args.fraction, low=args.min, high=args.max, words=words
    )
    rejects_schema = with_reason(schema).append(pa.field("value", pa.float64()))
    dropped: Counter[str] = Counter()
    with (
        progress(len(rows), label) as bar,
        TableWriter(writer.path("tasks.parquet"), schema) as kept,
        TableWriter(writer.path("rejects.parquet"), rejects_schema) as rejects,
    ):
        for row, (_, value, _), reason in zip(read_rows(path), rows, decided, strict=True):
            if reason is None:
                kept.write(row)
            else:
                rejects.write({**row, "reason": reason, "value": value})
                dropped[reason] += 1
            bar.advance()
    writer.count(rows_in=len(rows), rows_out=kept.rows, dropped=dropped)


def _cells(path: Path, column: str | None) -> Iterator[str | None]:
    """Yield a column's cells; without a column, None for ever."""
    from recipe_core.records import read_batches

    while column is None:
        yield None
    for batch in read_batches(path, [column]):
        yield from batch.column(column).to_pylist()
