"""Score a model on held-out tasks: pass@1 with a 95 % interval, a source and in all.

    evaluate --tasks results/mix/aaa --model results/train_sft/bbb --label sft --out results/evaluate/ccc
    evaluate --tasks results/mix/aaa --endpoint http://localhost:8000/v1 --model-name qwen3 --label base --out OUT

The agent terminus-2 tries every task --attempts times, each trial in a sandbox of its own. An attempt that fails
outside the model (sandbox, network, server) is counted apart and is neither a success nor a failure. The interval comes
from a bootstrap over tasks; `evaluate.statistics` says how. A run that was killed goes on where it was when the same
command is given again. On several nodes, each runs `evaluate pull` with the same flags and --shard K/N, and when all
have ended `evaluate … --merge` scores; `rollout pull --help` says how.

Writes trials.parquet (a trajectory an attempt) and scores.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluate.statistics import RESAMPLES, Outcome, Score, outcomes, scores_by_source
from recipe_core.artifact import Artifact, ArtifactWriter, canonical_json, open_artifact
from recipe_core.cli import Parser, add_common, entry, iso_date
from recipe_core.errors import BadInput
from recipe_core.terms import INFRASTRUCTURE, LABELS

if TYPE_CHECKING:
    from rollout.pull import Trials
    from rollout.settings import Endpoint

TRIALS = "trials.parquet"
SCORES = "scores.json"

_PULL = """Run trials of an evaluation until none is left to take, alone or beside others.

    evaluate pull --tasks results/mix/aaa --model results/train_sft/bbb --label sft --shard 3/8 --out OUT

It is to `evaluate` what `rollout pull` is to `rollout`: `rollout pull --help` says more. Afterwards
`evaluate … --merge --out OUT`, with the same flags, scores.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    from rollout.__main__ import add_merge_flag

    parser = _parser("evaluate", str(__doc__))
    add_merge_flag(parser)
    return parser


def build_pull_parser() -> argparse.ArgumentParser:
    """Return the parser of `evaluate pull`."""
    from rollout.__main__ import add_shard_flag

    parser = _parser("evaluate pull", _PULL)
    add_shard_flag(parser)
    return parser


def _parser(prog: str, description: str) -> argparse.ArgumentParser:
    from rollout.__main__ import add_model_flags, add_sampling_flags, add_trial_flags

    parser = Parser(prog=prog, description=description)
    parser.add_argument("--tasks", type=Path, required=True, metavar="DIR", help="tasks artifact, held out of training")
    parser.add_argument("--label", choices=LABELS, required=True, help="which model this is in the report")
    model = parser.add_argument_group("model (one of --model, --endpoint)")
    add_model_flags(model)
    add_sampling_flags(parser)
    add_trial_flags(parser, attempts=3)
    add_common(parser)
    parser.add_argument("--date", type=iso_date, default="1970-01-01", help="recorded in every row")
    return parser


def parameters(args: argparse.Namespace, endpoint: Endpoint) -> dict[str, Any]:
    """Return what decides the scores, for the manifest."""
    from rollout.__main__ import chosen

    return {
        "label": args.label,
        "attempts": args.attempts,
        "max_turns": args.max_turns,
        "max_model_len": args.max_model_len if args.model else None,
        "agent_timeout_sec": args.agent_timeout,
        "settle_sec": args.settle,
        "date": args.date,
        "endpoint": endpoint.base_url or None,
        "model": endpoint.model if endpoint.base_url else None,
        "sampling": dataclasses.asdict(endpoint.sampling),
        "extra_body": dict(endpoint.extra_body),
        **chosen(args),
    }


def run(args: argparse.Namespace) -> None:
    """Check the flags, then run the trials, score them and publish the artifact."""
    endpoint, tasks, writer = _prepared(args)
    with writer:
        if not writer.up_to_date:
            write_artifact(args, tasks, endpoint, writer)


def run_pull(args: argparse.Namespace) -> None:
    """Check the flags, then run trials until none is left to take."""
    from rollout.__main__ import pull_trials

    endpoint, tasks, writer = _prepared(args)
    if writer.up_to_date:
        print(f"{args.out}: up to date", file=sys.stderr)
        return
    pull_trials(args, trials_of(args, tasks), endpoint, writer.fingerprint, f"evaluate {args.label}")


