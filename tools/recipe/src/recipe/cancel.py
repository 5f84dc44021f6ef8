"""`recipe cancel`: ends the build of a recipe, its Slurm jobs and the Snakemake that submits them, and nothing else.

Artifacts are published whole or not at all and unfinished work is kept beside them, so what is finished stays and the
next build goes on from there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from recipe import runs, slurm
from recipe.plan import PlannedStep
from recipe.status import outputs, rule
from recipe_core.errors import BadInput

_SECONDS_TO_END = 20.0


@dataclass(frozen=True)
class Ending:
    """What is to be ended.

    Attributes:
        processes: runs of Snakemake that build the recipe, each with the recipe files it builds.
        jobs: Slurm jobs of the recipe's steps, and those that these runs submitted.
        left: runs and jobs that stay, each with why, in a line.
    """

    processes: list[tuple[runs.Process, list[str]]]
    jobs: list[slurm.QueuedJob]
    left: list[str]


def ending(
    name: str,
    keys: Collection[tuple[str, str]],
    built_by: Iterable[tuple[runs.Process, list[str]]],
    ids: Mapping[Path, str],
    queue: Iterable[slurm.QueuedJob],
    *,
    cell: str = "",
    shared: Collection[tuple[str, str]] = (),
) -> Ending:
    """Return what ending the build of a recipe ends.

    A run of Snakemake ends when it builds the recipe. A job ends when it is of one of the recipe's steps, unless a run
    that goes on submitted it for another recipe; and when a run that ends submitted it.

    Args:
        name: the recipe file's name.
        keys: rule and key of each of the recipe's steps.
        built_by: the runs that go on, each with the recipe files it builds.
        ids: what the runs call their jobs, by the run's log.
        queue: the user's jobs of this folder.
        cell: the recipe of a grid; a run of Snakemake builds the whole grid, and goes on.
        shared: rule and key of the steps that other recipes of the grid need as well; they stay while it is built.
    """
    processes, left = [], []
    ours, others = set(), set()
    going = False
    for process, recipes in built_by:
        run_id = ids.get(process.log, "")
        if name not in recipes:
            others.add(run_id)
        elif cell:
            going = True
            left.append(
                f"Snakemake, process {process.pid}, goes on with the rest of {name} and may submit jobs of {cell} "
                "again; without --cell it ends too"
            )
        else:
            processes.append((process, recipes))
            ours.add(run_id)
    jobs = []
    for job in queue:
        if job.state not in slurm.WAITING | slurm.RUNNING:
            continue
        if job.name in ours - {""}:
            jobs.append(job)
        elif (job.rule, job.key) in keys:
            if going and (job.rule, job.key) in shared:
                left.append(f"job {job.id} ({job.rule} {job.key}) stays: other recipes of {name} need it")
            elif job.name in others - {""}:
                left.append(f"job {job.id} ({job.rule} {job.key}) stays: another Snakemake that goes on needs it")
            else:
                jobs.append(job)
    return Ending(processes, jobs, left)


def refuse_elsewhere(name: str, holders: Iterable[runs.Run]) -> None:
    """Refuse to cancel what a Snakemake on another machine builds: it would submit the jobs again.

    Args:
        name: the recipe file's name.
        holders: the runs of Snakemake that hold a lock on files of the recipe, while none here builds it.

    Raises:
        BadInput: the run was started on another machine.
    """
    here = socket.gethostname()
    for holder in holders:
        if holder.host and holder.host != here:
            raise BadInput(
                f"{name}: Snakemake on {holder.host} holds the lock and would submit again what is cancelled here, on "
                f"{here}; run this on {holder.host}, or if that Snakemake was killed, or {holder.host} is gone, run "
                "`snakemake --unlock` and then this"
            )


def find(
    folder: Path,
    name: str,
    steps: Collection[PlannedStep],
    recipes: Collection[str],
    *,
    cell: str = "",
    beside: Collection[PlannedStep] = (),
) -> Ending:
    """Look up what :func:`ending` decides on.

    Args:
        folder: the project's.
        name: the recipe file's name.
        steps: the recipe's.
        recipes: the names of all recipe files.
        cell: the recipe of a grid.
        beside: the steps of the grid's other recipes.

    Raises:
        BadInput: squeue gave no answer, or a Snakemake on another machine builds the recipe.
    """
    user = os.getuid()
    going = [(process, runs.targets(process.words, recipes)) for process in runs.processes(folder)]
    past = runs.read_runs(folder)
    if not any(name in built for _, built in going):
        files = {file for step in steps for file in outputs(step)}
        refuse_elsewhere(name, (run for file, run in runs.claims(folder, past).items() if run and file in files))
    ids = {run.log: run.id for run in past}
    queue = slurm.queue([user]) if slurm.available() else []
    here = [job for job in queue if Path(job.folder).resolve() == folder.resolve()]
    keys, shared = ({(rule(step.stage), step.key) for step in group} for group in (steps, beside))
    own = [pair for pair in going if pair[0].user == user]
    found = ending(name, keys, own, ids, here, cell=cell, shared=shared)
    strangers = [
        f"Snakemake, process {process.pid}, is another user's (number {process.user}) and stays"
        for process, built in going
        if process.user != user and name in built
    ]
    return Ending(found.processes, found.jobs, [*found.left, *strangers])


def cancel(folder: Path, name: str, found: Ending, *, dry_run: bool) -> None:
    """End what was found, and print it.

    Snakemake gets SIGINT, as from Ctrl-C in its terminal: on SIGTERM it would wait for its jobs. So do, for the same
    reason, the tools that it runs itself. Then the jobs are cancelled here as well, because Snakemake forgets those
    whose state it is asking for in that moment.

    Raises:
        BadInput: scancel refused.
    """
    would = "would end" if dry_run else "ended"
    if not (found.processes or found.jobs):
        print(f"{name}: no Snakemake that builds it goes on here, and no Slurm job of it waits or runs")
    if not dry_run:
        for process, _ in found.processes:
            interrupt(process, folder)
        slurm.cancel(job.id for job in found.jobs)
    for job in found.jobs:
        where = f" on {job.node}" if job.node else ""
        print(f"{would}: Slurm job {job.id} ({job.rule} {job.key}), which was {job.state.lower()}{where}")
    for process, recipes in found.processes:
        other = [recipe for recipe in recipes if recipe != name]
        also = f", which builds {', '.join(other)} as well" if other else ""
        if dry_run or _ends(process, folder):
            print(f"{would}: Snakemake, process {process.pid}{also}")
        else:
            print(
                f"asked to end: Snakemake, process {process.pid}{also}; it ends once it has looked at its jobs again; "
                f"if not, `kill -9 {process.pid}` and `snakemake --unlock`"
            )
    for line in found.left:
        print(line)
    if not dry_run and (found.processes or found.jobs):
        print("what is built stays, and unfinished work is kept: the same build goes on from there")


def interrupt(process: runs.Process, folder: Path) -> None:
    """Send SIGINT to a run of Snakemake and to the tools it runs on this machine.

    One that ignores SIGINT, as one does that a script has started in the background, gets SIGTERM.
    """
    tools = runs.foreground(process.pid, runs.parents())
    number = signal.SIGINT if runs.heeds_interrupt(process.pid) else signal.SIGTERM
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        # The handle keeps the number from meaning another process between this look and the signal.
        if runs.still(process, folder):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, number)
    finally:
        os.close(handle)
    for pid in tools:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _ends(process: runs.Process, folder: Path) -> bool:
    """Wait until a run of Snakemake has ended, for some seconds; tell whether it has.

    Its Slurm executor sleeps between two looks at its jobs and does not end before it wakes.
    """
    end = time.monotonic() + _SECONDS_TO_END
    while time.monotonic() < end:
        if not runs.still(process, folder):
            return True
        time.sleep(0.2)
    return False
