"""The command line of `rollout`: real trials in real sandboxes, kills, unusable endpoints, bad tasks."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.conftest import small_task, write_tasks

from recipe_core.records import read_rows
from recipe_core.tasks import TaskFile, pack_files, task_row

BIN = Path(__file__).resolve().parents[2] / ".venvs" / "bin"
COMMON = ("--date", "2026-01-01", "--seed", "1")


def task(index: int) -> dict[str, TaskFile]:
    """Return a task of several steps."""
    check = f'[ "$(cat /app/out.txt)" = {2 * index} ] && [ "$(head -n 1 /app/sorted.txt)" = a ]'
    solution = (
        f"mkdir -p work\nsort names.txt > sorted.txt\nfor i in 1 2; do\n  echo $i\ndone\necho {2 * index} > out.txt\n"
    )
    return {
        "instruction.md": TaskFile(f"Sort names.txt into sorted.txt; write twice {index} to out.txt.\n".encode()),
        "task.toml": TaskFile(b'version = "1.0"\n[agent]\ntimeout_sec = 60.0\n[verifier]\ntimeout_sec = 30.0\n'),
        "environment/Dockerfile": TaskFile(b"FROM scratch\nWORKDIR /app\nCOPY files/ /app/\n"),
        "environment/files/names.txt": TaskFile(b"c\nb\na\n"),
        "solution/solve.sh": TaskFile(f"#!/bin/bash\nset -e\n{solution}".encode(), 0o755),
        "tests/test.sh": TaskFile(
            f"#!/bin/bash\nif {check}; then echo 1; else echo 0; fi > /logs/verifier/reward.txt\n".encode(), 0o755
        ),
    }


def task_of(files: dict[str, TaskFile], name: str) -> dict:
    return task_row(files, path=name, source="shell", licence="Apache-2.0", origin="test", meta={})


@pytest.fixture
def tasks(tmp_path):
    return write_tasks(tmp_path / "tasks", [task_of(task(index), f"task-{index}") for index in range(6)])


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **extra}


def run(*words: object, env: dict[str, str] | None = None, **options) -> subprocess.CompletedProcess[str]:
    command = ["rollout", *map(str, words)]
    options = {"capture_output": True, "text": True, "timeout": 300, **options}
    return subprocess.run(command, env=environment(**(env or {})), **options)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line of a refused command."""
    lines = [line for line in done.stderr.splitlines() if not re.match(r"rollout: \d+/\d+", line)]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1 and lines[0].startswith("rollout: error: "), done.stderr
    return lines[0]


@contextmanager
def endpoint(answer, models: bytes = b'{"data": [{"id": "m"}]}'):
    """Serve an endpoint whose completions are what `answer(handler)` makes of them."""

    requests: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.reply(200, models)

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            requests.append({"headers": dict(self.headers), "body": json.loads(self.rfile.read(length))})
            answer(self)

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()


def chat(content: str) -> bytes:
    return json.dumps({"choices": [{"message": {"content": content}, "finish_reason": "stop"}]}).encode()


def rows_of(out: Path) -> list[dict]:
    return pq.read_table(out / "trajectories.parquet").to_pylist()


def test_the_reference_teacher_solves_the_tasks_and_a_second_run_is_a_no_op(tasks, tmp_path):
    out = tmp_path / "out"
    first = run("--tasks", tasks, "--teacher", "reference", "--attempts", 2, *COMMON, "--out", out)
    assert first.returncode == 0, first.stderr
    rows = rows_of(out)
    assert [(row["task_id"], row["attempt"]) for row in rows] == sorted(
        (row["task_id"], row["attempt"]) for row in rows
    )
    assert len(rows) == 12
    for found in rows:
        assert (found["reward"], found["error_class"], found["trace_source"]) == (1.0, None, "reference")
        assert (found["agent"], found["model"], found["model_provider"]) == ("terminus-2", "reference", "builtin")
        roles = [part["role"] for part in found["conversations"]]
        assert roles == ["user", "assistant"] * found["turns"]
        assert found["turns"] >= 6
        assert "root@sandbox:/app#" in found["conversations"][0]["content"]
    assert not (tmp_path / "out.work").exists()
    before = (out / "manifest.json").stat().st_mtime_ns
    again = run("--tasks", tasks, "--teacher", "reference", "--attempts", 2, *COMMON, "--out", out)
    assert again.returncode == 0 and "up to date" in again.stderr
    assert (out / "manifest.json").stat().st_mtime_ns == before


@pytest.mark.full
def test_rows_do_not_depend_on_the_machines_load(tasks, tmp_path):
    run("--tasks", tasks, "--teacher", "reference", *COMMON, "--concurrency", 1, "--out", tmp_path / "calm")
    load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        run("--tasks", tasks, "--teacher", "reference", *COMMON, "--concurrency", 6, "--out", tmp_path / "busy")
    finally:
        for process in load:
            process.kill()
            process.wait()
    name = "trajectories.parquet"
    assert (tmp_path / "calm" / name).read_bytes() == (tmp_path / "busy" / name).read_bytes()


