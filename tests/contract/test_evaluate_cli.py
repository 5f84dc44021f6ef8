"""The command line of `evaluate`: real trials against a scripted endpoint, scores, bad input."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from recipe_core.artifact import file_digest, open_artifact
from recipe_core.records import read_rows

COMMON = ("--label", "sft", "--date", "2026-01-01", "--seed", "1", "--settle", "2")
BIN = Path(__file__).resolve().parents[2] / ".venvs" / "bin"


def answer(prompt: str) -> tuple[int, dict]:
    """Solve shell-0, give up on shell-1, break down on shell-2; each task names itself in its instruction."""
    if "shell-2 asks" in prompt:
        return 500, {"error": {"message": "out of order"}}
    keys = [{"keystrokes": "echo done > done.txt\n", "duration": 0.1}] if "shell-0 asks" in prompt else []
    reply = {"analysis": "a", "plan": "p", "commands": keys, "task_complete": True}
    return 200, {"choices": [{"message": {"content": json.dumps(reply)}, "finish_reason": "stop"}]}


class Scripted(BaseHTTPRequestHandler):
    def reply(self, status: int, body: dict) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.reply(200, {"data": [{"id": "m"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.reply(*answer(body["messages"][0]["content"]))

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def model() -> Iterator[tuple[str, ...]]:
    """The flags of a model that does what `answer` says."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield ("--endpoint", f"http://127.0.0.1:{server.server_port}/v1", "--model-name", "m")
    server.shutdown()


def test_help_has_an_example_and_every_flag(tool):
    shown = tool("evaluate", "--help")
    assert shown.returncode == 0
    assert "    evaluate --tasks " in shown.stdout
    for flag in ("--label", "--attempts", "--concurrency", "--max-turns", "--temperature", "--out", "--seed"):
        assert flag in shown.stdout


