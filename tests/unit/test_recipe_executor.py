"""What is refused before Snakemake's Slurm executor gets its first job."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from recipe.executor import refuse_twice, refuse_what_harms
from recipe.slurm import QueuedJob
from recipe_core.errors import BadInput

GOOD = {
    "array_jobs": None,
    "status_command": "squeue",
    "init_seconds_before_status_checks": 10,
    "requeue": True,
    "no_requeue": False,
}


@pytest.mark.parametrize(
    ("changes", "grouped", "interval", "said"),
    [
        ({"array_jobs": "mix"}, (), 10, "slurm-array-jobs: "),
        ({"status_command": "sacct"}, (), 10, "slurm-status-command: sacct: "),
        ({"requeue": False}, (), 10, "slurm-requeue: "),
        ({"requeue": False, "no_requeue": True}, (), 10, "slurm-requeue: "),
        ({}, ("score", "mix"), 10, "groups: mix, score: "),
        ({"init_seconds_before_status_checks": 40}, (), 10, "squeue forgets a job 60 s after its end"),
        ({}, (), 60, "squeue forgets a job 60 s after its end"),
    ],
)
def test_what_harms_is_refused_in_a_line_that_names_it(changes, grouped, interval: int, said: str):
    with pytest.raises(BadInput) as raised:
        refuse_what_harms(SimpleNamespace(**GOOD | changes), grouped, interval=interval, remembered=60)
    assert str(raised.value).startswith(said) and "\n" not in str(raised.value)


@pytest.mark.parametrize(("remembered", "said"), [(None, "gives no MinJobAge"), (0, "squeue forgets a job 0 s after")])
def test_a_squeue_that_cannot_be_relied_on_is_refused(remembered, said: str):
    with pytest.raises(BadInput, match=said):
        refuse_what_harms(SimpleNamespace(**GOOD), [], interval=10, remembered=remembered)


def test_all_else_is_taken():
    refuse_what_harms(SimpleNamespace(**GOOD), [], interval=59, remembered=60)


def job(state: str = "RUNNING", rule: str = "train_sft", folder: str = "/w") -> QueuedJob:
    return QueuedJob("12", state, "", "n1", 5, "run", rule, "0123456789ab", folder)


def test_what_a_job_of_a_killed_run_still_does_is_not_done_beside_it():
    wanted = {("train_sft", "0123456789ab")}
    with pytest.raises(BadInput, match=r"12 \(train_sft 0123456789ab\); wait until .* recipe cancel"):
        refuse_twice([job(), job("COMPLETED")], wanted, Path("/w"))
    refuse_twice([job("COMPLETED"), job(rule="mix"), job(folder="/other")], wanted, Path("/w"))
