"""Draw tasks from several sources into one artifact.

    mix --tasks results/source_tasks/aaa results/source_tasks/bbb --method shares --rows 400 --out results/mix/ccc

Which rows are drawn depends on the tasks and the seed, not on the order of the inputs or how they are cut into files. A
source is what the rows' `source` column says.

methods:
  shares       --rows divided equally; the remainder goes, one row each, to the first sources
  weights      in proportion to --weights, rounded by largest remainder
  round-robin  the sources take turns until --rows are drawn; one that runs out is passed over
  concatenate  every row, or --rows of them drawn from all sources together

Sources stand in the order of --order, or of an artifact of the tool rank (--rank), else by name; --top K draws only
from the first K of that order. A source too small for its share gives what it has and the shortfall is reported, unless
--with-replacement. Duplicates (by task id), rows not drawn and sources not taken go to rejects.parquet with the reason.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from pathlib import Path

from mix.draw import METHODS, choose_sources, draw
from recipe_core.artifact import Artifact, ArtifactWriter, open_artifact
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


def source_order(text: str) -> list[str]:
    """Parse `name,name`, each name once."""
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r} is not name,name,... with each name once")
    return names


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
    parser.add_argument(
        "--order", type=source_order, metavar="NAME,...", help="order of the sources (default: by name)"
    )
    parser.add_argument("--rank", type=Path, metavar="DIR", help="rank artifact to take the order from")
    parser.add_argument("--top", type=positive, metavar="K", help="draw only from the first K sources of that order")
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
    if args.order is not None and args.rank is not None:
        raise BadInput("--order and --rank both give the order of the sources; drop one of them")
    if args.top is not None and args.order is None and args.rank is None:
        raise BadInput("--top takes the first sources of an order; give --order or --rank")
    if args.with_replacement and args.method not in ("shares", "weights"):
        raise BadInput(
            f"--with-replacement belongs to --method shares or weights, not {args.method}; drop one of the two"
        )


def ranked_names(rank: Artifact) -> list[str]:
    """Return the order that a rank artifact holds.

    Raises:
        BadInput: an artifact of another stage, or an unreadable rank.json.
    """
    path = rank.data("rank.json")
    try:
        order = json.loads(path.read_bytes())["order"]
    except (ValueError, KeyError, TypeError):
        order = None
    if not isinstance(order, list) or not order or not all(isinstance(name, str) for name in order):
        raise BadInput(f"{path}: holds no order of names; rebuild the artifact with rank")
    return order


def run(args: argparse.Namespace) -> None:
    """Draw, and write the artifact."""
    check_flags(args)
    rank = None if args.rank is None else open_artifact(args.rank)
    order = args.order if rank is None else ranked_names(rank)
    # By digest, so that the manifest too is the same in whatever order the inputs are given.
    inputs = sorted((open_artifact(path) for path in args.tasks), key=lambda artifact: artifact.digest)
    paths = [artifact.data("tasks.parquet") for artifact in inputs]
    params = {
        "method": args.method,
        "rows": args.rows,
        "weights": args.weights,
        "order": args.order,
        "top": args.top,
        "cap": args.cap,
        "with-replacement": args.with_replacement,
    }
    with ArtifactWriter(
        args.out,
        stage="mix",
        params=params,
        seed=args.seed,
        inputs={"tasks": inputs, "rank": rank},
        tier="T0",
        package="mix",
    ) as writer:
        if not writer.up_to_date:
            _write(args, order, paths, writer)


def _write(args: argparse.Namespace, order: list[str] | None, paths: list[Path], writer: ArtifactWriter) -> None:
    from mix.rows import gather, rows_held, scan, union_schema, without_duplicates
    from recipe_core.progress import progress
    from recipe_core.records import TableWriter, with_reason

    schema = union_schema(paths)
    candidates = list(scan(paths))
    if not candidates:
        raise BadInput(f"{paths[0]}: no rows in any input; give artifacts that hold tasks")
    taken = choose_sources({candidate.source for candidate in candidates}, order, args.top)
    # Before duplicates are looked for, else a task could be lost to a source that is not taken.
    left_out = sorted(candidate for candidate in candidates if candidate.source not in taken)
    kept, duplicates = without_duplicates(candidate for candidate in candidates if candidate.source in taken)
    # A source all of whose tasks another one has too is still a source, and short of them.
    sources: dict[str, list[str]] = {source: [] for source in taken}
    for candidate in kept.values():
        sources[candidate.source].append(candidate.task_id)
    drawn = draw(
        sources,
        method=args.method,
        rows=args.rows,
        seed=args.seed,
        order=taken,
        weights=args.weights,
        cap=args.cap,
        with_replacement=args.with_replacement,
    )
    for source, missing in drawn.missing.items():
        print(f"mix: {source} is {missing} rows short: it has no more tasks", file=sys.stderr)
    used = {pick.task_id for pick in drawn.picks}
    rejects = [(candidate, "duplicate") for candidate in duplicates]
    rejects += [(kept[task_id], "not-drawn") for task_id in sorted(kept.keys() - used)]
    rejects += [(candidate, "not-in-top") for candidate in left_out]

    held = rows_held(paths)
    with progress(len(drawn.picks) + len(rejects), "mix") as bar:
        with TableWriter(writer.path("tasks.parquet"), schema) as table:
            places = [kept[pick.task_id].place for pick in drawn.picks]
            for row in gather(paths, places, held, writer.path("tasks.parquet").parent):
                table.write(row)
                bar.advance()
        with TableWriter(writer.path("rejects.parquet"), with_reason(schema)) as table:
            places = [candidate.place for candidate, _ in rejects]
            rows = gather(paths, places, held, writer.path("rejects.parquet").parent)
            for row, (_, reason) in zip(rows, rejects, strict=True):
                table.write({**row, "reason": reason})
                bar.advance()
    repeats = len(drawn.picks) - len(used)
    writer.count(
        # Repeated rows come from no input row of their own, so then the two sides do not count the same thing.
        rows_in=None if repeats else len(candidates),
        rows_out=len(drawn.picks),
        dropped=Counter(reason for _, reason in rejects),
    )
    writer.provenance(missing=drawn.missing, repeats=repeats)


main = entry(build_parser, run)

if __name__ == "__main__":
    main()
