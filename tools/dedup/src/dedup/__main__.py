"""Drop tasks that are the same as another one: equal, or similar by characters or by word sequences.

    dedup --tasks results/mix/aaa --method indel --threshold 90 --out results/dedup/bbb

methods:
  exact    equal text; also for task_binary, which is compared byte by byte
  indel    normalised Indel similarity of at least --threshold per cent (rapidfuzz.fuzz.ratio); every pair counts
  minhash  Jaccard similarity of word sequences of at least --threshold (0 to 1); candidates by MinHash, then verified

Rows are taken in the order of their task ids: a row is dropped if it is the same as one that was kept before it, so
which rows stay does not depend on the order of the input. Text is compared in Unicode form NFKC, case folded, with runs
of blanks as one space, unless --raw. Rows without a value are kept. Kept rows stay in the order of the input; dropped
ones go to rejects.parquet with the reason `duplicate`, the task id that was kept and the similarity in per cent.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipe_core.artifact import ArtifactWriter, open_artifact
from recipe_core.cli import Parser, add_common, entry, finite, positive
from recipe_core.errors import BadInput, nearest

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from dedup.same import Kept

METHODS = ("exact", "indel", "minhash")
THRESHOLDS = {"indel": 90.0, "minhash": 0.8}
NGRAM = 5
PERMUTATIONS = 256


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="dedup", description=__doc__)
    parser.add_argument("--tasks", type=Path, required=True, metavar="DIR", help="task artifact to go through")
    parser.add_argument("--method", choices=METHODS, default="exact", help="what the same means (default exact)")
    parser.add_argument("--column", default="instruction", metavar="NAME", help="column compared (default instruction)")
    parser.add_argument(
        "--threshold", type=finite, metavar="X", help="least similarity: indel 1 to 100 (90), minhash 0 to 1 (0.8)"
    )
    parser.add_argument("--ngram", type=positive, metavar="N", help=f"minhash: words a sequence (default {NGRAM})")
    parser.add_argument(
        "--permutations", type=positive, metavar="N", help=f"minhash: length of a signature (default {PERMUTATIONS})"
    )
    parser.add_argument("--raw", action="store_true", help="compare the text as it is, without normalising it")
    add_common(parser)
    return parser


def check_flags(args: argparse.Namespace) -> dict[str, Any]:
    """Return the step's parameters with defaults filled in; raise BadInput for flags that contradict each other."""
    if args.method == "exact" and args.threshold is not None:
        raise BadInput("--threshold belongs to --method indel or minhash; exact has none: drop one of the two")
    for flag, value in (("--ngram", args.ngram), ("--permutations", args.permutations)):
        if value is not None and args.method != "minhash":
            raise BadInput(f"{flag} belongs to --method minhash, not {args.method}; drop one of the two")
    threshold = THRESHOLDS.get(args.method, 0.0) if args.threshold is None else args.threshold
    if args.method == "indel" and not 1 < threshold <= 100:
        raise BadInput(f"--threshold {threshold:g} is not above 1 and at most 100; indel takes per cent, such as 90")
    if args.method == "minhash" and not 0 < threshold <= 1:
        raise BadInput(f"--threshold {threshold:g} is not above 0 and at most 1; minhash takes a share, such as 0.8")
    minhash = args.method == "minhash"
    return {
        "method": args.method,
        "column": args.column,
        "threshold": None if args.method == "exact" else threshold,
        "ngram": (args.ngram or NGRAM) if minhash else None,
        "permutations": (args.permutations or PERMUTATIONS) if minhash else None,
        "raw": args.raw,
    }


def check_column(schema: pa.Schema, column: str, method: str, where: Path) -> None:
    """Raise BadInput unless the file has the column and the method can compare what it holds."""
    import pyarrow.types as kinds

    def comparable(kind: pa.DataType) -> bool:
        return _is_text(kind) or (method == "exact" and (kinds.is_binary(kind) or kinds.is_large_binary(kind)))

    known = [field.name for field in schema if comparable(field.type)]
    if column not in schema.names:
        hint = nearest(column, known) or f"; {method} compares {', '.join(known)}"
        raise BadInput(f"{where}: no column {column!r}{hint}")
    if column not in known:
        kind = schema.field(column).type
        raise BadInput(
            f"{where}: column {column!r} holds {kind}; {method} compares {', '.join(known)}: name one of them"
        )
    for name in ("reason", "kept", "similarity"):
        if name in schema.names:
            raise BadInput(f"{where}: has a column {name!r} already, which rejects.parquet needs; rename it first")


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow.types as kinds

    return kinds.is_string(kind) or kinds.is_large_string(kind)


