"""Trials taken one by one from a folder that several processes share; `rollout.shared` says how."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipe_core.errors import BadInput
from recipe_core.progress import progress
from recipe_core.records import read_rows
from recipe_core.terms import INFRASTRUCTURE
from rollout.settings import Endpoint, Settings, TrialRequest, requests_for
from rollout.shared import Standing, Worker, home_shard

if TYPE_CHECKING:
    from rollout.model import ServedModel

_POLL_SEC = 1.0
_SECONDS_BETWEEN_NOTES = 60.0
# A worker that begins with so many trials failing outside the model stands on a machine where nothing works; it would
# go through all trials in no time.
_MOST_FAILURES_AT_FIRST = 8


@dataclass(frozen=True)
class Trials:
    """The trials of a run.

    Args:
        tasks: a `tasks.parquet`.
        attempts: for each task's id, how many attempts.
    """

    tasks: Path
    attempts: Mapping[str, int]

    def names(self) -> Iterator[str]:
        """Yield the trials' names, sorted by task and attempt."""
        for task_id in sorted(self.attempts):
            for attempt in range(self.attempts[task_id]):
                yield f"{task_id}__{attempt}"

    def __len__(self) -> int:
        return sum(self.attempts.values())

    def requests(self, task_ids: Collection[str]) -> Iterator[TrialRequest]:
        """Yield the requests of some tasks in the file's order, reading as it goes."""
        for row in read_rows(self.tasks):
            if row["task_id"] in task_ids:
                yield from requests_for(row, self.attempts[row["task_id"]])


@dataclass(frozen=True)
class Serving:
    """A model folder to serve: further words for `serve`, and seconds until it has to be healthy."""

    model: Path
    options: Sequence[str] = ()
    start_timeout: float = 600.0


class Queue:
    """What is still to be taken by one worker.

    A shard begins with its own tasks and goes on with what others have not come to.

    Args:
        trials: all trials.
        worker: who takes them.
        shard, shards: which shard of how many, from 1.
        to_the_end: whether to wait for trials that other workers have, in case they lose them.
    """

    def __init__(
        self, trials: Trials, worker: Worker, *, shard: int = 1, shards: int = 1, to_the_end: bool = False
    ) -> None:
        self.trials = trials
        self.worker = worker
        self._to_the_end = to_the_end
        self._offers = self._offer({task for task in trials.attempts if home_shard(task, shards) == shard})
        self._noted = time.monotonic()

    def unfinished(self) -> dict[str, Standing]:
        """Return the trials that are not finished and not this worker's; none once the folder is gone."""
        try:
            return dict(self.worker.unfinished(list(self.trials.names())))
        except FileNotFoundError:
            # Everything was finished and published by another process.
            return {}

    def look_again(self) -> None:
        """Offer what has become free since the last trial was taken."""
        self._offers = self._offer(set())

    def is_done(self) -> bool:
        """Tell whether nothing is left for this worker to do or to wait for."""
        return not any(self._waits_for(standing) or standing.leaves_it for standing in self.unfinished().values())

    def _waits_for(self, standing: Standing) -> bool:
        # A silent worker may be gone, and who should take its trials if everybody left?
        return standing is Standing.SILENT or (self._to_the_end and standing is Standing.PRESENT)

    async def take(self) -> TrialRequest | None:
        """Return a trial that is now this worker's, or None when there is none left to take."""
        while True:
            if self.worker.replaced:
                raise BadInput(
                    f"{self.worker.work}: another process took over shard {self.worker.lease.shard}; this one ends"
                )
            request = next(self._offers, None)
            if request is None or isinstance(request, TrialRequest):
                return request
            await asyncio.sleep(request)

    def _offer(self, own: Collection[str]) -> Iterator[TrialRequest | float]:
        """Yield claimed trials, and seconds to wait where there is nothing to take yet."""
        yield from self._claimed(own)
        looked = 0.0
        while True:
            pause = looked + _POLL_SEC - time.monotonic()
            if looked and pause > 0:
                yield pause
                continue
            looked = time.monotonic()
            left = self.unfinished()
            takeable = {name.rpartition("__")[0] for name, standing in left.items() if standing.leaves_it}
            waited_for = sum(map(self._waits_for, left.values()))
            if not takeable and not waited_for:
                return
            if takeable:
                yield from self._claimed(takeable)
            else:
                self._note(waited_for)

    def _claimed(self, task_ids: Collection[str]) -> Iterator[TrialRequest]:
        if task_ids:
            for request in self.trials.requests(task_ids):
                if self.worker.claim(request.name):
                    yield request

    def _note(self, waited_for: int) -> None:
        if time.monotonic() - self._noted > _SECONDS_BETWEEN_NOTES:
            self._noted = time.monotonic()
            print(f"{waited_for} trials are with other workers; waiting", file=sys.stderr, flush=True)


def run_queue(
    queue: Queue,
    endpoint: Endpoint,
    settings: Settings,
    serving: Serving | None,
    *,
    label: str,
    stop_early: bool = False,
) -> int:
    """Run what the queue gives until nothing is left, and return how many trials that were.

    Args:
        queue: the queue.
        endpoint: the model.
        settings: how trials run.
        serving: the model to serve, where it is not behind the endpoint.
        label: of the progress.
        stop_early: whether to give up, and leave the trials to others, where the first all fail outside the model.

    Raises:
        BadInput: the endpoint, the model or a task cannot be used; or nothing works here.
    """
    from rollout import engine

    worker, total = queue.worker, len(queue.trials)
    failed: list[str] | None = []
    done = 0

    def finished(row: Mapping[str, Any]) -> None:
        nonlocal failed, done
        done += 1
        bar.advance()
        if failed is None or not stop_early:
            return
        if row["error_class"] != INFRASTRUCTURE:
            failed = None
            return
        failed.append(row["trial_name"])
        if len(failed) >= max(_MOST_FAILURES_AT_FIRST, 2 * settings.concurrency):
            for name in failed:
                engine.trial_path(worker.work, name).unlink(missing_ok=True)
            raise BadInput(
                f"the first {len(failed)} trials here ({worker.lease.name}) all failed outside the model, "
                f"the last with: {row['error_message']}; they are left for other workers"
            )

    async def go(server: ServedModel | None, ready: Endpoint) -> None:
        while not queue.is_done():
            await engine.run_taken(
                queue.take, ready, settings, worker.work, finished, scratch=worker.scratch, server=server
            )
            queue.look_again()

    if queue.is_done():
        return 0
    with progress(total, label) as bar, contextlib.ExitStack() as stack:
        bar.advance(total - len(queue.unfinished()))
        server, ready = None, endpoint
        if serving:
            from rollout.model import ServedModel

            server = stack.enter_context(ServedModel(serving.model, serving.options, serving.start_timeout))
            ready = dataclasses.replace(endpoint, base_url=server.base_url, model=server.model)
        engine.run_until_done(go(server, ready))
    return done
