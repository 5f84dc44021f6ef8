"""Servers for the time of a block: `serve` itself, with a stand-in for vLLM that answers the same requests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from tests.processes import is_alive, wait_until_gone

from recipe_core.errors import BadInput
from serve.client import ModelServer

COMMAND = (sys.executable, "-m", "serve")
ENGINE = """#!{python}
import json, os, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

folder = os.environ["ENGINE_FOLDER"]
if os.environ.get("ENGINE_DIES"):
    sys.exit("ValueError: no room for the cache")
if os.environ.get("ENGINE_HANGS"):
    time.sleep(600)
child = subprocess.Popen(["sleep", "600"])
with open(folder + "/pids", "w") as file:
    file.write(f"{{os.getpid()}} {{child.pid}}")


class Handler(BaseHTTPRequestHandler):
    def answer(self, code=200):
        self.send_response(code)
        self.end_headers()

    def do_GET(self):
        self.answer()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        with open(folder + "/posts", "a") as file:
            file.write(json.dumps([self.path, body]) + "\\n")
        self.answer(500 if "bad" in body else 200)


HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


@pytest.fixture
def model(tmp_path, monkeypatch) -> Path:
    """Return a folder that looks like a model, with the stand-in engine on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    engine = folder / "vllm"
    engine.write_text(ENGINE.format(python=sys.executable))
    engine.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("ENGINE_FOLDER", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    model = tmp_path / "student"
    model.mkdir()
    (model / "config.json").write_text('{"architectures": ["Qwen3ForCausalLM"]}')
    for name in ("model.safetensors", "tokenizer.json"):
        (model / name).write_text("")
    return model


def engine_pids(folder: Path) -> list[int]:
    return [int(word) for word in (folder / "pids").read_text().split()]


def test_a_server_lives_as_long_as_its_block(model, tmp_path):
    with ModelServer(model, command=COMMAND) as server:
        assert server.model == "student"
        assert server.base_url.endswith("/v1")
        with urllib.request.urlopen(server.root_url + "/health") as answer:
            assert answer.status == 200
        pids = engine_pids(tmp_path)
        assert all(map(is_alive, pids))
    assert wait_until_gone(pids) == {}
    assert not list(tmp_path.glob("serve-*")), "the scratch folder is left behind"


def test_weights_are_reloaded_and_cached_prefixes_dropped(model, tmp_path):
    with ModelServer(model, command=COMMAND) as server:
        server.reload_weights(Path("/next"))
        with pytest.raises(BadInput, match=r"500.*could not take the weights"):
            server.reload_weights(Path("/bad"))
    posts = [json.loads(line) for line in (tmp_path / "posts").read_text().splitlines()]
    assert [path for path, _ in posts] == ["/collective_rpc", "/reset_prefix_cache", "/collective_rpc"]
    assert json.loads(posts[0][1]) == {"method": "swap_weights", "kwargs": {"weights_path": "/next"}}


def test_an_engine_that_dies_is_quoted_and_its_log_kept(model, tmp_path, monkeypatch):
    monkeypatch.setenv("ENGINE_DIES", "1")
    with pytest.raises(BadInput, match="ended with code 1: ValueError: no room for the cache") as caught:
        ModelServer(model, command=COMMAND).__enter__()
    (log,) = tmp_path.glob("serve-*/engine.log")
    assert str(log) in str(caught.value)


def test_an_engine_that_dies_later_is_noticed(model, tmp_path):
    with ModelServer(model, command=COMMAND) as server:
        server.check()
        os.kill(engine_pids(tmp_path)[0], signal.SIGKILL)
        deadline = time.monotonic() + 20
        with pytest.raises(BadInput, match="the model server has ended"):
            while time.monotonic() < deadline:
                server.check()
                time.sleep(0.1)


@pytest.mark.parametrize("victim", ["client", "serve"])
def test_nothing_is_left_when_a_process_is_killed(model, tmp_path, victim):
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom serve.client import ModelServer\n"
        f"with ModelServer(Path({str(model)!r}), command={COMMAND!r}) as server:\n"
        "    print(server._process.pid, flush=True)\n    time.sleep(600)\n"
    )
    client = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    serve = int(client.stdout.readline())
    pids = engine_pids(tmp_path)
    os.kill(client.pid if victim == "client" else serve, signal.SIGKILL)
    left = wait_until_gone([*pids, serve])
    client.kill()
    client.wait()
    client.stdout.close()
    assert left == {}


def test_a_missing_command_is_one_line(model):
    with pytest.raises(BadInput, match="no-such-command: not found on PATH"):
        ModelServer(model, command=("no-such-command",)).__enter__()
