"""Runs many trials in one process: the library behind the command line, `evaluate` and `train-rl`.

Every finished trial is a file of its own, written at once or not at all, so a run that is killed and started again goes
on where it was: finished trials are kept, none is run twice, none is lost. A row depends on the task, the attempt, the
seed and the model's answers alone; how long things took and where is kept beside it.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import re
import shutil
import signal
import socket
import threading
import time
import tomllib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipe_core.errors import BadInput
from recipe_core.tasks import TaskFile, check_task, read_files, unpack
from recipe_core.terms import INFRASTRUCTURE
from rollout.gateway import Gateway, HttpUpstream, TrialKey, TrialSession, Upstream, probe
from rollout.outcome import TrialFacts, classify, trajectory_row
from rollout.reference import ReferenceUpstream
from rollout.settings import REFERENCE, SANDBOX, Endpoint, Settings, TrialRequest
from rollout.shared import SCRATCH, TRIALS, publish_once

if TYPE_CHECKING:
    from harbor.models.trial.config import EnvironmentConfig, TrialConfig
    from harbor.models.trial.result import TrialResult

    from rollout.model import ServedModel

Row = dict[str, Any]
OnTrial = Callable[[Row], None]
# Losses of the model server that one trial may meet: one of its own requests may be what kills it.
_MOST_LOSSES = 5
# Returns the next trial, or None when there is no further one.
Take = Callable[[], Awaitable[TrialRequest | None]]

_DISK_FULL = re.compile(rf"\[Errno ({errno.ENOSPC}|{errno.EDQUOT})\]")
_TERMINATED = 128 + signal.SIGTERM
# Harbor looks up model prices and reports usage over the network unless told not to; it reads these when imported.
_HARBOR_ENVIRONMENT = {"HARBOR_TELEMETRY": "0", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


def checked_files(request: TrialRequest, *, solution: bool) -> dict[str, TaskFile]:
    """Return a task's files after checking that it can be run.

    Args:
        request: the trial.
        solution: whether the reference solution is needed.

    Raises:
        BadInput: the archive is unusable, or the verifier, the instruction, the Dockerfile, the settings or the needed
            solution is missing.
    """
    where = f"task {request.path} ({request.task_id})"
    files = read_files(request.task_binary, where)
    check_task(files, where)
    if "environment/Dockerfile" not in files:
        raise BadInput(f"{where}: environment/Dockerfile is missing; it says where the task works")
    if solution and "solution/solve.sh" not in files:
        raise BadInput(f"{where}: no solution/solve.sh, which the reference teacher plays; use another teacher")
    try:
        tomllib.loads(files["task.toml"].content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{where}: task.toml is not TOML ({error}); correct it") from None
    return files


@asynccontextmanager
async def open_gateway(
    endpoint: Endpoint, server: ServedModel | None = None
) -> AsyncIterator[tuple[Gateway, dict[str, Mapping[str, TaskFile]]]]:
    """Probe the endpoint and yield its gateway, with the table of tasks that the built-in teacher reads.

    Args:
        endpoint: the model.
        server: what serves it, where that is this program's doing.

    Raises:
        BadInput: see :func:`rollout.gateway.probe`.
    """
    tasks: dict[str, Mapping[str, TaskFile]] = {}
    upstream: Upstream
    extensions = False
    if endpoint.is_reference:
        upstream = ReferenceUpstream(tasks)
    else:
        upstream = HttpUpstream(endpoint, (lambda: server.base_url) if server else None)
        try:
            extensions = await probe(endpoint, upstream)
        except BaseException:
            await upstream.close()
            raise
    # Harbor takes seconds to import: only once the endpoint is known to be there.
    from rollout.agent import parses

    gateway = Gateway(endpoint, upstream, extensions=extensions, parses=parses)
    try:
        yield gateway, tasks
    finally:
        await gateway.close()


def trial_path(work: Path, name: str) -> Path:
    """Return where a finished trial is kept: JSON with the row and its wall times in seconds."""
    return work / TRIALS / f"{name}.json"


def finished_row(work: Path, name: str) -> Row | None:
    """Return the row of a finished trial, or None."""
    found = finished_trial(work, name)
    return found["row"] if found else None


def finished_trial(work: Path, name: str) -> Row | None:
    """Return what is kept of a finished trial (`row`, `seconds`, `host`), or None; a file that a failing disk cut off
    is removed."""
    path = trial_path(work, name)
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except ValueError:
        path.unlink(missing_ok=True)
        return None


async def run_trials(
    requests: Iterable[TrialRequest],
    endpoint: Endpoint,
    settings: Settings,
    work: Path,
    on_trial: OnTrial | None = None,
) -> list[Row]:
    """Run trials and return their rows, sorted by task and attempt.

    Args:
        requests: what to run; names must be unique.
        endpoint: the model.
        settings: how.
        work: folder for finished trials; those found there are returned, not run again.
        on_trial: called with each row as its trial finishes (or is found finished).

    Raises:
        BadInput: the endpoint or a task cannot be used.
    """
    rows: list[Row] = []

    def keep(row: Row) -> None:
        rows.append(row)
        if on_trial:
            on_trial(row)

    await run_each(requests, endpoint, settings, work, keep)
    return sorted(rows, key=lambda row: (row["task_id"], row["attempt"]))


async def run_each(
    requests: Iterable[TrialRequest], endpoint: Endpoint, settings: Settings, work: Path, on_trial: OnTrial
) -> None:
    """Like :func:`run_trials` for more rows than fit in memory: each goes to `on_trial` and is kept on disk only."""
    (work / TRIALS).mkdir(parents=True, exist_ok=True)
    source = iter(_unfinished(requests, work, on_trial))

    async def take() -> TrialRequest | None:
        return next(source, None)

    await run_taken(take, endpoint, settings, work, on_trial, scratch=work / SCRATCH)


async def run_taken(
    take: Take,
    endpoint: Endpoint,
    settings: Settings,
    work: Path,
    on_trial: OnTrial,
    *,
    scratch: Path,
    server: ServedModel | None = None,
) -> None:
    """Run the trials that `take` gives, `settings.concurrency` at a time.

    Args:
        take: gives the trials; called as soon as there is room for one.
        endpoint: the model.
        settings: how.
        work: folder for finished trials.
        on_trial: called with each row as its trial finishes.
        scratch: a private folder for trials under way; it is emptied first and removed in the end.
        server: what serves the model, where that is this program's doing; it is started again when it is lost.

    Raises:
        BadInput: the endpoint or a task cannot be used, or the server cannot be kept alive.
    """
    os.environ.update(_HARBOR_ENVIRONMENT)
    # Harbor logs each trial to a file; where that cannot be written, the trial's own error says so.
    logging.raiseExceptions = False
    async with _Runner(endpoint, settings, work=work, on_trial=on_trial, scratch=scratch, server=server) as runner:
        await runner.run_all(take)


def run_until_done(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine like `asyncio.run`; SIGTERM cancels it, and when it has unwound the program ends with code 143.

    Raised inside the event loop, as outside of it, the program's end could be taken for the failure of a trial.
    """
    terminated = False

    async def main() -> None:
        nonlocal terminated
        task = asyncio.current_task()
        assert task is not None

        def terminate() -> None:
            nonlocal terminated
            terminated = True
            task.cancel()

        if threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
        await work

    before = signal.getsignal(signal.SIGTERM)
    try:
        asyncio.run(main())
    except asyncio.CancelledError:
        if not terminated:
            raise
        raise SystemExit(_TERMINATED) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _unfinished(requests: Iterable[TrialRequest], work: Path, on_trial: OnTrial) -> Iterable[TrialRequest]:
    for request in requests:
        row = finished_row(work, request.name)
        if row is None:
            yield request
        else:
            on_trial(row)


