"""The training tools for real: kills and what follows, and whether all parts see a conversation as the same tokens."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from serve.client import ModelServer

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venvs" / "bin"
ENVIRONMENT = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
pytestmark = [pytest.mark.full, pytest.mark.timeout(1200)]


def kill_when(there: Callable[[], bool], *command: object, timeout: float = 600) -> None:
    """Start a command in a process group of its own and kill -9 the whole group as soon as `there` holds."""
    with tempfile.TemporaryFile("w+") as said:
        words = [str(word) for word in command]
        process = subprocess.Popen(words, env=ENVIRONMENT, start_new_session=True, stdout=said, stderr=said)
        deadline = time.monotonic() + timeout
        try:
            while not there():
                if process.poll() is not None:
                    said.seek(0)
                    pytest.fail(f"ended with code {process.returncode} before it was killed: {said.read()[-2000:]}")
                assert time.monotonic() < deadline, "never came to where it was to be killed"
                time.sleep(0.05)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def digests(artifact: Path) -> dict[str, str]:
    """Return the SHA-256 of each of an artifact's files, as its manifest names them."""
    files = json.loads((artifact / "manifest.json").read_text())["files"]
    return {name: entry["sha256"] for name, entry in files.items()}


def decisive(artifact: Path) -> list[dict[str, float]]:
    """Return the metrics without those of the sampler's log-probabilities, which depend on what shares a batch."""
    lines = [json.loads(line) for line in (artifact / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "kl" and not k.startswith("logprob_")} for line in lines]


@pytest.fixture
def student(trajectories: Path, tmp_path: Path, tool) -> Path:
    out = tmp_path / "student"
    done = tool("init-model", "--trajectories", trajectories, "--seed", "1", "--out", out)
    assert done.returncode == 0, done.stderr
    return out


def test_sft_killed_at_a_checkpoint_ends_in_the_same_bytes(student: Path, trajectories: Path, tmp_path: Path, tool):
    command = ["train-sft", "--model", student, "--trajectories", trajectories, "--seed", "1", "--epochs", "8"]
    command += ["--learning-rate", "0.001", "--save-steps", "4", "--logging-steps", "2", "--out"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = tool(*command, whole)
    assert done.returncode == 0, done.stderr

    work = tmp_path / "killed.work" / "checkpoints"
    kill_when((work / "checkpoint-8" / "trainer_state.json").is_file, *command, killed)
    assert not killed.exists()
    resumed = tool(*command, killed)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from checkpoint-" in resumed.stderr
    assert digests(killed) == digests(whole)
    assert (killed / "manifest.json").read_bytes() == (whole / "manifest.json").read_bytes()
    assert len((whole / "metrics.jsonl").read_text().splitlines()) == 12
    assert not (tmp_path / "killed.work").exists()
    again = tool(*command, whole)
    assert again.returncode == 0 and "up to date" in again.stderr


# Runs in the stack of train-sft: the tokens and the labels that LLaMA-Factory makes of conversations.
ENCODE = """
import json, sys
from transformers import AutoTokenizer
from llamafactory.data import get_template_and_fix_tokenizer
from llamafactory.hparams import DataArguments

model, conversations = sys.argv[1], json.load(sys.stdin)
tokenizer = AutoTokenizer.from_pretrained(model)
template = get_template_and_fix_tokenizer(tokenizer, DataArguments(template="qwen3_nothink"))
made = []
for messages in conversations:
    plain = tokenizer.apply_chat_template(messages, tokenize=True)["input_ids"]
    turns = template.encode_multiturn(tokenizer, messages)
    asked = tokenizer.apply_chat_template(messages[:-1], tokenize=True, add_generation_prompt=True)["input_ids"]
    made.append({"turns": turns, "plain": plain, "asked": asked})
print(json.dumps(made))
"""


def test_trainer_template_and_server_see_the_same_tokens(student: Path, trajectories: Path):
    rows = pq.read_table(trajectories / "trajectories.parquet", columns=["conversations"]).to_pylist()
    conversations = [row["conversations"] for row in rows[:3]]
    # Turns behind an answer, what a terminal shows, and letters outside the tokenizer's training text.
    conversations.append(
        [
            *conversations[0],
            {"role": "user", "content": "\n\nroot@sandbox:/app# ls -l\ntotal 0  \n"},
            {"role": "assistant", "content": '{"keystrokes": "caf\u00e9 \u4e2d <think>\\n"}'},
        ]
    )
    done = subprocess.run(
        [ROOT / ".venvs" / "sft" / "bin" / "python", "-c", ENCODE, student],
        input=json.dumps(conversations),
        capture_output=True,
        text=True,
        env={**ENVIRONMENT, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    encoded = json.loads(done.stdout.splitlines()[-1])
    with ModelServer(student, command=(str(BIN / "serve"),)) as server:
        for messages, made in zip(conversations, encoded, strict=True):
            trained = [token for turn in made["turns"] for part in turn for token in part]
            assert trained == made["plain"]
            body = {"model": server.model, "messages": messages[:-1], "max_tokens": 1, "return_token_ids": True}
            request = urllib.request.Request(
                f"{server.base_url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=120) as response:
                served = json.load(response)["prompt_token_ids"]
            assert served == made["asked"]
            # What the trainer puts before the last answer is what the server is asked with.
            assert served == made["plain"][: len(served)]
            assert made["turns"][-1][1] == made["plain"][len(served) :]


@pytest.fixture
def policy(tasks_artifact, tmp_path: Path, tool) -> tuple[Path, Path]:
    """A student that has learnt the tasks in part, and the tasks: what RL needs to have something to learn."""
    tasks = tasks_artifact(4)
    steps = {
        "trials": ["rollout", "--tasks", tasks, "--teacher", "reference", "--attempts", "8", "--date", "2026-01-01"],
        "init": ["init-model", "--trajectories", tmp_path / "trials"],
        "sft": ["train-sft", "--model", tmp_path / "init", "--trajectories", tmp_path / "trials", "--epochs", "12"],
    }
    steps["sft"] += ["--learning-rate", "0.002"]
    for name, command in steps.items():
        done = tool(*command, "--seed", "1", "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
    return tmp_path / "sft", tasks


def test_rl_killed_after_a_checkpoint_goes_the_same_way(policy: tuple[Path, Path], tmp_path: Path, tool):
    model, tasks = policy
    command = ["train-rl", "--model", model, "--tasks", tasks, "--steps", "3", "--prompts", "2", "--samples", "4"]
    command += ["--save-steps", "1", "--temperature", "1.0", "--learning-rate", "0.0001", "--max-tokens", "96"]
    command += ["--max-turns", "5", "--date", "2026-01-01", "--seed", "3", "--out"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = tool(*command, whole)
    assert done.returncode == 0, done.stderr
    metrics = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == [1, 2, 3]
    assert any(line["informative"] > 0 for line in metrics), "no step had anything to learn from"
    # What the trainer thinks of the sampled tokens is what the sampler thought of them.
    assert max(line["logprob_difference_max"] for line in metrics) < 1e-2

    work = tmp_path / "killed.work" / "checkpoints"
    kill_when((work / "checkpoint-1" / "trainer_state.json").is_file, *command, killed)
    assert not killed.exists()
    resumed = tool(*command, killed)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from checkpoint-" in resumed.stderr
    assert decisive(killed) == decisive(whole)
    assert digests(killed)["model.safetensors"] == digests(whole)["model.safetensors"]
    again = tool(*command, whole)
    assert again.returncode == 0 and "up to date" in again.stderr
