"""Train a model on tasks with the verifier's reward, through the same agent and sandboxes that made its data.

    train-rl --model results/train_sft/aaa --tasks results/mix/bbb --steps 8 --out results/train_rl/ccc

Each step draws prompts (tasks), samples several trials of each from the current weights, scores them with the tasks'
verifiers and takes one step of policy gradient with leave-one-out advantages (`rloo_n`). Infrastructure errors are
masked out of the loss; timeouts and answers that do not parse score 0. There is no KL term.

The result is a Hugging Face model folder with `metrics.jsonl`, one line a step. A run that was killed goes on from
its last checkpoint when the same command is given again. Defaults are those of the published 8B run where a CPU can
follow.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from recipe_core.artifact import ArtifactWriter, open_artifact, work_dir
from recipe_core.checkpoints import last_checkpoint, publish_model
from recipe_core.cli import Parser, above_zero, add_common, entry, iso_date, positive, real, top_k
from recipe_core.errors import BadInput
from recipe_core.records import read_rows
from recipe_core.tasks import check_runnable
from train_rl.sampler import Sampler, SamplingSettings
from train_rl.trainers import TRAINERS, Job


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="train-rl", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="model artifact to start from")
    parser.add_argument("--tasks", type=Path, required=True, metavar="DIR", help="tasks artifact to train on")
    parser.add_argument("--trainer", choices=TRAINERS, default="trl", help="trainer (default trl)")
    batch = parser.add_argument_group("batch")
    batch.add_argument("--steps", type=positive, default=8, help="optimiser steps (default 8)")
    batch.add_argument("--prompts", type=positive, default=8, help="tasks a step (default 8)")
    batch.add_argument("--samples", type=positive, default=8, help="trials of each task (default 8)")
    batch.add_argument("--micro-batch-size", type=positive, default=8, help="trials a forward pass (default 8)")
    batch.add_argument("--least-samples", type=positive, default=4, help="trials a baseline needs (default 4)")
    optimiser = parser.add_argument_group("optimiser (AdamW, constant rate)")
    optimiser.add_argument("--learning-rate", type=above_zero, default=5e-6, help="(default 5e-6)")
    optimiser.add_argument("--weight-decay", type=real(), default=0.0, help="(default 0)")
    optimiser.add_argument("--adam-beta1", type=real(0, 1), default=0.9, help="(default 0.9)")
    optimiser.add_argument("--adam-beta2", type=real(0, 1), default=0.999, help="(default 0.999)")
    optimiser.add_argument("--clip", type=above_zero, default=1.0, help="largest norm of the gradient (default 1)")
    optimiser.add_argument(
        "--clip-low", type=real(0, 1), default=0.2, help="ratio's lower bound is 1 minus this (default 0.2)"
    )
    optimiser.add_argument(
        "--clip-high", type=real(), default=0.2, help="ratio's upper bound is 1 plus this (default 0.2)"
    )
    sampling = parser.add_argument_group("trials")
    sampling.add_argument("--temperature", type=real(), default=0.7, help="(default 0.7)")
    sampling.add_argument("--top-p", type=real(0, 1, above=True), default=1.0, help="(default 1)")
    sampling.add_argument("--top-k", type=top_k, default=-1, help="(default -1: no limit)")
    sampling.add_argument("--max-tokens", type=positive, default=256, help="of one answer (default 256)")
    sampling.add_argument("--max-turns", type=positive, default=8, help="answers a trial may take (default 8)")
    sampling.add_argument(
        "--max-model-len", type=positive, default=4096, help="tokens of a conversation (default 4096)"
    )
    sampling.add_argument("--agent-timeout", type=above_zero, default=120.0, help="seconds of a trial (default 120)")
    sampling.add_argument(
        "--settle", type=above_zero, default=10.0, help="longest wait for a command in s (default 10)"
    )
    sampling.add_argument("--concurrency", type=positive, default=8, help="trials at a time (default 8)")
    sampling.add_argument(
        "--backend", choices=["auto", "apptainer", "bubblewrap"], default="auto", help="of the sandbox (default auto)"
    )
    run_group = parser.add_argument_group("run")
    run_group.add_argument("--save-steps", type=positive, default=5, help="steps between checkpoints (default 5)")
    run_group.add_argument("--threads", type=positive, default=2, help="CPU threads; sums depend on it (default 2)")
    run_group.add_argument("--date", type=iso_date, default="1970-01-01", help="written into trials' rows")
    add_common(parser)
    return parser


def make_job(args: argparse.Namespace, task_ids: tuple[str, ...], work: Path) -> Job:
    """Return the job that the command line describes.

    Raises:
        BadInput: the numbers do not fit together.
    """
    if args.prompts * args.samples % args.micro_batch_size:
        raise BadInput(
            f"--micro-batch-size {args.micro_batch_size} does not divide {args.prompts} x {args.samples} trials"
        )
    if args.samples < max(args.least_samples, 2):
        raise BadInput(f"--samples {args.samples} is below --least-samples {args.least_samples}: no step would learn")
    if len(task_ids) < args.prompts:
        raise BadInput(
            f"{args.tasks}: {len(task_ids)} tasks, but a step takes --prompts {args.prompts}; give more tasks"
        )
    names = set(Job.__dataclass_fields__) - {"model", "task_ids", "work"}
    return Job(
        model=args.model.resolve(), task_ids=task_ids, work=work, **{name: getattr(args, name) for name in names}
    )


def run(args: argparse.Namespace) -> None:
    """Train, or go on training, and write the model."""
    model, tasks = open_artifact(args.model), open_artifact(args.tasks)
    model.data("config.json")
    path = tasks.data("tasks.parquet")
    found = []
    for row in read_rows(path, ["task_id", "path", "task_binary", "meta"]):
        check_runnable(row, f"task {row['path']} ({row['task_id']})", verdict=True)
        found.append(row["task_id"])
    task_ids = tuple(sorted(found))
    make_job(args, task_ids, args.out)
    decisive = vars(args).copy()
    for name in ("model", "tasks", "out", "seed", "concurrency", "save_steps"):
        del decisive[name]
    writer = ArtifactWriter(
        args.out,
        stage="train-rl",
        params=decisive,
        seed=args.seed,
        inputs={"model": model, "tasks": tasks},
        tier="T2",
        package=["train_rl", "serve"],
        commands=["rollout", "serve"],
    )
    with writer:
        if writer.up_to_date:
            return
        work = work_dir(args.out, writer.fingerprint).resolve()
        job = make_job(args, task_ids, work)
        checkpoint = last_checkpoint(work / "checkpoints")
        settings = SamplingSettings(
            temperature=args.temperature,
            top_p=args.top_p,
            top_k=args.top_k,
            max_tokens=args.max_tokens,
            max_turns=args.max_turns,
            max_model_len=args.max_model_len,
            concurrency=args.concurrency,
            agent_timeout=args.agent_timeout,
            settle=args.settle,
            backend=args.backend,
            seed=args.seed,
            date=args.date,
        )
        if checkpoint:
            print(f"going on from {checkpoint.name}", file=sys.stderr)
        with Sampler(args.model, path, settings, work / "trials") as sampler:
            trained = _train(job, sampler, checkpoint, writer.path("metrics.jsonl"), args.threads)
        publish_model(trained, model, writer)
        # Trials, which are what it is trained on.
        writer.count(rows_in=None, rows_out=args.steps * args.prompts * args.samples)
        writer.provenance(resumed=bool(checkpoint))
        last = writer.path("metrics.jsonl").read_text().splitlines()[-1:]
        print(json.dumps({"steps": args.steps, "last": json.loads(last[0]) if last else None}))


def _train(job: Job, sampler: Sampler, checkpoint: Path | None, metrics: Path, threads: int) -> Path:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    # The model server and the sandboxes share the cores with training: waiting threads must not spin.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch

    from train_rl.trainers.trl import train

    torch.set_num_threads(threads)
    return train(job, sampler, checkpoint, metrics)


main = entry(build_parser, run)

if __name__ == "__main__":
    main()
