"""Rank candidates by their mean z-score over benchmarks, and say what is inside the noise.

    rank --candidate swe-smith=results/evaluate/aaa tezos=results/evaluate/bbb nl2bash=results/evaluate/ccc \\
        --top 2 --out results/rank/ddd

A candidate is a name and its evaluate artifacts (NAME=DIR,DIR): one model, whose attempts are taken together. What the
trials' source column says is a benchmark. On each one a candidate's z-score is its pass@1 minus the mean of all
candidates, divided by their population standard deviation, or 0 when they do not deviate; its rank is by the mean of
its z-scores. All candidates must have been evaluated on the same tasks. Trials that failed outside the model are no
zeros: they are left out, and so is, for all candidates, a task at which one of them has no other.

For each candidate and the next one it gives the 95 % interval of the distance, paired by task: when it contains 0, the
order of the two is inside the noise. "best in" is the share of resamples in which a candidate would be first.

Writes rank.json, and prints a table and the lines `order` and `top` of a recipe's mix.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from rank.order import deviation, mean_z, order_by, z_table
from rank.trials import Benchmark, check_candidates, common_benchmarks, read_trials
from recipe_core.artifact import ArtifactWriter, canonical_json, open_artifact
from recipe_core.cli import Parser, add_common, entry, positive

RANK = "rank.json"


def candidate(text: str) -> tuple[str, list[Path]]:
    """Parse `NAME=DIR,DIR`."""
    name, _, folders = text.partition("=")
    parts = folders.split(",")
    if not name.strip() or "," in name or not all(parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIR or NAME=DIR,DIR,... with no comma in the name")
    return name.strip(), [Path(part) for part in parts]


class _Candidates(argparse.Action):
    """Collects candidates, in however many flags they are given, each name once."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        found = dict(getattr(namespace, self.dest) or {})
        for name, folders in values:
            if name in found:
                parser.error(f"argument --candidate: {name!r} is given twice; name each candidate once")
            found[name] = folders
        setattr(namespace, self.dest, found)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="rank", description=__doc__)
    parser.add_argument(
        "--candidate",
        type=candidate,
        nargs="+",
        action=_Candidates,
        required=True,
        metavar="NAME=DIR,...",
        help="a candidate and its evaluate artifacts; several after one flag, or the flag several times",
    )
    parser.add_argument("--top", type=positive, metavar="K", help="how many to take; the order lists all")
    add_common(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Rank, write the artifact and show it."""
    check_candidates(args.candidate, args.top)
    # By name and digest, so that the manifest too is the same in whatever order the candidates are given.
    artifacts = {
        name: sorted(map(open_artifact, args.candidate[name]), key=lambda artifact: artifact.digest)
        for name in sorted(args.candidate)
    }
    with ArtifactWriter(
        args.out,
        stage="rank",
        params={"candidates": list(artifacts), "top": args.top},
        seed=args.seed,
        inputs=artifacts,
        tier="T0",
        package=["rank", "evaluate"],
    ) as writer:
        if not writer.up_to_date:
            benchmarks = common_benchmarks({name: read_trials(name, found) for name, found in artifacts.items()})
            result = rank(benchmarks, args.top, args.seed)
            writer.path(RANK).write_text(canonical_json(result), encoding="utf-8")
            writer.count(rows_in=len(artifacts), rows_out=len(artifacts))
    from rank.table import show

    show(json.loads(open_artifact(args.out).data(RANK).read_text(encoding="utf-8")))


def rank(benchmarks: Sequence[Benchmark], top: int | None, seed: int) -> dict[str, Any]:
    """Return the content of rank.json.

    Args:
        benchmarks: every candidate's trials on the tasks that all of them have.
        top: how many candidates are taken; it decides nothing of the order.
        seed: of the resampling.
    """
    from evaluate.statistics import RESAMPLES, mean
    from rank.noise import distance, probability_best
    from recipe_core.progress import progress

    rates: dict[str, dict[str, float]] = {}
    for benchmark in benchmarks:
        for name, shares in benchmark.shares().items():
            rates.setdefault(name, {})[benchmark.name] = mean(shares)
    scales = {found.name: deviation([row[found.name] for row in rates.values()]) for found in benchmarks}
    scores, table = mean_z(rates), z_table(rates)
    order = order_by(scores)
    best = probability_best(benchmarks, scales, seed)
    neighbours = []
    with progress(len(order) - 1, "rank") as bar:
        for upper, lower in pairwise(order):
            found = distance(upper, lower, benchmarks, scales, seed)
            neighbours.append(
                {
                    "upper": upper,
                    "lower": lower,
                    "mean_z": found.mean_z,
                    "ci95": found.ci95,
                    "inside_noise": found.inside_noise,
                    "benchmarks": {name: dataclasses.asdict(change) for name, change in found.benchmarks.items()},
                }
            )
            bar.advance()
    return {
        "order": order,
        "top": top,
        "deviation": "population",
        "resamples": RESAMPLES,
        "benchmarks": [_of_benchmark(found, rates, scales[found.name]) for found in benchmarks],
        "candidates": [
            {
                "rank": place,
                "name": name,
                "mean_z": scores[name],
                "mean": mean(list(rates[name].values())),
                "probability_best": best[name],
                "infra_errors": sum(benchmark.infra_errors[name] for benchmark in benchmarks),
                "benchmarks": {key: {"pass_at_1": rates[name][key], "z": table[name][key]} for key in rates[name]},
            }
            for place, name in enumerate(order, 1)
        ],
        "neighbours": neighbours,
    }


def _of_benchmark(benchmark: Benchmark, rates: Mapping[str, Mapping[str, float]], scale: float) -> dict[str, Any]:
    from evaluate.statistics import mean

    return {
        "name": benchmark.name,
        "tasks": len(benchmark.tasks),
        "excluded_tasks": benchmark.excluded,
        "mean": mean([row[benchmark.name] for row in rates.values()]),
        "deviation": scale,
    }


main = entry(build_parser, run, ("evaluate",))

if __name__ == "__main__":
    main()
