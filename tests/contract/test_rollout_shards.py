"""`rollout pull`: processes at one work folder, killed, restarted and lost; the artifact is that of one alone."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.conftest import small_task, write_tasks
from tests.contract.test_rollout_cli import BIN, COMMON, environment, one_line, run, task, task_of
from tests.processes import descendants, is_sandbox, wait_until_gone

TEACHER = ("--teacher", "reference", *COMMON)
# A test that waits longer than this hangs.
PATIENCE_SEC = 240.0


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    return write_tasks(tmp_path / "tasks", [task_of(task(index), f"task-{index}") for index in range(18)])


def pull(*words: object, before: Sequence[object] = (), env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start `rollout pull` in a session of its own."""
    command = [str(word) for word in (*before, BIN / "rollout", "pull", *words)]
    return subprocess.Popen(
        command, env=environment(**(env or {})), stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finished(work: Path) -> set[str]:
    """Return the names of the finished trials."""
    return {path.stem for path in work.glob("trials/[!.]*.json")}


def wait_for(work: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Wait until so many trials are finished, or the process has ended."""
    deadline = time.monotonic() + PATIENCE_SEC
    while len(finished(work)) < count and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process and all of its session."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def done_here(said: str) -> int:
    """Return how many trials a process says it did."""
    found = re.search(r"rollout pull: (\d+) trials done here; none is left to take", said)
    assert found, said
    return int(found[1])


def assert_same(one: Path, other: Path) -> None:
    """Check that two artifacts are the same, byte for byte."""
    for name in ("manifest.json", "trajectories.parquet"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.full
def test_workers_that_are_killed_and_started_again_make_what_one_alone_makes(tasks, tmp_path):
    words = ("--tasks", tasks, *TEACHER, "--attempts", "2", "--concurrency", "2", "--out")
    assert run(*words, tmp_path / "alone").returncode == 0
    out, work = tmp_path / "shared", tmp_path / "shared.work"
    workers = {shard: pull(*words, out, "--shard", f"{shard}/3") for shard in (1, 2, 3)}
    chance, kept = random.Random(7), set()
    for goal in (3, 9, 16, 24):
        wait_for(work, goal, workers[1])
        shard = chance.choice((1, 2, 3))
        kill(workers[shard])
        assert kept <= finished(work), "a finished trial was lost"
        kept = finished(work)
        workers[shard] = pull(*words, out, "--shard", f"{shard}/3")
    said = {shard: worker.communicate(timeout=PATIENCE_SEC)[1] for shard, worker in workers.items()}
    assert [worker.returncode for worker in workers.values()] == [0, 0, 0], said
    assert len(finished(work)) == 36
    merged = run(*words, out, "--merge")
    assert merged.returncode == 0, merged.stderr
    assert_same(tmp_path / "alone", out)
    assert not work.exists() and not list(tmp_path.glob("shared.*"))
    late = run("pull", *words, out, "--shard", "2/3")
    assert late.returncode == 0 and "up to date" in late.stderr


@pytest.mark.full
def test_a_lost_nodes_trials_are_taken_when_it_has_been_silent(tasks, tmp_path):
    # A process namespace of its own is another machine as far as a worker can tell: whether its processes run is not to
    # be seen from outside, so only its silence tells.
    elsewhere = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]
    words = ("--tasks", tasks, *TEACHER, "--backend", "bubblewrap", "--worker-timeout", "6", "--out")
    out, work = tmp_path / "out", tmp_path / "out.work"
    lost = pull(*words, out, "--shard", "1/2", before=elsewhere)
    wait_for(work, 2, lost)
    kill(lost)
    kept = {name: (work / "trials" / f"{name}.json").stat().st_mtime_ns for name in finished(work)}
    assert 2 <= len(kept) < 18
    taken = {path.name for path in (work / "claims").iterdir()} - kept.keys()
    assert taken, "it was killed with trials under way"
    other = run("pull", *words, out, "--shard", "2/2")
    assert other.returncode == 0, other.stderr
    assert done_here(other.stderr) == 18 - len(kept)
    assert {name: (work / "trials" / f"{name}.json").stat().st_mtime_ns for name in kept} == kept
    assert run(*words, out, "--merge").returncode == 0
    assert run(*words, tmp_path / "alone").returncode == 0
    assert_same(tmp_path / "alone", out)


@pytest.mark.full
def test_the_ordinary_command_works_beside_others_and_waits_for_what_they_have(tasks, tmp_path):
    words = ("--tasks", tasks, *TEACHER, "--out")
    out = tmp_path / "out"
    worker = pull(*words, out)
    wait_for(tmp_path / "out.work", 1, worker)
    done = run(*words, out)
    assert done.returncode == 0, done.stderr
    said = worker.communicate(timeout=PATIENCE_SEC)[1]
    assert worker.returncode == 0, said
    assert done_here(said) >= 1
    assert run(*words, tmp_path / "alone").returncode == 0
    assert_same(tmp_path / "alone", out)


@pytest.mark.full
def test_a_second_process_of_a_shard_replaces_the_first(tmp_path):
    slow = [task_of(small_task(f"slow-{n}", solution="sleep 3; echo done > done.txt"), f"slow-{n}") for n in range(8)]
    words = ("--tasks", write_tasks(tmp_path / "tasks", slow), *TEACHER, "--worker-timeout", "4", "--concurrency", "1")
    first = pull(*words, "--shard", "1/1", "--out", tmp_path / "out")
    wait_for(tmp_path / "out.work", 1, first)
    second = run("pull", *words, "--shard", "1/1", "--out", tmp_path / "out")
    assert second.returncode == 0, second.stderr
    said = first.communicate(timeout=PATIENCE_SEC)[1]
    assert first.returncode == 2
    assert "another process took over shard 1/1; this one ends" in said
    assert len(finished(tmp_path / "out.work")) == 8


@pytest.mark.full
def test_a_machine_on_which_nothing_works_leaves_the_trials_to_others(tasks, tmp_path):
    words = ("--tasks", tasks, *TEACHER, "--backend", "bubblewrap", "--retries", "0", "--out", tmp_path / "out")
    broken = run("pull", *words, env={"SANDBOX_BWRAP": "/bin/false"})
    assert broken.returncode == 2 and "Traceback" not in broken.stderr
    line = broken.stderr.splitlines()[-1]
    assert "the first 8 trials here" in line and "failed outside the model" in line and "left for other" in line
    assert finished(tmp_path / "out.work") == set()
    sound = run("pull", *words)
    assert sound.returncode == 0, sound.stderr
    assert done_here(sound.stderr) == 18


@pytest.mark.full
def test_a_preempted_worker_ends_at_once_and_gives_its_trials_back(tmp_path):
    slow = [task_of(small_task(f"slow-{n}", solution="sleep 4; echo done > done.txt"), f"slow-{n}") for n in range(6)]
    words = ("--tasks", write_tasks(tmp_path / "tasks", slow), *TEACHER, "--backend", "bubblewrap")
    words += ("--out", tmp_path / "out", "--concurrency", 2)
    worker, work = pull(*words), tmp_path / "out.work"
    wait_for(work, 2, worker)
    deadline = time.monotonic() + PATIENCE_SEC
    while not descendants(worker.pid, is_sandbox) and time.monotonic() < deadline:
        time.sleep(0.05)
    # The second pair is at work, and far from its end.
    time.sleep(1)
    boxes = descendants(worker.pid, is_sandbox)
    assert boxes
    before = finished(work)
    began = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    said = worker.communicate(timeout=60)[1]
    assert worker.returncode == 143, said
    assert time.monotonic() - began < 20
    assert "Traceback" not in said
    assert wait_until_gone(boxes) == {}
    assert finished(work) == before, "a trial that was cut off counts as finished"
    assert list((work / "workers").iterdir()) == [] and list((work / "scratch").iterdir()) == []
    rest = run("pull", *words)
    assert rest.returncode == 0, rest.stderr
    assert done_here(rest.stderr) == 6 - len(before)


@pytest.mark.parametrize("shard", ["0/3", "4/3", "3", "1/0", "a/b", "-1/3"])
def test_a_shard_that_is_none_is_one_line(shard, tmp_path):
    done = run("pull", "--tasks", "t", *TEACHER, f"--shard={shard}", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "is not K/N with K from 1 to N" in done.stderr


def test_merging_before_the_end_says_what_is_missing(tasks, tmp_path):
    line = one_line(run("--tasks", tasks, *TEACHER, "--out", tmp_path / "out", "--merge"))
    assert "18 of 18 trials are not finished" in line and "run `rollout pull` with the same flags" in line
    assert not (tmp_path / "out").exists()


def test_no_tasks_are_no_work(tmp_path):
    words = ("--tasks", write_tasks(tmp_path / "tasks", []), *TEACHER, "--out", tmp_path / "out")
    done = run("pull", *words, "--shard", "1/2")
    assert done.returncode == 0 and done_here(done.stderr) == 0
    assert run(*words, "--merge").returncode == 0
