"""Run a command in a rootless sandbox, say which back ends work here, or measure them.

Example:
    sandbox run -- python3 --version
    sandbox run --task tasks/count-lines -- ls -la
    sandbox doctor
    sandbox bench -n 50
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import statistics
import sys
import time
from pathlib import Path

from recipe_core.cli import Parser, entry, positive
from recipe_core.errors import BadInput
from recipe_core.tasks import read_folder
from sandbox.backends import BACKENDS, choose
from sandbox.box import Sandbox
from sandbox.model import Limits, SandboxError


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = Parser(prog="sandbox", description=__doc__)
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=Parser)
    run_parser = commands.add_parser("run", help="run a command and exit with its code")
    run_parser.add_argument("--task", type=Path, metavar="DIR", help="task folder whose environment/ is made first")
    defaults = Limits()
    run_parser.add_argument("--cpus", type=positive, default=defaults.cpus)
    run_parser.add_argument("--memory-mb", type=positive, default=defaults.memory_mb)
    run_parser.add_argument("--disk-mb", type=positive, default=defaults.disk_mb)
    run_parser.add_argument("--processes", type=positive, default=defaults.processes)
    run_parser.add_argument("--timeout", type=positive, default=600, metavar="SEC", help="default 600")
    run_parser.add_argument("command", nargs="+", metavar="CMD", help="after --: the command and its arguments")
    commands.add_parser("doctor", help="say which back ends work, and what mends the others")
    bench_parser = commands.add_parser("bench", help="measure start and exec, p50 and p95 in milliseconds")
    bench_parser.add_argument("-n", type=positive, default=50, help="sandboxes to start (default 50)")
    for each in (run_parser, bench_parser):
        each.add_argument("--backend", choices=["auto", *BACKENDS], default="auto")
    return parser


async def _run(args: argparse.Namespace) -> int:
    environment = {}
    if args.task:
        files = read_folder(args.task)
        prefix = "environment/"
        environment = {path.removeprefix(prefix): file for path, file in files.items() if path.startswith(prefix)}
    limits = Limits(cpus=args.cpus, memory_mb=args.memory_mb, disk_mb=args.disk_mb, processes=args.processes)
    async with Sandbox.start(environment, limits, args.backend) as box:
        result = await box.exec(shlex.join(args.command), timeout=args.timeout)
    sys.stdout.write(result.stdout)
    sys.stderr.write(result.stderr)
    if result.timed_out:
        print(f"sandbox: the command ran longer than {args.timeout} s and was killed", file=sys.stderr)
        return 124
    return result.code


async def _doctor() -> None:
    working = 0
    for name, backend in BACKENDS.items():
        program = backend.program()
        if program is None:
            print(f"{name}: not installed; {backend.mend}")
            continue
        started = time.perf_counter()
        try:
            async with Sandbox.start(backend=name) as box:
                result = await box.exec("python3 --version && command -v tmux")
        except SandboxError as error:
            print(f"{name}: {program} does not work: {error}; {backend.trouble}")
            continue
        version = result.stdout.split("\n")[0]
        if result.code != 0:
            lacks = "python3" if not version else "tmux: install the system package tmux"
            print(f"{name}: {program} works, but the sandbox lacks {lacks}")
            continue
        working += 1
        print(f"{name}: works ({program}, {version}, start and exec {1000 * (time.perf_counter() - started):.0f} ms)")
    if not working:
        raise BadInput("no sandbox back end works here; each line above says what to do")


def percentiles(values: list[float]) -> tuple[float, float]:
    """Return the 50th and the 95th percentile."""
    if len(values) == 1:
        return values[0], values[0]
    cuts = statistics.quantiles(values, n=20, method="inclusive")
    return cuts[9], cuts[18]


async def _bench(args: argparse.Namespace) -> None:
    name = choose(args.backend).name
    starts, execs, stops = [], [], []
    for _ in range(args.n):
        began = time.perf_counter()
        box = await Sandbox.start(backend=name)
        starts.append(time.perf_counter() - began)
        for _ in range(5):
            began = time.perf_counter()
            await box.exec("true")
            execs.append(time.perf_counter() - began)
        began = time.perf_counter()
        await box.stop()
        stops.append(time.perf_counter() - began)
    for what, seconds in (("start", starts), ("exec", execs), ("stop", stops)):
        p50, p95 = percentiles([1000 * second for second in seconds])
        print(f"{name} {what}: p50 {p50:.1f} ms, p95 {p95:.1f} ms, n={len(seconds)}")


def run(args: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    try:
        if args.action == "run":
            raise SystemExit(asyncio.run(_run(args)))
        asyncio.run(_doctor() if args.action == "doctor" else _bench(args))
    except SandboxError as error:
        raise BadInput(str(error)) from None


main = entry(build_parser, run)

if __name__ == "__main__":
    main()
