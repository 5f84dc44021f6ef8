"""The command line of `serve`."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest


def serve(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serve", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_help_shows_an_example():
    done = serve("--help")
    assert done.returncode == 0
    assert "serve --model results/train_sft/abc --port 8000" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--model"),
        (("--model", "nowhere"), "nowhere: no config.json"),
        (("--model", "nowhere", "--device", "tpu"), "invalid choice: 'tpu'"),
        (("--model", "nowhere", "--max-model-len", "0"), "not a whole number of at least 1"),
        (("--model", "nowhere", "--gpu-memory", "1.5"), "'1.5' is not a number above 0 and at most 1"),
        (("--model", "nowhere", "--data-parallel", "0"), "not a whole number of at least 1"),
        (("--model", "nowhere", "--dtype", "int4"), "invalid choice: 'int4'"),
    ],
)
def test_unusable_words_are_answered_with_one_line(words, message):
    done = serve(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("serve: error: ") and done.stderr.count("\n") == 1


@pytest.fixture
def model(tmp_path) -> Path:
    """A folder that looks like a model, which is all that a dry run looks at."""
    (tmp_path / "config.json").write_text('{"architectures": ["Qwen3ForCausalLM"]}')
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).touch()
    return tmp_path


def test_a_dry_run_shows_the_engines_command_and_starts_nothing(model):
    done = serve(
        *("--model", model, "--name", "big", "--device", "cuda", "--tensor-parallel", 4, "--data-parallel", 2),
        *("--gpu-memory", 0.85, "--max-model-len", 32768, "--dry-run"),
    )
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout)
    assert words[0] == "env" and "HF_HUB_OFFLINE=1" in words
    command = words[words.index("vllm") :]
    assert command[:3] == ["vllm", "serve", str(model)]
    line = " ".join(command)
    assert "--dtype bfloat16" in line and "--generation-config vllm" in line
    assert "--tensor-parallel-size 4 --data-parallel-size 2 --gpu-memory-utilization 0.85" in line
    assert "--max-num-seqs 256" in line and "--max-model-len 32768" in line
    assert not [word for word in words if word.startswith(("OMP_NUM_THREADS", "VLLM_CPU"))]


def test_a_dry_run_on_a_cpu_shows_what_a_cpu_is_served_with(model):
    line = serve("--model", model, "--device", "cpu", "--dry-run").stdout
    assert "--dtype float32" in line and "--max-num-seqs 16" in line and "--enforce-eager" in line
    assert "parallel-size" not in line


def test_gpus_asked_for_on_a_cpu_are_one_line(model):
    done = serve("--model", model, "--device", "cpu", "--tensor-parallel", 2)
    assert done.returncode == 2
    assert done.stderr.startswith("serve: error: --tensor-parallel is for GPUs") and done.stderr.count("\n") == 1


def test_more_gpus_than_the_job_has_are_one_line(model, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    done = serve("--model", model, "--device", "cuda", "--tensor-parallel", 4)
    assert done.returncode == 2
    assert "takes 4 GPUs, and 2 can be used here" in done.stderr and done.stderr.count("\n") == 1
