"""Measure the data tools on made rows, side by side with short in-memory programs and with datatrove.

    make bench-data
    .venvs/data/bin/python benchmarks/bench_data.py --rows 10000 100000 --only mix dedup-exact

Prints a table and writes results/bench/data.json: each figure with its unit, its baseline, the ratio of the two, its
bar and whether it is met. Speeds are by the clock; where something else is running, compare the processor seconds that
are written beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

from made_rows import Files, make, prompts
from measure import Cost, measure

from recipe_core.artifact import ArtifactWriter, write_atomically
from recipe_core.records import TASK_SCHEMA, read_rows, write_rows

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venvs" / "bin"
PYTHON = Path(sys.executable)
BENCH_PYTHON = ROOT / ".venvs" / "bench" / "bin" / "python"
SIZES = (10_000, 100_000, 1_200_000)
PROMPTS = 3_000
SEED = 1
MEMORY_BAR_MB = 2048.0
# Larger than this, a baseline that holds every row (10 KB each) or takes milliseconds a row is not run.
MOST_OF_A_BASELINE = 100_000
SAMPLED = 150
BY_DEFINITION = 15


class Figure(NamedTuple):
    """One measured number.

    Attributes:
        name: what was measured.
        rows: rows that went in.
        value: the figure.
        unit: of the figure and of the baseline.
        baseline: the number it is compared with, or None.
        against: what the baseline is.
        ratio: how many times better than the baseline; above 1 is better.
        bar: what is asked of the figure or the ratio, in words; empty where nothing is.
        met: whether it is met; None where nothing is asked.
        cost: of the command behind the figure.
        baseline_cost: of the command behind the baseline.
    """

    name: str
    rows: int
    value: float
    unit: str
    baseline: float | None = None
    against: str = ""
    ratio: float | None = None
    bar: str = ""
    met: bool | None = None
    cost: Cost | None = None
    baseline_cost: Cost | None = None

    @property
    def cpu_ratio(self) -> float | None:
        """The baseline's processor seconds over the tool's: what is left of the ratio where other work disturbs it."""
        if self.cost is None or self.baseline_cost is None:
            return None
        return self.baseline_cost.cpu_seconds / self.cost.cpu_seconds


class Setting(NamedTuple):
    """What a case has at hand: rows of one size, and where to write."""

    rows: int
    made: Files
    mixed: Path
    scratch: Path
    workers: int


def tool(*words: object) -> Cost:
    """Run one of the project's commands."""
    name, *rest = map(str, words)
    return measure([BIN / name, *rest])


class Rival(NamedTuple):
    """What a tool is compared with, and what that cost."""

    what: str
    cost: Cost


def speed(name: str, rows: int, cost: Cost, rival: Rival | None = None, *, least: float | None = None) -> Figure:
    """Return rows a second, beside the rival's; `least` is how many times faster it is to be."""
    figure = Figure(name, rows, rows / cost.seconds, "rows/s", cost=cost)
    if rival is None:
        return figure
    ratio = rival.cost.seconds / cost.seconds
    return figure._replace(
        baseline=rows / rival.cost.seconds,
        against=rival.what,
        ratio=ratio,
        bar="" if least is None else f"at least {least:g} times",
        met=None if least is None else ratio >= least,
        baseline_cost=rival.cost,
    )


def memory(name: str, rows: int, cost: Cost, rival: Rival | None = None) -> Figure:
    """Return the most memory held, beside the rival's."""
    figure = Figure(
        f"{name}, memory",
        rows,
        cost.peak_mb,
        "MB",
        bar=f"at most {MEMORY_BAR_MB:.0f} MB",
        met=cost.peak_mb <= MEMORY_BAR_MB,
    )
    if rival is None:
        return figure
    held = rival.cost.peak_mb
    return figure._replace(baseline=held, against=rival.what, ratio=held / cost.peak_mb)


def streamed(name: str, setting: Setting, cost: Cost, rival: Rival | None) -> list[Figure]:
    """Return speed and memory."""
    return [speed(name, setting.rows, cost, rival), memory(name, setting.rows, cost, rival)]


def plainly(name: str, setting: Setting, *inputs: Path) -> Rival | None:
    """Run the in-memory program of that name, where the rows are few enough for one."""
    if setting.rows > MOST_OF_A_BASELINE:
        return None
    out = setting.scratch / f"plain-{name}"
    return Rival("the same in memory", measure([PYTHON, ROOT / "benchmarks" / "plain.py", name, out, *inputs]))


