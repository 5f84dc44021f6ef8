"""What Snakemake's Slurm executor (2.8) does otherwise than one expects, mended or refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from recipe.slurm import RUNNING, WAITING, QueuedJob
from recipe_core.errors import BadInput

# States of ended jobs for which the executor goes on waiting: it expects Slurm to requeue them.
LEFT_TO_SLURM = frozenset({"PREEMPTED", "NODE_FAIL"})


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
    if settings.no_requeue or not settings.requeue:
        raise BadInput(
            "slurm-requeue: it is off, and a job that is preempted, or whose node is lost, would not go back into the "
            "queue; set true, and remove slurm-no-requeue"
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


def lose_no_job(plugin: Any) -> None:
    """Make the Slurm executor keep every job until its end is known, and see the end of one that is not requeued.

    When squeue fails at all attempts of a look, the executor neither yields nor reports the jobs it was given, and
    Snakemake has them nowhere else: it would wait without end, and not cancel them when interrupted. Here it gets back
    all that was not reported, at the end of the look: interrupted before, while squeue hangs, it still cancels none.

    A job that was preempted, or whose node was lost, the executor leaves to Slurm, also where that does not requeue it.
    Such a job is gone from squeue some time later, and fails then, so that `retries` submits it again. One look that
    saw its state is enough: `must_remember` has squeue show it at one, maybe only one, and a job that is requeued stays
    in squeue.

    Args:
        plugin: the module `snakemake_executor_plugin_slurm`, or what has its `Executor` and `query_job_status`.
    """
    executor = plugin.Executor
    look, query = executor.check_active_jobs, plugin.query_job_status
    settled: set[int] = set()
    left: set[str] = set()

    def noted(report: Callable[..., None]) -> Callable[..., None]:
        def note_and_report(self: Any, job: Any, *args: Any, **keywords: Any) -> None:
            settled.add(id(job))
            report(self, job, *args, **keywords)

        return note_and_report

    async def look_and_keep(self: Any, jobs: list[Any]) -> AsyncIterator[Any]:
        settled.clear()
        async for job in look(self, jobs):
            settled.add(id(job))
            yield job
        for job in jobs:
            if id(job) not in settled:
                yield job

    async def query_and_end(command: str, logger: Any) -> tuple[dict[str, str] | None, float | None]:
        states, seconds = await query(command, logger)
        if states is not None:
            gone = left - states.keys()
            left.clear()
            left.update(job for job, state in states.items() if state in LEFT_TO_SLURM)
            states.update(dict.fromkeys(gone, "CANCELLED"))
        return states, seconds

    executor.check_active_jobs = look_and_keep
    executor.report_job_success = noted(executor.report_job_success)
    executor.report_job_error = noted(executor.report_job_error)
    plugin.query_job_status = query_and_end
