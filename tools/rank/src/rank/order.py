"""The order of candidates: pure functions over pass rates, the standard library alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from evaluate.statistics import mean

# Rates that differ by less are equal: what is left of equal rates after rounding must not be made a z-score of.
TOLERANCE = 1e-12
# Mean z-scores that agree in so many digits are equal, and their candidates stand by name.
_DIGITS = 9

Table = Mapping[str, Mapping[str, float]]


def deviation(values: Sequence[float]) -> float:
    """Return the population standard deviation: the root of the mean squared distance from the mean, divided by n.

    0 when all values are equal up to rounding. The candidates are all there are, not a sample of more.
    """
    if max(values) - min(values) < TOLERANCE:
        return 0.0
    centre = mean(values)
    return math.sqrt(mean([(value - centre) ** 2 for value in values]))


def z_scores(values: Mapping[str, float]) -> dict[str, float]:
    """Return by name how many deviations each value is above the mean of all; 0 when they do not deviate.

    >>> z_scores({"a": 1.0, "b": 3.0})
    {'a': -1.0, 'b': 1.0}
    """
    centre, scale = mean(list(values.values())), deviation(list(values.values()))
    return {name: (value - centre) / scale if scale else 0.0 for name, value in values.items()}


def z_table(rates: Table) -> dict[str, dict[str, float]]:
    """Return each candidate's z-score on each benchmark, among these candidates.

    Args:
        rates: pass rates by candidate and benchmark; every candidate has every benchmark.
    """
    benchmarks = list(next(iter(rates.values())))
    columns = {name: z_scores({candidate: row[name] for candidate, row in rates.items()}) for name in benchmarks}
    return {candidate: {name: columns[name][candidate] for name in benchmarks} for candidate in rates}


def mean_z(rates: Table) -> dict[str, float]:
    """Return each candidate's z-score averaged over the benchmarks, each of which counts the same."""
    return {candidate: mean(list(row.values())) for candidate, row in z_table(rates).items()}


def order_by(scores: Mapping[str, float]) -> list[str]:
    """Return the names, the highest score first, equal ones by name.

    >>> order_by({"b": 0.5, "c": 0.7, "a": 0.5})
    ['c', 'a', 'b']
    """
    return sorted(scores, key=lambda name: (-round(scores[name], _DIGITS), name))
