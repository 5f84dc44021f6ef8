"""Write an artifact in a form in which such data sets are published, with a card and Croissant metadata.

    export-data --rows results/filter_turns/aaa --form sft --name demo-sft --out results/export_data/bbb

forms:
  sft        Parquet with the columns of the published fine-tuning sets
  sharegpt   JSON lines, `conversations` of `from` and `value`
  openai     JSON lines, `messages` of `role` and `content`
  tasks      Parquet of `path` and `task_binary`, as reinforcement learning takes it

Rows go to data/train-*.parquet or .jsonl in the order of the input, --shard-rows to a file. README.md is the card: the
sources with licences and counts, and the steps given with --step, with what each dropped. croissant.json names every
file with its digest. Nothing is sent anywhere.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from export_data.forms import FORMS, Form
from recipe_core.artifact import Artifact, ArtifactWriter, file_digest, open_artifact
from recipe_core.cli import Parser, add_common, entry, named_folder, positive
from recipe_core.errors import BadInput


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="export-data", description=__doc__)
    parser.add_argument("--rows", type=Path, required=True, metavar="DIR", help="tasks or trajectories to publish")
    parser.add_argument("--form", choices=sorted(FORMS), required=True, help="form of the rows")
    parser.add_argument("--name", required=True, help="the data set's name")
    parser.add_argument(
        "--shard-rows", type=positive, default=100_000, metavar="N", help="rows a file (default 100000)"
    )
    parser.add_argument(
        "--step",
        type=named_folder,
        action="append",
        default=[],
        metavar="STAGE/STEP=DIR",
        help="an artifact that the rows are made from, for the card; repeat it, in pipeline order",
    )
    add_common(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Write the data set."""
    form = FORMS[args.form]
    rows = open_artifact(args.rows)
    path = rows.data(form.reads)
    steps = {name: open_artifact(folder) for name, folder in args.step}
    with ArtifactWriter(
        args.out,
        stage="export-data",
        params={"form": form.name, "name": args.name, "shard-rows": args.shard_rows, "steps": list(steps)},
        seed=args.seed,
        inputs={"rows": rows, "steps": list(steps.values())},
        tier="T0",
        package="export_data",
    ) as writer:
        if not writer.up_to_date:
            _write(args, form, path, steps, writer)


def _sources(path: Path) -> Counter[tuple[str, str, str]]:
    """Count rows by source, licence and origin; what the rows do not name is empty."""
    from recipe_core.records import read_batches, read_schema

    wanted = ("source", "licence", "origin")
    named = [name for name in wanted if name in read_schema(path).names]
    counts: Counter[tuple[str, str, str]] = Counter()
    for batch in read_batches(path, named):
        cells = {name: batch.column(name).to_pylist() for name in named}
        nothing = [""] * batch.num_rows
        counts.update(zip(*([cell or "" for cell in cells.get(name, nothing)] for name in wanted), strict=True))
    return counts


def _task_licences(steps: dict[str, Artifact]) -> dict[str, tuple[str, str]]:
    """Return licence and origin by source, from the task artifacts among the steps: trajectories do not name them."""
    found: dict[str, set[tuple[str, str]]] = {}
    for artifact in steps.values():
        if "tasks.parquet" in artifact.manifest["files"]:
            for source, licence, origin in _sources(artifact.data("tasks.parquet")):
                found.setdefault(source, set()).add((licence, origin))
    return {
        source: (
            ", ".join(sorted({licence for licence, _ in pairs if licence})),
            "; ".join(sorted({origin for _, origin in pairs if origin})),
        )
        for source, pairs in found.items()
    }


def _write(
    args: argparse.Namespace, form: Form, path: Path, steps: dict[str, Artifact], writer: ArtifactWriter
) -> None:
    from export_data.card import DataFile, Lineage, card, croissant, licences_of

    sources = _sources(path)
    if not sources:
        raise BadInput(f"{path}: no rows to publish; loosen the filters before")
    known = _task_licences(steps)
    named: Counter[tuple[str, str, str]] = Counter()
    for (source, licence, origin), n in sources.items():
        others = known.get(source, ("", ""))
        named[source, licence or others[0], origin or others[1]] += n
    total = sources.total()
    files = [
        DataFile(name, file_digest(writer.path(name)), writer.path(name).stat().st_size)
        for name in _write_rows(form, path, total, args.shard_rows, writer)
    ]
    lineage = [
        Lineage(name, step.digest, **{key: step.manifest[key] for key in ("tier", "rows_in", "rows_out", "dropped")})
        for name, step in steps.items()
    ]
    text = card(args.name, form=form.description, suffix=form.suffix, rows=total, sources=named, lineage=lineage)
    writer.path("README.md").write_text(text)
    columns = list(form.convert(_example(form)))
    about = croissant(
        args.name,
        description=f"{total} rows: {form.description}.",
        licences=licences_of(named),
        files=files,
        suffix=form.suffix,
        columns=columns,
    )
    writer.path("croissant.json").write_text(about)
    writer.count(rows_in=total, rows_out=total)


def _example(form: Form) -> dict[str, Any]:
    return {name: [] if name == "conversations" else "" for name in form.columns}


def _write_rows(form: Form, path: Path, total: int, shard_rows: int, writer: ArtifactWriter) -> Iterator[str]:
    """Write the rows into files of at most `shard_rows` and yield the name of each as it is finished."""
    from itertools import islice

    import pyarrow as pa

    from recipe_core.progress import progress
    from recipe_core.records import TASK_SCHEMA, TRAJECTORY_SCHEMA, read_rows, write_rows

    known = TASK_SCHEMA if form.reads == "tasks.parquet" else TRAJECTORY_SCHEMA
    schema = pa.schema([known.field(name) for name in form.columns])
    published = (form.convert(row) for row in read_rows(path, form.columns))
    shards = -(-total // shard_rows)
    with progress(total, "export-data") as bar:
        for shard in range(shards):
            name = f"data/train-{shard:05d}-of-{shards:05d}.{form.suffix}"
            rows = islice(published, shard_rows)
            if form.suffix == "parquet":
                bar.advance(write_rows(writer.path(name), schema, rows))
            else:
                with writer.path(name).open("w") as stream:
                    for row in rows:
                        stream.write(json.dumps(row, ensure_ascii=False) + "\n")
                        bar.advance()
            yield name


main = entry(build_parser, run)

if __name__ == "__main__":
    main()
