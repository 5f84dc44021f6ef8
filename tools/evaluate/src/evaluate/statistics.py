"""pass@1 with intervals: pure functions, the standard library alone.

The unit is the task. Attempts at one task are not independent of each other, so an interval over attempts would be too
narrow; all intervals here come from what varies between tasks:

- one model: percentile bootstrap over tasks (Efron 1979; each draw takes a task with all its attempts, a cluster
  bootstrap);
- two models on the same tasks: the same over the differences by task, so that what makes a task hard for both cancels.

A bootstrap cannot see beyond its sample: when all tasks score alike, or nearly (none solved but one), every resample is
nearly equal and the interval is too narrow or has no width. So one model's interval reaches, at each end, as far as the
farther of the bootstrap and the Wilson score interval with tasks as the unit (Wilson 1927). For a difference between
models that change alike on all tasks, or on fewer than 10 tasks, stands the interval that Newcombe (1998) makes of two
independent shares' own intervals; it is wider than a paired one where the models agree.

Nothing here depends on the order of its input: tasks are sorted by id before anything is drawn.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from recipe_core.seeds import row_seed
from recipe_core.terms import INFRASTRUCTURE

ALL = "all"
RESAMPLES = 10_000
COVERAGE = 0.95
# The 97.5 % quantile of the standard normal distribution.
Z_95 = 1.959963984540054
# Below so many tasks the resamples are too few for an interval of a difference.
FEWEST_TASKS = 10

BOOTSTRAP = "cluster-bootstrap"
WIDER = "cluster-bootstrap or wilson"
WILSON = "wilson"
NEWCOMBE = "newcombe"

Interval = tuple[float, float]


class Outcome(NamedTuple):
    """One attempt at one task; `reward` is None after an infrastructure error."""

    task_id: str
    source: str
    attempt: int
    reward: float | None
    error_class: str | None = None

    @property
    def valid(self) -> bool:
        """Whether the attempt says something about the model."""
        return self.error_class != INFRASTRUCTURE

    @property
    def solved(self) -> bool:
        """Whether the verifier gave full reward; a missing reward is not solved."""
        return self.reward is not None and self.reward >= 1.0


@dataclass(frozen=True)
class Score:
    """A model's pass@1 on the tasks of one source, or of all.

    Attributes:
        source: the source's name, or `all`.
        n_tasks: tasks with at least one valid attempt.
        attempts: attempts asked for at each task.
        valid_attempts: attempts over all tasks that were not infrastructure errors.
        pass_at_1: mean over tasks of the share of valid attempts that solved it, 0 to 1; None without tasks.
        ci95: 95 % interval of `pass_at_1`; None without tasks.
        method: how the interval was made: `wilson`, or `cluster-bootstrap or wilson`, the wider at each end.
        infra_errors: attempts that failed outside the model; they count neither for nor against it.
        unscored_tasks: tasks that had infrastructure errors only.
    """

    source: str
    n_tasks: int
    attempts: int
    valid_attempts: int
    pass_at_1: float | None
    ci95: Interval | None
    method: str | None
    infra_errors: int
    unscored_tasks: int


@dataclass(frozen=True)
class Difference:
    """How much better one model is than another on the same tasks.

    Attributes:
        n_tasks: tasks on which both models have a valid attempt.
        diff: pass@1 of the second minus the first, -1 to 1; None without common tasks.
        ci95: 95 % interval of `diff`; None without common tasks.
        method: `cluster-bootstrap` or `newcombe`.
    """

    n_tasks: int
    diff: float | None
    ci95: Interval | None
    method: str | None


def outcomes(rows: Iterable[Mapping[str, Any]]) -> list[Outcome]:
    """Return the outcomes of trajectory rows."""
    return [Outcome(row["task_id"], row["source"], row["attempt"], row["reward"], row["error_class"]) for row in rows]


def task_means(trials: Iterable[Outcome]) -> dict[str, float]:
    """Return each task's share of valid attempts that solved it, by task id in order; tasks without any are absent."""
    solved: dict[str, list[bool]] = {}
    for trial in trials:
        if trial.valid:
            solved.setdefault(trial.task_id, []).append(trial.solved)
    return {task_id: sum(attempts) / len(attempts) for task_id, attempts in sorted(solved.items())}


def mean(values: Sequence[float]) -> float:
    """Return the mean, with a sum that does not depend on the order of the values."""
    return math.fsum(values) / len(values)


