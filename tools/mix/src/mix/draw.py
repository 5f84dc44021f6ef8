"""Which rows a mix draws: pure functions over task ids and sources.

Every decision depends on the set of candidates and the seed alone. Where an order is needed, sources go by name unless
an order of theirs is given, and the rows of a source by rank, a hash of the seed and the row's task id.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
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
    """Divide `rows` equally; the remainder goes, one row each, to the first sources.

    >>> equal_shares(8, ["b", "c", "a"])
    {'b': 3, 'c': 3, 'a': 2}
    """
    share, remainder = divmod(rows, len(sources))
    return {source: share + (index < remainder) for index, source in enumerate(sources)}


def weighted_shares(rows: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Divide `rows` in proportion to weights by the largest-remainder method (Hamilton); ties go to the first.

    >>> weighted_shares(10, {"a": 2, "b": 1})
    {'a': 7, 'b': 3}
    >>> weighted_shares(3, {"b": 1, "a": 1})
    {'b': 2, 'a': 1}
    """
    exact = {source: Fraction(weight) for source, weight in weights.items()}
    total = sum(exact.values())
    quotas = {source: rows * weight / total for source, weight in exact.items()}
    shares = {source: int(quota) for source, quota in quotas.items()}
    by_remainder = sorted(shares, key=lambda source: shares[source] - quotas[source])
    for source in by_remainder[: rows - sum(shares.values())]:
        shares[source] += 1
    return shares


def choose_sources(sources: Collection[str], order: Sequence[str] | None, top: int | None) -> list[str]:
    """Return the sources that are drawn from, in their order.

    Args:
        sources: the sources of the inputs.
        order: names, the first first; None is by name. Without `top` it has to name every source.
        top: take only so many, the first of `order`; what the order does not name is then left out too.

    Raises:
        BadInput: a name to be taken that is no source, a source that the order lacks, or an order shorter than `top`.

    >>> choose_sources({"a", "b", "c"}, ["c", "a"], 1)
    ['c']
    """
    if order is None:
        return sorted(sources)
    if top is not None and top > len(order):
        raise BadInput(f"--top {top} is more than the {len(order)} names of the order; lower it")
    taken = list(order[:top])
    for name in taken:
        if name not in sources:
            raise BadInput(f"the order names {name!r}, which is no source of the inputs{_hint(name, sources)}")
    for source in sorted(sources):
        if top is None and source not in order:
            raise BadInput(f"the order lacks the source {source!r}; add it, or say by --top how many names to take")
    return taken


def _hint(name: str, sources: Collection[str]) -> str:
    return nearest(name, sorted(sources)) or f"; the sources are {', '.join(sorted(sources))}"


def check_weights(weights: Mapping[str, float], sources: Sequence[str]) -> None:
    """Raise BadInput unless the weights name exactly the sources drawn from, and some weight is above zero."""
    for name in sorted(weights):
        if name not in sources:
            raise BadInput(f"--weights names {name!r}, which is no source drawn from{_hint(name, sources)}")
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
    """Take one id a source in turn until `rows` are taken; an exhausted source is passed over.

    >>> take_turns({"b": ["b1"], "a": ["a1", "a2", "a3"]}, 4)
    ['b1', 'a1', 'a2', 'a3']
    """
    rounds = max((len(queue) for queue in queues.values()), default=0)
    turns = (queue[turn] for turn in range(rounds) for queue in queues.values() if turn < len(queue))
    return list(islice(turns, rows))


def draw(
    sources: Mapping[str, Sequence[str]],
    *,
    method: str,
    rows: int | None,
    seed: int,
    order: Sequence[str] | None = None,
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
        order: every source once, for turns and remainders; None is by name.
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
    order = sorted(sources) if order is None else order
    offered = {source: ranked(sources[source], seed)[:cap] for source in order if sources[source]}
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
    if method == "weights":
        quotas = weighted_shares(rows, {source: (weights or {})[source] for source in order})
    else:
        quotas = equal_shares(rows, order)
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
