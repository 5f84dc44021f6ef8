"""Measure the sandboxes: trials a minute beside Harbor's own `singularity` back end, latencies, and what is left.

    .venvs/harness/bin/python benchmarks/bench_sandbox.py
    .venvs/harness/bin/python benchmarks/bench_sandbox.py --only trials --n 8 --trials 24

Prints a table and writes results/bench/sandbox.json: each figure with its unit, its baseline, the ratio of the two, its
bar and whether it is met, and the load of the machine before and after it. Figures of cases that are not measured are
kept, so that it can be run in pieces. Speeds are by the clock; where something else is running, compare the processor
seconds that are written beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

from measure import measure
from sandbox_image import NoImage, make_image
from sandbox_trials import make_tasks

from recipe_core.artifact import write_atomically
from sandbox import Sandbox
from sandbox.backends import BACKENDS

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "benchmarks"
AT_ONCE = (1, 4, 8, 16)
TIMES_FASTER = 3.0
PERCENTILES = (50, 90, 99)
EXECS = 5


class Figure(NamedTuple):
    """One measured number.

    Attributes:
        case: the case it belongs to.
        name: what was measured.
        n: trials or sandboxes at a time.
        value: the figure.
        unit: of the figure and of the baseline.
        of: how many trials, sandboxes or commands it is of.
        baseline: the number it is compared with, or None.
        against: what the baseline is.
        ratio: how many times better than the baseline; above 1 is better.
        bar: what is asked of the figure or the ratio, in words; empty where nothing is.
        met: whether it is met; None where nothing is asked.
        cpu_seconds: of processes that have ended, for each trial; None where it was not measured.
        baseline_cpu_seconds: the same of the baseline.
        load: of the machine before and after, the mean of one minute.
    """

    case: str
    name: str
    n: int
    value: float
    unit: str
    of: int
    baseline: float | None = None
    against: str = ""
    ratio: float | None = None
    bar: str = ""
    met: bool | None = None
    cpu_seconds: float | None = None
    baseline_cpu_seconds: float | None = None
    load: tuple[float, float] = (0.0, 0.0)


class Setting(NamedTuple):
    """What a case has at hand."""

    at_once: Sequence[int]
    trials: int
    sandboxes: int
    leftovers: int
    backends: Sequence[str]
    work: Path


def percentile(values: Sequence[float], rank: int) -> float:
    """Return a percentile, between the two nearest values."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[rank - 1]


