"""Sharing work through a folder: who is gone, who gets a claim, what several processes make of one folder at once."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recipe_core.artifact import work_dir
from recipe_core.errors import BadInput
from recipe_core.records import TASK_SCHEMA, write_rows
from rollout.pull import Queue, Trials
from rollout.shared import (
    CLAIMS,
    TRIALS,
    WORKERS,
    Lease,
    Place,
    Standing,
    Worker,
    home_shard,
    process_start,
    publish_once,
    shared_folder,
    standing,
)

ME = Lease("me", Place("a", "boot", "pid:[1]"), 10, 100, "1/2", "7", 1, timeout=120.0, beat=1000)
ELSEWHERE = dataclasses.replace(ME, id="other", place=Place("b", "boot-b", "pid:[1]"), shard="2/2", job="8")
FINGERPRINT = {"stage": "rollout", "seed": 1}


@pytest.mark.parametrize(
    ("lease", "now", "alive", "expected"),
    [
        (None, 1000, True, Standing.GONE),
        (ELSEWHERE, 1001, False, Standing.PRESENT),  # processes of another machine are not looked for here
        (ELSEWHERE, 1045, True, Standing.PRESENT),
        (ELSEWHERE, 1046, True, Standing.SILENT),
        (ELSEWHERE, 1120, True, Standing.SILENT),
        (ELSEWHERE, 1121, True, Standing.GONE),
        (ELSEWHERE, 879, True, Standing.GONE),  # by a clock far ahead of this one
        (dataclasses.replace(ELSEWHERE, place=ME.place), 1001, False, Standing.GONE),
        (dataclasses.replace(ELSEWHERE, place=ME.place), 1001, True, Standing.PRESENT),
        (dataclasses.replace(ELSEWHERE, job="7", restarts=0), 1001, True, Standing.GONE),
        (dataclasses.replace(ELSEWHERE, job="7", restarts=1), 1001, True, Standing.PRESENT),
        (dataclasses.replace(ELSEWHERE, job="", restarts=0), 1001, True, Standing.PRESENT),
    ],
)
def test_who_is_gone(lease, now, alive, expected):
    assert standing(lease, ME, now, lambda pid, started: alive) is expected


def test_a_process_is_told_from_a_later_one_of_the_same_number():
    child = subprocess.Popen(["sleep", "60"])
    started = process_start(child.pid)
    assert started is not None and process_start(child.pid) == started
    child.kill()
    deadline = time.monotonic() + 10
    while process_start(child.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process_start(child.pid) is None, "a process that ended and was not waited for does not run"
    child.wait()


@pytest.fixture
def work(tmp_path) -> Path:
    return shared_folder(tmp_path / "out", FINGERPRINT)


def test_a_claim_is_for_one_and_passes_on_when_its_owner_is_gone(work):
    with Worker(work) as first, Worker(work) as second:
        assert first.claim("t__0")
        assert not first.claim("t__0")
        assert not second.claim("t__0")
        assert dict(second.unfinished(["t__0", "t__1"])) == {"t__0": Standing.PRESENT, "t__1": Standing.FREE}
        assert dict(first.unfinished(["t__0"])) == {}
    with Worker(work) as third, Worker(work) as fourth:
        assert dict(third.unfinished(["t__0"])) == {"t__0": Standing.GONE}
        assert third.claim("t__0") and not fourth.claim("t__0")
        assert publish_once(work / TRIALS / "t__0.json", "{}")
        assert dict(fourth.unfinished(["t__0"])) == {}
    with Worker(work) as fifth:
        assert not fifth.claim("t__0"), "what is finished is not taken"


def test_of_many_that_take_over_a_lost_workers_trials_one_gets_each(work):
    names = [f"t__{n}" for n in range(40)]
    with Worker(work) as lost:
        assert all(map(lost.claim, names))
    workers = [Worker(work) for _ in range(6)]
    for worker in workers:
        worker.__enter__()
    barrier = threading.Barrier(len(workers))

    def take(worker: Worker) -> list[str]:
        barrier.wait()
        return [name for name in names if worker.claim(name)]

    with ThreadPoolExecutor(len(workers)) as pool:
        taken = [name for found in pool.map(take, workers) for name in found]
    for worker in workers:
        worker.__exit__(None, None, None)
    assert sorted(taken) == sorted(names)


def test_a_killed_process_is_gone_at_once_on_its_own_machine(work):
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom rollout.shared import Worker\n"
        f"with Worker(Path({str(work)!r})) as worker:\n"
        "    print(worker.claim('t__0'), flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "True\n"
    with Worker(work) as other:
        assert not other.claim("t__0")
    process.kill()
    process.wait()
    process.stdout.close()
    with Worker(work) as other:
        assert other.claim("t__0")
        assert [path.stem for path in (work / WORKERS).iterdir()] == [other.lease.id]


def test_a_worker_of_another_machine_is_gone_when_it_has_been_silent_long_enough(work):
    silent = dataclasses.replace(ELSEWHERE, beat=int(time.time()), timeout=2.0)
    path = work / WORKERS / "other.json"
    path.write_text(json.dumps(dataclasses.asdict(silent)))
    (work / CLAIMS / "t__0").symlink_to("other")
    with Worker(work) as worker:
        assert not worker.claim("t__0")
        path.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(silent, beat=silent.beat - 60))))
        time.sleep(1.1)
        assert worker.claim("t__0")


def test_the_lease_is_renewed_and_a_later_worker_of_the_shard_replaces_an_earlier(work):
    with Worker(work, shard="1/2", timeout=0.8) as first:
        path = work / WORKERS / f"{first.lease.id}.json"
        deadline = time.monotonic() + 10
        while json.loads(path.read_text())["beat"] == first.lease.beat and time.monotonic() < deadline:
            time.sleep(0.05)
        assert json.loads(path.read_text())["beat"] > first.lease.beat
        assert first.claim("t__0")
        with Worker(work, shard="2/2") as beside, Worker(work, shard="1/2") as second:
            assert not beside.replaced and second.claim("t__0")
            while not first.replaced and time.monotonic() < deadline:
                time.sleep(0.05)
            assert first.replaced
            queue = Queue(Trials(work / "none", {}), first)
            with pytest.raises(BadInput, match="another process took over shard 1/2"):
                asyncio.run(queue.take())


def test_the_first_to_finish_wins_and_a_folder_that_is_gone_is_left_alone(work):
    path = work / TRIALS / "t__0.json"
    assert publish_once(path, "first") and not publish_once(path, "second")
    assert path.read_text() == "first"
    assert [entry.name for entry in path.parent.iterdir()] == ["t__0.json"]
    assert not publish_once(work / "nowhere" / "t__0.json", "late")


def test_many_that_begin_at_once_share_one_folder(tmp_path):
    out = tmp_path / "out"
    stale = work_dir(out, {"stage": "rollout", "seed": 0})
    (stale / TRIALS).mkdir()
    (stale / TRIALS / "old__0.json").write_text("{}")
    barrier = threading.Barrier(8)

    def begin(_: int) -> Path:
        barrier.wait()
        folder = shared_folder(out, FINGERPRINT)
        (folder / TRIALS / f"{threading.get_ident()}.json").write_text("{}")
        return folder

    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(begin, range(8)))
    (folder,) = folders
    assert len(list((folder / TRIALS).iterdir())) == 8, "nobody's work was removed, and the old is gone"
    assert work_dir(out, FINGERPRINT) == folder, "the artifact's writer knows it for what it is"
    assert not list(tmp_path.glob("out.work.new.*"))


def test_a_folder_of_others_and_one_with_workers_at_it_are_refused(tmp_path, work):
    (tmp_path / "mine.work").mkdir()
    (tmp_path / "mine.work" / "thesis.tex").touch()
    with pytest.raises(BadInput, match="holds other files"):
        shared_folder(tmp_path / "mine", FINGERPRINT)
    with Worker(work), pytest.raises(BadInput, match=f"process {os.getpid()}.*end it or give another --out"):
        shared_folder(tmp_path / "out", {"stage": "rollout", "seed": 2})
    assert shared_folder(tmp_path / "out", FINGERPRINT) == work


def test_the_shards_begin_with_all_tasks_between_them():
    tasks = [f"{number:016x}" for number in range(300)]
    parts = [[task for task in tasks if home_shard(task, 3) == shard] for shard in (1, 2, 3)]
    assert sorted(task for part in parts for task in part) == tasks
    assert min(map(len, parts)) > 60
    assert {home_shard(task, 1) for task in tasks} == {1}


def drain(queue: Queue, worker: Worker, finish: bool = True) -> list[str]:
    """Take and finish trials until there is none left."""
    taken = []
    while (request := asyncio.run(queue.take())) is not None:
        taken.append(request.name)
        if finish:
            publish_once(worker.work / TRIALS / f"{request.name}.json", "{}")
    return taken


@pytest.fixture
def trials(tmp_path) -> Trials:
    ids = [f"{number:016x}" for number in range(12)]
    row = {**dict.fromkeys(TASK_SCHEMA.names), "task_binary": b"", "path": "p", "source": "s"}
    write_rows(tmp_path / "tasks.parquet", TASK_SCHEMA, [{**row, "task_id": task_id} for task_id in ids])
    return Trials(tmp_path / "tasks.parquet", dict.fromkeys(ids, 2))


def test_a_shard_begins_with_its_own_and_goes_on_with_what_nobody_has(work, trials):
    own = {task for task in trials.attempts if home_shard(task, 2) == 1}
    with Worker(work, shard="1/2") as first, Worker(work, shard="2/2") as second:
        other = Queue(trials, second, shard=2, shards=2)
        held = asyncio.run(other.take())
        assert held is not None
        taken = drain(Queue(trials, first, shard=1, shards=2), first)
        assert {name.partition("__")[0] for name in taken[: 2 * len(own)]} == own
        assert sorted([*taken, held.name]) == sorted(trials.names())
        assert Queue(trials, first, shard=1, shards=2).is_done(), "the one that is left is with a worker that is there"
        assert not Queue(trials, first, to_the_end=True).is_done()
        assert not other.is_done() or drain(other, second) == []


def test_trials_of_a_worker_that_ends_are_taken_again(work, trials):
    with Worker(work) as first:
        given_up = drain(Queue(trials, first), first, finish=False)
    assert len(given_up) == len(trials)
    with Worker(work) as second:
        assert drain(Queue(trials, second), second) == list(trials.names())
        assert Queue(trials, second).is_done()


def test_nothing_is_left_once_everything_was_published_by_another(work, trials):
    with Worker(work) as worker:
        queue = Queue(trials, worker)
        for path in sorted(work.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        work.rmdir()
        assert queue.is_done()
        assert asyncio.run(queue.take()) is None
