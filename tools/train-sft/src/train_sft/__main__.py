"""Fine-tune a model on trajectories: all parameters, by LLaMA-Factory.

    train-sft --model results/init_model/aaa --trajectories results/filter_turns/bbb --out results/train_sft/ccc

The loss is on the assistant's messages. A run that was killed goes on from its last checkpoint when the same command
is given again, and ends in the same weights. On SIGTERM or SIGUSR1 it writes a checkpoint at the end of the step and
ends with code 143. The result is a Hugging Face model folder with `metrics.jsonl` (step, loss, learning rate) and
`llamafactory.yaml`, the settings as LLaMA-Factory took them.

Defaults are those of the published 8B run but for the batch, which is small enough for a CPU. On several nodes of a
Slurm allocation, start it once on each, on the same files:

    srun --nodes=2 --ntasks-per-node=1 --cpu-bind=none --kill-on-bad-exit=1 \\
        train-sft --nodes 2 --processes-per-node 4 --zero-stage 3 --model ... --trajectories ... --out ...

`--dry-run` prints LLaMA-Factory's settings, DeepSpeed's and the command, and starts nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipe_core.artifact import Artifact, ArtifactWriter, open_artifact, work_dir, write_atomically
from recipe_core.checkpoints import last_checkpoint, publish_model
from recipe_core.cli import Parser, above_zero, add_common, entry, positive, real
from recipe_core.errors import BadInput
from recipe_core.processes import running
from recipe_core.records import read_rows
from train_sft.config import distributed, hyperparameters, run_settings, topology
from train_sft.export import write_dataset
from train_sft.launch import SECONDS_TO_SAVE, Place, find_place, kept_environment, words
from train_sft.marks import STOPPED, drop_torn, stopped_at

_PROGRESS_LINES_KEPT = 12
_TERMINATED = 128 + signal.SIGTERM
# In the work folder: which start of the run the first node has made everything ready for.
_READY = "ready"
# Of another node, with its number: it has ended.
_ENDED = "ended-"
_SECONDS_TO_END = 60.0
_SECONDS_BETWEEN_LOOKS = 1.0
_EXCEPTION = re.compile(r"(\[rank\d+\]: )?[\w.]+(Error|Exception)\b")


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="train-sft", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="model artifact to start from")
    parser.add_argument("--trajectories", type=Path, required=True, metavar="DIR", help="what to train on")
    data = parser.add_argument_group("data")
    data.add_argument("--template", default="qwen3_nothink", help="LLaMA-Factory chat template (default qwen3_nothink)")
    data.add_argument("--cutoff", type=positive, default=2048, help="tokens of a conversation kept (default 2048)")
    data.add_argument("--mask-history", action="store_true", help="loss on the last assistant message only")
    data.add_argument("--packing", action="store_true", help="several conversations a sequence, kept apart by the mask")
    data.add_argument("--keep-order", action="store_true", help="the rows' order in every epoch, instead of new ones")
    optimiser = parser.add_argument_group("optimiser (AdamW, cosine schedule)")
    optimiser.add_argument("--learning-rate", type=above_zero, default=4e-5, help="peak (default 4e-5)")
    optimiser.add_argument("--batch-size", type=positive, default=8, help="conversations a step (default 8)")
    optimiser.add_argument(
        "--micro-batch-size",
        type=positive,
        help="conversations a process takes at once (default: with CUDA 1, else its whole share of the batch)",
    )
    optimiser.add_argument("--epochs", type=above_zero, default=7.0, help="passes over the data (default 7)")
    optimiser.add_argument("--warmup", type=real(0, 1), default=0.1, help="share of the steps (default 0.1)")
    optimiser.add_argument("--weight-decay", type=real(), default=0.04, help="(default 0.04)")
    optimiser.add_argument("--adam-beta1", type=real(0, 1), default=0.9, help="(default 0.9)")
    optimiser.add_argument("--adam-beta2", type=real(0, 1), default=0.98, help="(default 0.98)")
    optimiser.add_argument("--clip", type=above_zero, default=1.0, help="largest norm of the gradient (default 1)")
    run_group = parser.add_argument_group("run")
    run_group.add_argument("--save-steps", type=positive, default=200, help="steps between checkpoints (default 200)")
    run_group.add_argument("--logging-steps", type=positive, default=10, help="steps between metrics (default 10)")
    run_group.add_argument("--threads", type=positive, default=2, help="CPU threads; sums depend on it (default 2)")
    run_group.add_argument("--dry-run", action="store_true", help="print settings and command, and start nothing")
    machines = parser.add_argument_group("machines")
    machines.add_argument("--nodes", type=positive, default=1, help="nodes of the Slurm step (default 1)")
    machines.add_argument("--processes-per-node", type=positive, default=1, help="one a GPU (default 1)")
    machines.add_argument(
        "--zero-stage",
        type=int,
        choices=(0, 3),
        default=0,
        help="3: DeepSpeed divides parameters, gradients and optimiser states among processes (default 0: it does not)",
    )
    machines.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default auto: CUDA where it is seen)"
    )
    machines.add_argument(
        "--flash-attention", action=argparse.BooleanOptionalAction, help="FlashAttention 2 (default: with CUDA)"
    )
    machines.add_argument(
        "--gradient-checkpointing",
        action=argparse.BooleanOptionalAction,
        help="compute activations twice instead of keeping them (default: with CUDA)",
    )
    machines.add_argument("--liger-kernel", action="store_true", help="fused kernels of liger-kernel (needs CUDA)")
    machines.add_argument(
        "--collective-timeout",
        type=positive,
        default=1800,
        metavar="SECONDS",
        help="how long a process waits for the others, in which the data must be tokenised, too (default 1800)",
    )
    add_common(parser)
    return parser


def _environment(args: argparse.Namespace, work: Path, place: Place, *, cuda: bool) -> dict[str, str]:
    """Return the variables that this tool sets for the training processes of a node."""
    # Each node has caches of its own: what tokenises or compiles on several at once would write the same files.
    cache = work / "cache" / (f"node-{place.rank}" if place.nodes > 1 else "")
    found = {
        "OMP_NUM_THREADS": str(args.threads),
        # Threads that spin while they wait make a step several times slower on a machine with anything else to do.
        "OMP_WAIT_POLICY": "passive",
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "DISABLE_VERSION_CHECK": "1",
        "WANDB_DISABLED": "true",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if args.zero_stage:
        found["DS_ACCELERATOR"] = "cuda" if cuda else "cpu"
        # Else DeepSpeed counts the CPU's memory nodes, by a program that need not be there.
        found["LOCAL_SIZE"] = str(args.processes_per_node)
    if cuda and not distributed(args):
        # One process that sees several GPUs would be refused.
        found["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    elif not cuda and distributed(args):
        found["CUDA_VISIBLE_DEVICES"] = ""
    return found


def train(command: list[str], environment: Mapping[str, str], log: Path, checkpoints: Path) -> None:
    """Run the training processes of this node and wait for them.

    Args:
        command: what starts them.
        environment: variables added to this process's.
        log: gets what they write.
        checkpoints: where they save.

    Raises:
        BadInput: they failed; the message ends with the last line they wrote.
        SystemExit: a signal stopped them, here or on another node.
    """
    # An early warning of Slurm's (--signal) is met as the end of its grace is; SIGTERM does this in every tool.
    signal.signal(signal.SIGUSR1, lambda *_: sys.exit(_TERMINATED))
    said_before = log.stat().st_size if log.is_file() else 0
    with running(command, environment, log) as process:
        try:
            code = process.wait()
        except SystemExit:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_SAVE)
            _say_where_it_stopped(checkpoints)
            raise
    if code:
        if _say_where_it_stopped(checkpoints):
            raise SystemExit(_TERMINATED)
        said = log.read_bytes()[said_before:].decode(errors="replace")
        lines = [line for line in said.splitlines() if line.strip()]
        print("\n".join(lines[-_PROGRESS_LINES_KEPT:]), file=sys.stderr)
        raise BadInput(f"LLaMA-Factory ended with code {code} ({_reason(lines)}); see {log}")


def _reason(lines: list[str]) -> str:
    """Return the line that names the error: the last exception that is not torchrun's own, else the last line."""
    errors = [line for line in lines if _EXCEPTION.match(line) and "ChildFailedError" not in line]
    return (errors or lines or ["no output"])[-1]


