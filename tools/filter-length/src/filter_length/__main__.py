"""Keep tasks by a numeric signal: the longest, the shortest, or those inside bounds.

    filter-length --tasks results/mix/aaa --column meta.response_tokens --keep longest --fraction 0.5 \\
        --out results/filter_length/bbb

signals (--column):
  NAME               a numeric column of the task rows
  meta.NAME          a number in the rows' meta JSON; meta.a.b for a nested one
  instruction_chars  computed: characters of the instruction
  instruction_words  computed: words of the instruction
  binary_bytes       computed: bytes of the packed task

Kept rows stay in the order of the input; ties are broken by task id. What is dropped goes to rejects.parquet with the
reason (no-value, too-short, too-long, not-longest, not-shortest) and the value. Bounds come before --keep.
"""

from __future__ import annotations

import argparse
from collections import Counter
from fractions import Fraction
from pathlib import Path

from filter_length.keep import Measured, reasons
from recipe_core.artifact import ArtifactWriter, open_artifact
from recipe_core.cli import Parser, add_common, entry, finite, positive
from recipe_core.errors import BadInput


def fraction(text: str) -> str:
    """Check that a fraction is above 0 and at most 1; it stays text, so that it is taken exactly as written."""
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a fraction above 0 and at most 1")
    return text


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="filter-length", description=__doc__)
    parser.add_argument("--tasks", type=Path, required=True, metavar="DIR", help="task artifact to filter")
    parser.add_argument(
        "--column", default="instruction_chars", metavar="NAME", help="the signal (default instruction_chars)"
    )
    parser.add_argument("--keep", choices=("longest", "shortest"), help="which end to keep; needs --rows or --fraction")
    parser.add_argument("--rows", type=positive, metavar="N", help="with --keep: how many rows to keep")
    parser.add_argument("--fraction", type=fraction, metavar="F", help="with --keep: the share of rows to keep")
    parser.add_argument("--min", type=finite, metavar="X", help="drop rows with a smaller value")
    parser.add_argument("--max", type=finite, metavar="X", help="drop rows with a larger value")
    add_common(parser)
    return parser


def check_flags(args: argparse.Namespace) -> None:
    """Raise BadInput for flags that contradict each other or ask for nothing."""
    if args.rows is not None and args.fraction is not None:
        raise BadInput("--rows and --fraction both say how many rows to keep; give one of them")
    if (args.keep is None) != (args.rows is None and args.fraction is None):
        raise BadInput("--keep needs --rows or --fraction, and they need --keep; give both or neither")
    if args.keep is None and args.min is None and args.max is None:
        raise BadInput("nothing to filter by; give --keep with --rows or --fraction, or --min, or --max")
    if args.min is not None and args.max is not None and args.min > args.max:
        raise BadInput(f"--min {args.min:g} is above --max {args.max:g}; no value lies between them")


def run(args: argparse.Namespace) -> None:
    """Filter, and write the artifact."""
    check_flags(args)
    tasks = open_artifact(args.tasks)
    path = tasks.data("tasks.parquet")
    params = {
        "column": args.column,
        "keep": args.keep,
        "rows": args.rows,
        "fraction": args.fraction,
        "min": args.min,
        "max": args.max,
    }
    with ArtifactWriter(
        args.out,
        stage="filter-length",
        params=params,
        seed=args.seed,
        inputs={"tasks": tasks},
        tier="T0",
        package="filter_length",
    ) as writer:
        if not writer.up_to_date:
            _write(args, path, writer)


def _write(args: argparse.Namespace, path: Path, writer: ArtifactWriter) -> None:
    import pyarrow as pa

    from recipe_core.progress import progress
    from recipe_core.records import TableWriter, read_rows, read_schema, with_reason
    from recipe_core.signals import find_signal, measure

    schema = read_schema(path)
    rows = [Measured(task_id, value) for task_id, value in measure(path, find_signal(args.column, path))]
    decided = reasons(rows, keep=args.keep, count=args.rows, fraction=args.fraction, low=args.min, high=args.max)
    rejects_schema = with_reason(schema).append(pa.field("value", pa.float64()))
    dropped: Counter[str] = Counter()
    with (
        progress(len(rows), "filter-length") as bar,
        TableWriter(writer.path("tasks.parquet"), schema) as kept,
        TableWriter(writer.path("rejects.parquet"), rejects_schema) as rejects,
    ):
        for row, (_, value), reason in zip(read_rows(path), rows, decided, strict=True):
            if reason is None:
                kept.write(row)
            else:
                rejects.write({**row, "reason": reason, "value": value})
                dropped[reason] += 1
            bar.advance()
    writer.count(rows_in=len(rows), rows_out=kept.rows, dropped=dropped)


main = entry(build_parser, run)

if __name__ == "__main__":
    main()