@pytest.mark.full
def test_killed_runs_go_on_where_they_were(tmp_path):
    tasks = write_tasks(tmp_path / "tasks", [task_of(task(index), f"task-{index}") for index in range(24)])
    words = ["--tasks", tasks, "--teacher", "reference", *COMMON, "--concurrency", "2", "--out"]
    assert run(*words, tmp_path / "whole").returncode == 0
    trials = tmp_path / "cut.work" / "trials"
    kept: dict[str, int] = {}
    chance = random.Random(5)
    for goal in (1, 5, 9, 13, 17):
        command = ["rollout", *map(str, words), str(tmp_path / "cut")]
        process = subprocess.Popen(command, start_new_session=True, env=environment())
        while process.poll() is None and len(list(trials.glob("[!.]*.json"))) < goal:
            time.sleep(0.02)
        time.sleep(chance.random() * 0.5)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        found = {path.name: path.stat().st_mtime_ns for path in trials.glob("[!.]*.json")}
        assert kept.items() <= found.items()
        kept = found
    assert len(kept) >= 17
    assert run(*words, tmp_path / "cut").returncode == 0
    name = "trajectories.parquet"
    assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_unreachable_endpoint_is_one_line(tasks, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    line = one_line(run("--tasks", tasks, "--endpoint", url, "--model-name", "m", *COMMON, "--out", tmp_path / "out"))
    assert url in line and "start the server" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.full
def test_a_model_that_returns_junk_fails_by_itself_and_its_key_is_not_written(tasks, tmp_path):
    with endpoint(lambda handler: handler.reply(200, chat("I would rather not."))) as (url, requests):
        done = run(
            *(
                "--tasks",
                tasks,
                "--endpoint",
                url,
                "--model-name",
                "m",
                "--max-turns",
                2,
                *COMMON,
                "--out",
                tmp_path / "out",
            ),
            *("--api-key-env", "TEACHER_KEY", "--temperature", "0.3"),
            env={"TEACHER_KEY": "very-secret-key"},
        )
    assert done.returncode == 0, done.stderr
    for found in rows_of(tmp_path / "out"):
        assert (found["reward"], found["error_class"], found["turns"]) == (0.0, "parse", 2)
        assert "Previous response had parsing errors" in found["conversations"][2]["content"]
    assert requests[0]["headers"]["Authorization"] == "Bearer very-secret-key"
    assert requests[0]["body"]["temperature"] == 0.3
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written and not any(b"very-secret-key" in path.read_bytes() for path in written)


@pytest.mark.full
def test_an_endpoint_that_answers_500_is_infrastructure_and_nothing_is_published(tmp_path):
    tasks = write_tasks(tmp_path / "tasks", [task_of(task(1), "task-1")])
    with endpoint(lambda handler: handler.reply(500, b"boom")) as (url, _):
        words = (
            "--tasks",
            tasks,
            "--endpoint",
            url,
            "--model-name",
            "m",
            "--retries",
            0,
            *COMMON,
            "--out",
            tmp_path / "out",
        )
        line = one_line(run(*words))
    assert "all 1 trials failed outside the model" in line and "answered 500: boom" in line
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "out.work" / "trials").iterdir())


@pytest.mark.full
def test_an_endpoint_that_hangs_is_infrastructure_even_when_the_agents_time_runs_out(tmp_path):
    tasks = write_tasks(tmp_path / "tasks", [task_of(task(1), "task-1")])
    with endpoint(lambda handler: time.sleep(30)) as (url, _):
        words = (
            "--tasks",
            tasks,
            "--endpoint",
            url,
            "--model-name",
            "m",
            "--retries",
            0,
            *COMMON,
            "--out",
            tmp_path / "out",
        )
        line = one_line(run(*words, "--request-timeout", 1, "--agent-timeout", 3))
    assert "no answer within 1 s" in line


@pytest.mark.full
def test_an_agent_that_runs_out_of_time_is_judged_by_what_it_did(tmp_path):
    tasks = write_tasks(tmp_path / "tasks", [task_of(task(0), "task-0")])
    keys = "sort names.txt > sorted.txt; echo 0 > out.txt; sleep 60\n"
    answer = {"analysis": "", "plan": "", "commands": [{"keystrokes": keys, "duration": 60}]}
    with endpoint(lambda handler: handler.reply(200, chat(json.dumps(answer)))) as (url, _):
        words = ("--tasks", tasks, "--endpoint", url, "--model-name", "m", *COMMON, "--out", tmp_path / "out")
        done = run(*words, "--agent-timeout", 4)
    assert done.returncode == 0, done.stderr
    (found,) = rows_of(tmp_path / "out")
    assert (found["error_class"], found["result"], found["reward"]) == ("timeout", "AgentTimeoutError", 1.0)


