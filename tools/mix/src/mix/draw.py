"""Which rows a mix draws: pure functions over task ids and sources.

Every decision depends on the set of candidates and the seed alone. Where an order is needed, sources go by name and the
rows of a source by rank, a hash of the seed and the row's task id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import count, islice
from typing import NamedTuple

from recipe_core.errors import BadInput, nearest
from recipe_core.seeds import row_seed

METHODS = ("shares", "weights", "round-robin", "concatenate")


class Pick(NamedTuple):
    """One row of the output: a task, and which repetition of it (0 for the first)."""

    task_id: str
    copy: int


@dataclass(frozen=True)
class Drawn:
    """What a mix draws.

    Attributes:
        picks: the output, in order.
        missing: how many rows each source was short of its quota; sources that were not short are absent.
    """

    picks: list[Pick]
    missing: dict[str, int]


def equal_shares(rows: int, sources: Sequence[str]) -> dict[str, int]:
    """Divide `rows` equally; the remainder goes, one row each, to the first sources by name.

    >>> equal_shares(8, ["b", "c", "a"])
    {'a': 3, 'b': 3, 'c': 2}
    """
    share, remainder = divmod(rows, len(sources))
    return {source: share + (index < remainder) for index, source in enumerate(sorted(sources))}


def weighted_shares(rows: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Divide `rows` in proportion to weights by the largest-remainder method (Hamilton); ties go to the first by name.

    >>> weighted_shares(10, {"a": 2, "b": 1})
    {'a': 7, 'b': 3}
    """
    exact = {source: Fraction(weight) for source, weight in sorted(weights.items())}
    total = sum(exact.values())
    quotas = {source: rows * weight / total for source, weight in exact.items()}
    shares = {source: int(quota) for source, quota in quotas.items()}
    by_remainder = sorted(shares, key=lambda source: (shares[source] - quotas[source], source))
    for source in by_remainder[: rows - sum(shares.values())]:
        shares[source] += 1
    return shares


def check_weights(weights: Mapping[str, float], sources: Sequence[str]) -> None:
    """Raise BadInput unless the weights name exactly the sources there are, and some weight is above zero."""
    for name in sorted(weights):
        if name not in sources:
            hint = nearest(name, list(sources)) or f"; the sources are {', '.join(sorted(sources))}"
            raise BadInput(f"--weights names {name!r}, which is no source of the inputs{hint}")
    for source in sorted(sources):
        if source not in weights:
            raise BadInput(f"--weights has no weight for the source {source!r}; add {source}=0 to leave it out")
    if not any(weights.values()):
        raise BadInput("--weights are all zero; give at least one source a weight above zero")


def ranked(task_ids: Sequence[str], seed: int, copy: int = 0) -> list[str]:
    """Return the ids in the order they are drawn; each repetition has an order of its own."""
    return sorted(task_ids, key=lambda task_id: (_rank(task_id, copy, seed), task_id))


def _rank(task_id: str, copy: int, seed: int) -> int:
    return row_seed(seed, task_id, copy) if copy else row_seed(seed, task_id)


def passes(task_ids: Sequence[str], seed: int, repeat: bool) -> Iterator[Pick]:
    """Yield a source's rows in the order they are drawn: once, or in endless whole passes, each in a new order."""
    for copy in count() if repeat and task_ids else range(1):
        for task_id in ranked(task_ids, seed, copy):
            yield Pick(task_id, copy)


def take_turns(queues: Mapping[str, Sequence[str]], rows: int) -> list[str]:
    """Take one id a source in turn, sources by name, until `rows` are taken; an exhausted source is passed over.

    >>> take_turns({"b": ["b1"], "a": ["a1", "a2", "a3"]}, 4)
    ['a1', 'b1', 'a2', 'a3']
    """
    rounds = max((len(queue) for queue in queues.values()), default=0)
    turns = (queues[source][turn] for turn in range(rounds) for source in sorted(queues) if turn < len(queues[source]))
    return list(islice(turns, rows))


def draw(
    sources: Mapping[str, Sequence[str]],
    *,
    method: str,
    rows: int | None,
    seed: int,
    weights: Mapping[str, float] | None = None,
    cap: int | None = None,
    with_replacement: bool = False,
) -> Drawn:
    """Decide which rows a mix draws, and their order.

    Args:
        sources: distinct task ids by source, in any order.
        method: one of `METHODS`.
        rows: rows wanted in all; None, for `concatenate` only, means all there are.
        seed: the step's seed.
        weights: by source, for `weights`.
        cap: most distinct tasks a source may give.
        with_replacement: repeat a source's tasks when its quota is larger than the source; `shares` and `weights` only.

    Raises:
        BadInput: weights that do not fit the sources.
    """
    if method not in METHODS:
        raise ValueError(f"method is one of {METHODS}, not {method!r}")
    if method == "weights":
        check_weights(weights or {}, list(sources))
    offered = {source: ranked(task_ids, seed)[:cap] for source, task_ids in sources.items() if task_ids}
    if method == "concatenate":
        everything = ranked([task_id for task_ids in offered.values() for task_id in task_ids], seed)
        kept = everything[:rows]
        missing = {"all": rows - len(kept)} if rows is not None and rows > len(kept) else {}
        return Drawn([Pick(task_id, 0) for task_id in kept], missing)
    if rows is None:
        raise ValueError(f"{method} needs a number of rows")
    if method == "round-robin":
        turns = take_turns(offered, rows)
        missing = {"all": rows - len(turns)} if rows > len(turns) else {}
        return Drawn([Pick(task_id, 0) for task_id in turns], missing)
    quotas = weighted_shares(rows, weights or {}) if method == "weights" else equal_shares(rows, list(sources))
    return _fill(offered, quotas, seed, with_replacement)


def _fill(offered: Mapping[str, Sequence[str]], quotas: Mapping[str, int], seed: int, repeat: bool) -> Drawn:
    picks: list[Pick] = []
    missing = {}
    for source, quota in quotas.items():
        drawn = list(islice(passes(offered.get(source, []), seed, repeat), quota))
        picks += drawn
        if len(drawn) < quota:
            missing[source] = quota - len(drawn)
    picks.sort(key=lambda pick: (_rank(pick.task_id, pick.copy, seed), pick))
    return Drawn(picks, missing)
