"""What a Slurm job costs, and what it saves to keep small units inside one.

    .venvs/workflow/bin/python benchmarks/bench_slurm.py --units 200 --site workflow/profiles/generic
    .venvs/workflow/bin/python benchmarks/bench_slurm.py --only plan

units: makes as many small tasks (a shell task each, made and validated in a sandbox) as one Slurm job a task and as one
job that makes them all, which is how the project runs them. Prints wall seconds and processor seconds of both and their
ratios. Processor seconds are those that Slurm accounts to the jobs and those of Snakemake itself on this machine. Runs
on the cluster of the site file, with the images built (`images build data`).

plan: the seconds of `recipe plan` and of a dry run of a grid of the demo that has more than a thousand artifacts.

Writes results/bench/slurm.json; figures of a case that is not measured are kept.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
UNITS = ROOT / "benchmarks" / "slurm_units.smk"
BAR = 10.0
# The demo again and again, from the mix on with another seed: 10 artifacts each.
CELLS = 110
PLAN_BAR_SEC = 10.0
_SACCT = ["sacct", "--noheader", "--parsable2", "--format=JobID,TotalCPU,State"]


def seconds_of(text: str) -> float:
    """Return the seconds of Slurm's `[days-][hours:]minutes:seconds`.

    >>> seconds_of("1-02:03:04"), seconds_of("00:07.250")
    (93784.0, 7.25)
    """
    days, _, rest = text.rpartition("-")
    total = 0.0
    for part in rest.split(":"):
        total = total * 60 + float(part)
    return total + 86400 * int(days or 0)


def run(target: str, units: int, site: Path, folder: Path) -> dict[str, float]:
    """Run a target; return its seconds, processor seconds and jobs.

    Raises:
        SystemExit: Snakemake failed.
    """
    words = [Path(sys.executable).parent / "snakemake", "--snakefile", UNITS, "--directory", folder]
    words += ["--profile", ROOT / "workflow" / "profiles" / "slurm", "--workflow-profile", site, "--printshellcmds"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    done = subprocess.run(
        [*map(str, words), "--config", f"units={units}", "--", target], capture_output=True, text=True, cwd=ROOT
    )
    seconds = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = done.stdout + done.stderr
    if done.returncode:
        raise SystemExit(f"bench-slurm: error: snakemake failed\n{output[-3000:]}")
    jobs = re.findall(r"SLURM jobid '?(\d+)", output)
    time.sleep(3)
    listing = subprocess.run([*_SACCT, f"--jobs={','.join(jobs)}"], capture_output=True, text=True, check=True).stdout
    rows = [line.split("|") for line in listing.splitlines()]
    wrong = [state for _, _, state in rows if state != "COMPLETED"]
    if wrong:
        raise SystemExit(f"bench-slurm: error: {len(wrong)} of {len(jobs)} jobs ended as {wrong[0]}")
    own = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # Processor time is that of a job's steps, which the job's own line may leave out.
    spent = sum(seconds_of(cpu) for name, cpu, _ in rows if "." in name)
    if not spent:
        raise SystemExit("bench-slurm: error: Slurm accounts no processor time to steps here (JobAcctGatherType)")
    return {"jobs": len(jobs), "seconds": seconds, "cpu_seconds": own + spent}


def measure_units(units: int, site: Path, folder: Path) -> dict[str, Any]:
    """Run both ways, print them side by side and return the figures."""
    together = run("together", units, site, folder)
    single = run("jobs", units, site, folder)
    ratio = {name: single[name] / together[name] for name in ("seconds", "cpu_seconds")}
    met = ratio["cpu_seconds"] >= BAR
    print(f"{units} units{'jobs':>12}{'seconds':>12}{'cpu seconds':>14}")
    for name, row in (("a job each", single), ("together", together)):
        print(f"{name:<12}{row['jobs']:>10}{row['seconds']:>12.1f}{row['cpu_seconds']:>14.1f}")
    verdict = "met" if met else "not met"
    seconds, cpu = ratio.values()
    print(f"ratio{seconds:>29.1f}{cpu:>14.1f}  at least {BAR:.0f} times fewer cpu seconds: {verdict}")
    return {"units": units, "jobs": single, "together": together, "ratio": ratio, "bar": BAR, "met": met}


def measure_plan(folder: Path) -> dict[str, Any]:
    """Plan a grid of more than a thousand artifacts, print and return the seconds.

    Raises:
        SystemExit: a command failed.
    """
    cells = "".join(f"    s{cell}: {{mix: {{train: {{seed: {cell}}}}}}}\n" for cell in range(1, CELLS + 1))
    path = folder / "thousand.yaml"
    text = f"recipe: thousand\nextends: demo\ndescription: A thousand artifacts.\n\ngrid:\n  draw:\n{cells}"
    path.write_text(text)
    shutil.copy(ROOT / "workflow" / "recipes" / "demo.yaml", folder)
    programs = Path(sys.executable).parent
    commands = {
        "recipe plan": [programs / "recipe", "plan", path],
        "dry run": [
            *(programs / "snakemake", "--dry-run", "--quiet", "all", "--config", f"recipes={path}"),
            *("--profile", ROOT / "workflow" / "profiles" / "slurm", "--", "thousand"),
        ],
    }
    figures: dict[str, Any] = {"bar": PLAN_BAR_SEC, "seconds": {}}
    for name, words in commands.items():
        started = time.monotonic()
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True, cwd=ROOT)
        seconds = time.monotonic() - started
        if done.returncode:
            raise SystemExit(f"bench-slurm: error: {name} failed\n{(done.stdout + done.stderr)[-3000:]}")
        if name == "recipe plan":
            found = re.search(r"(\d+) of them distinct", done.stdout + done.stderr)
            figures["artifacts"] = int(found[1]) if found else 0
        figures["seconds"][name] = seconds
        print(f"{name} of {figures['artifacts']:,} artifacts{seconds:>10.1f} s")
    figures["met"] = figures["artifacts"] >= 1000 and max(figures["seconds"].values()) < PLAN_BAR_SEC
    print(f"each in less than {PLAN_BAR_SEC:.0f} s: {'met' if figures['met'] else 'not met'}")
    return figures


def main() -> None:
    """Measure and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=200, help="default 200")
    parser.add_argument("--site", type=Path, default=ROOT / "workflow" / "profiles" / "generic", metavar="DIR")
    parser.add_argument("--only", choices=["units", "plan"], help="measure one of the two")
    args = parser.parse_args()
    bench = ROOT / "results" / "bench"
    folder = bench / "work" / "slurm"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    kept = bench / "slurm.json"
    figures = json.loads(kept.read_text()) if kept.is_file() else {}
    figures = {name: case for name, case in figures.items() if name in ("units", "plan") and isinstance(case, dict)}
    if args.only != "units":
        figures["plan"] = measure_plan(folder)
    if args.only != "plan":
        figures["units"] = measure_units(args.units, args.site.resolve(), folder)
    kept.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
