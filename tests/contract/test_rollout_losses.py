"""What is lost inside one run: model server, sandbox, disk. No trial is scored for it, and none disappears."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import small_task, write_tasks
from tests.contract.test_rollout_cli import BIN, COMMON, environment, rows_of, run, task, task_of
from tests.processes import descendants, is_sandbox, wait_until_gone, words_of

from sandbox.backends import BACKENDS

PATIENCE_SEC = 400.0
SLOW = "sleep 4; echo done > done.txt"


def start(*words: object) -> subprocess.Popen[str]:
    command = [str(word) for word in (BIN / "rollout", *words)]
    return subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)


def is_engine(words: list[str]) -> bool:
    return len(words) > 2 and words[1].endswith("/vllm") and words[2] == "serve"


def is_serve(words: list[str]) -> bool:
    return len(words) > 1 and words[1].endswith("/serve")


def wait_until(what: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_SEC
    while not what() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def finished(out: Path) -> int:
    return len(list(out.with_name(f"{out.name}.work").glob("trials/[!.]*.json")))


@pytest.mark.full
def test_trials_whose_sandbox_is_killed_are_tried_again(tmp_path):
    tasks = write_tasks(
        tmp_path / "tasks", [task_of(small_task(f"slow-{n}", solution=SLOW), f"slow-{n}") for n in range(2)]
    )
    out = tmp_path / "out"
    process = start("--tasks", tasks, "--teacher", "reference", "--backend", "bubblewrap", *COMMON, "--out", out)
    wait_until(lambda: len(descendants(process.pid, is_sandbox)) >= 2, process)
    # Once the shells are up the trials are under way.
    time.sleep(2)
    killed = descendants(process.pid, is_sandbox)
    assert len(killed) >= 2 and finished(out) == 0
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    said = process.communicate(timeout=PATIENCE_SEC)[1]
    assert process.returncode == 0, said
    assert [(row["reward"], row["error_class"]) for row in rows_of(out)] == [(1.0, None)] * 2
    undisturbed = run("--tasks", tasks, "--teacher", "reference", *COMMON, "--out", tmp_path / "undisturbed")
    assert undisturbed.returncode == 0
    assert rows_of(out) == rows_of(tmp_path / "undisturbed")


@pytest.fixture
def model(trajectories: Path, tmp_path: Path, tool) -> Path:
    """A small model of random weights."""
    made = tool("init-model", "--trajectories", trajectories, "--out", tmp_path / "model")
    assert made.returncode == 0, made.stderr
    return tmp_path / "model"


@pytest.mark.full
def test_a_model_server_that_is_killed_is_started_again_and_nothing_is_held_against_the_model(model, tmp_path):
    tasks = write_tasks(tmp_path / "tasks", [task_of(task(index), f"task-{index}") for index in range(8)])
    words = ("--tasks", tasks, "--model", model, *COMMON, "--max-turns", 2, "--max-tokens", 16, "--concurrency", 2)
    out = tmp_path / "out"
    process = start(*words, "--out", out)
    for goal, victim in ((2, is_engine), (5, is_serve)):
        wait_until(lambda goal=goal: finished(out) >= goal, process)
        (pid,) = descendants(process.pid, victim)
        os.kill(pid, signal.SIGKILL)
    said = process.communicate(timeout=PATIENCE_SEC)[1]
    assert process.returncode == 0, said
    assert said.count("the model server was lost") == 2 and "starting it again" in said
    rows = rows_of(out)
    assert len(rows) == 8
    assert {row["error_class"] for row in rows} <= {None, "parse", "output_length"}
    assert all(row["reward"] is not None and row["turns"] >= 1 for row in rows)
    running = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    assert not [pid for pid in running if str(model) in words_of(pid)]
    # The same model, never killed, says the same to the last token.
    undisturbed = run(*words, "--out", tmp_path / "undisturbed", timeout=PATIENCE_SEC)
    assert undisturbed.returncode == 0, undisturbed.stderr
    answers = [[row["completion_token_ids"] for row in rows_of(folder)] for folder in (out, tmp_path / "undisturbed")]
    assert answers[0] == answers[1]


@pytest.mark.full
def test_a_disk_that_fills_up_is_one_line_and_what_was_finished_is_kept(tmp_path):
    tasks = write_tasks(tmp_path / "tasks", [task_of(task(index), f"task-{index}") for index in range(12)])
    disk = tmp_path / "disk"
    disk.mkdir()
    words = ("--tasks", tasks, "--teacher", "reference", "--backend", "bubblewrap", *COMMON, "--out", disk / "out")
    command = " ".join(map(str, (BIN / "rollout", *words)))
    script = f"""
    {command} --concurrency 1 & process=$!
    until [ "$(ls {disk}/out.work/trials 2> /dev/null | wc -l)" -ge 3 ]; do sleep 0.05; done
    cat /dev/zero > {disk}/filler 2> /dev/null
    wait $process; echo "code $?"
    ls {disk}/out.work/trials | sort > /dev/shm/before.$$
    rm {disk}/filler
    {command} 2> /dev/null; echo "code $?"
    echo "kept $(wc -l < /dev/shm/before.$$)"; rm /dev/shm/before.$$
    cp -r {disk}/out {tmp_path}/out
    """
    namespace = [BACKENDS["bubblewrap"].require(), "--dev-bind", "/", "/", "--size", str(3 << 20), "--tmpfs", str(disk)]
    done = subprocess.run(
        [*namespace, "--", "bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SEC,
        env=environment(),
    )
    lines = done.stdout.splitlines()
    assert lines[:2] == ["code 2", "code 0"], done.stderr
    assert int(lines[2].split()[1]) >= 3
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1 and "the disk is full" in errors[0] and "run the same command again" in errors[0]
    assert "Traceback" not in done.stderr
    assert [(row["reward"], row["error_class"]) for row in rows_of(tmp_path / "out")] == [(1.0, None)] * 12


@pytest.mark.full
def test_sigterm_ends_a_run_with_a_model_at_once_and_leaves_nothing(model, tmp_path):
    tasks = write_tasks(tmp_path / "tasks", [task_of(task(index), f"task-{index}") for index in range(6)])
    out = tmp_path / "out"
    process = start("--tasks", tasks, "--model", model, *COMMON, "--max-turns", 20, "--max-tokens", 64, "--out", out)
    wait_until(lambda: descendants(process.pid, is_sandbox), process)
    time.sleep(1)
    below = descendants(process.pid, lambda words: bool(words[0]))
    assert below
    began = time.monotonic()
    process.terminate()
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 143, said
    assert time.monotonic() - began < 30
    assert "Traceback" not in said
    assert wait_until_gone(below) == {}
    assert not (tmp_path / "out").exists()
