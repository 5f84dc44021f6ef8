"""Draw tasks from several sources into one artifact.

    mix --tasks results/source_tasks/aaa results/source_tasks/bbb --method shares --rows 400 --out results/mix/ccc

Which rows are drawn depends on the tasks and the seed, not on the order of the inputs or how they are cut into files. A
source is what the rows' `source` column says.

methods:
  shares       --rows divided equally; the remainder goes, one row each, to the first sources by name
  weights      in proportion to --weights, rounded by largest remainder
  round-robin  the sources take turns, by name, until --rows are drawn; one that runs out is passed over
  concatenate  every row, or --rows of them drawn from all sources together

A source too small for its share gives what it has and the shortfall is reported, unless --with-replacement. Duplicates
(by task id) and rows not drawn go to rejects.parquet with the reason.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from pathlib import Path

from mix.draw import METHODS, draw
from recipe_core.artifact import ArtifactWriter, open_artifact
from recipe_core.cli import Parser, add_common, entry, positive
from recipe_core.errors import BadInput


def weight_map(text: str) -> dict[str, float]:
    """Parse `name=weight,name=weight`; weights are finite and not negative."""
    weights: dict[str, float] = {}
    for item in text.split(","):
        name, _, value = item.partition("=")
        try:
            weight = float(value)
        except ValueError:
            weight = math.nan
        if not name or name in weights or not (math.isfinite(weight) and weight >= 0):
            raise argparse.ArgumentTypeError(f"{item!r} is not name=weight with a weight of at least 0, each name once")
        weights[name] = weight
    return weights


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="mix", description=__doc__)
    parser.add_argument(
        "--tasks", type=Path, nargs="+", required=True, metavar="DIR", help="task artifacts to draw from"
    )
    parser.add_argument(
        "--method", choices=METHODS, default="shares", help="how many rows a source gives (default shares)"
    )
    parser.add_argument(
        "--rows", type=positive, metavar="N", help="rows wanted in all (concatenate: default every row)"
    )
    parser.add_argument(
        "--weights", type=weight_map, metavar="NAME=W,...", help="for weights: a weight for every source"
    )
    parser.add_argument("--cap", type=positive, metavar="N", help="most distinct tasks a source may give")
    parser.add_argument(
        "--with-replacement",
        action="store_true",
        help="for shares and weights: repeat the tasks of a source too small for its share, in whole passes",
    )
    add_common(parser)
    return parser


def check_flags(args: argparse.Namespace) -> None:
    """Raise BadInput for flags that contradict each other."""
    if args.rows is None and args.method != "concatenate":
        raise BadInput(f"--method {args.method} needs --rows; give the number of rows wanted in all")
    if (args.method == "weights") != (args.weights is not None):
        raise BadInput("--weights belongs to --method weights; give both or neither")
    if args.with_replacement and args.method not in ("shares", "weights"):
        raise BadInput(
            f"--with-replacement belongs to --method shares or weights, not {args.method}; drop one of the two"
        )


def run(args: argparse.Namespace) -> None:
    """Draw, and write the artifact."""
    check_flags(args)
    # By digest, so that the manifest too is the same in whatever order the inputs are given.
    inputs = sorted((open_artifact(path) for path in args.tasks), key=lambda artifact: artifact.digest)
    paths = [artifact.data("tasks.parquet") for artifact in inputs]
    params = {
        "method": args.method,
        "rows": args.rows,
        "weights": args.weights,
        "cap": args.cap,
        "with-replacement": args.with_replacement,
    }
    with ArtifactWriter(
        args.out, stage="mix", params=params, seed=args.seed, inputs={"tasks": inputs}, tier="T0", package="mix"
    ) as writer:
        if not writer.up_to_date:
            _write(args, paths, writer)


def _write(args: argparse.Namespace, paths: list[Path], writer: ArtifactWriter) -> None:
    from mix.rows import gather, rows_held, scan, union_schema, without_duplicates
    from recipe_core.progress import progress
    from recipe_core.records import TableWriter, with_reason

    schema = union_schema(paths)
    kept, duplicates = without_duplicates(scan(paths))
    if not kept:
        raise BadInput(f"{paths[0]}: no rows in any input; give artifacts that hold tasks")
    sources: dict[str, list[str]] = {}
    for candidate in kept.values():
        sources.setdefault(candidate.source, []).append(candidate.task_id)
    drawn = draw(
        sources,
        method=args.method,
        rows=args.rows,
        seed=args.seed,
        weights=args.weights,
        cap=args.cap,
        with_replacement=args.with_replacement,
    )
    for source, missing in drawn.missing.items():
        print(f"mix: {source} is {missing} rows short: it has no more tasks", file=sys.stderr)
    used = {pick.task_id for pick in drawn.picks}
    rejects = [(candidate, "duplicate") for candidate in duplicates]
    rejects += [(kept[task_id], "not-drawn") for task_id in sorted(kept.keys() - used)]

    held = rows_held(paths)
    with progress(len(drawn.picks) + len(rejects), "mix") as bar:
        with TableWriter(writer.path("tasks.parquet"), schema) as table:
            for row in gather(paths, [kept[pick.task_id].place for pick in drawn.picks], held):
                table.write(row)
                bar.advance()
        with TableWriter(writer.path("rejects.parquet"), with_reason(schema)) as table:
            rows = gather(paths, [candidate.place for candidate, _ in rejects], held)
            for row, (_, reason) in zip(rows, rejects, strict=True):
                table.write({**row, "reason": reason})
                bar.advance()
    repeats = len(drawn.picks) - len(used)
    writer.count(
        # Repeated rows come from no input row of their own, so then the two sides do not count the same thing.
        rows_in=None if repeats else len(kept) + len(duplicates),
        rows_out=len(drawn.picks),
        dropped=Counter(reason for _, reason in rejects),
    )
    writer.provenance(missing=drawn.missing, repeats=repeats)


main = entry(build_parser, run)

if __name__ == "__main__":
    main()
