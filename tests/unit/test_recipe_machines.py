"""The machines that the recipes' training asks for can run it, with the batch that the recipe states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from recipe.estimate import model_parameters
from recipe.plan import PlannedStep, load_plans
from recipe_core.errors import BadInput
from train_rl.__main__ import build_parser as rl_parser
from train_rl.__main__ import make_job
from train_rl.trainers.skyrl.command import check_topology, topology
from train_sft.__main__ import build_parser as sft_parser
from train_sft.config import hyperparameters, processes

RECIPES = Path(__file__).resolve().parents[2] / "workflow" / "recipes"
# Of full fine-tuning with AdamW in mixed precision, for a parameter: weight and gradient in bfloat16; weight and two
# moments in float32.
STATE_BYTES = 16
# The smallest GPU of the site files, an A100 of 64 GB, and the longest sequence that was published for one.
GPU_BYTES, GPU_TOKENS = 64e9, 32768


def parameters_of(step: PlannedStep, plan: Mapping[str, PlannedStep]) -> float:
    """Return how many parameters the model has that a step trains; 0 where its name does not tell."""
    steps = {one.artifact: one for one in plan.values()}
    while step.stage != "init-model":
        step = steps[step.inputs["model"][0]]
    return model_parameters(step, 0)


def complaints(step: PlannedStep, parameters: float) -> list[str]:
    """Return why a step cannot train a model of that size on the GPUs it asks for; nothing where it can."""
    words = [*(word for flag in step.inputs for word in (f"--{flag}", "folder")), "--out", "o", *step.flags]
    found = []
    if step.stage == "train-sft":
        args = sft_parser().parse_args(words)
        keys = hyperparameters(args, cuda=True)
        gpus, at_once = processes(args), keys["per_device_train_batch_size"]
        if at_once * keys["gradient_accumulation_steps"] * gpus != args.batch_size:
            found.append("batch")
        parts, tokens = (gpus if args.zero_stage == 3 else 1), at_once * args.cutoff
    else:
        args = rl_parser().parse_args(words)
        args.micro_batch_size = args.micro_batch_size or 1
        machines = topology(args.nodes, args.gpus, {})
        gpus = parts = machines.nodes * machines.gpus
        tokens = args.micro_batch_size * args.max_model_len
        try:
            check_topology(make_job(args, ("task",) * args.prompts, Path("w")), machines)
        except BadInput:
            found.append("batch")
        if args.trainer != "skyrl":
            found.append("trainer")
        # Trials wait for the model most of the time: few of them at once leave the engines idle.
        if args.concurrency < gpus:
            found.append("concurrency")
    if parameters * STATE_BYTES / parts > GPU_BYTES:
        found.append("states")
    if tokens > GPU_TOKENS:
        found.append("tokens")
    return found


LARGE = [
    (name, step, parameters_of(step, plan))
    for file in sorted(RECIPES.glob("*.yaml"))
    for name, plan in load_plans(file).items()
    for step in plan.values()
    if step.stage in ("train-sft", "train-rl") and parameters_of(step, plan) > 1e9
]


def test_the_recipes_of_the_papers_are_all_looked_at():
    names = {name.partition("/")[0] for name, _, _ in LARGE}
    assert {"ot-agent-v2", "ot-agent-v2-32b", "ot-agent-rl", "openthoughts3"} <= names
    assert any(name.startswith("ot-agent-ablate-") for name in names)
    assert any(name.startswith("openthoughts3-ablate-") for name in names)
    assert {step.stage for _, step, _ in LARGE} == {"train-sft", "train-rl"}


def test_every_model_of_the_papers_is_trained_on_machines_that_hold_it():
    found = {f"{name}: {step.name}": complaints(step, parameters) for name, step, parameters in LARGE}
    assert {name: said for name, said in found.items() if said} == {}


@pytest.mark.parametrize(
    ("recipe", "name", "without", "said"),
    [
        ("openthoughts3", "train-sft/sft", ["nodes", "processes-per-node"], ["states"]),
        ("openthoughts3", "train-sft/sft", ["zero-stage"], ["states"]),
        ("ot-agent-rl", "train-rl/rl", ["nodes", "gpus"], ["states"]),
        ("ot-agent-rl", "train-rl/rl", ["concurrency"], ["concurrency"]),
        ("ot-agent-rl", "train-rl/rl", ["trainer", "nodes", "gpus"], ["trainer", "states"]),
    ],
)
def test_without_one_of_the_keys_it_could_not(recipe: str, name: str, without: list[str], said: list[str]):
    plan = load_plans(RECIPES / f"{recipe}.yaml")[recipe]
    step = plan[name]
    less = replace(step, parameters={key: value for key, value in step.parameters.items() if key not in without})
    assert complaints(less, parameters_of(step, plan)) == said


def test_a_gpu_that_takes_the_whole_batch_at_once_could_not_either():
    plan = load_plans(RECIPES / "openthoughts3.yaml")["openthoughts3"]
    step = plan["train-sft/sft"]
    more = replace(step, parameters={**step.parameters, "micro-batch-size": 4})
    assert complaints(more, parameters_of(step, plan)) == ["tokens"]


def test_the_published_rl_did_run_on_gpus_over_which_a_step_does_not_divide():
    """24 of them: why the recipe asks for another number."""
    plan = load_plans(RECIPES / "ot-agent-rl.yaml")["ot-agent-rl"]
    step = plan["train-rl/rl"]
    published = replace(step, parameters={**step.parameters, "nodes": 6})
    assert complaints(published, parameters_of(step, plan)) == ["batch"]


def test_the_trainer_decides_whether_a_step_asks_for_gpus():
    assert load_plans(RECIPES / "ot-agent-rl.yaml")["ot-agent-rl"]["train-rl/rl"].gpus == 4
    step = load_plans(RECIPES / "demo.yaml")["demo"]["train-rl/rl"]
    assert (step.trainer, step.gpus) == ("trl", 0)
    assert replace(step, parameters={**step.parameters, "trainer": "skyrl"}).gpus == 1