@pytest.mark.full
def test_scores_tell_failures_from_infrastructure_and_a_rerun_is_a_no_op(tool, tasks_artifact, model, tmp_path):
    command = ("evaluate", "--tasks", tasks_artifact(3), *model, *COMMON, "--attempts", 2, "--retries", 0)
    done = tool(*command, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    recorded = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert recorded["model"] == "sft"
    assert [score["source"] for score in recorded["scores"]] == ["shell", "all"]
    for score in recorded["scores"]:
        assert (score["n_tasks"], score["unscored_tasks"]) == (2, 1)
        assert (score["attempts"], score["valid_attempts"], score["infra_errors"]) == (2, 4, 2)
        assert score["pass_at_1"] == 0.5
        assert score["ci95"][0] <= 0.5 <= score["ci95"][1]
    rows = list(read_rows(tmp_path / "out" / "trials.parquet"))
    assert [(row["task_id"], row["attempt"]) for row in rows] == sorted(
        (row["task_id"], row["attempt"]) for row in rows
    )
    assert [row["reward"] for row in rows].count(None) == 2
    assert open_artifact(tmp_path / "out").manifest["rows_out"] == 6
    assert "pass@1 0.500" in done.stderr
    assert not (tmp_path / "out.work").exists()

    before = file_digest(tmp_path / "out" / "manifest.json")
    again = tool(*command, "--out", tmp_path / "out")
    assert again.returncode == 0
    assert "up to date" in again.stderr
    assert file_digest(tmp_path / "out" / "manifest.json") == before


@pytest.mark.full
def test_a_killed_run_keeps_its_finished_trials(tool, tasks_artifact, model, tmp_path):
    words = ("--tasks", tasks_artifact(2), *model, *COMMON, "--attempts", "6", "--concurrency", "1", "--out")
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    command = ["evaluate", *map(str, words), str(tmp_path / "cut")]
    process = subprocess.Popen(command, start_new_session=True, env=environment, stderr=subprocess.DEVNULL)
    finished = tmp_path / "cut.work" / "trials"
    deadline = time.monotonic() + 120
    while len(list(finished.glob("[!.]*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in finished.glob("[!.]*.json")}
    assert 3 <= len(kept) < 12
    assert not (tmp_path / "cut").exists()

    # A second try that stops at a bad flag touches nothing; a third finishes, with the kept trials as they were.
    assert tool("evaluate", *words, tmp_path / "cut", "--attempts", 0).returncode == 2
    assert {name: (finished / name).stat().st_mtime_ns for name in kept} == kept
    assert tool("evaluate", *words, tmp_path / "cut").returncode == 0
    assert tool("evaluate", *words, tmp_path / "whole").returncode == 0
    for name in ("trials.parquet", "scores.json"):
        assert file_digest(tmp_path / "cut" / name) == file_digest(tmp_path / "whole" / name)


@pytest.mark.full
def test_several_processes_score_what_one_alone_scores(tool, tasks_artifact, model, tmp_path):
    words = ("--tasks", tasks_artifact(2), *model, *COMMON, "--attempts", 2, "--out")
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    command = ["evaluate", "pull", *map(str, (*words, tmp_path / "shared", "--shard"))]
    workers = [subprocess.Popen([*command, f"{k}/2"], env=environment, stderr=subprocess.DEVNULL) for k in (1, 2)]
    assert [worker.wait(300) for worker in workers] == [0, 0]
    merged = tool("evaluate", *words, tmp_path / "shared", "--merge")
    assert merged.returncode == 0, merged.stderr
    assert "pass@1 0.500" in merged.stderr
    assert tool("evaluate", *words, tmp_path / "alone").returncode == 0
    assert open_artifact(tmp_path / "shared").digest == open_artifact(tmp_path / "alone").digest


def test_merging_before_the_end_says_what_is_missing(tool, tasks_artifact, model, tmp_path):
    done = tool("evaluate", "--tasks", tasks_artifact(2), *model, *COMMON, "--merge", "--out", tmp_path / "out")
    assert "6 of 6 trials are not finished" in refused(done, tmp_path / "out")
    assert "`evaluate pull`" in done.stderr


def refused(done: subprocess.CompletedProcess[str], out: Path) -> str:
    """Return the one line of a refused command, after checking that it left nothing."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("evaluate sft: ")]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert not out.exists()
    return lines[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "expected one of --model, --endpoint; got none of them"),
        (("--endpoint", "http://127.0.0.1:1/v1"), "--endpoint needs --model-name"),
        (("--endpoint", "127.0.0.1", "--model-name", "m"), "expected a URL such as"),
        (("--model", "nowhere"), "nowhere: no artifact here"),
        (("--model", "x", "--model-name", "m"), "--model-name belongs to --endpoint"),
        (("--model", "x", "--endpoint", "http://127.0.0.1:1/v1"), "got --model and --endpoint"),
        (("--model", "x", "--label", "teacher"), "invalid choice: 'teacher'"),
        (("--model", "x", "--attempts", "0"), "'0' is not a whole number"),
        (("--nonsense",), "--nonsense"),
    ],
)
def test_flags_that_make_no_sense_are_one_line(flags, message, tool, tasks_artifact, tmp_path):
    out = tmp_path / "out"
    done = tool("evaluate", "--tasks", tasks_artifact(1), *COMMON, *flags, "--out", out)
    assert message in refused(done, out)


@pytest.mark.parametrize("damage", ["empty", "truncated"])
def test_tasks_that_cannot_be_used_are_one_line(damage, tool, tasks_artifact, model, tmp_path):
    tasks = tasks_artifact(0 if damage == "empty" else 2)
    if damage == "truncated":
        data = tasks / "tasks.parquet"
        data.write_bytes(data.read_bytes()[:-30])
    done = tool("evaluate", "--tasks", tasks, *model, *COMMON, "--out", tmp_path / "out")
    assert str(tasks) in refused(done, tmp_path / "out")


def test_an_unreachable_endpoint_is_one_line(tool, tasks_artifact, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    flags = ("--endpoint", url, "--model-name", "m", *COMMON, "--out", tmp_path / "out")
    assert url in refused(tool("evaluate", "--tasks", tasks_artifact(1), *flags), tmp_path / "out")
