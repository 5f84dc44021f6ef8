"""What `train-rl`'s shell for several nodes does about a job that is being preempted; Slurm and Ray are stand-ins."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHELL = ROOT / "tools" / "train-rl" / "nodes" / "bash"
TERMINATED = 128 + signal.SIGTERM
# Ray's folders are in /tmp under the job's number, where a real cluster's may be.
JOB = str(900_000_000 + os.getpid())
# `requeue` ends who asked, as Slurm does a little later.
STUBS = {
    "squeue": "echo n1,n2",
    "scontrol": """
case "$1 $2" in
    "show hostnames") echo n1; echo n2 ;;
    "show job") cat job ;;
    *) echo "$*" >>asked; [ ! -e refused ] || exit 1; kill $PPID ;;
esac
""",
    "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "apptainer": 'shift 2; exec "$@"',
    "ray": "while [ ! -e stop ]; do sleep 0.1; done",
    # Waits for nodes to join.
    "python": "echo '[]'",
}
# `scontrol show job` of Slurm 22.05, shortened.
SHOWN = """\
JobId=12 JobName=train
   JobState={state} Reason=None Dependency=(null)
   SubmitTime=2026-01-01T10:00:00 EligibleTime=2026-01-01T10:00:00
   StartTime=2026-01-01T11:00:00 EndTime=2026-01-01T12:00:00 Deadline=N/A
   PreemptEligibleTime=2026-01-01T11:00:00 PreemptTime={told}
"""
TOLD = "2026-01-01T11:30:00"


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Return what starts a rule's line by nodes/bash in a job of two nodes, in `tmp_path`."""
    places = tmp_path / "bin"
    places.mkdir()
    for name, text in STUBS.items():
        (places / name).write_text(f"#!/bin/bash\n{text}\n")
        (places / name).chmod(0o755)

    def run(line: str, *, state: str = "RUNNING", told: str = TOLD) -> subprocess.Popen[str]:
        (tmp_path / "job").write_text(SHOWN.format(state=state, told=told))
        environment = {"PATH": f"{places}:/usr/bin:/bin", "SLURM_JOB_ID": JOB}
        words = [SHELL, "-c", f"apptainer exec /i/rl-1.sif bash -c '{line} --nodes 2'"]
        return subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)

    return run


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=60)
    return process.returncode, said


def asked(folder: Path) -> list[str]:
    """Return what was asked of Slurm beyond how things are."""
    file = folder / "asked"
    return file.read_text().splitlines() if file.exists() else []


SAID = f"on_nodes: job {JOB} is being preempted; it goes back into the queue\n"
FAILS = "exit 3; true"
# Ray ends on every node, as it does on SIGTERM.
LOSES = "touch stop; sleep 50; true"


@pytest.mark.parametrize("line", [FAILS, LOSES])
def test_a_job_that_is_being_preempted_is_requeued(start, tmp_path: Path, line: str):
    assert ended(start(line)) == (TERMINATED, SAID)
    assert asked(tmp_path) == [f"requeue {JOB}"]
    assert not list(Path("/tmp").glob(f"ray-{JOB}-*")) and not list(tmp_path.glob("ray-*"))


def test_it_is_requeued_too_when_slurm_ends_the_shell_itself(start, tmp_path: Path):
    process = start("touch up; sleep 50; true")
    deadline = time.monotonic() + 30
    while not (tmp_path / "up").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    assert ended(process) == (TERMINATED, SAID)
    assert asked(tmp_path) == [f"requeue {JOB}"]


@pytest.mark.parametrize(("line", "code"), [(FAILS, 3), (LOSES, 2)])
@pytest.mark.parametrize(
    "slurm",
    [
        {"told": "None"},
        {"state": "COMPLETING"},
        # An earlier run was preempted.
        {"told": "2026-01-01T10:30:00"},
    ],
)
def test_any_other_job_fails_with_its_own_code(start, tmp_path: Path, line: str, code: int, slurm: dict[str, str]):
    found, said = ended(start(line, **slurm))
    assert (found, asked(tmp_path)) == (code, [])
    assert said.startswith("on_nodes: error: ") and said.count("\n") == 1


def test_where_slurm_refuses_the_job_fails_with_its_own_code(start, tmp_path: Path):
    (tmp_path / "refused").touch()
    code, said = ended(start(FAILS))
    assert (code, asked(tmp_path)) == (3, [f"requeue {JOB}"])
    assert said.startswith(f"{SAID}on_nodes: error: the line ended with code 3;")


def test_a_line_that_ends_well_within_the_grace_is_done(start, tmp_path: Path):
    assert ended(start("true")) == (0, "")
    assert asked(tmp_path) == []