def same_outcomes(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> int:
    """Return how many tasks have one reward on both sides, without an exception on either."""
    rewards = {each["task"]: each["reward"] for each in theirs if each["exception"] is None}
    return sum(
        each["exception"] is None and each["reward"] is not None and rewards.get(each["task"]) == each["reward"]
        for each in ours
    )


def in_image(image: Path, work: Path) -> list[str | Path]:
    """Return the command that runs another in the image, so that our sandboxes show the image's programs."""
    prefix = Path(os.path.realpath(sys.base_prefix))
    words: list[str | Path] = ["apptainer", "--silent", "exec", "--fakeroot" if os.geteuid() == 0 else "--userns"]
    words += ["--cleanenv", "--no-home", "--no-mount", "cwd"]
    for place in dict.fromkeys((ROOT, prefix, work)):
        words += ["--bind", str(place)]
    return [*words, image]


def run_side(setting: Setting, tasks: Path, prefix: Sequence[str | Path], *flags: str | int) -> dict[str, Any]:
    """Run the trials of one side and return what it wrote."""
    out = setting.work / "side.json"
    out.unlink(missing_ok=True)
    command = [*prefix, sys.executable, HERE / "sandbox_trials.py", tasks, out, *map(str, flags)]
    measure(command, {"PYTHONDONTWRITEBYTECODE": "1"})
    return json.loads(out.read_text())


def trials(setting: Setting) -> list[Figure]:
    """Whole Harbor trials with the reference solution, one image: ours, then Harbor's own back end."""
    image = make_image(setting.work / "harbor.sif")
    tasks = setting.work / "tasks"
    shutil.rmtree(tasks, ignore_errors=True)
    make_tasks(tasks, setting.trials, image)
    against = "Harbor's singularity back end, same image"
    figures = []
    for n in setting.at_once:
        load = os.getloadavg()[0]
        say(f"{setting.trials} trials, {n} at once, ours")
        ours = run_side(
            setting,
            tasks,
            in_image(image, setting.work),
            "--environment",
            "ours",
            "--backend",
            "bubblewrap",
            "--at-once",
            n,
        )
        say(f"{setting.trials} trials, {n} at once, Harbor's singularity")
        theirs = run_side(setting, tasks, [], "--environment", "singularity", "--at-once", n)
        loads = (load, os.getloadavg()[0])
        speeds = [60 * len(side["trials"]) / side["seconds"] for side in (ours, theirs)]
        cpu = [side["cpu_seconds"] / len(side["trials"]) for side in (ours, theirs)]
        same, ratio = same_outcomes(ours["trials"], theirs["trials"]), speeds[0] / speeds[1]
        one = Figure(
            "trials", "trials", n, speeds[0], "trials/min", setting.trials, speeds[1], against, ratio, load=loads
        )
        figures.append(
            one._replace(
                bar=f"at least {TIMES_FASTER:g} times",
                met=ratio >= TIMES_FASTER,
                cpu_seconds=cpu[0],
                baseline_cpu_seconds=cpu[1],
            )
        )
        figures.append(
            Figure("trials", "trials of equal reward", n, same, "trials", setting.trials, load=loads)._replace(
                bar="all", met=same == setting.trials
            )
        )
        starts = [[each["seconds"]["environment_setup"] for each in side["trials"]] for side in (ours, theirs)]
        for rank in PERCENTILES:
            mine, other = (1000 * percentile(side, rank) for side in starts)
            figures.append(
                Figure(
                    "trials",
                    f"environment start in a trial, p{rank}",
                    n,
                    mine,
                    "ms",
                    setting.trials,
                    other,
                    against,
                    other / mine,
                    load=loads,
                )
            )
        say(f"{speeds[0]:.0f} trials a minute against {speeds[1]:.0f}, {same} of {setting.trials} rewards equal")
    return figures


async def _latencies(backend: str, count: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {"start": [], "exec": [], "stop": []}
    for _ in range(count):
        began = time.perf_counter()
        box = await Sandbox.start(backend=backend)
        seconds["start"].append(time.perf_counter() - began)
        for _ in range(EXECS):
            began = time.perf_counter()
            await box.exec("true")
            seconds["exec"].append(time.perf_counter() - began)
        began = time.perf_counter()
        await box.stop()
        seconds["stop"].append(time.perf_counter() - began)
    return seconds


def latency(setting: Setting) -> list[Figure]:
    """Start, exec of `true` and stop of one sandbox after another."""
    figures = []
    for backend in setting.backends:
        say(f"{setting.sandboxes} sandboxes, {backend}")
        load = os.getloadavg()[0]
        found = asyncio.run(_latencies(backend, setting.sandboxes))
        loads = (load, os.getloadavg()[0])
        for what, seconds in found.items():
            for rank in PERCENTILES:
                value = 1000 * percentile(seconds, rank)
                figures.append(
                    Figure("latency", f"{backend} {what}, p{rank}", 1, value, "ms", len(seconds), load=loads)
                )
    return figures


def leftovers(setting: Setting) -> list[Figure]:
    """What is left of many sandboxes: one after another, many at once, and many whose owner is killed."""
    figures = []
    for backend in setting.backends:
        for name, flags, n in (
            (f"{setting.leftovers} one after another", ["--sandboxes", setting.leftovers, "--at-once", 1], 1),
            ("64 at once", ["--sandboxes", 64, "--at-once", 64], 64),
            ("64 whose owner is killed", ["--sandboxes", 64, "--kill-owner"], 64),
        ):
            say(f"{backend}: {name}")
            load = os.getloadavg()[0]
            command = [sys.executable, HERE / "sandbox_leftovers.py", "--backend", backend, *flags]
            done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, check=True)
            said = json.loads(done.stdout)
            loads = (load, os.getloadavg()[0])
            for what, left in said["left"].items():
                one = Figure(
                    "leftovers", f"{backend}, {name}: {what} left", n, len(left), what, said["started"], load=loads
                )
                figures.append(one._replace(bar="none", met=not left))
            figures.append(
                Figure("leftovers", f"{backend}, {name}: time", n, said["seconds"], "s", said["started"], load=loads)
            )
    return figures


CASES: dict[str, Callable[[Setting], list[Figure]]] = {"latency": latency, "leftovers": leftovers, "trials": trials}


def say(text: str) -> None:
    """Tell progress."""
    print(f"bench-sandbox: {text} (load {os.getloadavg()[0]:.1f})", file=sys.stderr, flush=True)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    installed = [name for name, backend in BACKENDS.items() if backend.program()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--n", type=int, nargs="+", default=list(AT_ONCE), metavar="N", help="trials at once (default: 1 4 8 16)")
    add("--trials", type=int, default=40, help="trials a side and n (default 40)")
    add("--sandboxes", type=int, default=200, help="sandboxes whose latencies are taken (default 200)")
    add("--leftovers", type=int, default=1000, help="sandboxes one after another (default 1000)")
    add("--backends", nargs="+", choices=installed, default=installed, help="of latency and leftovers (default: all)")
    add("--only", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE", help=f"of {', '.join(CASES)}")
    add("--out", type=Path, default=ROOT / "results" / "bench" / "sandbox.json", help="where figures go")
    add("--work", type=Path, default=ROOT / "results" / "bench" / "work" / "sandbox", help="where the image is kept")
    return parser


def show(figures: Sequence[Figure]) -> None:
    """Print the table."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for name in ("measured", "at once", "figure", "baseline", "ratio", "cpu s", "bar", "load"):
        left = name in ("measured", "baseline", "bar")
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    for one in figures:
        cpu = [one.cpu_seconds, one.baseline_cpu_seconds]
        table.add_row(
            one.name,
            str(one.n),
            f"{one.value:.4g} {one.unit}",
            f"{one.baseline:.4g} ({one.against})" if one.baseline is not None else "",
            f"{one.ratio:.3g}" if one.ratio is not None else "",
            " / ".join(f"{seconds:.2f}" for seconds in cpu if seconds is not None),
            f"{one.bar}: {'met' if one.met else 'MISSED'}" if one.met is not None else "",
            f"{one.load[0]:.1f} to {one.load[1]:.1f}",
        )
    console = Console()
    # A log has no width of its own.
    Console(width=console.width if console.is_terminal else 180).print(table)


def merged(old: Sequence[Figure], new: Sequence[Figure]) -> list[Figure]:
    """Return the figures, a new one in place of an old one of the same name and number at once."""
    found = {(one.case, one.name, one.n): one for one in (*old, *new)}
    return sorted(found.values(), key=lambda one: (list(CASES).index(one.case), one.n))


def load(out: Path) -> list[Figure]:
    """Return the figures that an earlier run wrote."""
    if not out.exists():
        return []
    return [Figure(**{**one, "load": tuple(one["load"])}) for one in json.loads(out.read_text())["figures"]]


def save(out: Path, figures: Sequence[Figure]) -> None:
    """Write all figures."""
    facts = {
        "machine": {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()},
        "kernel": platform.release(),
        "python": platform.python_version(),
        "figures": [one._asdict() for one in figures],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


def main() -> None:
    """Measure, and write the figures after each case, so that an interrupted run keeps what it has."""
    args = build_parser().parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    setting = Setting(args.n, args.trials, args.sandboxes, args.leftovers, args.backends, args.work)
    figures = load(args.out)
    for name in (case for case in CASES if case in args.only):
        try:
            figures = merged(figures, CASES[name](setting))
        except NoImage as error:
            raise SystemExit(f"bench-sandbox: {error}") from None
        save(args.out, figures)
    show([one for one in figures if one.case in args.only])
    print(f"figures: {args.out}")


if __name__ == "__main__":
    main()