def bootstrap_interval(values: Sequence[float], seed: int, resamples: int = RESAMPLES) -> Interval:
    """Return the 95 % percentile interval of the mean under resampling with replacement.

    The ends are the order statistics that leave out the same number of resamples on either side, so negating the values
    negates and swaps the ends.

    Args:
        values: one value a task, at least one, in an order that does not depend on the input's.
        seed: of the resampling.
        resamples: how many.
    """
    generator = random.Random(seed)
    n = len(values)
    means = sorted(math.fsum(generator.choices(values, k=n)) / n for _ in range(resamples))
    outside = int(resamples * (1 - COVERAGE) / 2)
    return means[outside], means[-1 - outside]


def wilson_interval(share: float, n: int, z: float = Z_95) -> Interval:
    """Return the Wilson score interval of a proportion: share of n, 0 to 1.

    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n); E. B. Wilson, J. Am. Stat. Assoc. 22 (1927), 209-212.
    """
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # Rounding may leave an end a hair inside the share at 0 and 1.
    return max(0.0, min(share, (middle - half) / scale)), min(1.0, max(share, (middle + half) / scale))


def newcombe_interval(first: Interval, second: Interval, share_first: float, share_second: float) -> Interval:
    """Return an interval of `share_second - share_first` from the two shares' own intervals.

    R. G. Newcombe, Stat. Med. 17 (1998), 873-890, method 10: the distances from each share to the ends of its interval,
    combined as roots of sums of squares.
    """
    diff = share_second - share_first
    below = math.hypot(share_second - second[0], first[1] - share_first)
    above = math.hypot(second[1] - share_second, share_first - first[0])
    return max(-1.0, diff - below), min(1.0, diff + above)


def interval_of_mean(values: Sequence[float], seed: int, resamples: int = RESAMPLES) -> tuple[Interval, str]:
    """Return the 95 % interval of the mean of per-task shares, and how it was made."""
    low, high = wilson_interval(mean(values), len(values))
    if min(values) == max(values):
        return (low, high), WILSON
    drawn = bootstrap_interval(values, seed, resamples)
    return (min(low, drawn[0]), max(high, drawn[1])), WIDER


def score(trials: Sequence[Outcome], *, source: str, attempts: int, seed: int) -> Score:
    """Score the attempts of one model.

    Args:
        trials: its attempts at the tasks of `source`, in any order.
        source: the source's name, or `all`.
        attempts: attempts asked for at each task.
        seed: of the resampling; it is split by source.
    """
    means = task_means(trials)
    values = list(means.values())
    valid = sum(trial.valid for trial in trials)
    interval, method = interval_of_mean(values, row_seed(seed, "score", source)) if values else (None, None)
    return Score(
        source=source,
        n_tasks=len(values),
        attempts=attempts,
        valid_attempts=valid,
        pass_at_1=mean(values) if values else None,
        ci95=interval,
        method=method,
        infra_errors=len(trials) - valid,
        unscored_tasks=len({trial.task_id for trial in trials}) - len(values),
    )


def scores_by_source(trials: Sequence[Outcome], *, attempts: int, seed: int) -> list[Score]:
    """Score every source, by name, and then all of them together."""
    sources = sorted({trial.source for trial in trials})
    parts = [(source, [trial for trial in trials if trial.source == source]) for source in sources]
    return [score(part, source=source, attempts=attempts, seed=seed) for source, part in [*parts, (ALL, list(trials))]]


def difference(first: Iterable[Outcome], second: Iterable[Outcome], *, seed: int) -> Difference:
    """Compare two models on the tasks that both have a valid attempt at.

    Args:
        first: the attempts of the model compared with, in any order.
        second: the attempts of the other.
        seed: of the resampling. Swapping the models negates `diff` and mirrors the interval.
    """
    before, after = task_means(first), task_means(second)
    common = [task_id for task_id in before if task_id in after]
    if not common:
        return Difference(0, None, None, None)
    pairs = [(before[task_id], after[task_id]) for task_id in common]
    changes = [new - old for old, new in pairs]
    if min(changes) != max(changes) and len(changes) >= FEWEST_TASKS:
        return Difference(
            len(common), mean(changes), bootstrap_interval(changes, row_seed(seed, "difference")), BOOTSTRAP
        )
    shares = mean([old for old, _ in pairs]), mean([new for _, new in pairs])
    own = [wilson_interval(share, len(pairs)) for share in shares]
    return Difference(len(common), mean(changes), newcombe_interval(own[0], own[1], *shares), NEWCOMBE)
