"""The part that runs inside SkyRL 0.4.0: trials for its generator, `rloo_n` for its advantage, metrics for a file.

SkyRL's trainer gives the advantage estimator the tokens of a response but not which samples are excluded, and counts
every sample in its reward metrics; the trainer here mends both and leaves the rest to it.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from skyrl.backends.skyrl_train.utils.ppo_utils import AdvantageEstimatorRegistry
from skyrl.train.config import SkyRLTrainConfig
from skyrl.train.entrypoints.main_base import BasePPOExp
from skyrl.train.generators.base import GeneratorInput, GeneratorInterface, GeneratorOutput
from skyrl.train.trainer import RayPPOTrainer
from skyrl.train.utils.callbacks import TrainingCallback

from recipe_core.records import read_rows
from train_rl.sampler import SamplingSettings, TrialWorker
from train_rl.trainers.skyrl.advantages import rloo_n_advantages
from train_rl.trainers.skyrl.command import ESTIMATOR, MODEL_NAME
from train_rl.trainers.skyrl.rollouts import excluded, trajectory_output, without


@dataclass(frozen=True)
class Trials:
    """What SkyRL's configuration has no keys for.

    Attributes:
        settings: how trials run.
        work: folder for trials that are under way.
        metrics: file to add a line a step to.
    """

    settings: SamplingSettings
    work: Path
    metrics: Path


def register(least: int) -> None:
    """Register `rloo_n` with SkyRL; call it before Ray is started, which hands the registry to every process."""
    AdvantageEstimatorRegistry.register(ESTIMATOR, partial(rloo_n_advantages, least=least))


class TaskPrompts:
    """The tasks as SkyRL's data loader takes them; a prompt is a task's id."""

    def __init__(self, task_ids: list[str]) -> None:
        self._task_ids = task_ids

    def __len__(self) -> int:
        return len(self._task_ids)

    def __getitem__(self, item: int) -> dict[str, Any]:
        task_id = self._task_ids[item]
        prompt = [{"role": "user", "content": task_id}]
        return {"prompt": prompt, "env_class": None, "env_extras": {}, "uid": task_id}

    def collate_fn(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the batch."""
        return items


class TrialGenerator(GeneratorInterface):
    """Runs trials through a `rollout worker` against SkyRL's own inference servers.

    Args:
        worker: runs them; it is open.
        base_url: the servers' OpenAI-compatible URL.
        end: see :func:`trajectory_output`.
    """

    def __init__(self, worker: TrialWorker, base_url: str, end: int) -> None:
        self._worker = worker
        self._base_url = base_url
        self._end = end

    async def generate(self, input_batch: GeneratorInput) -> GeneratorOutput:
        """Run one trial for each trajectory of the batch, in its order."""
        batch, trajectories = input_batch["batch_metadata"], input_batch["trajectory_ids"]
        assert batch is not None and trajectories is not None
        task_ids = [trajectory.instance_id for trajectory in trajectories]
        # A process of its own: weights after a resumed step need not be those before it to the last bit.
        sample: Callable[..., list[dict[str, Any]]] = partial(
            self._worker.sample, model=MODEL_NAME, base_url=self._base_url, policy=str(os.getpid())
        )
        rows = await asyncio.to_thread(sample, batch.global_step, task_ids)
        return GeneratorOutput(**trajectory_output(rows, end=self._end), trajectory_ids=trajectories)


class ExcludingTrainer(RayPPOTrainer):
    """SkyRL's trainer, told which samples are excluded."""

    def postprocess_generator_output(
        self,
        generator_output: GeneratorOutput,
        uids: list[str],
        metrics_generator_output: GeneratorOutput | None = None,
        metrics_uids: list[str] | None = None,
    ) -> tuple[GeneratorOutput, list[str]]:
        """Count only samples that are not excluded in the reward's metrics."""
        self._excluded = excluded(generator_output["stop_reasons"] or [])
        return super().postprocess_generator_output(
            generator_output,
            uids,
            metrics_generator_output=GeneratorOutput(**without(generator_output, self._excluded)),
            metrics_uids=[uid for uid, out in zip(uids, self._excluded, strict=True) if not out],
        )

    def compute_advantages_and_returns(self, data: Any) -> Any:
        """Show the estimator no token of an excluded sample, which is how it knows one."""
        whole = data["response_mask"]
        shown = whole.clone()
        shown[: len(self._excluded)][self._excluded] = 0
        data["response_mask"] = shown
        data = super().compute_advantages_and_returns(data)
        data["response_mask"] = whole.to(data["response_mask"].device)
        return data


class MetricsFile(TrainingCallback):
    """Adds what SkyRL logs, as far as it is numbers, as a line a step to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_log(self, trainer: Any, callback_input: Any, control: Any) -> None:
        """Write one step's line."""
        logs = {name: value for name, value in (callback_input.logs or {}).items() if _is_number(value)}
        with self._path.open("a") as stream:
            stream.write(json.dumps({"step": callback_input.global_step, **logs}) + "\n")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class Experiment(BasePPOExp):
    """SkyRL's experiment with tasks for prompts and trials for rollouts."""

    def __init__(self, cfg: SkyRLTrainConfig, trials: Trials) -> None:
        self._tasks = Path(cfg.data.train_data[0])
        self._trials = trials
        self._worker = TrialWorker(self._tasks, trials.settings, trials.work)
        super().__init__(cfg)

    def get_train_dataset(self) -> Any:
        """Return the tasks, sorted by id."""
        return TaskPrompts(sorted(row["task_id"] for row in read_rows(self._tasks, ["task_id"])))

    def get_eval_dataset(self) -> None:
        """Return nothing: `evaluate` scores models."""
        return

    def get_generator(self, cfg: Any, tokenizer: Any, inference_engine_client: Any) -> GeneratorInterface:
        """Return the generator; its worker is open already."""
        return TrialGenerator(self._worker, f"{inference_engine_client.proxy_url}/v1", tokenizer.eos_token_id)

    def get_trainer(self, *args: Any, **kwargs: Any) -> RayPPOTrainer:
        """Return the trainer with the metrics' file."""
        trainer = ExcludingTrainer(*args, **kwargs)
        trainer.add_callback(MetricsFile(self._trials.metrics))
        return trainer

    def run(self) -> None:
        """Train, with a worker beside."""
        with self._worker:
            super().run()


@ray.remote(num_cpus=1)
def train(cfg: SkyRLTrainConfig, trials: Trials) -> None:
    """Run the experiment in a Ray task, as SkyRL's own entry point does."""
    Experiment(cfg, trials).run()
