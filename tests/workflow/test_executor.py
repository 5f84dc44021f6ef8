"""The Slurm executor as the Snakefile mends it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# One look at jobs of which none has ended, as the executor's check_active_jobs ends it, with and without the mend.
LOOK = """
from types import SimpleNamespace
from snakemake_executor_plugin_slurm import Executor
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from recipe.executor import look_as_often_as_set

executor = Executor.__new__(Executor)
settings = SimpleNamespace(seconds_between_status_checks=7)
executor.workflow = SimpleNamespace(remote_execution_settings=settings)
executor._next_seconds_between_status_checks = None
for mended in (False, True):
    if mended:
        look_as_often_as_set(RemoteExecutor)
    executor.next_seconds_between_status_checks = executor.next_seconds_between_status_checks + 10
    print(executor.next_seconds_between_status_checks)
"""


def test_jobs_are_looked_at_as_often_as_the_profile_says():
    python = ROOT / ".venvs" / "workflow" / "bin" / "python"
    done = subprocess.run([python, "-c", LOOK], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["17", "7"], done.stderr


# Looks at jobs as RemoteExecutor has them done: what a look yields is given to the next. argv: for each look the states
# that squeue shows, null where it fails; whether the executor is mended. Prints what was still watched after each look,
# then what succeeded and what failed.
ROUNDS = """
import asyncio, contextlib, json, logging, sys
from types import SimpleNamespace
import snakemake_executor_plugin_slurm as plugin
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from recipe.executor import lose_no_job

looks, mended = json.loads(sys.argv[1]), sys.argv[2] == "mended"
ended = {"succeeded": [], "failed": []}

async def query(command, logger):
    states = looks[0]
    return (None, None) if states is None else (dict(states), 0.1)

plugin.query_job_status, plugin.get_min_job_age = query, lambda: 60
if mended:
    lose_no_job(plugin)
settings = SimpleNamespace(
    init_seconds_before_status_checks=10, status_attempts=5, status_command="squeue", keep_successful_logs=True,
    requeue=True,
)
executor = plugin.Executor.__new__(plugin.Executor)
executor.workflow = SimpleNamespace(
    executor_settings=settings,
    remote_execution_settings=SimpleNamespace(seconds_between_status_checks=7),
    scheduler=SimpleNamespace(finish_callback=ended["succeeded"].append, error_callback=ended["failed"].append),
)
executor.logger, executor.run_uuid, executor.print_job_error = logging.getLogger(), "run", lambda *args, **words: None
executor.status_rate_limiter = contextlib.nullcontext()
executor._next_seconds_between_status_checks, executor._preemption_warning = None, True
executor._status_query_calls = executor._status_query_failures = 0
executor._status_query_total_seconds = executor._status_query_max_seconds = 0.0
executor._status_query_min_seconds, executor._status_query_cycle_rows = None, []
executor._failed_nodes = set()
plugin.is_query_tool_available = lambda name: False

async def look(jobs):
    return [job async for job in executor.check_active_jobs(jobs)]

jobs = [SubmittedJobInfo(name, name, {}) for name in ("1", "2")]
watched = []
while looks:
    jobs = asyncio.run(look(jobs))
    watched.append([job.external_jobid for job in jobs])
    looks.pop(0)
print(json.dumps([watched, ended["succeeded"], ended["failed"]]))
"""
BOTH = {"1": "RUNNING", "2": "RUNNING"}


def rounds(looks: list[dict[str, str] | None], how: str = "mended") -> list[list]:
    python = ROOT / ".venvs" / "workflow" / "bin" / "python"
    call = [python, "-c", ROUNDS, json.dumps(looks), how]
    done = subprocess.run(call, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("how", "watched"), [("as it is", [["1", "2"], [], []]), ("mended", [["1", "2"], ["1", "2"], ["2"]])]
)
def test_jobs_are_still_watched_when_squeue_has_not_answered(how: str, watched: list[list[str]]):
    found = rounds([BOTH, None, {"1": "COMPLETED", "2": "RUNNING"}], how)
    assert found == [watched, ["1"] if how == "mended" else [], []]


def test_a_job_whose_end_was_seen_is_watched_no_longer():
    assert rounds([{"1": "COMPLETED", "2": "FAILED"}, None]) == [[[], []], ["1"], ["2"]]


@pytest.mark.parametrize("state", ["PREEMPTED", "NODE_FAIL"])
@pytest.mark.parametrize(("how", "failed"), [("as it is", []), ("mended", ["1"])])
def test_a_job_that_slurm_ended_and_did_not_requeue_fails_when_squeue_forgets_it(how: str, failed, state: str):
    shown, gone = {"1": state, "2": "RUNNING"}, {"2": "RUNNING"}
    (*_, last), succeeded, found = rounds([BOTH, shown, shown, gone, gone], how)
    assert (last, succeeded, found) == (["2"] if failed else ["1", "2"], [], failed)


def test_a_requeued_job_and_one_that_squeue_does_not_show_yet_are_watched():
    looks = [
        {"2": "RUNNING"},
        {"1": "PENDING", "2": "PREEMPTED"},
        None,
        {"1": "RUNNING", "2": "PREEMPTED"},
        {"1": "RUNNING", "2": "PENDING"},
        {"1": "RUNNING"},
    ]
    assert rounds(looks) == [[["1", "2"]] * len(looks), [], []]


SUBMIT = """
from types import SimpleNamespace
from snakemake_executor_plugin_slurm.submit_string import get_submit_command

class Resources(dict):
    __getattr__ = dict.get

resources = Resources(nodes=24, tasks=24, tasks_per_gpu=0, gres="gpu:a100:4", runtime=60, mem_mb=240000)
job = SimpleNamespace(resources=resources, threads=32)
names = ("run_uuid", "slurm_logfile", "comment_str", "account", "partition", "workdir")
print(get_submit_command(job, dict.fromkeys(names, "x")))
"""


def test_training_on_several_nodes_with_gpus_is_one_task_a_node():
    """With what rule train_sft asks for; the executor would write as many tasks for each GPU as there are nodes."""
    python = ROOT / ".venvs" / "workflow" / "bin" / "python"
    done = subprocess.run([python, "-c", SUBMIT], capture_output=True, text=True, timeout=60)
    assert "--nodes=24" in done.stdout and "--cpus-per-task=32" in done.stdout, done.stdout + done.stderr
    assert "ntasks" not in done.stdout
