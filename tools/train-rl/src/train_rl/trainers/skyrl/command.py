"""What SkyRL is asked to do: its configuration as `key=value` words, from this tool's own flags. Plain values only."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe_core.errors import BadInput
from train_rl.ray_cluster import gpus_of
from train_rl.sampler import SamplingSettings
from train_rl.trainers import Job

ESTIMATOR = "rloo_n"
MODEL_NAME = "policy"
MODULE = "train_rl.trainers.skyrl"
# Characters that neither a shell nor YAML reads anything into.
_PLAIN = re.compile(r"[A-Za-z_./][\w./-]*")
_YAML_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})


@dataclass(frozen=True)
class Topology:
    """The machines: a number of nodes, each with as many GPUs."""

    nodes: int
    gpus: int


def topology(nodes: int | None, gpus: int | None, environment: Mapping[str, str]) -> Topology:
    """Return the nodes and GPUs to train on: by the flags, else by Slurm's and CUDA's variables, else one of each.

    Args:
        nodes, gpus: the flags; None where they were not given. GPUs are a node's.
        environment: this process's variables.

    Raises:
        BadInput: the flags ask for more than the allocation has, or for another number of nodes.
    """
    count = environment.get("SLURM_JOB_NUM_NODES") or environment.get("SLURM_NNODES")
    has_nodes = int(count) if count else None
    # Of Slurm's variables an image is given few.
    visible = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    has_gpus = gpus_of(environment) or len(visible) or None
    if nodes is not None and has_nodes is not None and nodes != has_nodes:
        raise BadInput(f"--nodes {nodes}, but the Slurm allocation has {has_nodes}: ask sbatch for as many")
    if gpus is not None and has_gpus is not None and gpus > has_gpus:
        raise BadInput(f"--gpus {gpus}, but a node has {has_gpus} here: ask Slurm for as many")
    return Topology(nodes or has_nodes or 1, gpus or has_gpus or 1)


def check_topology(job: Job, found: Topology) -> None:
    """Check that a step's trials divide over the GPUs.

    Raises:
        BadInput: they do not.
    """
    trials, devices = job.prompts * job.samples, found.nodes * found.gpus
    if trials % devices or trials // devices % job.micro_batch_size:
        raise BadInput(
            f"{job.prompts} prompts x {job.samples} samples do not divide over {found.nodes} nodes x {found.gpus} GPUs "
            f"in micro-batches of {job.micro_batch_size}; change --prompts, --micro-batch-size, or the allocation"
        )


def overrides(job: Job, sampling: SamplingSettings, found: Topology, tasks: Path) -> dict[str, Any]:
    """Return SkyRL's configuration, by key, as far as it decides something; the keys are those of SkyRL 0.4.0.

    Args:
        job: what to train.
        sampling: how trials are sampled.
        found: where.
        tasks: a `tasks.parquet`.
    """
    devices = found.nodes * found.gpus
    batches = len(job.task_ids) // job.prompts
    return {
        "trainer.algorithm.advantage_estimator": ESTIMATOR,
        "trainer.algorithm.use_kl_loss": False,
        "trainer.algorithm.use_kl_in_reward": False,
        "trainer.algorithm.kl_loss_coef": 0.0,
        "trainer.algorithm.policy_loss_type": "regular",
        "trainer.algorithm.eps_clip_low": job.clip_low,
        "trainer.algorithm.eps_clip_high": job.clip_high,
        "trainer.algorithm.loss_reduction": "token_mean",
        "trainer.policy.model.path": str(job.model),
        "trainer.policy.optimizer_config.lr": job.learning_rate,
        "trainer.policy.optimizer_config.weight_decay": job.weight_decay,
        "trainer.policy.optimizer_config.adam_betas": [job.adam_beta1, job.adam_beta2],
        "trainer.policy.optimizer_config.max_grad_norm": job.clip,
        "trainer.policy.optimizer_config.num_warmup_steps": 0,
        # PyTorch's `fully_shard`, which SkyRL once called fsdp2.
        "trainer.strategy": "fsdp",
        "trainer.placement.colocate_all": True,
        "trainer.placement.policy_num_nodes": found.nodes,
        "trainer.placement.policy_num_gpus_per_node": found.gpus,
        "trainer.train_batch_size": job.prompts,
        "trainer.policy_mini_batch_size": job.prompts,
        "trainer.micro_train_batch_size_per_gpu": job.micro_batch_size,
        "trainer.micro_forward_batch_size_per_gpu": job.micro_batch_size,
        "trainer.update_epochs_per_batch": 1,
        # SkyRL counts epochs of whole batches and stops at the earlier of the two.
        "trainer.epochs": math.ceil(job.steps / batches),
        "trainer.max_training_steps": job.steps,
        "trainer.seed": job.seed,
        "trainer.resume_mode": "latest",
        "trainer.ckpt_path": str(job.work / "checkpoints"),
        "trainer.ckpt_interval": job.save_steps,
        "trainer.max_ckpts_to_keep": 2,
        "trainer.export_path": str(job.work / "exports"),
        "trainer.hf_save_interval": job.save_steps,
        "trainer.log_path": str(job.work / "logs"),
        "trainer.logger": "console",
        "trainer.print_example_interval": 0,
        "trainer.eval_interval": -1,
        "trainer.eval_before_train": False,
        "trainer.max_prompt_length": sampling.max_model_len,
        "data.train_data": [str(tasks)],
        "data.val_data": [],
        "data.dataloader.num_workers": 0,
        "generator.n_samples_per_prompt": job.samples,
        "generator.max_turns": sampling.max_turns,
        "generator.sampling_params.temperature": sampling.temperature,
        "generator.sampling_params.top_p": sampling.top_p,
        "generator.sampling_params.top_k": sampling.top_k,
        "generator.sampling_params.max_generate_length": sampling.max_tokens,
        "generator.inference_engine.backend": "vllm",
        "generator.inference_engine.num_engines": devices,
        "generator.inference_engine.tensor_parallel_size": 1,
        "generator.inference_engine.served_model_name": MODEL_NAME,
        # SkyRL's default hashes a session that chat completions do not name, which sent them all to one engine; and by
        # likeness of the prompts they would go to one too, as every trial begins alike.
        "generator.inference_engine.router_init_kwargs.policy": "round_robin",
        "generator.inference_engine.engine_init_kwargs.max_model_len": sampling.max_model_len,
        # Of the distribution that was sampled from, temperature and cuts applied, as `serve` gives them.
        "generator.inference_engine.engine_init_kwargs.logprobs_mode": "processed_logprobs",
    }


def word(key: str, value: Any) -> str:
    """Return `key=value` as OmegaConf reads it back: JSON, save that a plain word needs no quotes."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _YAML_WORDS:
        return f"{key}={value}"
    return f"{key}={json.dumps(value, ensure_ascii=False, separators=(',', ':'))}"


def command(job: Job, sampling: SamplingSettings, found: Topology, tasks: Path, metrics: Path) -> list[str]:
    """Return the words that train: this package's entry point, its own flags, then SkyRL's keys."""
    own: dict[str, Any] = {
        "work": job.work / "trials",
        "metrics": metrics,
        "least-samples": job.least_samples,
        "agent-timeout": sampling.agent_timeout,
        "settle": sampling.settle,
        "trial-retries": sampling.trial_retries,
        "concurrency": sampling.concurrency,
        "backend": sampling.backend,
        "date": sampling.date,
    }
    if sampling.verifier_timeout is not None:
        own["verifier-timeout"] = sampling.verifier_timeout
    flags = [f"--{name}={value}" for name, value in own.items()]
    keys = [word(key, value) for key, value in overrides(job, sampling, found, tasks).items()]
    return [sys.executable, "-m", MODULE, *flags, *keys]