def _say_where_it_stopped(checkpoints: Path) -> bool:
    step = stopped_at(checkpoints)
    if step is not None:
        print(
            f"train-sft: stopped behind the checkpoint of step {step}; run the same command again to go on",
            file=sys.stderr,
        )
    return step is not None


def write_metrics(state: Path, out: Path) -> int:
    """Write the trainer's history as lines of step, epoch, loss and learning rate; return the number of steps."""
    history = json.loads(state.read_text())
    with out.open("w") as stream:
        for entry_ in history["log_history"]:
            if "loss" in entry_:
                line = {
                    "step": entry_["step"],
                    "epoch": entry_["epoch"],
                    "loss": entry_["loss"],
                    "lr": entry_["learning_rate"],
                }
                stream.write(json.dumps(line) + "\n")
    return int(history["global_step"])


def check_model(model: Artifact) -> None:
    """Raise BadInput when an artifact is no model."""
    model.data("config.json")
    model.data("tokenizer.json")


def _sees_cuda(args: argparse.Namespace) -> bool:
    """Tell whether to train on GPUs.

    Raises:
        BadInput: `--device cuda` without any, a PyTorch for GPUs without any, or fewer GPUs than processes.
    """
    if args.device == "cpu" or (args.dry_run and args.device == "cuda"):
        return bool(args.device == "cuda")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if args.device == "cuda" and not count:
        raise BadInput("--device cuda: no GPU with CUDA is seen here; leave the flag out to train on the CPU")
    if torch.version.cuda and not count and not args.dry_run and args.device == "auto":
        # A job that was given none would spend days on what takes minutes.
        raise BadInput("this PyTorch is built for GPUs and none is seen here; ask for one, or say --device cpu")
    if 0 < count < args.processes_per_node:
        raise BadInput(f"--processes-per-node {args.processes_per_node}: {count} GPUs are seen here; ask for as many")
    return count > 0