def _prepared(args: argparse.Namespace) -> tuple[Endpoint, Artifact, ArtifactWriter]:
    """Return the model's endpoint, the tasks, and the writer of the artifact."""
    from rollout.__main__ import model_endpoint

    args.prog = "evaluate"
    endpoint = model_endpoint(args, ("--model", "--endpoint"))
    tasks = open_artifact(args.tasks)
    inputs: dict[str, Artifact] = {"tasks": tasks}
    if args.model:
        inputs["model"] = open_artifact(args.model)
    writer = ArtifactWriter(
        args.out,
        stage="evaluate",
        params=parameters(args, endpoint),
        seed=args.seed,
        inputs=inputs,
        tier="T2",
        package=["evaluate", "rollout", "sandbox"],
        commands=["serve"] if args.model else [],
    )
    return endpoint, tasks, writer


def trials_of(args: argparse.Namespace, tasks: Artifact) -> Trials:
    """Check the tasks and return their trials.

    Raises:
        BadInput: a task that cannot be run or verified, or that occurs twice; no tasks.
    """
    from rollout.__main__ import check_tasks
    from rollout.pull import Trials

    path = tasks.data("tasks.parquet")
    ids = check_tasks(path, solution=False, verdict=True)
    if not ids:
        raise BadInput(f"{path}: no tasks to evaluate on; give an artifact that holds some")
    return Trials(path, dict.fromkeys(ids, args.attempts))


def write_artifact(args: argparse.Namespace, tasks: Artifact, endpoint: Endpoint, writer: ArtifactWriter) -> None:
    """Run what is not finished yet, score it and fill the artifact."""
    from recipe_core.records import TRAJECTORY_SCHEMA, TableWriter
    from rollout.__main__ import finish_trials, forget, read_finished, served_by
    from rollout.shared import clear_old

    asked = trials_of(args, tasks)
    work, _ = finish_trials(args, asked, endpoint, writer.fingerprint, f"evaluate {args.label}")
    trials: list[Outcome] = []
    classes: Counter[str] = Counter()
    last_error = None
    with TableWriter(writer.path(TRIALS), TRAJECTORY_SCHEMA) as table:
        for name in asked.names():
            row = read_finished(work, name)["row"]
            table.write(row)
            trials += outcomes([row])
            classes[row["error_class"] or "none"] += 1
            last_error = row["error_message"] or last_error
    if classes[INFRASTRUCTURE] == len(asked):
        forget(work, asked)
        raise BadInput(
            f"all {len(asked)} trials failed outside the model, the last with: {last_error}; nothing was scored"
        )
    scores = scores_by_source(trials, attempts=args.attempts, seed=args.seed)
    writer.path(SCORES).write_text(canonical_json(scores_json(args.label, args.seed, scores)))
    writer.count(rows_in=len(asked), rows_out=len(asked))
    writer.provenance(error_classes=dict(sorted(classes.items())), **served_by(args))
    clear_old(args.out)
    print_scores(args.label, scores)


def scores_json(label: str, seed: int, scores: list[Score]) -> dict[str, Any]:
    """Return the content of scores.json."""
    return {
        "model": label,
        "seed": seed,
        "resamples": RESAMPLES,
        "scores": [dataclasses.asdict(found) for found in scores],
    }


def print_scores(label: str, scores: list[Score]) -> None:
    """Print one line a source on standard error."""
    for found in scores:
        if found.pass_at_1 is None or found.ci95 is None:
            print(
                f"{label} {found.source}: no valid attempt, {found.infra_errors} infrastructure errors", file=sys.stderr
            )
            continue
        low, high = found.ci95
        print(
            f"{label} {found.source}: pass@1 {found.pass_at_1:.3f} [{low:.3f}, {high:.3f}] on {found.n_tasks} tasks, "
            f"{found.infra_errors} infrastructure errors",
            file=sys.stderr,
        )


_COMMANDS: dict[str, Callable[[Sequence[str] | None], None]] = {"pull": entry(build_pull_parser, run_pull)}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in _COMMANDS:
        _COMMANDS[words[0]](words[1:])
    else:
        entry(build_parser, run)(words)


if __name__ == "__main__":
    main()