class _Runner:
    """Runs trials with one gateway, `settings.concurrency` at a time."""

    def __init__(
        self,
        endpoint: Endpoint,
        settings: Settings,
        *,
        work: Path,
        on_trial: OnTrial,
        scratch: Path,
        server: ServedModel | None,
    ) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._work = work
        self._on_trial = on_trial
        # Absolute, as Harbor resolves its own paths; below `work`, so that what a kill leaves is found and removed.
        self._scratch = scratch.absolute()
        self._server = server
        self._uses: Counter[str] = Counter()
        self._gateway: Gateway
        self._tasks: dict[str, Mapping[str, TaskFile]]

    async def __aenter__(self) -> _Runner:
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(parents=True)
        self._opened = open_gateway(self._endpoint, self._server)
        self._gateway, self._tasks = await self._opened.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._opened.__aexit__(*error)
        shutil.rmtree(self._scratch, ignore_errors=True)

    async def run_all(self, take: Take) -> None:
        """Run what is to be taken; the first bad input stops the rest."""

        async def serve() -> None:
            while (request := await take()) is not None:
                await self._run(request)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(max(self._settings.concurrency, 1)):
                    group.create_task(serve())
        except ExceptionGroup as errors:
            # One reason is enough, and the caller catches it by its type.
            raise errors.exceptions[0] from None

    async def _run(self, request: TrialRequest) -> None:
        self._uses[request.task_id] += 1
        files = checked_files(request, solution=self._endpoint.is_reference)
        self._tasks[request.task_id] = files
        try:
            facts = await self._tried(request)
        finally:
            self._uses[request.task_id] -= 1
            if not self._uses[request.task_id]:
                del self._tasks[request.task_id], self._uses[request.task_id]
        row = self._row(request, facts)
        kept = {"row": row, "seconds": facts.seconds, "host": socket.gethostname()}
        publish_once(trial_path(self._work, request.name), json.dumps(kept, ensure_ascii=False, sort_keys=True))
        if self._server:
            self._server.progressed()
        self._on_trial(row)

    async def _tried(self, request: TrialRequest) -> TrialFacts:
        """Try a trial until it does not fail outside the model; a lost server's trials are tried again beside that."""
        retries, losses_met = self._settings.trial_retries, 0
        while True:
            losses = await self._server.ready() if self._server else 0
            facts = await self._attempt(request, losses)
            if classify(facts)[0] != INFRASTRUCTURE:
                return facts
            if self._server and losses_met < _MOST_LOSSES and await self._server.lost_since(losses):
                losses_met += 1
            elif retries:
                retries -= 1
            else:
                return facts

    def _row(self, request: TrialRequest, facts: TrialFacts) -> Row:
        return trajectory_row(
            facts,
            task_id=request.task_id,
            path=request.path,
            source=request.source,
            attempt=request.attempt,
            model=self._endpoint.model,
            provider=self._endpoint.provider,
            trace_source=REFERENCE if self._endpoint.is_reference else "main",
            date=self._settings.date,
            run_id=self._settings.run_id,
            verifiable=request.verifiable,
        )

    async def _attempt(self, request: TrialRequest, losses: int) -> TrialFacts:
        from harbor.trial.trial import Trial

        from rollout import agent

        seed = self._settings.seed if request.seed is None else request.seed
        key = TrialKey(request.task_id, request.attempt, seed)
        server = self._server
        is_cut = (lambda: server.losses != losses) if server else (lambda: False)
        session = self._gateway.open(key, self._settings.max_turns, is_cut)
        folder = self._scratch / request.name
        started = time.monotonic()
        agent.register(request.name, self._gateway, session)
        try:
            unpack(request.task_binary, folder / "task")
            trial = await Trial.create(self._config(request, folder))
            result = await trial.run()
            _pass_cancellation_on()
            return _facts(result, session, time.monotonic() - started)
        except Exception as error:
            _pass_cancellation_on()
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            # A trial that Harbor or the sandbox could not even begin is recorded with its reason; the others go on.
            return TrialFacts(
                messages=session.messages, turns=session.turns, exception=type(error).__name__, message=str(error)
            )
        finally:
            agent.forget(request.name)
            shutil.rmtree(folder, ignore_errors=True)

    def _config(self, request: TrialRequest, folder: Path) -> TrialConfig:
        from harbor.models.trial.config import AgentConfig, TaskConfig, TrialConfig, VerifierConfig

        settings = self._settings
        return TrialConfig(
            task=TaskConfig(path=folder / "task"),
            trial_name="trial",
            trials_dir=folder,
            agent=AgentConfig(
                import_path="rollout.agent:SettledTerminus2",
                model_name=self._endpoint.model,
                override_timeout_sec=settings.agent_timeout_sec,
                kwargs={
                    "gateway": request.name,
                    "settle_sec": settings.settle_sec,
                    "max_turns": settings.max_turns,
                    "suppress_max_turns_warning": True,
                    # A conversation that was summarised is no longer the one the model will be trained on.
                    "enable_summarize": False,
                    "record_terminal_session": False,
                },
            ),
            environment=environment_config(settings),
            verifier=VerifierConfig(
                import_path="rollout.verifier:SealedVerifier",
                override_timeout_sec=settings.verifier_timeout_sec,
                disable=not request.verifiable,
            ),
        )


