"""What `train-sft` hands to LLaMA-Factory for GPUs and several nodes, and how it ends when it is asked to."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from recipe.plan import load_plans
from train_sft.__main__ import build_parser
from train_sft.config import hyperparameters, run_settings

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venvs" / "bin"
MACHINES = ["--nodes", "24", "--processes-per-node", "4", "--zero-stage", "3", "--liger-kernel"]

# arXiv 2606.24855 and its repository's files for LLaMA-Factory: the same at every scale.
SHARED = {
    "stage": "sft",
    "do_train": True,
    "finetuning_type": "full",
    "cutoff_len": 32768,
    "packing": False,
    "disable_shuffling": True,
    "flash_attn": "fa2",
    "enable_liger_kernel": True,
    "disable_gradient_checkpointing": False,
    "bf16": True,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "learning_rate": 4e-5,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.1,
    "weight_decay": 0.04,
    "adam_beta1": 0.9,
    "adam_beta2": 0.98,
}
# Template, epochs and largest norm of the gradient, by model and number of trajectories.
SMALL, LARGE = ("316", "1k", "3k", "10k"), ("31k", "100k")
BY_SCALE = {
    **{("ot-agent-v2", scale): ("qwen3_nothink", 7.0, 1.0) for scale in (*SMALL, *LARGE)},
    **{("ot-agent-v2-32b", scale): ("qwen3", 7.0, 1e-4) for scale in SMALL},
    **{("ot-agent-v2-32b", scale): ("qwen3", 5.0, 1e-3) for scale in LARGE},
}

# Runs in the stack of train-sft: reads settings with LLaMA-Factory's own classes and prints what they hold. There is
# no GPU where this runs, and bfloat16 without one is refused; a key that no class knows is refused, too.
PARSE = """
import dataclasses, enum, json, sys
import transformers.training_args as training_args
training_args.is_torch_bf16_gpu_available = lambda: True
from llamafactory.hparams import parser

def plain(value):
    return value.value if isinstance(value, enum.Enum) else value

read = []
for settings in json.load(sys.stdin):
    held = {}
    for group in parser._parse_train_args(settings):
        held.update({field.name: plain(getattr(group, field.name)) for field in dataclasses.fields(group)})
    read.append({key: held[key] for key in settings})
