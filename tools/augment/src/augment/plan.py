"""How many surface forms of which task, and in which order: pure functions over task ids."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from recipe_core.seeds import row_seed

ORIGINAL = 0


@dataclass(frozen=True)
class Share:
    """What a task gives: whether its original is kept, and how many new forms are asked for."""

    original: bool
    copies: int


def shares(
    task_ids: Iterable[str], *, copies: int | None, rows: int | None, keep_original: bool, seed: int
) -> dict[str, Share]:
    """Divide the work among distinct tasks.

    Args:
        task_ids: in any order.
        copies: new forms of each task, the original not among them.
        rows: instead of `copies`, rows in all, kept originals among them. Each task gives as many as any other or one
            more; who gives one more is decided by a hash of seed and id. With fewer rows than tasks some give none.
        keep_original: whether the original is the first of a task's rows.
        seed: the step's seed.
    """
    ids = sorted(task_ids)
    if rows is None:
        return {task_id: Share(keep_original, copies or 0) for task_id in ids}
    each, remainder = divmod(rows, len(ids))
    favoured = set(sorted(ids, key=lambda task_id: (row_seed(seed, "share", task_id), task_id))[:remainder])
    given = {task_id: each + (task_id in favoured) for task_id in ids}
    return {task_id: Share(keep_original and n > 0, max(0, n - keep_original)) for task_id, n in given.items()}


def rank(seed: int, task_id: str, copy: int) -> tuple[int, str, int]:
    """Return what a row is sorted by: a hash of seed, task and copy, so that training sees the forms mixed."""
    return row_seed(seed, task_id, copy), task_id, copy


def first_of_equals(claims: Iterable[tuple[str, int, str]]) -> set[tuple[str, int]]:
    """Return which of several rows with one new id stay: the lowest copy, then the lowest task id.

    The copy comes first so that asking for more copies drops none that was there before.

    Args:
        claims: new id, copy and task id of each row.
    """
    best: dict[str, tuple[int, str]] = {}
    for new_id, copy, task_id in claims:
        best[new_id] = min(best.get(new_id, (copy, task_id)), (copy, task_id))
    return {(task_id, copy) for copy, task_id in best.values()}
