"""What Snakemake's Slurm executor (2.8) does otherwise than one expects, mended or refused."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from recipe_core.errors import BadInput


def refuse_what_harms(settings: Any, grouped: Collection[str]) -> None:
    """Refuse settings of the Slurm executor with which a build waits for ever, or jobs do each other's work.

    Args:
        settings: Snakemake's settings of the executor; those of another one are passed over.
        grouped: names of rules whose jobs Snakemake is to put together.

    Raises:
        BadInput: one of them is set.
    """
    if not hasattr(settings, "array_jobs"):
        return
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
