"""Lets the current policy work on tasks: a model server and a `rollout worker`, both started once and kept.

Trainers for other hardware share it: they hand over weights and get rows.
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


class Sampler:
    """Context manager that samples trials from a policy.

    Args:
        model: folder of the policy's architecture, tokenizer and first weights.
        tasks: a `tasks.parquet`.
        settings: how to sample.
        work: folder for trials that are under way; a killed step goes on from it.
    """

    def __init__(self, model: Path, tasks: Path, settings: SamplingSettings, work: Path) -> None:
        self._tasks = tasks.resolve()
        self._settings = settings
        self._work = work
        self._server = ModelServer(model.resolve(), options=("--max-model-len", str(settings.max_model_len)))
        self._worker: subprocess.Popen[str] | None = None
        self._policy = ""

    def __enter__(self) -> Sampler:
        # The worker imports its harness while the server starts.
        try:
            self._worker = subprocess.Popen(
                ["rollout", "worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, stderr=sys.stderr
            )
        except FileNotFoundError:
            raise BadInput("rollout: not found on PATH; put the harness stack's command on PATH") from None
        try:
            self._server.__enter__()
        except BaseException:
            self._stop_worker()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stop_worker()
        finally:
            self._server.__exit__(kind, error, trace)

    def _stop_worker(self) -> None:
        if self._worker is not None and self._worker.stdin is not None:
            # The worker ends with its input; so it does when this process is killed.
            with contextlib.suppress(BrokenPipeError):
                self._worker.stdin.close()
            try:
                self._worker.wait(30)
            except subprocess.TimeoutExpired:
                self._worker.kill()
                self._worker.wait()

    def load(self, weights: Path) -> None:
        """Serve the weights of a model folder from now on."""
        self._server.reload_weights(weights)
        digests = [file_digest(path) for path in sorted(weights.glob("*.safetensors"))]
        self._policy = value_digest(digests)[:12]

    def sample(self, step: int, task_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Run one trial for each entry of `task_ids` and return their rows in that order.

        A task that occurs several times is tried several times. A trial's seed follows from the step, so a step that is
        done again samples the same.

        Raises:
            BadInput: the server or the worker failed.
        """
        seen: dict[str, int] = {}
        trials = []
        for task_id in task_ids:
            attempt = seen[task_id] = seen.get(task_id, -1) + 1
            trials.append({"task_id": task_id, "attempt": attempt, "seed": row_seed(self._settings.seed, "step", step)})
        # Trials of a killed step go on only under the very policy they began with.
        folder = self._work / f"step-{step}-{self._policy}"
        answer = self._ask(
            {
                "tasks": str(self._tasks),
                "trials": trials,
                "endpoint": self._endpoint(),
                "settings": self._trial_settings(step),
                "work": str(folder),
            }
        )
        rows = {(row["task_id"], row["attempt"]): row for row in answer["rows"]}
        shutil.rmtree(folder, ignore_errors=True)
        return [rows[trial["task_id"], trial["attempt"]] for trial in trials]

    def _endpoint(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "model": self._server.model,
            "base_url": self._server.base_url,
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
            self._server.check()
            raise BadInput(f"the rollout worker: {answer['error']}")
        return answer