def test_tasks_that_cannot_be_run_are_one_line(tmp_path):
    good = task_of(task(1), "good")
    escape = {**good, "path": "escape", "task_binary": pack_files({"../evil": TaskFile(b"x")})}
    truncated = {**good, "path": "truncated", "task_binary": good["task_binary"][:200]}
    unverified = {
        **good,
        "path": "unverified",
        "task_binary": pack_files({k: v for k, v in task(1).items() if "tests" not in k}),
    }
    unsolved = {
        **good,
        "path": "unsolved",
        "task_binary": pack_files({k: v for k, v in task(1).items() if "solve" not in k}),
    }
    for bad, words in (
        (escape, "leaves the task folder"),
        (truncated, "not a readable tar.gz"),
        (unverified, "no verifier"),
        (unsolved, "no solution/solve.sh"),
    ):
        tasks = write_tasks(tmp_path / str(bad["path"]), [bad])
        line = one_line(run("--tasks", tasks, "--teacher", "reference", *COMMON, "--out", tmp_path / "out"))
        assert words in line and str(bad["path"]) in line
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "expected one of --teacher, --model, --endpoint; got none of them"),
        (("--model", "m", "--endpoint", "http://h/v1"), "got --model and --endpoint"),
        (("--teacher", "reference", "--endpoint", "http://h/v1"), "--endpoint does not go with --teacher"),
        (("--endpoint", "http://h/v1"), "--endpoint needs --model-name"),
        (("--endpoint", "http://", "--model-name", "m"), "expected a URL"),
        (("--endpoint", "http://h:99999/v1", "--model-name", "m"), "expected a URL"),
        (("--endpoint", "h", "--model-name", "m"), "expected a URL"),
        (("--teacher", "reference", "--model-name", "m"), "--model-name does not go with --teacher"),
    ],
)
def test_flags_that_do_not_belong_together_are_one_line(tasks, tmp_path, words, said):
    assert said in one_line(run("--tasks", tasks, *words, *COMMON, "--out", tmp_path / "out"))


def test_help_is_there_for_every_command():
    for words in ((), ("pull",), ("worker",), ("reference-teacher",)):
        done = run(*words, "--help")
        assert done.returncode == 0 and "usage: rollout" in done.stdout


@pytest.mark.full
def test_the_worker_answers_line_by_line(tasks, tmp_path):
    endpoint_json = {"model": "reference", "provider": "builtin"}
    ids = [found["task_id"] for found in pq.read_table(tasks / "tasks.parquet").to_pylist()]
    asked = [
        {
            "tasks": str(tasks / "tasks.parquet"),
            "trials": [{"task_id": ids[0], "attempt": 1, "seed": 3}, {"task_id": ids[0], "attempt": 0, "seed": 3}],
            "endpoint": endpoint_json,
        },
        {"tasks": "nowhere.parquet", "endpoint": endpoint_json},
        {"tasks": str(tasks / "tasks.parquet"), "endpoint": {**endpoint_json, "modell": 1}},
        {"tasks": str(tasks / "tasks.parquet"), "endpoint": endpoint_json, "trials": [{}]},
    ]
    done = run("worker", input="".join(json.dumps(request) + "\n" for request in asked))
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["attempt"], row["reward"]) for row in answers[0]["rows"]] == [(0, 1.0), (1, 1.0)]
    assert "nowhere.parquet: no such file" in answers[1]["error"]
    assert "did you mean 'model'" in answers[2]["error"]
    assert "a key is missing" in answers[3]["error"] and "task_id" in answers[3]["error"]


@pytest.mark.full
def test_a_task_that_nothing_verifies_has_trajectories_without_a_reward(tool, tmp_path: Path):
    files = small_task("unverified", check="true")
    task = task_row(files, path="u", source="forum", licence="CC BY-SA", origin="test", meta={"verifiable": False})
    tasks = write_tasks(tmp_path / "tasks", [task])
    done = tool("rollout", "--tasks", tasks, "--teacher", "reference", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    (row,) = read_rows(tmp_path / "out" / "trajectories.parquet")
    assert (row["reward"], row["result"], row["error_class"]) == (None, "unverified", None)
    refused = tool(
        *("evaluate", "--tasks", tasks, "--endpoint", "http://127.0.0.1:9/v1", "--model-name", "x"),
        *("--label", "base", "--out", tmp_path / "scores"),
    )
    assert refused.returncode == 2
    assert "nothing verifies it, so it has no reward" in refused.stderr


def test_a_question_has_no_environment_to_work_in(tool, tmp_path: Path):
    question = {"task_id": "q", "path": "q", "source": "quantities", "instruction": "2 + 2?", "meta": "{}"}
    tasks = write_tasks(tmp_path / "tasks", [question])
    done = tool("rollout", "--tasks", tasks, "--teacher", "reference", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr == (
        "rollout: error: task q (q): a question, which has no environment to work in; "
        "sample answers to it with `answers`\n"
    )
