"""Score a model on held-out tasks: pass@1 with a 95 % interval, a source and in all.

    evaluate --tasks results/mix/aaa --model results/train_sft/bbb --label sft --out results/evaluate/ccc
    evaluate --tasks results/mix/aaa --endpoint http://localhost:8000/v1 --model-name qwen3 --label base --out OUT

The agent terminus-2 tries every task --attempts times, each trial in a sandbox of its own. An attempt that fails
outside the model (sandbox, network, server) is counted apart and is neither a success nor a failure. The interval comes
from a bootstrap over tasks; `evaluate.statistics` says how. A run that was killed goes on where it was when the same
command is given again.

Writes trials.parquet (a trajectory an attempt) and scores.json.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluate.statistics import RESAMPLES, Outcome, Score, outcomes, scores_by_source
from recipe_core.artifact import Artifact, ArtifactWriter, canonical_json, open_artifact, value_digest, work_dir
from recipe_core.cli import Parser, add_common, entry, iso_date
from recipe_core.errors import BadInput
from recipe_core.progress import progress
from recipe_core.terms import INFRASTRUCTURE, LABELS

if TYPE_CHECKING:
    from rollout.settings import Endpoint

TRIALS = "trials.parquet"
SCORES = "scores.json"


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    from rollout.__main__ import add_model_flags, add_sampling_flags, add_trial_flags

    parser = Parser(prog="evaluate", description=__doc__)
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
    }


def run(args: argparse.Namespace) -> None:
    """Check the flags, then run the trials, score them and publish the artifact."""
    from rollout.__main__ import model_endpoint

    endpoint = model_endpoint(args, ("--model", "--endpoint"))
    tasks = open_artifact(args.tasks)
    inputs: dict[str, Artifact] = {"tasks": tasks}
    if args.model:
        inputs["model"] = open_artifact(args.model)
    with ArtifactWriter(
        args.out,
        stage="evaluate",
        params=parameters(args, endpoint),
        seed=args.seed,
        inputs=inputs,
        tier="T2",
        package=["evaluate", "rollout", "sandbox"],
        commands=["serve"] if args.model else [],
    ) as writer:
        if not writer.up_to_date:
            write_artifact(args, tasks, endpoint, writer)


def write_artifact(args: argparse.Namespace, tasks: Artifact, endpoint: Endpoint, writer: ArtifactWriter) -> None:
    """Run what is not finished yet, score it and fill the artifact."""
    from recipe_core.records import TRAJECTORY_SCHEMA, TableWriter
    from rollout import engine
    from rollout.__main__ import check_tasks

    path = tasks.data("tasks.parquet")
    ids = sorted(check_tasks(path, solution=False, verdict=True))
    if not ids:
        raise BadInput(f"{path}: no tasks to evaluate on; give an artifact that holds some")
    work = work_dir(args.out, writer.fingerprint)
    run_id = value_digest({key: writer.fingerprint[key] for key in ("parameters", "seed", "inputs")})[:16]
    run_trials(args, path, len(ids), endpoint, run_id=run_id, work=work)

    names = [f"{task_id}__{attempt}" for task_id in ids for attempt in range(args.attempts)]
    trials: list[Outcome] = []
    classes: Counter[str] = Counter()
    with TableWriter(writer.path(TRIALS), TRAJECTORY_SCHEMA) as table:
        for name in names:
            row = engine.finished_row(work, name)
            assert row is not None  # run_trials returns when every trial is finished
            table.write(row)
            trials += outcomes([row])
            classes[row["error_class"] or "none"] += 1
            last_error = row["error_message"]
    if classes[INFRASTRUCTURE] == len(names):
        for name in names:
            engine.trial_path(work, name).unlink()
        raise BadInput(
            f"all {len(names)} trials failed outside the model, the last with: {last_error}; nothing was scored"
        )
    scores = scores_by_source(trials, attempts=args.attempts, seed=args.seed)
    writer.path(SCORES).write_text(canonical_json(scores_json(args.label, args.seed, scores)))
    writer.count(rows_in=len(names), rows_out=len(names))
    writer.provenance(error_classes=dict(sorted(classes.items())))
    print_scores(args.label, scores)


def scores_json(label: str, seed: int, scores: list[Score]) -> dict[str, Any]:
    """Return the content of scores.json."""
    return {
        "model": label,
        "seed": seed,
        "resamples": RESAMPLES,
        "scores": [dataclasses.asdict(found) for found in scores],
    }


def run_trials(
    args: argparse.Namespace, path: Path, n_tasks: int, endpoint: Endpoint, *, run_id: str, work: Path
) -> None:
    """Run the trials that are not in the work folder yet."""
    from recipe_core.records import read_rows
    from rollout import engine
    from rollout.__main__ import served, settings_of
    from rollout.settings import TrialRequest, requests_for

    def requests() -> Iterator[TrialRequest]:
        for row in read_rows(path):
            yield from requests_for(row, args.attempts)

    with progress(n_tasks * args.attempts, f"evaluate {args.label}") as bar:

        def finished(row: Mapping[str, Any]) -> None:
            bar.advance()

        with served(endpoint, args.model, args.max_model_len) as ready:
            asyncio.run(engine.run_each(requests(), ready, settings_of(args, run_id), work, finished))


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


main = entry(build_parser, run)

if __name__ == "__main__":
    main()
