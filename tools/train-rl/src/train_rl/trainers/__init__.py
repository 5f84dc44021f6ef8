"""Trainers. Each takes a :class:`Job` and a sampler and leaves a trained model folder and its metrics.

What they share stands outside: the estimator, the rewards and masks, the trials. `trl` trains on a CPU, `skyrl` on
GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """What to train, in plain values.

    Attributes:
        model: folder to start from.
        task_ids: the tasks, each a prompt.
        work: folder for checkpoints; it outlives a kill.
        steps: optimiser steps; each takes `prompts` times `samples` trials.
        least_samples: see :func:`train_rl.estimators.rloo_n`.
        clip_low, clip_high: bounds of the probability ratio.
    """

    model: Path
    task_ids: tuple[str, ...]
    work: Path
    steps: int
    prompts: int
    samples: int
    micro_batch_size: int
    learning_rate: float
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    clip: float
    clip_low: float
    clip_high: float
    least_samples: int
    temperature: float
    save_steps: int
    seed: int


TRAINERS = ("trl", "skyrl")
