"""How sure an order is: intervals of the distance between two candidates, and how often a candidate would be the best.

Both hold the benchmarks' standard deviations at their observed values: they are the scale on which benchmarks are
added up. What varies is which tasks a benchmark consists of, and all candidates meet the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluate.statistics import RESAMPLES, Difference, Interval, difference
from rank.trials import Benchmark
from recipe_core.seeds import row_seed

# Shares are taken as whole multiples of this, so that sums of them are exact in whatever order they are added.
_UNITS = 2.0**30
# A batch of resamples of a thousand tasks takes some megabytes.
_BATCH = 500
_TIE = 1e-9


@dataclass(frozen=True)
class Distance:
    """How far a candidate stands above the next one.

    Attributes:
        mean_z: difference of their mean z-scores.
        ci95: its 95 % interval.
        benchmarks: the paired difference of their pass@1 on each benchmark, by name.
    """

    mean_z: float
    ci95: Interval
    benchmarks: dict[str, Difference]

    @property
    def inside_noise(self) -> bool:
        """Whether the interval contains 0."""
        return self.ci95[0] <= 0 <= self.ci95[1]


def combine(parts: Sequence[tuple[float, float, Interval]]) -> tuple[float, Interval]:
    """Return a weighted sum of independent estimates and its interval, from their own intervals.

    The distances from each estimate to the ends of its interval are combined as roots of sums of squares (G. Y. Zou and
    A. Donner, Stat. Med. 27 (2008), 1693-1702); of one estimate it is that estimate's interval times its weight.

    Args:
        parts: weight (at least 0), estimate and interval of each.
    """
    total = math.fsum(weight * value for weight, value, _ in parts)
    below = math.sqrt(math.fsum((weight * (value - low)) ** 2 for weight, value, (low, _) in parts))
    above = math.sqrt(math.fsum((weight * (high - value)) ** 2 for weight, value, (_, high) in parts))
    return total, (total - below, total + above)


def distance(
    upper: str, lower: str, benchmarks: Sequence[Benchmark], deviations: Mapping[str, float], seed: int
) -> Distance:
    """Compare two candidates on the same tasks.

    Args:
        upper: the candidate that stands above.
        lower: the other one.
        benchmarks: the trials.
        deviations: standard deviation of all candidates' pass@1 by benchmark; one of 0 counts for nothing.
        seed: of the resampling; it is split by benchmark.
    """
    found = {}
    parts = []
    for benchmark in benchmarks:
        split = row_seed(seed, "pair", benchmark.name)
        change = difference(benchmark.trials[lower], benchmark.trials[upper], seed=split)
        found[benchmark.name] = change
        scale = deviations[benchmark.name]
        # Never None: the tasks are those at which both have a valid attempt, and there are some.
        if scale and change.diff is not None and change.ci95 is not None:
            parts.append((1 / (len(benchmarks) * scale), change.diff, change.ci95))
    mean_z, interval = combine(parts)
    return Distance(mean_z, interval, found)


def probability_best(
    benchmarks: Sequence[Benchmark], deviations: Mapping[str, float], seed: int, resamples: int = RESAMPLES
) -> dict[str, float]:
    """Return by candidate in what share of resamples it has the highest mean z-score; equal ones share a resample.

    Each resample draws every benchmark's tasks with replacement, the same ones for all candidates (bootstrap, Efron
    1979). It cannot see beyond its tasks: with few of them, 1 means less than it says.

    Args:
        benchmarks: the trials.
        deviations: standard deviation of all candidates' pass@1 by benchmark; one of 0 counts for nothing.
        seed: of the resampling; it is split by benchmark, so the order of candidates does not matter.
        resamples: how many.
    """
    import numpy as np

    candidates = sorted(benchmarks[0].trials)
    scores = np.zeros((resamples, len(candidates)))
    for benchmark in benchmarks:
        scale = deviations[benchmark.name]
        if not scale:
            continue
        shares = benchmark.shares()
        units = np.rint(np.array([shares[name] for name in candidates]).T * _UNITS)
        tasks = len(units)
        generator = np.random.default_rng(row_seed(seed, "best", benchmark.name))
        for start in range(0, resamples, _BATCH):
            rows = min(_BATCH, resamples - start)
            drawn = generator.integers(0, tasks, size=(rows, tasks)) + tasks * np.arange(rows)[:, None]
            counts = np.bincount(drawn.ravel(), minlength=rows * tasks).reshape(rows, tasks)
            scores[start : start + rows] += counts @ units / (_UNITS * tasks * scale)
    best = scores >= scores.max(axis=1, keepdims=True) - _TIE
    sharing = best.sum(axis=1)
    return {
        name: math.fsum(
            float(count) / share for share, count in enumerate(np.bincount(sharing[best[:, place]]).tolist()) if share
        )
        / resamples
        for place, name in enumerate(candidates)
    }