def mix(setting: Setting) -> list[Figure]:
    """Every row of four artifacts, shuffled."""
    shutil.rmtree(setting.mixed, ignore_errors=True)
    cost = tool("mix", "--tasks", *setting.made.tasks, "--method", "concatenate", "--out", setting.mixed)
    return streamed("mix", setting, cost, plainly("mix", setting, *setting.made.tasks))


def filter_length(setting: Setting) -> list[Figure]:
    """The half with the largest number in `meta`."""
    flags = ("--column", "meta.response_tokens", "--keep", "longest", "--fraction", "0.5")
    cost = tool("filter-length", "--tasks", setting.mixed, *flags, "--out", setting.scratch / "filter")
    return streamed("filter-length", setting, cost, plainly("filter-length", setting, setting.mixed))


def upsample(setting: Setting) -> list[Figure]:
    """Three times as many rollouts as rows, by a number in `meta`."""
    flags = ("--column", "meta.response_tokens", "--rows", 3 * setting.rows)
    cost = tool("upsample", "--tasks", setting.mixed, *flags, "--out", setting.scratch / "upsample")
    return streamed("upsample", setting, cost, None)


def export_data(setting: Setting) -> list[Figure]:
    """The published form of tasks."""
    flags = ("--form", "tasks", "--name", "bench")
    cost = tool("export-data", "--rows", setting.mixed, *flags, "--out", setting.scratch / "export")
    return streamed("export-data", setting, cost, None)


def dedup_exact(setting: Setting) -> list[Figure]:
    """Equal texts, and whether every planted one is found."""
    out = setting.scratch / "exact"
    cost = tool("dedup", "--tasks", setting.mixed, "--out", out)
    figures = streamed("dedup exact", setting, cost, plainly("dedup", setting, setting.mixed))
    planted = [(row["task_id"], row["of"]) for row in truth(setting) if row["kind"] == "equal"]
    found = share_found(planted, dropped_ids(out))
    figures.append(
        Figure(
            "dedup exact, planted found", setting.rows, found, "share", bar="all", met=found == 1.0 if planted else None
        )
    )
    return figures


def dedup_minhash(setting: Setting) -> list[Figure]:
    """Near duplicates beside datatrove's MinHash: the planted pairs of Jaccard similarity 0.8 and above."""
    name, out = "dedup minhash", setting.scratch / "minhash"
    cost = tool("dedup", "--tasks", setting.mixed, "--method", "minhash", "--out", out)
    pairs, mine = similar_pairs(setting), dropped_ids(out)
    doubled = [row for row in truth(setting) if row["kind"] in ("equal", "near")]
    planted = {name for row in doubled for name in (row["task_id"], row["of"])}
    recall, wrong = share_found(pairs, mine), float(len(mine - planted))
    if setting.rows > MOST_OF_A_BASELINE:
        return [
            speed(name, setting.rows, cost),
            memory(name, setting.rows, cost),
            Figure(f"{name}, recall", setting.rows, recall, "share"),
            Figure(f"{name}, dropped though not planted", setting.rows, wrong, "rows"),
        ]
    other, against = setting.scratch / "datatrove-minhash", "datatrove MinHash, 1 worker"
    rival = Rival(against, datatrove("minhash", other, setting, 1))
    theirs = set(json.loads((other / "dropped.json").read_text()))
    theirs_recall = share_found(pairs, theirs)
    return [
        speed(name, setting.rows, cost, rival, least=1),
        memory(name, setting.rows, cost, rival),
        Figure(
            f"{name}, recall of {len(pairs)} pairs",
            setting.rows,
            recall,
            "share",
            theirs_recall,
            against,
            recall / theirs_recall if theirs_recall else None,
            "no less",
            recall >= theirs_recall,
        ),
        Figure(
            f"{name}, dropped though not planted", setting.rows, wrong, "rows", float(len(theirs - planted)), against
        ),
    ]


