"""Keep trajectories by their number of turns, their outcome and how they ended.

    filter-turns --trajectories results/rollout/aaa --min-turns 5 --drop-errors timeout --drop-subagents \\
        --out results/filter_turns/bbb

A turn is one assistant message. What is dropped goes to rejects.parquet with the first of these reasons that applies:
  infrastructure   always dropped: the trial failed for a cause outside the model
  subagent         --drop-subagents and the trace is a subagent's or a summarisation's
  timeout, parse, context, output_length
                   --drop-errors names the trajectory's error class
  not-solved       --outcome success and the reward is below 1 or missing
  too-few-turns    fewer turns than --min-turns
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from filter_turns.keep import Rules, count_turns, reason_to_drop
from recipe_core.artifact import ArtifactWriter, open_artifact
from recipe_core.cli import Parser, add_common, entry, positive
from recipe_core.errors import BadInput, nearest
from recipe_core.terms import MODEL_ERRORS


def error_classes(text: str) -> list[str]:
    """Parse a comma-separated list of error classes; the result is sorted, each class once."""
    classes = {name.strip() for name in text.split(",") if name.strip()}
    for name in sorted(classes - set(MODEL_ERRORS)):
        hint = nearest(name, list(MODEL_ERRORS)) or f"; the classes are {', '.join(MODEL_ERRORS)}"
        raise argparse.ArgumentTypeError(f"no error class {name!r}{hint}")
    return sorted(classes)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="filter-turns", description=__doc__)
    parser.add_argument("--trajectories", type=Path, required=True, metavar="DIR", help="trajectory artifact to filter")
    parser.add_argument("--min-turns", type=positive, default=1, metavar="N", help="fewest turns to keep (default 1)")
    parser.add_argument(
        "--outcome", choices=("success", "any"), default="any", help="success: only reward 1 is kept (default any)"
    )
    parser.add_argument(
        "--drop-errors",
        type=error_classes,
        default=[],
        metavar="CLASS,...",
        help=f"error classes to drop, of {', '.join(MODEL_ERRORS)}",
    )
    parser.add_argument("--drop-subagents", action="store_true", help="drop traces of subagents and summarisations")
    add_common(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Filter, and write the artifact."""
    trajectories = open_artifact(args.trajectories)
    path = trajectories.data("trajectories.parquet")
    params = {
        "min-turns": args.min_turns,
        "outcome": args.outcome,
        "drop-errors": args.drop_errors,
        "drop-subagents": args.drop_subagents,
    }
    with ArtifactWriter(
        args.out,
        stage="filter-turns",
        params=params,
        seed=args.seed,
        inputs={"trajectories": trajectories},
        tier="T0",
        package="filter_turns",
    ) as writer:
        if not writer.up_to_date:
            rules = Rules(args.min_turns, args.outcome == "success", args.drop_errors, args.drop_subagents)
            _write(path, rules, writer)


def _write(path: Path, rules: Rules, writer: ArtifactWriter) -> None:
    from recipe_core.records import TableWriter, read_rows, read_schema, with_reason

    schema = read_schema(path)
    for name in ("conversations", "reward", "error_class"):
        if name not in schema.names:
            raise BadInput(f"{path}: no column {name!r}; give the trajectories.parquet of a rollout artifact")
    dropped: Counter[str] = Counter()
    with (
        TableWriter(writer.path("trajectories.parquet"), schema) as kept,
        TableWriter(writer.path("rejects.parquet"), with_reason(schema)) as rejects,
    ):
        for row in read_rows(path):
            reason = reason_to_drop(
                turns=count_turns(row["conversations"]),
                reward=row["reward"],
                error_class=row["error_class"],
                trace_source=row.get("trace_source"),
                rules=rules,
            )
            if reason is None:
                kept.write(row)
            else:
                rejects.write({**row, "reason": reason})
                dropped[reason] += 1
    writer.count(rows_in=kept.rows + rejects.rows, rows_out=kept.rows, dropped=dropped)


main = entry(build_parser, run)

if __name__ == "__main__":
    main()