def _check_packages(args: argparse.Namespace, *, cuda: bool) -> None:
    if args.liger_kernel and not cuda:
        raise BadInput("--liger-kernel needs a GPU with CUDA, and none is seen here; leave the flag out")
    wanted = {"deepspeed": args.zero_stage, "liger_kernel": args.liger_kernel}
    for package, flag in (("deepspeed", "--zero-stage"), ("liger_kernel", "--liger-kernel")):
        if wanted[package] and importlib.util.find_spec(package) is None:
            name = package.replace("_", "-")
            raise BadInput(f"{flag} needs {name}, which is not installed in {sys.prefix}; add it to the stack")


def _work(args: argparse.Namespace) -> Path:
    """Return where the first node makes the work folder; the others only use it."""
    return Path(args.out.with_name(args.out.name + ".work").resolve())


def _wait_for_first_node(work: Path, place: Place, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    ready = work / _READY
    while not (ready.is_file() and ready.read_text() == place.attempt):
        if time.monotonic() > deadline:
            raise BadInput(f"node {place.rank}: {place.address} did not get ready within {seconds} s; see its messages")
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _wait_for_others(work: Path, place: Place) -> None:
    """Wait until no other node writes into the work folder any more, which the finished artifact removes."""
    deadline = time.monotonic() + _SECONDS_TO_END
    while len(list(work.glob(f"{_ENDED}*"))) < place.nodes - 1 and time.monotonic() < deadline:
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _print_plan(args: argparse.Namespace, decisive: dict[str, Any]) -> None:
    import yaml

    work = _work(args)
    place = Place()
    if args.nodes > 1:
        print(f"# once on each node: srun --nodes={args.nodes} --ntasks-per-node=1 --cpu-bind=none train-sft ...")
        place = Place(args.nodes, "NODE", "FIRST-NODE", "PORT")
    print(f"# {work / 'llamafactory.yaml'}")
    print(yaml.safe_dump({**decisive, **run_settings(args, work)}, sort_keys=True))
    if args.zero_stage:
        print(f"# {work / 'deepspeed.json'}\n{json.dumps(decisive['deepspeed'], indent=2)}\n")
    print("# command")
    print(shlex.join(words(args, place, work / "llamafactory.yaml")))


def run(args: argparse.Namespace) -> None:
    """Train, or go on training, and write the model."""
    cuda = _sees_cuda(args)
    decisive = hyperparameters(args, cuda=cuda)
    if args.dry_run:
        _print_plan(args, decisive)
        return
    _check_packages(args, cuda=cuda)
    place = find_place(args.nodes, os.environ)
    model, trajectories = open_artifact(args.model), open_artifact(args.trajectories)
    check_model(model)
    path = trajectories.data("trajectories.parquet")
    writer = ArtifactWriter(
        args.out,
        stage="train-sft",
        params={**decisive, **topology(args)},
        seed=args.seed,
        inputs={"model": model, "trajectories": trajectories},
        tier="T1",
        package="train_sft",
    )
    if place.rank:
        if not writer.up_to_date:
            work = _work(args)
            _wait_for_first_node(work, place, args.collective_timeout)
            _train_here(args, work, place, cuda=cuda)
            (work / f"{_ENDED}{place.rank}").touch()
        return
    with writer:
        if writer.up_to_date:
            return
        work = work_dir(args.out, writer.fingerprint).resolve()
        for mark in (work / _READY, *work.glob(f"{_ENDED}*")):
            mark.unlink(missing_ok=True)
        rows = read_rows(path, ["conversations", "error_class", "trial_name"])
        conversations = write_dataset(rows, work / "data", str(path))
        checkpoint = _write_settings(args, work, decisive)
        write_atomically(work / _READY, place.attempt)
        _train_here(args, work, place, cuda=cuda)
        _wait_for_others(work, place)
        _collect(work / "checkpoints", model, writer, decisive)
        writer.count(rows_in=conversations, rows_out=conversations)
        writer.provenance(resumed=bool(checkpoint))


def _write_settings(args: argparse.Namespace, work: Path, decisive: dict[str, Any]) -> Path | None:
    """Write the configuration of a run that goes on from the last whole checkpoint; return that."""
    import yaml

    drop_torn(work / "checkpoints")
    checkpoint = last_checkpoint(work / "checkpoints")
    (work / "checkpoints" / STOPPED).unlink(missing_ok=True)
    if checkpoint:
        print(f"going on from {checkpoint.name}", file=sys.stderr)
    settings = {**decisive, **run_settings(args, work), "resume_from_checkpoint": checkpoint and str(checkpoint)}
    if args.zero_stage:
        (work / "deepspeed.json").write_text(json.dumps(decisive["deepspeed"], indent=2) + "\n")
    (work / "llamafactory.yaml").write_text(yaml.safe_dump(settings, sort_keys=True))
    return checkpoint


def _train_here(args: argparse.Namespace, work: Path, place: Place, *, cuda: bool) -> None:
    command = words(args, place, work / "llamafactory.yaml")
    environment = _environment(args, work, place, cuda=cuda)
    if distributed(args):
        kept = {**kept_environment(os.environ), **environment}
        command = ["env", "-i", *(f"{name}={value}" for name, value in kept.items()), *command]
    log = work / (f"llamafactory-{place.rank}.log" if place.rank else "llamafactory.log")
    train(command, environment, log, work / "checkpoints")


def _collect(trained: Path, start: Artifact, writer: ArtifactWriter, decisive: dict[str, Any]) -> None:
    import yaml

    publish_model(trained, start, writer)
    write_metrics(trained / "trainer_state.json", writer.path("metrics.jsonl"))
    writer.path("llamafactory.yaml").write_text(yaml.safe_dump(decisive, sort_keys=True))


main = entry(build_parser, run)

if __name__ == "__main__":
    main()
