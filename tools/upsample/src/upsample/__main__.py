"""Divide a number of rollouts among tasks, in proportion to a weight.

    upsample --tasks results/mix/aaa --column meta.response_tokens --rows 25000 --out results/upsample/bbb

Every task gets at least one; the others are divided in proportion to the weight and rounded by largest remainder, ties
by task id, so that they sum to --rows exactly. The column `attempts` of the tasks says how many a task got: rollout
runs a task that often. A task that has attempts already, and passes through here again, gets new ones.

weights (--column):
  NAME               a numeric column of the task rows
  meta.NAME          a number in the rows' meta JSON; meta.a.b for a nested one
  instruction_chars, instruction_words, binary_bytes   computed

A task without a value weighs nothing and gets one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from recipe_core.artifact import ArtifactWriter, open_artifact
from recipe_core.cli import Parser, add_common, entry, positive
from upsample.divide import divide


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="upsample", description=__doc__)
    parser.add_argument("--tasks", type=Path, required=True, metavar="DIR", help="task artifact")
    parser.add_argument("--column", required=True, metavar="NAME", help="the weight")
    parser.add_argument("--rows", type=positive, required=True, metavar="N", help="rollouts in all")
    add_common(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Divide, and write the artifact."""
    tasks = open_artifact(args.tasks)
    path = tasks.data("tasks.parquet")
    with ArtifactWriter(
        args.out,
        stage="upsample",
        params={"column": args.column, "rows": args.rows},
        seed=args.seed,
        inputs={"tasks": tasks},
        tier="T0",
        package="upsample",
    ) as writer:
        if not writer.up_to_date:
            _write(args, path, writer)


def _write(args: argparse.Namespace, path: Path, writer: ArtifactWriter) -> None:
    import pyarrow as pa

    from recipe_core.records import ATTEMPTS, TableWriter, read_rows, read_schema
    from recipe_core.signals import find_signal, measure

    measured = list(measure(path, find_signal(args.column, path)))
    weights = [0.0 if value is None else value for _, value in measured]
    missing = sum(value is None for _, value in measured)
    if missing:
        print(f"upsample: {missing} of {len(measured)} tasks have no {args.column}: one each", file=sys.stderr)
    counts = divide(args.rows, [task_id for task_id, _ in measured], weights)
    schema = read_schema(path)
    if ATTEMPTS not in schema.names:
        schema = schema.append(pa.field(ATTEMPTS, pa.int32()))
    with TableWriter(writer.path("tasks.parquet"), schema) as table:
        for row, count in zip(read_rows(path), counts, strict=True):
            table.write({**row, ATTEMPTS: count})
    writer.count(rows_in=len(measured), rows_out=table.rows)


main = entry(build_parser, run)

if __name__ == "__main__":
    main()
