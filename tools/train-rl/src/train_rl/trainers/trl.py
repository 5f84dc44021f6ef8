"""Training on a CPU with TRL.

TRL's RLOO trainer takes no rollouts of one's own, its GRPO trainer does. With one epoch a batch the two differ only in
the advantage, which is replaced here by `rloo_n`; no KL term, token mean over the batch (`loss_type="dapo"`). With one
epoch a batch the probability ratio is 1 and its clipping inert. The sampler's own log-probabilities are compared with
the trainer's and recorded, but decide nothing: they differ in the seventh digit with the requests that share a batch,
and the weights are to be the same whenever the tokens are.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipe_core.errors import BadInput
from train_rl.episodes import Episode, episode
from train_rl.estimators import rloo_n
from train_rl.sampler import Sampler
from train_rl.trainers import Job

try:
    from trl import GRPOConfig, GRPOTrainer
except ModuleNotFoundError as error:
    raise BadInput(f"{error}; this trainer needs the stack of envs/rl") from None


def verifier(completions: list[Any], trial_reward: list[float | None], **_: Any) -> list[float | None]:
    """Return the rewards that came with the trials; TRL insists on a function and logs its name."""
    return trial_reward


class RlooTrainer(GRPOTrainer):
    """GRPO's trainer with trials as rollouts and `rloo_n` as the advantage."""

    def __init__(self, job: Job, sampler: Sampler, config: GRPOConfig) -> None:
        tokenizer = AutoTokenizer.from_pretrained(job.model)
        super().__init__(
            model=AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32),
            reward_funcs=verifier,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": list(job.task_ids)}),
            processing_class=tokenizer,
            rollout_func=lambda task_ids, _: self._sample(task_ids),
        )
        self._job = job
        self._sampler = sampler
        self._episodes: list[Episode] = []

    def _sample(self, task_ids: list[str]) -> dict[str, Any]:
        started = time.monotonic()
        policy = self._job.work / "policy"
        self.model.save_pretrained(policy)
        self._sampler.load(policy)
        rows = self._sampler.sample(self.state.global_step, task_ids)
        self._episodes = [episode(row) for row in rows]
        self._record("sampling_seconds", time.monotonic() - started)
        self._record("turns", sum(row["turns"] for row in rows) / len(rows))
        end = self.processing_class.eos_token_id
        # A trial without a single answer still has its place in the batch; the mask takes it out of the loss.
        return {
            "prompt_ids": [one.prompt_ids or [end] for one in self._episodes],
            "completion_ids": [one.completion_ids or [end] for one in self._episodes],
            "logprobs": [one.logprobs or [0.0] for one in self._episodes],
            "env_mask": [
                (one.sampled if one.reward is not None else None) or [0] * len(one.completion_ids or [end])
                for one in self._episodes
            ],
            "trial_reward": [one.reward for one in self._episodes],
        }

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        rewards = [one.reward for one in self._episodes]
        size = self._job.samples
        advantages = [
            advantage
            for start in range(0, len(rewards), size)
            for advantage in rloo_n(rewards[start : start + size], least=self._job.least_samples)
        ]
        output["advantages"] = torch.tensor(advantages)
        sampled = output["sampling_per_token_logps"]
        mask = (output["completion_mask"] * output["tool_mask"]).bool()
        self._record_difference(output, sampled, mask)
        counted = [reward for reward in rewards if reward is not None]
        self._record("reward_mean", sum(counted) / len(counted) if counted else 0.0)
        self._record("pass_rate", sum(reward == 1 for reward in counted) / len(counted) if counted else 0.0)
        self._record("excluded", float(len(rewards) - len(counted)))
        self._record("informative", sum(advantage != 0 for advantage in advantages) / len(advantages))
        self._record("dropped_turns", float(sum(one.dropped_turns for one in self._episodes)))
        return output

    def _record_difference(self, output: dict[str, Any], sampled: torch.Tensor, mask: torch.Tensor) -> None:
        """Record how far the trainer's log-probabilities of the sampled tokens are from the sampler's, in nats."""
        ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
        attention = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
        with torch.no_grad():
            own, _, _ = self._get_per_token_logps_and_entropies(
                self.model, ids, attention, sampled.size(1), batch_size=self._job.micro_batch_size
            )
        difference = (own - sampled)[mask]
        if len(difference):
            self._record("logprob_difference_max", difference.abs().max().item())
            self._record("logprob_difference_mean", difference.abs().mean().item())
            # k3 estimator of KL(sampler || trainer): Schulman 2020, "Approximating KL Divergence".
            self._record("kl", (difference.exp() - 1 - difference).mean().item())

    def _record(self, name: str, value: float) -> None:
        self._metrics["train"][name].append(value)


_METRICS = (
    "loss",
    "grad_norm",
    "reward_mean",
    "pass_rate",
    "excluded",
    "informative",
    "dropped_turns",
    "turns",
    "kl",
    "logprob_difference_max",
    "logprob_difference_mean",
    "entropy",
    "completions/mean_length",
)


def train(job: Job, sampler: Sampler, checkpoint: Path | None, metrics: Path) -> Path:
    """Train and return the model's folder; write one line of metrics a step.

    Args:
        job: what to train.
        sampler: runs the trials.
        checkpoint: where to go on from, or None.
        metrics: file to write.
    """
    batch = job.prompts * job.samples
    config = GRPOConfig(
        output_dir=str(job.work / "checkpoints"),
        use_cpu=not torch.cuda.is_available(),
        bf16=torch.cuda.is_available(),
        seed=job.seed,
        data_seed=job.seed,
        max_steps=job.steps,
        per_device_train_batch_size=job.micro_batch_size,
        gradient_accumulation_steps=batch // job.micro_batch_size,
        num_generations=job.samples,
        num_iterations=1,
        learning_rate=job.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=job.weight_decay,
        adam_beta1=job.adam_beta1,
        adam_beta2=job.adam_beta2,
        max_grad_norm=job.clip,
        beta=0.0,
        epsilon=job.clip_low,
        epsilon_high=job.clip_high,
        loss_type="dapo",
        scale_rewards="none",
        temperature=job.temperature,
        gradient_checkpointing=False,
        save_strategy="steps",
        save_steps=job.save_steps,
        save_total_limit=2,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = RlooTrainer(job, sampler, config)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    with metrics.open("w") as stream:
        for entry in trainer.state.log_history:
            if "reward_mean" in entry:
                line = {"step": entry["step"], **{name: entry[name] for name in _METRICS if name in entry}}
                stream.write(json.dumps(line) + "\n")
    trained = job.work / "trained"
    trainer.model.save_pretrained(trained)
    return trained
