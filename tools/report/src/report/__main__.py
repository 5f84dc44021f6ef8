"""Report what a recipe built: a table, a self-contained page and a summary.

    report --artifact mix/train=results/mix/aaa --artifact evaluate/sft=results/evaluate/bbb --recipe demo \\
        --out results/report/ccc

Give the artifacts of all steps, in pipeline order. Writes summary.json and index.html, and prints the table.

Other commands:
  report show DIR   print the table of a recipe that was built, for example results/recipes/demo
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from recipe_core.artifact import ArtifactWriter, canonical_json
from recipe_core.cli import Parser, add_common, entry, named_folder
from recipe_core.errors import BadInput


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="report", description=__doc__)
    parser.add_argument(
        "--artifact",
        type=named_folder,
        action="append",
        required=True,
        metavar="STAGE/STEP=DIR",
        help="a step's name and artifact; repeat it, in pipeline order",
    )
    parser.add_argument("--recipe", default="recipe", metavar="NAME", help="the page's title (default recipe)")
    parser.add_argument("--quiet", action="store_true", help="print no table")
    add_common(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Write the report, and print the table."""
    from report.steps import open_steps
    from report.summary import read_summary
    from report.table import print_summary

    steps = open_steps(args.artifact)
    with ArtifactWriter(
        args.out,
        stage="report",
        params={"recipe": args.recipe, "steps": [step.name for step in steps]},
        seed=args.seed,
        inputs={"artifacts": [step.artifact for step in steps]},
        tier="T2",
        package=["report", "evaluate"],
    ) as writer:
        if not writer.up_to_date:
            from report.curves import training_curves
            from report.page import render
            from report.summary import summarise
            from report.trajectories import sample

            summary = summarise(steps, args.seed)
            page = render(args.recipe, summary, training_curves(steps), sample(steps, args.seed))
            writer.path("summary.json").write_text(canonical_json(summary))
            writer.path("index.html").write_text(page, encoding="utf-8")
            writer.count(rows_in=None, rows_out=len(steps))
    if not args.quiet:
        print_summary(read_summary(args.out), args.out / "index.html")


def build_show_parser() -> argparse.ArgumentParser:
    """Return the parser of `report show`."""
    text = "Print the table of a recipe that was built.\n\n    report show results/recipes/demo"
    parser = Parser(prog="report show", description=text)
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder with summary.json and index.html")
    return parser


def run_show(args: argparse.Namespace) -> None:
    """Print the table again."""
    from report.summary import read_summary
    from report.table import print_summary

    summary, page = read_summary(args.folder), args.folder / "index.html"
    if not page.is_file():
        raise BadInput(f"{page}: no such file; build the recipe's report again")
    try:
        print_summary(summary, page)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        where = args.folder / "summary.json"
        raise BadInput(f"{where}: not a recipe's summary ({error!r}); build the recipe's report again") from None


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["show"]:
        entry(build_show_parser, run_show)(words[1:])
    else:
        entry(build_parser, run)(words)


if __name__ == "__main__":
    main()
