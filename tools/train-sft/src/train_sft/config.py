"""The LLaMA-Factory configuration of a run: everything that decides the result is stated."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from recipe_core.errors import BadInput
from train_sft.export import DATASET


def processes(args: argparse.Namespace) -> int:
    """Return how many processes train together, on all nodes."""
    return int(args.nodes * args.processes_per_node)


def distributed(args: argparse.Namespace) -> bool:
    """Tell whether torchrun starts the training; one process without ZeRO needs none."""
    return processes(args) > 1 or args.zero_stage > 0


def micro_batch_size(args: argparse.Namespace, *, cuda: bool) -> int:
    """Return how many conversations a process takes at once.

    Args:
        args: the command line; where it does not say, one on a GPU, whose memory a published batch does not fit into,
            and all of the process's share of a step on a CPU.
        cuda: whether to train on GPUs.

    Raises:
        BadInput: the batch does not divide among the processes, or among their micro-batches.
    """
    count = processes(args)
    micro = args.micro_batch_size or (1 if cuda else args.batch_size // count)
    if micro == 0 or args.batch_size % (micro * count):
        among = f" x {count} processes" if count > 1 else ""
        raise BadInput(
            f"--batch-size {args.batch_size} is no multiple of --micro-batch-size {args.micro_batch_size or 1}{among}"
        )
    return int(micro)


def hyperparameters(args: argparse.Namespace, *, cuda: bool) -> dict[str, Any]:
    """Return LLaMA-Factory's keys for the settings that decide the weights.

    Keys that a plain run on one process has no use for are left out of it.

    Args:
        args: the command line.
        cuda: whether to train on GPUs, in bfloat16; else on the CPU in float32.

    Raises:
        BadInput: the batch does not divide, or FlashAttention without a GPU.
    """
    flash = cuda if args.flash_attention is None else args.flash_attention
    if flash and not cuda:
        raise BadInput("--flash-attention needs a GPU with CUDA, and none is seen here; leave the flag out")
    checkpointing = cuda if args.gradient_checkpointing is None else args.gradient_checkpointing
    micro = micro_batch_size(args, cuda=cuda)
    keys = {
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
        "flash_attn": "fa2" if flash else "sdpa",
        "disable_gradient_checkpointing": not checkpointing,
        "use_cpu": not cuda,
        "bf16": cuda,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": args.batch_size // (micro * processes(args)),
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
    if args.liger_kernel:
        keys["enable_liger_kernel"] = True
    if args.zero_stage:
        keys["deepspeed"] = zero_config(args.zero_stage, cuda=cuda)
    if distributed(args):
        # Processes that are told to use the CPU do not find each other; without a GPU they use it untold.
        del keys["use_cpu"]
    return keys


def zero_config(stage: int, *, cuda: bool) -> dict[str, Any]:
    """Return DeepSpeed's configuration; `auto` takes the value from LLaMA-Factory's keys.

    Args:
        stage: 3, where parameters, gradients and optimiser states are divided among the processes.
        cuda: whether to compute in bfloat16, on GPUs.
    """
    return {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        # The optimiser and the schedule are the trainer's, the same as without DeepSpeed.
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": cuda},
        "fp16": {"enabled": False},
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": cuda,
            "contiguous_gradients": True,
            "reduce_bucket_size": "auto",
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
            # The saved model is one whole model, not the processes' parts of it.
            "stage3_gather_16bit_weights_on_model_save": True,
        },
    }


def topology(args: argparse.Namespace) -> dict[str, int]:
    """Return what else decides the order of the sums, for the manifest: threads and, of several, the processes."""
    several = {"nodes": args.nodes, "processes_per_node": args.processes_per_node} if processes(args) > 1 else {}
    return {"threads": args.threads, **several}


def run_settings(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Return LLaMA-Factory's keys for where things are and how often to save; they decide nothing."""
    keys = {
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
    if distributed(args):
        keys["preprocessing_num_workers"] = args.threads
        keys["ddp_timeout"] = args.collective_timeout
    if args.zero_stage:
        keys["deepspeed"] = str(work / "deepspeed.json")
    return keys
