"""The fixture of the tests that need a real Slurm cluster."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SLURM = Path(__file__).parent / "slurm"
USER = "hpc"
# What a job does not leave again; a lost node's and a preempted one's are requeued.
ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY"})
STOPPED, UNSUITABLE = 3, 2  # exit codes of `slurm status` and of `slurm up`


class Cluster:
    """A cluster that is up, used as its unprivileged user in a folder of this session's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: list[str] = []

    def as_user(
        self,
        command: str | Sequence[object],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 300,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run words, or a line of shell, as the user that submits; the environment is a fresh login's plus `env`."""
        words = ["bash", "-c", command] if isinstance(command, str) else [str(word) for word in command]
        account = pwd.getpwnam(USER)
        login = {"HOME": account.pw_dir, "USER": USER, "LOGNAME": USER, "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin"}
        return subprocess.run(
            words,
            cwd=cwd or self.folder,
            env={**login, **(env or {})},
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def sbatch(self, script: str, **options: object) -> str:
        """Submit lines of bash and return the job's id; `cpus_per_task=2` is --cpus-per-task=2, True a bare flag."""
        flags = [
            f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in options.items()
        ]
        done = self.as_user(["sbatch", "--parsable", "--output=%j.out", *flags], stdin=f"#!/bin/bash\n{script}\n")
        assert done.returncode == 0, done.stderr
        self.jobs.append(done.stdout.strip())
        return self.jobs[-1]

    def output(self, job: str) -> str:
        """Return what the job's script has printed."""
        return (self.folder / f"{job}.out").read_text()

    def sacct(self, job: str, field: str = "State", *, runs: bool = False) -> list[str]:
        """Return a field of the accounting's record of the job; with `runs`, of each run of a requeued job."""
        words = ["sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={job}", f"--format={field}"]
        done = self.as_user([*words, *(["--duplicates"] if runs else [])])
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def state(self, job: str) -> str:
        """Return the job's state by the accounting, without by whom it was cancelled; PENDING before it is known."""
        return (self.sacct(job) or ["PENDING"])[0].split()[0]

    def wait(self, job: str, states: str | Collection[str], timeout: float = 240) -> str:
        """Return the job's state once it is one of these; fail the test when it ends otherwise or after `timeout` s."""
        wanted = {states} if isinstance(states, str) else set(states)
        end = time.monotonic() + timeout
        while (state := self.state(job)) not in wanted:
            if state in ENDED or time.monotonic() > end:
                detail = self.as_user(["scontrol", "show", "job", job]).stdout
                output = self.folder / f"{job}.out"
                said = output.read_text()[-3000:] if output.is_file() else ""
                pytest.fail(f"job {job} is {state}, not {' or '.join(sorted(wanted))}\n{detail}\n{said}")
            time.sleep(0.3)
        return state

    def kill_node(self, name: str) -> None:
        """Lose a node with all its processes; Slurm notices within about 40 s."""
        subprocess.run([SLURM, "fault", "node-down", name], check=True)

    def revive_node(self, name: str) -> None:
        """Bring a lost node back and wait until it takes jobs."""
        subprocess.run([SLURM, "fault", "node-up", name], check=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Return the cluster; one that was down before is stopped at the end, unless other workers of pytest use it too."""
    if os.geteuid() != 0:
        pytest.skip("a Slurm cluster is brought up as root")
    stopped = subprocess.run([SLURM, "status"], capture_output=True).returncode == STOPPED
    up = subprocess.run([SLURM, "up"], capture_output=True, text=True)
    if up.returncode == UNSUITABLE:
        pytest.skip(up.stderr.strip())
    assert up.returncode == 0, up.stderr
    folder = Path(tempfile.mkdtemp(prefix="session-", dir=pwd.getpwnam(USER).pw_dir))
    shutil.chown(folder, USER, USER)
    session = Cluster(folder)
    yield session
    if session.jobs:
        session.as_user(["scancel", *session.jobs])
    if stopped and "PYTEST_XDIST_WORKER" not in os.environ:
        subprocess.run([SLURM, "down"], check=True)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def grace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """Return a partition of the nodes that the test names, whose jobs are preempted two minutes after they were told.

    Args:
        cluster: is up.
        request: its parameter, by `indirect`, is a partition whose nodes these are, too, and whose jobs go before.
    """
    name, nodes = f"grace-{request.param}", f"{request.param}[1-2]"
    made = f"PartitionName={name} Nodes={nodes} PriorityTier=1 PreemptMode=REQUEUE GraceTime=120 MaxTime=60 State=UP"
    subprocess.run(["scontrol", "create", *made.split()], check=True)
    yield name
    subprocess.run(["scontrol", "delete", f"PartitionName={name}"], check=True)


@pytest.fixture(scope="session")
def uv() -> Callable[..., None]:
    """Return what runs the project's uv; it finds packages where the set-up does."""
    spec = importlib.util.spec_from_file_location("install", ROOT / "envs" / "install.py")
    assert spec and spec.loader
    install = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(install)
    settings = {**os.environ, **install.pip_settings(["python3", "-m", "pip"])}

    def run(*words: object, **variables: str) -> None:
        subprocess.run([str(install.UV), *map(str, words)], env={**settings, **variables}, check=True)

    return run


@pytest.fixture(scope="session")
def empty_image(cluster: Cluster) -> Path:
    """An image of nothing but places, for tests that bind the machine's own system into it."""
    root = cluster.folder / "root"
    for name in ("usr", "etc", "tmp", "proc", "sys", "dev", "home", "var/tmp", "root"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for name in ("passwd", "group"):
        (root / "etc" / name).touch()
    image = cluster.folder / "empty.sif"
    subprocess.run(["apptainer", "--quiet", "build", image, root], check=True, capture_output=True)
    return image
