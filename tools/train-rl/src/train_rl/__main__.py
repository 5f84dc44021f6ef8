"""Train a model on tasks with the verifier's reward, through the same agent and sandboxes that made its data.

    train-rl --model results/train_sft/aaa --tasks results/mix/bbb --steps 8 --out results/train_rl/ccc

Each step draws prompts (tasks), samples several trials of each from the current weights, scores them with the tasks'
verifiers and takes one step of policy gradient with leave-one-out advantages (`rloo_n`). Infrastructure errors are
masked out of the loss; timeouts and answers that do not parse score 0. There is no KL term.

`--trainer skyrl` trains on GPUs, on every node of the Slurm allocation that it is started in; `--dry-run` prints what
SkyRL is asked to do, one key a line, and does nothing.

The result is a Hugging Face model folder with `metrics.jsonl`, one line a step. A run that was killed goes on from
its last checkpoint when the same command is given again. Defaults are those of the published 8B run where a CPU can
follow.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from recipe_core.artifact import ArtifactWriter, open_artifact, work_dir
from recipe_core.checkpoints import last_checkpoint, publish_model
from recipe_core.cli import Parser, above_zero, add_common, entry, iso_date, natural, positive, real, top_k
from recipe_core.errors import BadInput
from recipe_core.records import read_rows
from recipe_core.tasks import check_runnable
from train_rl.ray_cluster import RayCluster, allocation
from train_rl.sampler import Sampler, SamplingSettings
from train_rl.trainers import TRAINERS, Job
from train_rl.trainers.skyrl.command import Topology, check_topology, command, topology
from train_rl.trainers.skyrl.resume import settle_checkpoints, settle_metrics


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="train-rl", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="model artifact to start from")
    parser.add_argument("--tasks", type=Path, required=True, metavar="DIR", help="tasks artifact to train on")
    parser.add_argument("--trainer", choices=TRAINERS, default="trl", help="trl on a CPU, skyrl on GPUs (default trl)")
    batch = parser.add_argument_group("batch")
    batch.add_argument("--steps", type=positive, default=8, help="optimiser steps (default 8)")
    batch.add_argument("--prompts", type=positive, default=8, help="tasks a step (default 8)")
    batch.add_argument("--samples", type=positive, default=8, help="trials of each task (default 8)")
    batch.add_argument(
        "--micro-batch-size", type=positive, help="trials a forward pass (default 8; of one GPU with skyrl, default 1)"
    )
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
        "--verifier-timeout", type=above_zero, help="seconds of a verifier (default: the task's own limit)"
    )
    sampling.add_argument(
        "--trial-retries", type=natural, default=2, help="repetitions after an infrastructure error (default 2)"
    )
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
    machines = parser.add_argument_group("machines (skyrl)")
    machines.add_argument("--nodes", type=positive, help="default: what Slurm says, else 1")
    machines.add_argument("--gpus", type=positive, help="GPUs a node (default: what Slurm says, else 1)")
    machines.add_argument("--dry-run", action="store_true", help="print SkyRL's command and end")
    add_common(parser)
    return parser


def make_sampling(args: argparse.Namespace) -> SamplingSettings:
    """Return how trials are run, as the command line says."""
    names = [field.name for field in dataclasses.fields(SamplingSettings)]
    return SamplingSettings(**{name: getattr(args, name) for name in names})


def make_job(args: argparse.Namespace, task_ids: tuple[str, ...], work: Path) -> Job:
    """Return the job that the command line describes.

    Raises:
        BadInput: the numbers do not fit together.
    """
    if args.trainer == "trl" and args.prompts * args.samples % args.micro_batch_size:
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
    if args.micro_batch_size is None:
        args.micro_batch_size = 1 if args.trainer == "skyrl" else 8
    if args.trainer != "skyrl" and (args.dry_run or args.nodes or args.gpus):
        raise BadInput("--dry-run, --nodes and --gpus belong to --trainer skyrl; add it or leave them out")
    model, tasks = open_artifact(args.model), open_artifact(args.tasks)
    model.data("config.json")
    path = tasks.data("tasks.parquet").resolve()
    found = []
    for row in read_rows(path, ["task_id", "path", "task_binary", "meta"]):
        check_runnable(row, f"task {row['path']} ({row['task_id']})", verdict=True)
        found.append(row["task_id"])
    task_ids = tuple(sorted(found))
    machines = Topology(1, 1)
    job = make_job(args, task_ids, args.out.with_name(args.out.name + ".work").absolute())
    if args.trainer == "skyrl":
        machines = topology(args.nodes, args.gpus, os.environ)
        check_topology(job, machines)
        if args.dry_run:
            words = command(job, make_sampling(args), machines, path, job.work / "metrics.jsonl")
            print(" \\\n  ".join([shlex.join(["python", *words[1:3]]), *map(shlex.quote, words[3:])]))
            return
    decisive = vars(args).copy()
    for name in ("model", "tasks", "out", "seed", "concurrency", "save_steps", "nodes", "gpus", "dry_run"):
        del decisive[name]
    writer = ArtifactWriter(
        args.out,
        stage="train-rl",
        params=decisive,
        seed=args.seed,
        inputs={"model": model, "tasks": tasks},
        tier="T2",
        package=["train_rl", "serve"],
        commands=["rollout", "serve"] if args.trainer == "trl" else ["rollout"],
    )
    with writer:
        if writer.up_to_date:
            return
        work = work_dir(args.out, writer.fingerprint).resolve()
        job = make_job(args, task_ids, work)
        metrics = writer.path("metrics.jsonl")
        if args.trainer == "skyrl":
            trained = _train_skyrl(job, make_sampling(args), machines, path, metrics)
            resumed = None
        else:
            checkpoint = last_checkpoint(work / "checkpoints")
            resumed = bool(checkpoint)
            if checkpoint:
                print(f"going on from {checkpoint.name}", file=sys.stderr)
            with Sampler(args.model, path, make_sampling(args), work / "trials") as sampler:
                trained = _train(job, sampler, checkpoint, metrics, args.threads)
        publish_model(trained, model, writer)
        # Trials, which are what it is trained on.
        writer.count(rows_in=None, rows_out=args.steps * args.prompts * args.samples)
        writer.provenance(resumed=resumed, nodes=machines.nodes, gpus=machines.gpus if args.trainer == "skyrl" else 0)
        last = metrics.read_text().splitlines()[-1:]
        print(json.dumps({"steps": args.steps, "last": json.loads(last[0]) if last else None}))


def _train_skyrl(job: Job, sampling: SamplingSettings, machines: Topology, tasks: Path, metrics: Path) -> Path:
    trained = job.work / "exports" / f"global_step_{job.steps}" / "policy"
    kept = job.work / "metrics.jsonl"
    if not trained.is_dir():
        step = settle_checkpoints(job.work, job.steps, dataclasses.asdict(machines))
        settle_metrics(kept, step)
        if step:
            print(f"going on from step {step}", file=sys.stderr)
        words = command(job, sampling, machines, tasks, kept)
        # SkyRL prints its progress; standard output is this tool's.
        code = _run_on_machines(["sh", "-c", 'exec "$@" >&2', "skyrl", *words], machines, job.work)
        if code or not trained.is_dir():
            raise BadInput(f"SkyRL ended with code {code} before the model was there; its last words stand above")
    metrics.write_text(kept.read_text() if kept.is_file() else "")
    return trained


def _run_on_machines(words: Sequence[str], machines: Topology, work: Path) -> int:
    if machines.nodes == 1 or "RAY_ADDRESS" in os.environ:
        # SkyRL starts Ray on one machine itself; on several on_nodes.py has, outside the image.
        return subprocess.run(words).returncode
    if "SLURM_JOB_ID" not in os.environ:
        raise BadInput(f"--nodes {machines.nodes} needs a Slurm allocation; start this with sbatch or salloc")
    with RayCluster(
        dataclasses.replace(allocation(os.environ), gpus=machines.gpus), work, log=work / "ray.log"
    ) as cluster:
        return cluster.run(words)


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