def decontaminate(setting: Setting) -> list[Figure]:
    """All rows against all prompts; a sample of both also by going through every pair."""
    from decontaminate.rules import RULES, plain_decision
    from recipe_core.tokens import words

    out = setting.scratch / "decontaminate"
    flags = ("--benchmarks", *setting.made.benchmarks, "--workers", setting.workers)
    cost = tool("decontaminate", "--tasks", setting.mixed, *flags, "--out", out)
    hits, sample, pairwise = dropped_ids(out), sampled(setting), setting.scratch / "pairwise"
    measure([PYTHON, ROOT / "benchmarks" / "plain.py", "decontaminate", pairwise, sample, *setting.made.benchmarks])
    said = json.loads((pairwise / "hits.json").read_text())
    rows = list(read_rows(sample / "tasks.parquet", ["task_id", "instruction"]))
    same = {row["task_id"] for row in rows} & hits == set(said["hits"])
    benchmark = prompts(SEED, PROMPTS)
    began, began_cpu = time.perf_counter(), time.process_time()
    for row in rows[:BY_DEFINITION]:
        by_definition = plain_decision(row["instruction"], benchmark, RULES["openthoughts3"], words)
        same &= (by_definition is not None) == (row["task_id"] in hits)
    # As if it had gone on like this over all rows.
    scale = setting.rows / BY_DEFINITION
    defined = Cost((time.perf_counter() - began) * scale, (time.process_time() - began_cpu) * scale, 0.0)
    scale = setting.rows / said["rows"]
    prepared = Cost(said["seconds"] * scale, said["cpu_seconds"] * scale, 0.0)
    planted = [row for row in truth(setting) if row["kind"] in ("copied", "span")]
    found = sum(row["task_id"] in hits for row in planted) / max(1, len(planted))
    name = f"decontaminate, {setting.workers} workers"
    by_rule = f"rules.plain_decision, one core, extrapolated from {BY_DEFINITION} rows"
    by_pair = f"every pair with all prompts prepared once, one core, extrapolated from {said['rows']} rows"
    return [
        speed(name, setting.rows, cost, Rival(by_rule, defined), least=100),
        speed(name, setting.rows, cost, Rival(by_pair, prepared)),
        Figure(
            "decontaminate, decisions as by every pair",
            setting.rows,
            float(len(rows)),
            f"rows, {len(said['hits'])} of them hits",
            bar="all the same",
            met=same,
        ),
        memory("decontaminate", setting.rows, cost),
        Figure("decontaminate, planted found", setting.rows, found, "share"),
    ]


def decontaminate_ngram(setting: Setting) -> list[Figure]:
    """The 13-grams alone, beside datatrove's filter on the same rows, both with one process."""
    name, out = "decontaminate ngram", setting.scratch / "ngram"
    flags = ("--benchmarks", *setting.made.benchmarks, "--method", "ngram")
    cost = tool("decontaminate", "--tasks", setting.mixed, *flags, "--out", out)
    planted = [row["task_id"] for row in truth(setting) if row["kind"] in ("copied", "span")]
    mine = dropped_ids(out)
    found = sum(task_id in mine for task_id in planted) / max(1, len(planted))
    if setting.rows > MOST_OF_A_BASELINE:
        return [
            speed(name, setting.rows, cost),
            memory(name, setting.rows, cost),
            Figure(f"{name}, planted found", setting.rows, found, "share"),
        ]
    other, against = setting.scratch / "datatrove-ngrams", "datatrove NGramsDecontFilter, 1 worker"
    rival = Rival(against, datatrove("ngrams", other, setting, 1, *setting.made.benchmarks))
    theirs = set(json.loads((other / "dropped.json").read_text()))
    theirs_found = sum(task_id in theirs for task_id in planted) / max(1, len(planted))
    return [
        speed(name, setting.rows, cost, rival, least=3),
        memory(name, setting.rows, cost, rival),
        Figure(f"{name}, planted found", setting.rows, found, "share", theirs_found, against),
    ]


CASES: dict[str, Callable[[Setting], list[Figure]]] = {
    "mix": mix,
    "filter-length": filter_length,
    "upsample": upsample,
    "dedup-exact": dedup_exact,
    "export-data": export_data,
    "decontaminate": decontaminate,
    "decontaminate-ngram": decontaminate_ngram,
    "dedup-minhash": dedup_minhash,
}


def datatrove(kind: str, out: Path, setting: Setting, workers: int, *benchmarks: Path) -> Cost:
    """Run datatrove's pipeline of that kind in its own environment."""
    command = [BENCH_PYTHON, ROOT / "benchmarks" / "datatrove_side.py", kind, out, setting.mixed, str(workers)]
    return measure([*command, *benchmarks], {"DATATROVE_COLORIZE_LOGS": "0"})


def truth(setting: Setting) -> list[dict[str, Any]]:
    """Return what was planted."""
    return list(read_rows(setting.made.truth))


def dropped_ids(out: Path) -> set[str]:
    """Return the ids of an artifact's rejects."""
    return {row["task_id"] for row in read_rows(out / "rejects.parquet", ["task_id"])}


def share_found(pairs: Sequence[tuple[str, str]], dropped: set[str]) -> float:
    """Return the share of pairs of which one was dropped."""
    return sum(left in dropped or right in dropped for left, right in pairs) / max(1, len(pairs))


