"""The LLaMA-Factory configuration of a run: everything that decides the result is stated."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from train_sft.export import DATASET


def hyperparameters(args: argparse.Namespace, *, cuda: bool) -> dict[str, Any]:
    """Return LLaMA-Factory's keys for the settings that decide the weights.

    Args:
        args: the command line.
        cuda: whether to train on GPUs, in bfloat16; else on the CPU in float32.
    """
    return {
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "template": args.template,
        "cutoff_len": args.cutoff,
        "train_on_prompt": False,
        "mask_history": args.mask_history,
        "packing": args.packing,
        "neat_packing": args.packing,
        "disable_shuffling": args.keep_order,
        "flash_attn": "fa2" if cuda else "sdpa",
        "disable_gradient_checkpointing": not cuda,
        "use_cpu": not cuda,
        "bf16": cuda,
        "per_device_train_batch_size": args.micro_batch_size,
        "gradient_accumulation_steps": args.batch_size // args.micro_batch_size,
        "learning_rate": args.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": args.warmup,
        "num_train_epochs": args.epochs,
        "optim": "adamw_torch",
        "adam_beta1": args.adam_beta1,
        "adam_beta2": args.adam_beta2,
        "weight_decay": args.weight_decay,
        "max_grad_norm": args.clip,
        "seed": args.seed,
        "data_seed": args.seed,
    }


def run_settings(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Return LLaMA-Factory's keys for where things are and how often to save; they decide nothing."""
    return {
        "model_name_or_path": str(args.model.resolve()),
        "dataset_dir": str(work / "data"),
        "dataset": DATASET,
        "output_dir": str(work / "checkpoints"),
        "overwrite_cache": True,
        "preprocessing_num_workers": 1,
        "dataloader_num_workers": 0,
        "save_strategy": "steps",
        "save_steps": args.save_steps,
        "save_total_limit": 2,
        "logging_steps": args.logging_steps,
        "report_to": "none",
        "plot_loss": False,
    }
