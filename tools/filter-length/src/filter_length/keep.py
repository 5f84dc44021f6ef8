"""Which rows a length filter keeps: pure functions over task ids and values."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple


class Measured(NamedTuple):
    """One row's task id and signal; None or NaN where the row has no value."""

    task_id: str
    value: float | None


def reason_by_bounds(value: float | None, low: float | None, high: float | None) -> str | None:
    """Return why a value is dropped before ranking, or None when it is not. The bounds themselves are inside.

    >>> reason_by_bounds(3.0, 4.0, None)
    'too-short'
    """
    if value is None or math.isnan(value):
        return "no-value"
    if low is not None and value < low:
        return "too-short"
    if high is not None and value > high:
        return "too-long"
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
) -> list[str | None]:
    """Decide each row: None to keep it, else the reason it is dropped.

    Args:
        rows: task ids and values, in any order; the decision on a row does not depend on it.
        keep: `longest` or `shortest`, or None to apply the bounds alone.
        count: with `keep`, how many rows to keep.
        fraction: with `keep` and instead of `count`, the share to keep of the rows inside the bounds.
        low: smallest value kept.
        high: largest value kept.
    """
    decided = [reason_by_bounds(row.value, low, high) for row in rows]
    if keep is None:
        return decided
    inside = [index for index, reason in enumerate(decided) if reason is None]
    wanted = rows_of_fraction(fraction, len(inside)) if fraction is not None else (count or 0)
    kept = set(_first(inside, rows, wanted, longest=keep == "longest"))
    for index in inside:
        if index not in kept:
            decided[index] = f"not-{keep}"
    return decided


def _first(inside: Iterable[int], rows: Sequence[Measured], wanted: int, *, longest: bool) -> list[int]:
    # The position comes last: it separates only rows that are equal in everything the decision may look at.
    def order(index: int) -> tuple[float, str, int]:
        task_id, value = rows[index]
        assert value is not None  # `inside` holds rows with a value only
        return (-value if longest else value, task_id, index)

    return heapq.nsmallest(wanted, inside, key=order)
