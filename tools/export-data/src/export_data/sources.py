"""Where rows come from: counts by source, licence and split, and the origins that are shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from recipe_core.signals import meta_value

# Origins shown of a source: some sources name one for each row.
MOST_ORIGINS = 3


class Said(NamedTuple):
    """What a task says of itself; what it does not say is empty."""

    licence: str
    origin: str
    split: str


@dataclass
class Tally:
    """Counts of rows, by source and licence.

    Attributes:
        rows: by (source, licence).
        splits: rows by split; empty for rows that do not tell.
        origins: the first few origins of each (source, licence) in alphabetical order, one more than is shown.
    """

    rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    origins: dict[tuple[str, str], set[str]] = field(default_factory=dict)

    def add(self, source: str, said: Said) -> None:
        """Count one row."""
        key = (source, said.licence)
        self.rows[key] += 1
        self.splits[said.split] += 1
        origins = self.origins.setdefault(key, set())
        if said.origin and said.origin not in origins:
            origins.add(said.origin)
            # The smallest are kept, so that what is shown does not depend on the order of rows.
            if len(origins) > MOST_ORIGINS + 1:
                origins.remove(max(origins))

    def licences(self) -> Counter[str]:
        """Return rows by licence."""
        counts: Counter[str] = Counter()
        for (_, licence), n in self.rows.items():
            counts[licence] += n
        return counts

    def origin(self, source: str, licence: str) -> str:
        """Return the origins of a source in words."""
        origins = sorted(self.origins.get((source, licence), ()))
        others = ["and others"] if len(origins) > MOST_ORIGINS else []
        return "; ".join([*origins[:MOST_ORIGINS], *others])


class Tasks:
    """What the tasks that rows are made of say, by task id, and by source for rows whose task is not among them."""

    def __init__(self) -> None:
        self._by_id: dict[str, Said] = {}
        self._by_source: dict[str, dict[str, set[str]]] = {}

    def read(self, path: Path) -> None:
        """Add the tasks of a file; what is known of a task already stays."""
        for task_id, source, said in _said(path, ("task_id", "source"), self._by_id):
            if task_id:
                self._by_id[task_id] = said
            parts = self._by_source.setdefault(source, {name: set() for name in Said._fields})
            for name, value in said._asdict().items():
                # What is to be shown of many is that they are many.
                if value and len(parts[name]) <= MOST_ORIGINS:
                    parts[name].add(value)

    def said(self, task_id: str | None, source: str) -> Said:
        """Return what a row's task says, or all the tasks of its source say."""
        if task_id in self._by_id:
            return self._by_id[task_id]
        parts = self._by_source.get(source, {name: set() for name in Said._fields})
        return Said(*("; ".join(sorted(parts[name])) for name in Said._fields))


def _said(path: Path, wanted: Sequence[str], known: Mapping[str, Any]) -> Iterable[tuple[str, str, Said]]:
    """Yield (the two wanted columns, what the task says) of rows whose first wanted cell is not known yet."""
    from recipe_core.records import read_batches, read_schema

    names = [*wanted, "licence", "origin", "meta"]
    present = [name for name in names if name in read_schema(path).names]
    for batch in read_batches(path, present):
        cells = {name: batch.column(name).to_pylist() for name in present}
        first, second, licences, origins, metas = (cells.get(name) or [None] * batch.num_rows for name in names)
        for number, name in enumerate(first):
            if name is None or name not in known:
                split = meta_value(metas[number], ["split"])
                said = Said(licences[number] or "", origins[number] or "", split if isinstance(split, str) else "")
                yield name or "", second[number] or "", said


def tally_tasks(path: Path) -> Tally:
    """Count the rows of a task file."""
    tally = Tally()
    for _, source, said in _said(path, ("path", "source"), {}):
        tally.add(source, said)
    return tally


def tally_trajectories(path: Path, tasks: Tasks) -> Tally:
    """Count the rows of a trajectory file, with what their tasks say: trajectories name no licence."""
    from recipe_core.records import read_batches, read_schema

    tally = Tally()
    present = [name for name in ("task_id", "source") if name in read_schema(path).names]
    for batch in read_batches(path, present or None):
        nothing = [None] * batch.num_rows
        ids, sources = (
            batch.column(name).to_pylist() if name in present else nothing for name in ("task_id", "source")
        )
        for task_id, source in zip(ids, sources, strict=True):
            tally.add(source or "", tasks.said(task_id, source or ""))
    return tally