print(json.dumps(read, default=str))
"""


def settings_of(recipe: str, scale: str) -> dict[str, Any]:
    """Return LLaMA-Factory's settings for a published recipe on its GPUs, as the recipe's file states them."""
    plan = load_plans(ROOT / "workflow" / "recipes" / f"{recipe}.yaml")[f"{recipe}/{scale}"]
    step = plan["train-sft/sft"]
    words = ["--model", "m", "--trajectories", "t", "--out", "o", "--seed", str(step.seed), *step.flags]
    # What the recipe says of machines itself stands behind.
    args = build_parser().parse_args([*MACHINES, *words])
    return {**hyperparameters(args, cuda=True), **run_settings(args, Path("w"))}


@pytest.mark.full
def test_llamafactory_reads_the_published_settings_by_scale():
    made = {key: settings_of(*key) for key in BY_SCALE}
    # The path is DeepSpeed's to read, which is in the stack for GPUs.
    given = [{key: value for key, value in settings.items() if key != "deepspeed"} for settings in made.values()]
    done = subprocess.run(
        [ROOT / ".venvs" / "sft" / "bin" / "python", "-c", PARSE],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        env={**os.environ, "DISABLE_VERSION_CHECK": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout.splitlines()[-1])
    assert len(read) == len(BY_SCALE)
    for (key, (template, epochs, clip)), held in zip(BY_SCALE.items(), read, strict=True):
        published = {**SHARED, "template": template, "num_train_epochs": epochs, "max_grad_norm": clip}
        assert {name: held[name] for name in published} == published, key
        batch = held["per_device_train_batch_size"] * held["gradient_accumulation_steps"] * 24 * 4
        assert batch == 96, key


def test_a_dry_run_prints_settings_and_command_and_starts_nothing(tool, tmp_path: Path):
    out = tmp_path / "out"
    words = [
        "--model",
        tmp_path / "none",
        "--trajectories",
        tmp_path / "none",
        "--batch-size",
        "96",
        "--device",
        "cuda",
    ]
    done = tool("train-sft", *words, *MACHINES, "--out", out, "--dry-run")
    assert done.returncode == 0, done.stderr
    parts = re.split(r"^# (.*)\n", done.stdout, flags=re.M)
    said = dict(zip(parts[1::2], parts[2::2], strict=True))
    work = tmp_path / "out.work"
    settings = yaml.safe_load(said[str(work / "llamafactory.yaml")])
    assert settings["deepspeed"] == str(work / "deepspeed.json")
    assert (settings["bf16"], settings["flash_attn"], settings["enable_liger_kernel"]) == (True, "fa2", True)
    assert json.loads(said[str(work / "deepspeed.json")])["zero_optimization"]["stage"] == 3
    assert "torch.distributed.run --nnodes=24 --nproc-per-node=4 --node-rank=NODE" in said["command"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.full
@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--nodes", "2"], "no task of a Slurm step; start it once on each node: srun --nodes=2"),
        (["--device", "cuda"], "--device cuda: no GPU with CUDA is seen here"),
        (["--liger-kernel", "--device", "cpu"], "--liger-kernel needs a GPU with CUDA"),
        (["--flash-attention", "--device", "cpu"], "--flash-attention needs a GPU with CUDA"),
    ],
)
def test_machines_that_are_not_there_are_one_line(more: list[str], said: str, tool, tmp_path: Path):
    done = tool(
        "train-sft", "--model", "m", "--trajectories", "t", *more, "--out", tmp_path / "out", env={"SLURM_JOB_ID": ""}
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def rule_shell(tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Return what runs a rule's line by nodes/bash in a Slurm job whose srun prints its words and starts nothing."""
    srun = tmp_path / "srun"
    srun.write_text("#!/bin/bash\nprintf '%s\\n' \"$@\"\n")
    srun.chmod(0o755)
    shell = ROOT / "tools" / "train-sft" / "nodes" / "bash"
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "12"}

    def run(line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([shell, "-c", line], capture_output=True, text=True, env=environment)

    return run


LINE = "apptainer exec --home '/w' --userns WORDS --cleanenv /i/sft-1.sif bash -c 'exec train-sft --nodes COUNT'"


def test_several_nodes_see_each_other_and_one_node_none(rule_shell):
    line = LINE.replace("WORDS", "--net --network none")
    several, one = (rule_shell(line.replace("COUNT", count)) for count in ("2", "1"))
    assert (several.returncode, one.returncode) == (0, 0), several.stderr + one.stderr
    assert "--nodes=2" in several.stdout.splitlines() and "--userns --cleanenv" in several.stdout
    assert "--nodes=1" in one.stdout.splitlines() and "--userns --net --network none --cleanenv" in one.stdout


@pytest.mark.parametrize("words", ["--network none --net", "--net --network=none", "--net", "--net  --network none"])
def test_several_nodes_that_cannot_see_each_other_are_refused_before_they_start(rule_shell, words: str):
    line = LINE.replace("WORDS", words)
    refused = rule_shell(line.replace("COUNT", "2"))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        "train-sft: error: several nodes need a network, and apptainer-args in the site file take it away: write "
        "`--net --network none`, in these words, which are left out for such steps, or nothing of the kind\n"
    )
    assert rule_shell(line.replace("COUNT", "1")).returncode == 0


@pytest.mark.parametrize("words", ["--net --network host", "--network=bridge"])
def test_several_nodes_may_have_another_network(rule_shell, words: str):
    assert rule_shell(LINE.replace("WORDS", words).replace("COUNT", "2")).returncode == 0


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_terminated_between_checkpoints_it_ends_in_the_same_bytes(trajectories: Path, tmp_path: Path, tool):
    student = tmp_path / "student"
    assert tool("init-model", "--trajectories", trajectories, "--seed", "1", "--out", student).returncode == 0
    command = ["train-sft", "--model", student, "--trajectories", trajectories, "--seed", "1", "--epochs", "12"]
    # Neither a checkpoint of its own nor a line of metrics falls on the step that it is stopped at.
    command += ["--learning-rate", "0.001", "--save-steps", "36", "--logging-steps", "36", "--out"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    done = tool(*command, whole)
    assert done.returncode == 0, done.stderr

    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    words = [str(word) for word in [*command, stopped]]
    process = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "stopped.work" / "llamafactory.log"
    deadline = time.monotonic() + 600
    # The bar does not show every step; from step 3 on it is under way, and far from its end.
    while not (log.is_file() and re.search(r"\| ([3-9]|1\d)/36 \[", log.read_text(errors="replace"))):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM
    assert re.fullmatch(r"train-sft: stopped behind the checkpoint of step \d+; run the same command again.*\n", said)
    assert not stopped.exists()

    resumed = tool(*command, stopped)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from checkpoint-" in resumed.stderr
    assert (stopped / "manifest.json").read_bytes() == (whole / "manifest.json").read_bytes()