def run(args: argparse.Namespace) -> None:
    """Find the duplicates, and write the artifact."""
    params = check_flags(args)
    tasks = open_artifact(args.tasks)
    path = tasks.data("tasks.parquet")
    with ArtifactWriter(
        args.out, stage="dedup", params=params, seed=args.seed, inputs={"tasks": tasks}, tier="T0", package="dedup"
    ) as writer:
        if not writer.up_to_date:
            _write(params, args.seed, path, writer)


def _comparison(params: dict[str, Any], seed: int, text: bool) -> tuple[Callable[[Any], Any], Kept]:
    """Return how a cell becomes a key, and the empty index that compares keys."""
    from dedup.same import Equal, IndelSimilar, ShinglesSimilar
    from dedup.text import digest, shingle_key
    from recipe_core.seeds import row_seed
    from recipe_core.text import normalise

    if not text:
        return digest, Equal()
    prepare: Callable[[str], str] = str if params["raw"] else normalise
    if params["method"] == "exact":
        return lambda cell: digest(prepare(cell).encode()), Equal()
    if params["method"] == "indel":
        return prepare, IndelSimilar(params["threshold"])
    ngram = params["ngram"]
    similar = ShinglesSimilar(params["threshold"], params["permutations"], row_seed(seed, "dedup"))
    return lambda cell: shingle_key(prepare(cell), ngram), similar


def _alone(params: dict[str, Any], seed: int, path: Path, key_of: Callable[[Any], Any]) -> np.ndarray:
    """Return which rows of a file no other row can be found similar to by their signatures: bool, shape (rows,)."""
    import numpy as np

    from dedup.same import Bands
    from recipe_core.records import read_batches
    from recipe_core.seeds import row_seed

    bands = Bands(params["threshold"], params["permutations"], row_seed(seed, "dedup"))
    null: list[bool] = []
    for batch in read_batches(path, (params["column"],)):
        for cell in batch.column(0).to_pylist():
            null.append(cell is None)
            if cell is not None:
                bands.add(key_of(cell))
    alone = np.array(null, dtype=bool)
    alone[~alone] = ~bands.shared()
    return alone


def _write(params: dict[str, Any], seed: int, path: Path, writer: ArtifactWriter) -> None:
    import pyarrow as pa

    from dedup.same import Keyed, decide
    from recipe_core.progress import progress
    from recipe_core.records import TableWriter, read_rows, read_schema, with_reason

    schema = read_schema(path)
    column = params["column"]
    check_column(schema, column, params["method"], path)
    key_of, kept_before = _comparison(params, seed, _is_text(schema.field(column).type))
    alone = _alone(params, seed, path, key_of) if params["method"] == "minhash" else None
    rows: list[Keyed] = []
    for row in read_rows(path, tuple(dict.fromkeys(("task_id", column)))):
        if not row["task_id"]:
            raise BadInput(f"{path}: row {len(rows)} has no task_id; rebuild the artifact with source-tasks")
        settled = row[column] is None or (alone is not None and alone[len(rows)])
        rows.append(Keyed(row["task_id"], None if settled else key_of(row[column])))
    with progress(sum(row.key is not None for row in rows), "dedup") as bar:
        decided = decide(rows, kept_before, bar.advance)
    rejects_schema = (
        with_reason(schema).append(pa.field("kept", pa.string())).append(pa.field("similarity", pa.float64()))
    )
    with (
        TableWriter(writer.path("tasks.parquet"), schema) as kept,
        TableWriter(writer.path("rejects.parquet"), rejects_schema) as rejects,
    ):
        for row, duplicate in zip(read_rows(path), decided, strict=True):
            if duplicate is None:
                kept.write(row)
            else:
                rejects.write({**row, "reason": "duplicate", **duplicate._asdict()})
    writer.count(rows_in=len(rows), rows_out=kept.rows, dropped={"duplicate": rejects.rows})


main = entry(build_parser, run)

if __name__ == "__main__":
    main()
