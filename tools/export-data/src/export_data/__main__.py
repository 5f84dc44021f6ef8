"""Write an artifact in a form in which such data sets are published, with a card and Croissant metadata.

    export-data --rows results/filter_turns/aaa --form sft --name demo-sft --out results/export_data/bbb

forms:
  sft        Parquet with the columns of the published fine-tuning sets
  sharegpt   JSON lines, `conversations` of `from` and `value`
  openai     JSON lines, `messages` of `role` and `content`
  tasks      Parquet of `path` and `task_binary`, as reinforcement learning takes it

Rows go to data/train-*.parquet or .jsonl in the order of the input, --shard-rows to a file. README.md is the card: the
sources with licences and counts, the steps given with --step with their revisions and what each dropped, and what a
decontamination among them found. lineage.json says the same for machines, and croissant.json names every file with its
digest. Nothing is sent anywhere.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Any

from export_data.forms import FORMS, Form
from recipe_core.artifact import Artifact, ArtifactWriter, canonical_json, file_digest, open_artifact
from recipe_core.cli import Parser, add_common, entry, iso_date, named_folder, positive
from recipe_core.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa

    from export_data.sources import Tally

# A row group is written when it has so many rows or bytes: few groups, and none that is large in memory.
_GROUP_ROWS = 4096
_GROUP_BYTES = 64 * 1024 * 1024
VERSION = "1.0.0"


def title(text: str) -> str:
    """Parse a data set's name: one line that is not blank."""
    if not text.strip() or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not a name of one line")
    return text.strip()


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = Parser(prog="export-data", description=__doc__)
    parser.add_argument("--rows", type=Path, required=True, metavar="DIR", help="tasks or trajectories to publish")
    parser.add_argument("--form", choices=sorted(FORMS), required=True, help="form of the rows")
    parser.add_argument("--name", type=title, required=True, help="the data set's name")
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
    parser.add_argument("--date", type=iso_date, metavar="YYYY-MM-DD", help="day of publication, for the metadata")
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
        params={
            "form": form.name,
            "name": args.name,
            "shard-rows": args.shard_rows,
            "steps": list(steps),
            "date": args.date,
        },
        seed=args.seed,
        inputs={"rows": rows, "steps": list(steps.values())},
        tier="T0",
        package="export_data",
    ) as writer:
        if not writer.up_to_date:
            _write(args, form, path, steps, writer)


def _write(
    args: argparse.Namespace, form: Form, path: Path, steps: dict[str, Artifact], writer: ArtifactWriter
) -> None:
    import pyarrow.parquet as pq

    from export_data.card import card, lineage, step_of
    from export_data.croissant import DataFile, croissant
    from recipe_core.records import read_schema

    read_schema(path)
    total = pq.read_metadata(path).num_rows
    if not total:
        raise BadInput(f"{path}: no rows to publish; loosen the filters before")
    decontamination = {
        name: _report(step.data("report.json")) for name, step in steps.items() if step.stage == "decontaminate"
    }
    names = list(_write_rows(form, path, total, args.shard_rows, writer))
    files = [DataFile(name, file_digest(writer.path(name)), writer.path(name).stat().st_size) for name in names]
    about = lineage(
        args.name,
        form=form.name,
        tally=_tally(form, path, steps),
        steps=[step_of(name, step) for name, step in steps.items()],
        decontamination=decontamination,
    )
    writer.path("lineage.json").write_text(canonical_json(about), encoding="utf-8")
    text = card(about, form=form.description, suffix=form.suffix)
    writer.path("README.md").write_text(text, encoding="utf-8")
    metadata = croissant(
        args.name,
        description=f"{total} rows: {form.description}.",
        licences=list(about["licences"]),
        version=VERSION,
        date=args.date,
        files=files,
        suffix=form.suffix,
        columns=form.published,
    )
    writer.path("croissant.json").write_text(metadata, encoding="utf-8")
    writer.count(rows_in=total, rows_out=total)