def similar_pairs(setting: Setting) -> list[tuple[str, str]]:
    """Return the planted pairs whose sets of five successive words have a Jaccard similarity of 0.8 and above."""
    from dedup.text import shingles
    from recipe_core.text import normalise

    pairs = [(row["task_id"], row["of"]) for row in truth(setting) if row["kind"] == "near"]
    wanted = {name for pair in pairs for name in pair}
    sets = {
        row["task_id"]: set(shingles(normalise(row["instruction"]).split(), 5))
        for row in read_rows(setting.mixed / "tasks.parquet", ["task_id", "instruction"])
        if row["task_id"] in wanted
    }
    return [
        (left, right) for left, right in pairs if len(sets[left] & sets[right]) >= 0.8 * len(sets[left] | sets[right])
    ]


def sampled(setting: Setting) -> Path:
    """Write an artifact of the rows with the smallest ids, and of as many contaminated ones as a third of them."""
    planted = sorted(row["task_id"] for row in truth(setting) if row["kind"] in ("copied", "rewritten", "span"))
    names = sorted(row["task_id"] for row in read_rows(setting.mixed / "tasks.parquet", ["task_id"]))
    wanted = {*names[:SAMPLED], *planted[: SAMPLED // 3]}
    out = setting.scratch / "sample"
    rows = (row for row in read_rows(setting.mixed / "tasks.parquet") if row["task_id"] in wanted)
    with ArtifactWriter(out, stage="mix", params={}, seed=SEED, inputs={}, tier="T0", package=[]) as writer:
        writer.count(rows_in=None, rows_out=write_rows(writer.path("tasks.parquet"), TASK_SCHEMA, rows))
    return out


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=list(SIZES), metavar="N", help="sizes (default: all)")
    parser.add_argument(
        "--only", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE", help=f"of {', '.join(CASES)}"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes of decontaminate (default 2)")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench" / "data.json", help="where figures go")
    parser.add_argument("--work", type=Path, default=ROOT / "results" / "bench" / "work", help="where rows are made")
    return parser


def show(figures: Sequence[Figure]) -> None:
    """Print the table."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for name in ("rows", "measured", "figure", "seconds", "cpu s", "baseline", "ratio", "cpu ratio", "bar"):
        left = name in ("measured", "baseline", "bar")
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    for one in figures:
        table.add_row(
            f"{one.rows:,}",
            one.name,
            f"{_number(one.value)} {one.unit}",
            f"{one.cost.seconds:.1f}" if one.cost else "",
            f"{one.cost.cpu_seconds:.1f}" if one.cost else "",
            f"{_number(one.baseline)} ({one.against})" if one.baseline is not None else "",
            _number(one.ratio) if one.ratio is not None else "",
            _number(one.cpu_ratio) if one.cpu_ratio is not None else "",
            f"{one.bar}: {'met' if one.met else 'MISSED'}" if one.met is not None else "",
        )
    console = Console()
    # A log has no width of its own.
    Console(width=console.width if console.is_terminal else 180).print(table)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def main() -> None:
    """Measure, print, and write the figures after each case, so that an interrupted run keeps what it has."""
    args = build_parser().parse_args()
    if {"decontaminate-ngram", "dedup-minhash"} & set(args.only) and not BENCH_PYTHON.exists():
        raise SystemExit("bench-data: the stack `bench` is not installed; run: python3 envs/install.py bench")
    figures: list[Figure] = []
    for rows in sorted(args.rows):
        work = args.work / str(rows)
        print(f"bench-data: making {rows:,} rows", file=sys.stderr, flush=True)
        made = make(work / "made", rows, PROMPTS, SEED, os.cpu_count() or 1)
        scratch = work / "out"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        setting = Setting(rows, made, work / "mixed", scratch, args.workers)
        if "mix" not in args.only:
            tool("mix", "--tasks", *made.tasks, "--method", "concatenate", "--out", setting.mixed)
        for name in (case for case in CASES if case in args.only):
            print(f"bench-data: {name}, {rows:,} rows", file=sys.stderr, flush=True)
            load = os.getloadavg()[0]
            found = CASES[name](setting)
            figures += found
            print(
                f"bench-data: {name}: {found[0].value:,.0f} {found[0].unit} (load before {load:.1f})", file=sys.stderr
            )
            shutil.rmtree(scratch)
            scratch.mkdir()
            save(args.out, figures)
    show(figures)
    print(f"figures: {args.out}")


def save(out: Path, figures: Sequence[Figure]) -> None:
    """Write all figures so far."""
    facts = {
        "machine": {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()},
        "python": platform.python_version(),
        "load_at_end": os.getloadavg()[0],
        "figures": [
            {
                **one._asdict(),
                "cpu_ratio": one.cpu_ratio,
                "cost": one.cost._asdict() if one.cost else None,
                "baseline_cost": one.baseline_cost._asdict() if one.baseline_cost else None,
            }
            for one in figures
        ],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
