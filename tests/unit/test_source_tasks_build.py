"""From candidates to tasks: order, rejection, and going on after a kill."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sandbox
from source_tasks import humaneval, shell
from source_tasks.build import ALREADY_SOLVED, UNSOLVED, Journal, Settled, build, in_order, rejection
from source_tasks.heldout import leaks
from source_tasks.source import Candidate, Rejected


@pytest.mark.parametrize(
    ("oracle", "noop", "reason"),
    [
        (1.0, 0.0, None),
        (0.0, 0.0, UNSOLVED),
        (None, 0.0, UNSOLVED),
        (1.0, 1.0, ALREADY_SOLVED),
        (1.0, None, ALREADY_SOLVED),
    ],
)
def test_rejection(oracle: float | None, noop: float | None, reason: str | None) -> None:
    assert rejection(oracle, noop) == reason


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order_whatever_finishes_first(workers: int) -> None:
    under_way = peak = 0

    async def work(item: int) -> int:
        nonlocal under_way, peak
        under_way += 1
        peak = max(peak, under_way)
        await asyncio.sleep(0.02 if item % 3 == 0 else 0)
        under_way -= 1
        return item * 10

    async def collect() -> list[int]:
        return [result async for result in in_order(iter(range(20)), work, workers)]

    assert asyncio.run(collect()) == [item * 10 for item in range(20)]
    assert peak == workers


def test_an_error_in_one_piece_of_work_cancels_the_others() -> None:
    cancelled = []

    async def work(item: int) -> int:
        if item == 0:
            await asyncio.sleep(0)
            raise OSError("boom")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(item)
            raise
        return item

    async def collect() -> None:
        async for _ in in_order(iter(range(5)), work, 3):
            pass

    with pytest.raises(OSError, match="boom"):
        asyncio.run(collect())
    assert cancelled


class Verdicts:
    """Stands in for the sandbox: counts its calls and fails every third task."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        monkeypatch.setattr(sandbox, "validate_task", self)

    async def __call__(self, files: dict[str, Any]) -> sandbox.Validation:
        self.calls += 1
        odd = files["instruction.md"].content[-3] % 3 == 0
        return sandbox.Validation(0.0 if odd else 1.0, 0.0, "")


def proposals() -> Iterator[Candidate]:
    return itertools.islice(shell.SOURCE.generate("train", 5, shell.SOURCE.families()), 60)


def settle_all(journal: Path, count: int, candidates: Iterator[Candidate]) -> list[Settled]:
    async def collect() -> list[Settled]:
        return [settled async for settled in build(candidates, count, 2, Journal(journal))]

    return asyncio.run(collect())


def test_building_stops_at_the_last_task_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Verdicts(monkeypatch)
    settled = settle_all(tmp_path / "journal", 10, proposals())
    assert [one.reason for one in settled].count(None) == 10
    assert settled[-1].reason is None
    assert {one.reason for one in settled} == {None, UNSOLVED}


def test_a_second_run_validates_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = Verdicts(monkeypatch)
    journal = tmp_path / "journal"
    first = settle_all(journal, 10, proposals())
    # What a kill in the middle of a line leaves.
    journal.write_text(journal.read_text() + '{"proposed": "12')
    before = verdicts.calls
    assert settle_all(journal, 10, proposals()) == first
    assert verdicts.calls - before < 10


def test_what_refinement_made_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Verdicts(monkeypatch)
    plain = shell.propose("create-file", "train", 0, 0)
    other = shell.propose("create-file", "train", 0, 1)

    async def refine() -> Candidate:
        return Candidate(plain.family, other.files, plain.licence, plain.origin, plain.meta)

    async def refuse() -> Candidate:
        raise Rejected("no good")

    def candidates(*refinements: Any) -> Iterator[Candidate]:
        for index, refinement in enumerate(refinements):
            base = shell.propose("copy-file", "train", 0, index)
            yield Candidate(base.family, base.files, base.licence, base.origin, base.meta, refinement)

    first = settle_all(tmp_path / "journal", 9, candidates(refine, refuse))
    assert first[0].candidate.files == other.files
    assert first[1].reason == "no good"
    again = settle_all(tmp_path / "journal", 9, candidates(None, None))
    assert [(one.candidate.files, one.reason) for one in again] == [(one.candidate.files, one.reason) for one in first]


def test_humaneval_splits_by_problem() -> None:
    splits = {split: list(humaneval.SOURCE.generate(split, 0, ("function",))) for split in ("train", "test")}
    assert sum(map(len, splits.values())) == 164
    rows = {
        split: [
            {
                "task_id": one.meta["held_out"][0],
                "source": "humaneval",
                "instruction": one.files["instruction.md"].content.decode(),
                "meta": one.meta,
            }
            for one in candidates
        ]
        for split, candidates in splits.items()
    }
    assert leaks(rows["train"], rows["test"]) == []
    order = [one.meta["held_out"] for one in humaneval.SOURCE.generate("test", 1, ("function",))]
    assert order != [one.meta["held_out"] for one in splits["test"]]
    assert sorted(order) == sorted(one.meta["held_out"] for one in splits["test"])
