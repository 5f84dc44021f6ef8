"""Keep tasks by a signal: the highest, the lowest, or those inside bounds.

    filter-tasks --tasks results/score/aaa --column difficulty --min 3 --keep highest --fraction 0.5 \\
        --within-source --out results/filter_tasks/bbb

signals (--column):
  NAME               a numeric column of the task rows, such as score adds
  meta.NAME          a number in the rows' meta JSON; meta.a.b for a nested one
  instruction_chars  computed: characters of the instruction
  instruction_words  computed: words of the instruction
  binary_bytes       computed: bytes of the packed task

Kept rows stay in the order of the input; ties are broken by task id. What is dropped goes to rejects.parquet with the
reason (no-value, below-min, above-max, not-highest, not-lowest) and the value. Bounds come before --keep.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from recipe_core.artifact import ArtifactWriter, open_artifact
from recipe_core.cli import Parser, add_common, entry
from recipe_core.errors import BadInput
from recipe_core.select import add_select_flags, check_select_flags, select_parameters, write_selection


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="filter-tasks", description=__doc__)
    parser.add_argument("--tasks", type=Path, required=True, metavar="DIR", help="task artifact to filter")
    parser.add_argument("--column", required=True, metavar="NAME", help="the signal")
    add_select_flags(parser)
    parser.add_argument(
        "--within-source", action="store_true", help="with --keep: --rows or --fraction of each source, not of all"
    )
    add_common(parser)
    return parser


def check_flags(args: argparse.Namespace) -> None:
    """Raise BadInput for flags that contradict each other or ask for nothing."""
    check_select_flags(args)
    if args.within_source and args.keep is None:
        raise BadInput("--within-source says of what --keep keeps its rows; give --keep too, or leave it out")


def run(args: argparse.Namespace) -> None:
    """Filter, and write the artifact."""
    check_flags(args)
    tasks = open_artifact(args.tasks)
    path = tasks.data("tasks.parquet")
    with ArtifactWriter(
        args.out,
        stage="filter-tasks",
        params={**select_parameters(args), "within_source": args.within_source},
        seed=args.seed,
        inputs={"tasks": tasks},
        tier="T0",
        package="filter_tasks",
    ) as writer:
        if not writer.up_to_date:
            group = "source" if args.within_source else None
            write_selection(args, path, writer, label="filter-tasks", group=group)


main = entry(build_parser, run)

if __name__ == "__main__":
    main()
