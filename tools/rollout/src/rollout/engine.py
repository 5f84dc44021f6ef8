"""Runs many trials in one process: the library behind the command line, `evaluate` and `train-rl`.

Every finished trial is a file of its own, written at once or not at all, so a run that is killed and started again goes
on where it was: finished trials are kept, none is run twice, none is lost. A row depends on the task, the attempt, the
seed and the model's answers alone; how long things took is kept beside it.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import time
import tomllib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipe_core.artifact import write_atomically
from recipe_core.errors import BadInput
from recipe_core.tasks import TaskFile, check_task, read_files, unpack
from recipe_core.terms import INFRASTRUCTURE
from rollout.gateway import Gateway, HttpUpstream, TrialKey, TrialSession, Upstream, probe
from rollout.outcome import TrialFacts, trajectory_row
from rollout.reference import ReferenceUpstream
from rollout.settings import REFERENCE, Endpoint, Settings, TrialRequest

if TYPE_CHECKING:
    from harbor.models.trial.config import TrialConfig
    from harbor.models.trial.result import TrialResult

Row = dict[str, Any]
OnTrial = Callable[[Row], None]

TRIALS = "trials"
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
async def open_gateway(endpoint: Endpoint) -> AsyncIterator[tuple[Gateway, dict[str, Mapping[str, TaskFile]]]]:
    """Probe the endpoint and yield its gateway, with the table of tasks that the built-in teacher reads.

    Raises:
        BadInput: see :func:`rollout.gateway.probe`.
    """
    tasks: dict[str, Mapping[str, TaskFile]] = {}
    upstream: Upstream
    extensions = False
    if endpoint.is_reference:
        upstream = ReferenceUpstream(tasks)
    else:
        upstream = HttpUpstream(endpoint)
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
    try:
        return json.loads(trial_path(work, name).read_text())["row"]
    except FileNotFoundError:
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
    os.environ.update(_HARBOR_ENVIRONMENT)
    (work / TRIALS).mkdir(parents=True, exist_ok=True)
    async with _Runner(endpoint, settings, work, on_trial) as runner:
        await runner.run_all(_unfinished(requests, work, on_trial))


def _unfinished(requests: Iterable[TrialRequest], work: Path, on_trial: OnTrial) -> Iterable[TrialRequest]:
    for request in requests:
        row = finished_row(work, request.name)
        if row is None:
            yield request
        else:
            on_trial(row)


class _Runner:
    """Runs trials with one gateway, `settings.concurrency` at a time."""

    def __init__(self, endpoint: Endpoint, settings: Settings, work: Path, on_trial: OnTrial) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._work = work
        self._on_trial = on_trial
        # Absolute, as Harbor resolves its own paths; below `work`, so that what a kill leaves is found and removed.
        self._scratch = (work / "scratch").absolute()
        self._uses: Counter[str] = Counter()
        self._gateway: Gateway
        self._tasks: dict[str, Mapping[str, TaskFile]]

    async def __aenter__(self) -> _Runner:
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(parents=True)
        self._opened = open_gateway(self._endpoint)
        self._gateway, self._tasks = await self._opened.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._opened.__aexit__(*error)
        shutil.rmtree(self._scratch, ignore_errors=True)

    async def run_all(self, requests: Iterable[TrialRequest]) -> None:
        """Run the requests; the first bad input stops the rest."""
        source = iter(requests)

        async def serve() -> None:
            for request in source:
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
            for _ in range(self._settings.trial_retries + 1):
                facts = await self._attempt(request)
                row = self._row(request, facts)
                if row["error_class"] != INFRASTRUCTURE:
                    break
        finally:
            self._uses[request.task_id] -= 1
            if not self._uses[request.task_id]:
                del self._tasks[request.task_id], self._uses[request.task_id]
        kept = {"row": row, "seconds": facts.seconds}
        write_atomically(trial_path(self._work, request.name), json.dumps(kept, ensure_ascii=False, sort_keys=True))
        self._on_trial(row)

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

    async def _attempt(self, request: TrialRequest) -> TrialFacts:
        from harbor.trial.trial import Trial

        from rollout import agent

        seed = self._settings.seed if request.seed is None else request.seed
        key = TrialKey(request.task_id, request.attempt, seed)
        session = self._gateway.open(key, self._settings.max_turns)
        folder = self._scratch / request.name
        started = time.monotonic()
        agent.register(request.name, self._gateway, session)
        try:
            unpack(request.task_binary, folder / "task")
            trial = await Trial.create(self._config(request, folder))
            return _facts(await trial.run(), session, time.monotonic() - started)
        except Exception as error:
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
        from harbor.models.trial.config import AgentConfig, EnvironmentConfig, TaskConfig, TrialConfig, VerifierConfig

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
            environment=EnvironmentConfig(
                import_path="rollout.environment:SandboxEnvironment", kwargs={"backend": settings.backend}
            ),
            verifier=VerifierConfig(override_timeout_sec=settings.verifier_timeout_sec, disable=not request.verifiable),
        )


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
