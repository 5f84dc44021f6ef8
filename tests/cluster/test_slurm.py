"""The cluster is a real one: jobs run, are limited, preempted, lost and requeued by Slurm itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster

SLURM = Path(__file__).parent / "slurm"
ONCE = 'if [ "${SLURM_RESTART_COUNT:-0}" = 0 ]; then sleep 600; fi; echo run again'


@pytest.fixture(scope="module", autouse=True)
def overdue(cluster) -> str:
    """Submit a job of one minute, the shortest limit there is, so that it runs out behind the other tests."""
    return cluster.sbatch("sleep 600", time=1, mem=50)


def test_a_job_runs_as_the_user_and_is_accounted(cluster):
    job = cluster.sbatch('id -un; hostname; echo "$SLURM_JOB_ACCOUNT"')
    cluster.wait(job, "COMPLETED")
    user, host, account = cluster.output(job).split()
    assert (user, account) == ("hpc", "lab")
    assert cluster.sacct(job, "User,Account,NodeList,ExitCode") == [f"hpc|lab|{host}|0:0"]


def test_up_leaves_a_running_cluster_alone(cluster):
    before = subprocess.run([SLURM, "status"], capture_output=True, text=True)
    assert before.returncode == 0, before.stdout
    assert subprocess.run([SLURM, "up"], capture_output=True).returncode == 0
    assert subprocess.run([SLURM, "status"], capture_output=True, text=True).stdout == before.stdout


def test_a_failed_job_keeps_its_exit_code(cluster):
    job = cluster.sbatch("exit 7")
    cluster.wait(job, "FAILED")
    assert cluster.sacct(job, "ExitCode") == ["7:0"]


def test_a_job_is_cancelled(cluster):
    job = cluster.sbatch("sleep 600")
    cluster.wait(job, "RUNNING")
    assert cluster.as_user(["scancel", job]).returncode == 0
    cluster.wait(job, "CANCELLED")


def test_memory_beyond_the_limit_ends_a_job(cluster):
    within = cluster.sbatch("head -c 40M /dev/zero | tail | wc -c", mem=200)
    beyond = cluster.sbatch("head -c 300M /dev/zero | tail", mem=100)
    cluster.wait(beyond, "OUT_OF_MEMORY")
    cluster.wait(within, "COMPLETED")
    assert cluster.output(within).strip() == str(40 * 2**20)


def test_srun_runs_a_step_on_each_of_two_nodes(cluster):
    done = cluster.as_user(["srun", "--nodes=2", "--partition=cpu", "hostname"])
    assert sorted(done.stdout.split()) == ["cpu1", "cpu2"], done.stderr


@pytest.mark.parametrize("gpus", [1, 2])
def test_a_job_sees_the_gpus_it_was_given(cluster, gpus):
    job = cluster.sbatch('echo "$CUDA_VISIBLE_DEVICES"; hostname', partition="gpu", gres=f"gpu:{gpus}")
    cluster.wait(job, "COMPLETED")
    devices, host = cluster.output(job).split()
    assert len(set(devices.split(","))) == gpus
    assert host in ("gpu1", "gpu2")
    assert f"gres/gpu={gpus}" in cluster.sacct(job, "AllocTRES")[0]


def test_a_scavenging_job_gives_way_and_runs_again(cluster):
    lower = cluster.sbatch(ONCE, partition="scavenge", nodelist="gpu2", gres="gpu:2", mem=100)
    cluster.wait(lower, "RUNNING")
    higher = cluster.sbatch("true", partition="gpu", nodelist="gpu2", gres="gpu:2", mem=100)
    cluster.wait(higher, "COMPLETED")
    cluster.wait(lower, "COMPLETED")
    assert cluster.output(lower) == "run again\n"
    # Others' jobs may take its node, too.
    *before, last = cluster.sacct(lower, runs=True)
    assert (set(before), last) == ({"PREEMPTED"}, "COMPLETED")


def test_a_lost_node_is_noticed_and_its_job_runs_again(cluster):
    # Alone on the node, so that nobody else's job is lost with it.
    job = cluster.sbatch(ONCE, partition="gpu", exclusive=True, mem=100)
    cluster.wait(job, "RUNNING")
    [node] = cluster.sacct(job, "NodeList")
    cluster.kill_node(node)
    try:
        status = subprocess.run([SLURM, "status"], capture_output=True, text=True)
        assert status.returncode == 1
        assert f"{node}       stopped" in status.stdout
        cluster.wait(job, {"PENDING", "REQUEUED"})
    finally:
        cluster.revive_node(node)
    cluster.wait(job, "COMPLETED")
    assert cluster.sacct(job, runs=True) == ["NODE_FAIL", "COMPLETED"]


def test_a_job_ends_at_its_time_limit(cluster, overdue):
    cluster.wait(overdue, "TIMEOUT")