def _report(path: Path) -> Mapping[str, Any]:
    """Return a decontamination report less the hits, which quote benchmarks."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        return {name: report[name] for name in ("method", "rule", "column", "rows_in", "dropped", "benchmarks")}
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path}: not a decontamination report ({error!r}); rebuild its artifact") from None


def _tally(form: Form, path: Path, steps: dict[str, Artifact]) -> Tally:
    from export_data.sources import Tasks, tally_tasks, tally_trajectories

    if form.reads == "tasks.parquet":
        return tally_tasks(path)
    tasks = Tasks()
    for step in steps.values():
        if "tasks.parquet" in step.manifest["files"]:
            tasks.read(step.data("tasks.parquet"))
    return tally_trajectories(path, tasks)


class _ParquetShard(AbstractContextManager["_ParquetShard"]):
    """A Parquet file that is written in groups of rows."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        import pyarrow.parquet as pq

        self._schema = schema
        self._pending: list[pa.RecordBatch] = []
        self._file = pq.ParquetWriter(path, schema, compression="zstd", compression_level=3, write_statistics=False)

    def write(self, batch: pa.RecordBatch) -> None:
        self._pending.append(batch)
        rows = sum(one.num_rows for one in self._pending)
        if rows >= _GROUP_ROWS or sum(one.nbytes for one in self._pending) >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._pending:
            table = pa.Table.from_batches(self._pending, schema=self._schema).combine_chunks()
            self._file.write_table(table, row_group_size=table.num_rows)
            self._pending = []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._file.close()


def _batches(path: Path, columns: tuple[str, ...], shard_rows: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield batches of text that is checked, cut where a shard ends, each with the number of its first row.

    Raises:
        BadInput: an unreadable file, or text that is not UTF-8.
    """
    from recipe_core.records import read_batches

    first = 0
    for batch in read_batches(path, columns):
        done = 0
        while done < batch.num_rows:
            part = batch.slice(done, min(batch.num_rows - done, shard_rows - first % shard_rows))
            yield first, part
            done += part.num_rows
            first += part.num_rows


def _write_rows(form: Form, path: Path, total: int, shard_rows: int, writer: ArtifactWriter) -> Iterator[str]:
    """Write the rows into files of at most `shard_rows` and yield the name of each as it is finished."""
    from itertools import groupby

    from recipe_core.progress import progress

    shards = -(-total // shard_rows)
    groups = groupby(_batches(path, form.columns, shard_rows), key=lambda numbered: numbered[0] // shard_rows)
    paths = _Paths(path)
    with progress(total, "export-data") as bar:
        for shard, batches in groups:
            name = f"data/train-{shard:05d}-of-{shards:05d}.{form.suffix}"
            write = _write_lines if form.line else _write_table
            for done in write(form, writer.path(name), paths, batches):
                bar.advance(done)
            yield name


class _Paths:
    """Refuses paths that who unpacks tasks must not follow: out of the folder, or the same for two different tasks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: dict[str, int] = {}

    def check(self, batch: pa.RecordBatch, first: int) -> None:
        """Go through the tasks of a batch; raises BadInput."""
        import hashlib

        paths, binaries = batch.column("path").to_pylist(), batch.column("task_binary")
        for number, path, binary in zip(count(first), paths, binaries, strict=False):
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise BadInput(f"{self.path}: row {number} has the path {path!r}, which leaves the folder; correct it")
            digest = int.from_bytes(hashlib.blake2b(binary.as_buffer(), digest_size=8).digest())
            if self._seen.setdefault(path, digest) != digest:
                raise BadInput(
                    f"{self.path}: row {number} has the path {path!r} of another task; give each task a path of its own"
                )


def _write_table(form: Form, path: Path, paths: _Paths, batches: Iterator[tuple[int, pa.RecordBatch]]) -> Iterator[int]:
    import pyarrow as pa

    from export_data.forms import published_batch
    from recipe_core.records import TASK_SCHEMA, TRAJECTORY_SCHEMA

    known = TASK_SCHEMA if form.reads == "tasks.parquet" else TRAJECTORY_SCHEMA
    schema = pa.schema([known.field(name) for name in form.columns])
    with _ParquetShard(path, schema) as shard:
        for first, batch in batches:
            published = published_batch(batch, schema, str(paths.path), first)
            if form.reads == "tasks.parquet":
                paths.check(published, first)
            shard.write(published)
            yield batch.num_rows


def _write_lines(form: Form, path: Path, paths: _Paths, batches: Iterator[tuple[int, pa.RecordBatch]]) -> Iterator[int]:
    from export_data.forms import Conversations

    assert form.line is not None
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for first, batch in batches:
            turns = Conversations(batch.column("conversations"), str(paths.path), first)
            for number, name, row in zip(count(first), batch.column("trial_name").to_pylist(), turns, strict=False):
                try:
                    line = form.line(name, row)
                except BadInput as error:
                    raise BadInput(f"{paths.path}: row {number}: {error}") from None
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
            yield batch.num_rows


main = entry(build_parser, run)

if __name__ == "__main__":
    main()
