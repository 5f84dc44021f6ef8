"""Lets the current policy work on tasks: a `rollout worker`, and a model server for trainers that have none.

Both are started once and kept. A trainer hands over weights and gets rows.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from recipe_core.artifact import file_digest, value_digest
from recipe_core.errors import BadInput
from recipe_core.seeds import row_seed
from serve.client import ModelServer


@dataclass(frozen=True)
class SamplingSettings:
    """How trials are run during training; times in seconds."""

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    max_turns: int
    max_model_len: int
    concurrency: int
    agent_timeout: float
    settle: float
    backend: str
    seed: int
    date: str
    verifier_timeout: float | None = None
    trial_retries: int = 2


class TrialWorker:
    """Context manager that runs trials against any server.

    Args:
        tasks: a `tasks.parquet`.
        settings: how to sample.
        work: folder for trials that are under way; a killed step goes on from it.
    """

    def __init__(self, tasks: Path, settings: SamplingSettings, work: Path) -> None:
        self._tasks = tasks.resolve()
        self._settings = settings
        self._work = work
        self._worker: subprocess.Popen[str] | None = None

    def __enter__(self) -> TrialWorker:
        try:
            self._worker = subprocess.Popen(
                ["rollout", "worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, stderr=sys.stderr
            )
        except FileNotFoundError:
            raise BadInput("rollout: not found on PATH; put the harness stack's command on PATH") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._worker is not None and self._worker.stdin is not None:
            # The worker ends with its input; so it does when this process is killed.
            with contextlib.suppress(BrokenPipeError):
                self._worker.stdin.close()
            try:
                self._worker.wait(30)
            except subprocess.TimeoutExpired:
                self._worker.kill()
                self._worker.wait()

    def sample(
        self, step: int, task_ids: Sequence[str], *, model: str, base_url: str, policy: str
    ) -> list[dict[str, Any]]:
        """Run one trial for each entry of `task_ids` and return their rows in that order.

        A task that occurs several times is tried several times. A trial's seed follows from the step, so a step that is
        done again samples the same.

        Args:
            step: the training step.
            task_ids: one entry a trial.
            model: the model's name at the server.
            base_url: the server's OpenAI-compatible URL, ending in `/v1`.
            policy: what tells the weights from others: trials of a killed step go on only under the same.

        Raises:
            BadInput: the worker failed.
        """
        seen: dict[str, int] = {}
        trials = []
        for task_id in task_ids:
            attempt = seen[task_id] = seen.get(task_id, -1) + 1
            trials.append({"task_id": task_id, "attempt": attempt, "seed": row_seed(self._settings.seed, "step", step)})
        folder = self._work / f"step-{step}-{policy}"
        answer = self._ask(
            {
                "tasks": str(self._tasks),
                "trials": trials,
                "endpoint": self._endpoint(model, base_url),
                "settings": self._trial_settings(step),
                "work": str(folder),
            }
        )
        rows = {(row["task_id"], row["attempt"]): row for row in answer["rows"]}
        shutil.rmtree(folder, ignore_errors=True)
        return [rows[trial["task_id"], trial["attempt"]] for trial in trials]

    def _endpoint(self, model: str, base_url: str) -> dict[str, Any]:
        settings = self._settings
        return {
            "model": model,
            "base_url": base_url,
            "provider": "vllm",
            "sampling": {
                "temperature": settings.temperature,
                "top_p": settings.top_p,
                "top_k": settings.top_k,
                "max_tokens": settings.max_tokens,
            },
        }

    def _trial_settings(self, step: int) -> dict[str, Any]:
        settings = self._settings
        return {
            "seed": settings.seed,
            "date": settings.date,
            "run_id": f"step-{step}",
            "concurrency": settings.concurrency,
            "max_turns": settings.max_turns,
            "agent_timeout_sec": settings.agent_timeout,
            "verifier_timeout_sec": settings.verifier_timeout,
            "trial_retries": settings.trial_retries,
            "settle_sec": settings.settle,
            "backend": settings.backend,
        }

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        worker = self._worker
        assert worker is not None and worker.stdin is not None and worker.stdout is not None
        # A worker that has ended is noticed below, by its silence.
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(request), file=worker.stdin, flush=True)
        line = worker.stdout.readline()
        if not line:
            raise BadInput(f"the rollout worker ended with code {worker.wait()}; run the same command again to go on")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"the rollout worker: {answer['error']}")
        return answer


class WorkerError(BadInput):
    """The worker refused a request; where the server has ended, that is why."""


class Sampler:
    """Context manager that samples trials from a policy that it serves itself.

    Args:
        model: folder of the policy's architecture, tokenizer and first weights.
        tasks: a `tasks.parquet`.
        settings: how to sample.
        work: folder for trials that are under way; a killed step goes on from it.
    """

    def __init__(self, model: Path, tasks: Path, settings: SamplingSettings, work: Path) -> None:
        self._trials = TrialWorker(tasks, settings, work)
        self._server = ModelServer(model.resolve(), options=("--max-model-len", str(settings.max_model_len)))
        self._policy = ""

    def __enter__(self) -> Sampler:
        # The worker imports its harness while the server starts.
        self._trials.__enter__()
        try:
            self._server.__enter__()
        except BaseException:
            self._trials.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._trials.__exit__(kind, error, trace)
        finally:
            self._server.__exit__(kind, error, trace)

    def load(self, weights: Path) -> None:
        """Serve the weights of a model folder from now on."""
        self._server.reload_weights(weights)
        digests = [file_digest(path) for path in sorted(weights.glob("*.safetensors"))]
        self._policy = value_digest(digests)[:12]

    def sample(self, step: int, task_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Run trials of the served weights; see :meth:`TrialWorker.sample`.

        Raises:
            BadInput: the server or the worker failed.
        """
        server = self._server
        try:
            return self._trials.sample(
                step, task_ids, model=server.model, base_url=server.base_url, policy=self._policy
            )
        except WorkerError:
            server.check()
            raise
