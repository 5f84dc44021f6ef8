"""Weights swapped in a running server are the weights that a fresh server serves: real vLLM, real models."""

from __future__ import annotations

import json
import shutil
import urllib.request
from pathlib import Path

import pytest

from serve.client import ModelServer

ROOT = Path(__file__).resolve().parents[2]


def answer(server: ModelServer) -> tuple[str, list[float]]:
    """Ask for a greedy completion; return it and its log-probabilities."""
    body = {
        "model": server.model,
        "messages": [{"role": "user", "content": "Create the file amber-coral.txt."}],
        "temperature": 0,
        "max_tokens": 12,
        "logprobs": True,
    }
    request = urllib.request.Request(
        f"{server.base_url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        choice = json.load(response)["choices"][0]
    return choice["message"]["content"], [token["logprob"] for token in choice["logprobs"]["content"]]


@pytest.mark.full
def test_swapped_weights_answer_as_a_fresh_server_does(trajectories: Path, tmp_path: Path, tool):
    for seed in (1, 2):
        done = tool("init-model", "--trajectories", trajectories, "--seed", seed, "--out", tmp_path / f"model-{seed}")
        assert done.returncode == 0, done.stderr
    command = (str(ROOT / ".venvs" / "bin" / "serve"),)
    notes = ROOT / ".venvs" / "serve" / "var" / "vllm-modelinfos"
    shutil.rmtree(notes, ignore_errors=True)
    with ModelServer(tmp_path / "model-2", command=command) as server:
        fresh = answer(server)
        assert answer(server) == fresh
    assert [path.name for path in notes.iterdir()] == ["vllm-model_executor-models-qwen3-Qwen3ForCausalLM.json"]
    with ModelServer(tmp_path / "model-1", command=command) as server:
        other = answer(server)
        server.reload_weights(tmp_path / "model-2")
        swapped = answer(server)
    assert swapped == fresh
    assert other != fresh
