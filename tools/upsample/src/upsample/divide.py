"""How many rows each task gets: pure functions over task ids and weights."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from recipe_core.errors import BadInput


def whole_weights(weights: Sequence[float]) -> list[int]:
    """Return integers in exactly the proportion of the weights.

    A binary floating-point number is an integer over a power of two, so multiplying by the largest such power loses
    nothing, and everything after is integer arithmetic: the same counts on every machine.

    >>> whole_weights([0.5, 3.0, 0.25])
    [2, 12, 1]
    """
    ratios = [weight.as_integer_ratio() for weight in weights]
    scale = max((denominator for _, denominator in ratios), default=1)
    return [numerator * (scale // denominator) for numerator, denominator in ratios]


def divide(rows: int, task_ids: Sequence[str], weights: Sequence[float]) -> list[int]:
    """Divide rows among tasks: one each, and the others in proportion to the weights.

    The others are rounded by largest remainder (Hamilton): each task gets its quota rounded down, and the rows that are
    then left go, one each, to the tasks with the largest fractions; equal fractions are served in the order of task
    ids. So the counts sum to `rows`, no task is left out, and a larger weight never gets fewer. Where no task weighs
    anything, all weigh the same.

    Args:
        rows: rows in all; at least as many as there are tasks.
        task_ids: distinct ids, which break ties.
        weights: finite and not negative, one a task.

    Returns:
        The count of each task, in the order given.

    Raises:
        BadInput: fewer rows than tasks, or a weight that is negative or not finite.
    """
    for task_id, weight in zip(task_ids, weights, strict=True):
        if not math.isfinite(weight) or weight < 0:
            raise BadInput(f"task {task_id}: weight {weight:g} is negative or not finite; give weights of 0 and above")
    if rows < len(task_ids):
        raise BadInput(f"--rows {rows} is below the {len(task_ids)} tasks, of which each gets one; raise it")
    if not task_ids:
        raise BadInput("no tasks to divide rows among")
    whole = whole_weights(weights)
    total = sum(whole)
    if not total:
        whole, total = [1] * len(task_ids), len(task_ids)
    spare = rows - len(task_ids)
    shares = [divmod(spare * weight, total) for weight in whole]
    counts = [1 + share for share, _ in shares]
    left = rows - sum(counts)
    # Task ids separate equal fractions.
    first = heapq.nsmallest(left, range(len(task_ids)), key=lambda index: (-shares[index][1], task_ids[index]))
    for index in first:
        counts[index] += 1
    return counts
