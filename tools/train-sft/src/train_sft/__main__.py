"""Fine-tune a model on trajectories: all parameters, by LLaMA-Factory.

    train-sft --model results/init_model/aaa --trajectories results/filter_turns/bbb --out results/train_sft/ccc

The loss is on the assistant's messages. A run that was killed goes on from its last checkpoint when the same command
is given again, and ends in the same weights. The result is a Hugging Face model folder with `metrics.jsonl` (step,
loss, learning rate) and `llamafactory.yaml`, the settings as LLaMA-Factory took them.

Defaults are those of the published 8B run but for the batch, which is small enough for a CPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from recipe_core.artifact import Artifact, ArtifactWriter, open_artifact, work_dir
from recipe_core.checkpoints import last_checkpoint, publish_model
from recipe_core.cli import Parser, above_zero, add_common, entry, positive, real
from recipe_core.errors import BadInput
from recipe_core.processes import running
from recipe_core.records import read_rows
from train_sft.config import hyperparameters, run_settings
from train_sft.export import write_dataset

_PROGRESS_LINES_KEPT = 12


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
    optimiser.add_argument("--micro-batch-size", type=positive, help="conversations at once (default: the whole batch)")
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
    add_common(parser)
    return parser


def train(settings: dict[str, Any], work: Path, threads: int) -> None:
    """Run LLaMA-Factory in a process of its own.

    Raises:
        BadInput: it failed; the message ends with the last line it wrote.
    """
    import yaml

    config = work / "llamafactory.yaml"
    config.write_text(yaml.safe_dump(settings, sort_keys=True))
    environment = {
        "OMP_NUM_THREADS": str(threads),
        # Threads that spin while they wait make a step several times slower on a machine with anything else to do.
        "OMP_WAIT_POLICY": "passive",
        "HF_HOME": str(work / "cache"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "DISABLE_VERSION_CHECK": "1",
        "WANDB_DISABLED": "true",
        "TOKENIZERS_PARALLELISM": "false",
    }
    log = work / "llamafactory.log"
    with running([sys.executable, "-m", "llamafactory.cli", "train", str(config)], environment, log) as process:
        code = process.wait()
    if code:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        print("\n".join(lines[-_PROGRESS_LINES_KEPT:]), file=sys.stderr)
        raise BadInput(f"LLaMA-Factory ended with code {code} ({lines[-1] if lines else 'no output'}); see {log}")


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


def run(args: argparse.Namespace) -> None:
    """Train, or go on training, and write the model."""
    args.micro_batch_size = args.micro_batch_size or args.batch_size
    if args.batch_size % args.micro_batch_size:
        raise BadInput(f"--batch-size {args.batch_size} is no multiple of --micro-batch-size {args.micro_batch_size}")
    model, trajectories = open_artifact(args.model), open_artifact(args.trajectories)
    check_model(model)
    path = trajectories.data("trajectories.parquet")
    cuda = _has_cuda()
    decisive = hyperparameters(args, cuda=cuda)
    writer = ArtifactWriter(
        args.out,
        stage="train-sft",
        params={**decisive, "threads": args.threads},
        seed=args.seed,
        inputs={"model": model, "trajectories": trajectories},
        tier="T1",
        package="train_sft",
    )
    with writer:
        if writer.up_to_date:
            return
        work = work_dir(args.out, writer.fingerprint).resolve()
        rows = read_rows(path, ["conversations", "error_class", "trial_name"])
        conversations = write_dataset(rows, work / "data", str(path))
        checkpoint = last_checkpoint(work / "checkpoints")
        if checkpoint:
            print(f"going on from {checkpoint.name}", file=sys.stderr)
        settings = {**decisive, **run_settings(args, work), "resume_from_checkpoint": checkpoint and str(checkpoint)}
        train(settings, work, args.threads)
        _collect(work / "checkpoints", model, writer, decisive)
        writer.count(rows_in=conversations, rows_out=conversations)
        writer.provenance(resumed=bool(checkpoint))


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _collect(trained: Path, start: Artifact, writer: ArtifactWriter, decisive: dict[str, Any]) -> None:
    import yaml

    publish_model(trained, start, writer)
    write_metrics(trained / "trainer_state.json", writer.path("metrics.jsonl"))
    writer.path("llamafactory.yaml").write_text(yaml.safe_dump(decisive, sort_keys=True))


main = entry(build_parser, run)

if __name__ == "__main__":
    main()