def _pass_cancellation_on() -> None:
    """End the task if it is to end: while Harbor stops an environment, it keeps a cancellation to itself."""
    if (task := asyncio.current_task()) and task.cancelling():
        raise asyncio.CancelledError


def environment_config(settings: Settings) -> EnvironmentConfig:
    """Return Harbor's own description of where a trial runs."""
    from harbor.models.environment_type import EnvironmentType
    from harbor.models.trial.config import EnvironmentConfig

    if settings.environment != SANDBOX:
        return EnvironmentConfig(type=EnvironmentType(settings.environment))
    return EnvironmentConfig(import_path="rollout.environment:SandboxEnvironment", kwargs={"backend": settings.backend})


def _facts(result: TrialResult, session: TrialSession, seconds: float) -> TrialFacts:
    phases = {
        "environment": result.environment_setup,
        "setup": result.agent_setup,
        "agent": result.agent_execution,
        "verifier": result.verifier,
    }
    times = {
        name: round((timing.finished_at - timing.started_at).total_seconds(), 3)
        for name, timing in phases.items()
        if timing and timing.started_at and timing.finished_at
    }
    rewards = (result.verifier_result.rewards if result.verifier_result else None) or {}
    exception = result.exception_info
    if exception and exception.exception_type == "OSError" and _DISK_FULL.search(exception.exception_message):
        # Not this trial's trouble alone: the same goes for every other, and nothing should be recorded of them.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return TrialFacts(
        messages=session.messages,
        turns=session.turns,
        exception=exception.exception_type if exception else "",
        message=exception.exception_message if exception else "",
        reward=float(rewards["reward"]) if "reward" in rewards else None,
        failed_request=session.failed_request,
        ended=session.ended,
        seconds={**times, "total": round(seconds, 3)},
    )
