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
from pathlib import Path

from recipe_core.artifact import ArtifactWriter, open_artifact
from recipe_core.cli import Parser, add_common, entry
from recipe_core.select import Words, add_select_flags, check_select_flags, select_parameters, write_selection

WORDS = Words(highest="longest", lowest="shortest", below="too-short", above="too-long")


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="filter-length", description=__doc__)
    parser.add_argument("--tasks", type=Path, required=True, metavar="DIR", help="task artifact to filter")
    parser.add_argument(
        "--column", default="instruction_chars", metavar="NAME", help="the signal (default instruction_chars)"
    )
    add_select_flags(parser, WORDS)
    add_common(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Filter, and write the artifact."""
    check_select_flags(args)
    tasks = open_artifact(args.tasks)
    path = tasks.data("tasks.parquet")
    with ArtifactWriter(
        args.out,
        stage="filter-length",
        params=select_parameters(args),
        seed=args.seed,
        inputs={"tasks": tasks},
        tier="T0",
        package="filter_length",
    ) as writer:
        if not writer.up_to_date:
            write_selection(args, path, writer, label="filter-length", words=WORDS)


main = entry(build_parser, run)

if __name__ == "__main__":
    main()
