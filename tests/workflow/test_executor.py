"""The Slurm executor as the Snakefile mends it."""

from __future__ import annotations

import subprocess
from pathlib import Path

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
