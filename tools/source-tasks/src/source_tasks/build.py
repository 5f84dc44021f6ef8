"""Turn candidates into validated tasks: some at once, the result in the order in which they were proposed."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from recipe_core.artifact import value_digest
from recipe_core.errors import BadInput
from recipe_core.tasks import pack_files, read_files, task_id, task_row
from source_tasks.source import Candidate, Rejected, identity

# Sandboxes that may fail one after another before the run ends.
SANDBOX_ATTEMPTS = 3

T = TypeVar("T")
R = TypeVar("R")

UNSOLVED = "the reference solution does not score 1"
ALREADY_SOLVED = "doing nothing does not score 0"
ENVIRONMENT = "the sandbox cannot make the task's environment"


class Settled(NamedTuple):
    """A candidate after validation."""

    candidate: Candidate
    reason: str | None
    """Why it is rejected, or None if it is a task."""


def rejection(oracle: float | None, noop: float | None, *, solvable: bool = True) -> str | None:
    """Return why a task with these rewards is no task, or None.

    Args:
        oracle: reward after the reference solution.
        noop: reward after doing nothing.
        solvable: whether the task has a reference solution; without one only `noop` counts.

    >>> rejection(1.0, 0.0) is None
    True
    >>> rejection(1.0, None)
    'doing nothing does not score 0'
    """
    if solvable and oracle != 1.0:
        return UNSOLVED
    if noop != 0.0:
        return ALREADY_SOLVED
    return None


def _with_detail(candidate: Candidate, detail: str) -> Candidate:
    return replace(candidate, meta={**candidate.meta, "detail": detail}) if detail else candidate


class Journal:
    """What has been settled already, so that a killed run goes on where it was; one JSON line a candidate."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    break  # the last line of a killed run may be half written
                self._known[entry["proposed"]] = entry
            # Appending after a half line would spoil the next one.
            path.write_text("".join(json.dumps(entry) + "\n" for entry in self._known.values()), encoding="utf-8")

    def find(self, candidate: Candidate) -> Settled | None:
        """Return what became of a candidate in an earlier run."""
        entry = self._known.get(task_id(candidate.files))
        if entry is None:
            return None
        if entry["files"] is not None:
            files = read_files(base64.b64decode(entry["files"]))
            candidate = replace(candidate, files=files, refine=None)
        return Settled(_with_detail(candidate, entry["detail"]), entry["reason"])

    def add(self, proposed: Candidate, settled: Settled) -> None:
        """Remember what became of a candidate."""
        refined = settled.candidate.files is not proposed.files
        packed = base64.b64encode(pack_files(settled.candidate.files)).decode() if refined else None
        detail = settled.candidate.meta.get("detail", "")
        entry = {"proposed": task_id(proposed.files), "reason": settled.reason, "files": packed, "detail": detail}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


async def settle(candidate: Candidate, journal: Journal) -> Settled:
    """Finish and validate one candidate in the sandbox, or look up what became of it.

    Raises:
        sandbox.SandboxError: the sandbox itself failed, which says nothing about the candidate.
    """
    from sandbox import Sandbox, SandboxError, SandboxKilled, validate_task

    if candidate.reason is not None:
        return Settled(candidate, candidate.reason)
    if not candidate.validate:
        return Settled(candidate, None)
    if found := journal.find(candidate):
        return found
    for attempt in range(SANDBOX_ATTEMPTS):
        finished = candidate
        try:
            if candidate.refine:
                finished = await candidate.refine()
            verdict = await validate_task(finished.files)
            solvable = "solution/solve.sh" in finished.files
            settled = Settled(finished, rejection(verdict.oracle, verdict.noop, solvable=solvable))
        except Rejected as reason:
            settled = Settled(_with_detail(finished, reason.detail), str(reason))
        except (BadInput, SandboxError) as error:
            final = attempt + 1 == SANDBOX_ATTEMPTS or isinstance(error, BadInput | SandboxKilled)
            if candidate.foreign and final:
                # Whose fault it is: a sandbox that holds nothing starts unless the machine is at fault.
                async with Sandbox.start():
                    pass
                # Where it fails, not what a command said: that may differ from run to run.
                settled = Settled(_with_detail(finished, str(error).partition(": ")[0]), ENVIRONMENT)
            elif isinstance(error, BadInput) or attempt + 1 == SANDBOX_ATTEMPTS:
                raise
            else:
                # A machine that stood still for a while says nothing about the candidate: it gets another sandbox.
                continue
        break
    journal.add(candidate, settled)
    return settled


async def in_order(items: Iterator[T], work: Callable[[T], Awaitable[R]], workers: int) -> AsyncGenerator[R, None]:
    """Yield `work(item)` in the order of the items while up to `workers` of them are under way.

    Items are taken from the iterator as they are needed; work begun when the caller stops is cancelled.
    """
    free = asyncio.Semaphore(workers)

    async def one(item: T) -> R:
        async with free:
            return await work(item)

    # A slow item must not leave the other workers idle, so more are begun than can run.
    ahead = 4 * workers
    pending: deque[asyncio.Task[R]] = deque()
    try:
        while True:
            while len(pending) < ahead and (item := next(items, None)) is not None:
                pending.append(asyncio.create_task(one(item)))
            if not pending:
                return
            yield await pending.popleft()
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


async def build(candidates: Iterator[Candidate], count: int, workers: int, journal: Journal) -> AsyncIterator[Settled]:
    """Yield settled candidates in order until `count` of them are tasks or there are no more."""
    accepted = 0
    async with aclosing(in_order(candidates, lambda candidate: settle(candidate, journal), workers)) as stream:
        async for settled in stream:
            yield settled
            accepted += settled.reason is None
            if accepted == count:
                return


def row(source: str, candidate: Candidate) -> dict[str, Any]:
    """Return a candidate's task row; its path is a folder name that is unique in any mix of sources.

    A question's row has the same columns, with the question as `instruction` and null as `task_binary`.
    """
    path = f"{source}-{candidate.family}-{identity(candidate)}"
    if candidate.question is not None:
        return {
            "task_id": identity(candidate),
            "path": path,
            "task_binary": None,
            "source": source,
            "instruction": candidate.question,
            "licence": candidate.licence,
            "origin": candidate.origin,
            "meta": json.dumps(candidate.meta, sort_keys=True, ensure_ascii=False),
        }
    return task_row(
        candidate.files,
        path=path,
        source=source,
        licence=candidate.licence,
        origin=candidate.origin,
        meta=candidate.meta,
    )


def rejected_row(source: str, candidate: Candidate, reason: str) -> dict[str, Any]:
    """Return a candidate's row of rejects.parquet; `task_id` and `task_binary` are null where it has no files."""
    files = candidate.files
    known = bool(files) or candidate.question is not None
    name = identity(candidate) if known else value_digest(candidate.meta)[:16]
    instruction = files["instruction.md"].content if "instruction.md" in files else b""
    return {
        "task_id": name if known else None,
        "path": f"{source}-{candidate.family}-{name}",
        "task_binary": pack_files(files) if files else None,
        "source": source,
        "instruction": candidate.question or instruction.decode("utf-8", errors="replace").strip(),
        "licence": candidate.licence,
        "origin": candidate.origin,
        "meta": json.dumps(candidate.meta, sort_keys=True, ensure_ascii=False),
        "reason": reason,
    }
