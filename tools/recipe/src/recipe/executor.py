"""What Snakemake's Slurm executor (2.8) does otherwise than one expects, mended or refused."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from recipe.slurm import RUNNING, WAITING, QueuedJob
from recipe_core.errors import BadInput


def must_remember(first: int, interval: int) -> int:
    """Return for how many seconds squeue has to show a job after its end.

    Below three times the first look's delay the executor asks sacct instead, with which it waits without end for
    cancelled jobs; and what ends between two looks must still be there at the second.

    Args:
        first: slurm-init-seconds-before-status-checks.
        interval: seconds-between-status-checks.
    """
    return max(3 * first, interval + 1)


def refuse_what_harms(settings: Any, grouped: Collection[str], *, interval: int, remembered: int | None) -> None:
    """Refuse settings of the Slurm executor with which a build waits for ever, or jobs do each other's work.

    Args:
        settings: Snakemake's settings of the executor.
        grouped: names of rules whose jobs Snakemake is to put together.
        interval: seconds between two looks at the jobs.
        remembered: seconds for which squeue shows a job after its end (MinJobAge); None where Slurm did not say.

    Raises:
        BadInput: one of them is set.
    """
    if settings.array_jobs:
        raise BadInput(
            "slurm-array-jobs: the executor runs the wrong jobs of an array and deletes what others made; remove it "
            "(small units are kept together inside a job already)"
        )
    if settings.status_command != "squeue":
        raise BadInput(
            f"slurm-status-command: {settings.status_command}: with it a cancelled job is waited for without end; "
            "set squeue"
        )
    if grouped:
        raise BadInput(
            f"groups: {', '.join(sorted(grouped))}: the executor asks for the sum of a group's resources, which no "
            "node may have, and waits without end; remove it"
        )
    needed = must_remember(settings.init_seconds_before_status_checks, interval)
    if remembered is None:
        raise BadInput("scontrol show config gives no MinJobAge, without which the executor asks sacct: try again")
    if remembered < needed:
        raise BadInput(
            f"squeue forgets a job {remembered} s after its end (MinJobAge; 0 counts as such), and the settings need "
            f"{needed} s: lower slurm-init-seconds-before-status-checks or seconds-between-status-checks in the site "
            "file, or ask the site's administrators for a longer one"
        )


def refuse_twice(queue: Iterable[QueuedJob], wanted: Collection[tuple[str, str]], folder: Path) -> None:
    """Refuse to build what jobs of an earlier run, which was killed, still work on: two would spoil each other's.

    Args:
        queue: the user's jobs.
        wanted: the rule and the key of every job that is to be run.
        folder: where Snakemake runs.

    Raises:
        BadInput: there are such jobs.
    """
    found = [
        job
        for job in queue
        if (job.rule, job.key) in wanted
        and job.state in WAITING | RUNNING
        and Path(job.folder).resolve() == folder.resolve()
    ]
    if found:
        jobs = ", ".join(f"{job.id} ({job.rule} {job.key})" for job in found)
        raise BadInput(
            f"jobs of an earlier run still work on what is to be built: {jobs}; wait until they have ended and start "
            "again, or end them: recipe cancel <recipe>"
        )


def look_as_often_as_set(executor: type[Any]) -> None:
    """Make `--seconds-between-status-checks` the time between two looks at the jobs.

    The Slurm executor replaces that setting: with each look at which no job has ended it waits 10 s longer, up to
    180 s, and the end of each of a recipe's stages would be noticed minutes late, and so would a cancelled job.

    Args:
        executor: the class `RemoteExecutor` of Snakemake's interface, whose property the Slurm executor sets.
    """

    def as_set(self: Any) -> int:
        return int(self.workflow.remote_execution_settings.seconds_between_status_checks)

    def keep(self: Any, seconds: int) -> None:
        pass

    executor.next_seconds_between_status_checks = property(as_set, keep)
