"""What `train-rl --trainer skyrl` asks of SkyRL 0.4.0, read by SkyRL's own classes, against the published run."""

from __future__ import annotations

import ast
import json
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from recipe.plan import load_plan
from recipe_core.artifact import ArtifactWriter
from train_rl.__main__ import build_parser, make_job, make_sampling
from train_rl.trainers.skyrl.command import Topology, command
from train_rl.trainers.skyrl.rollouts import trajectory_output

ROOT = Path(__file__).resolve().parents[2]
VENVS = ROOT / ".venvs"
PYTHON = VENVS / "skyrl-config" / "bin" / "python"
PACKAGE = next(VENVS.glob("skyrl-config/lib/python3*/site-packages/skyrl"), None)
needs_skyrl = pytest.mark.skipif(PACKAGE is None, reason="SkyRL is not installed; python3 envs/install.py skyrl-config")

# Reads `key=value` words with SkyRL's classes and prints the whole configuration as JSON. The root class asks one
# function of a module that imports vLLM whether adapters are synchronised: that function alone is loaded, from SkyRL's
# own source.
READ = """
import ast, dataclasses, json, sys, types
from pathlib import Path
import skyrl
from skyrl.train.config import SkyRLTrainConfig
folder, names = Path(skyrl.__file__).parent, "backends.skyrl_train.inference_servers.utils".split(".")
tree = ast.parse(folder.joinpath(*names).with_suffix(".py").read_text())
tree.body = [node for node in tree.body if getattr(node, "name", "") == "_uses_lora_weight_sync"]
for end in range(1, len(names) + 1):
    name = ".".join(["skyrl", *names[:end]])
    sys.modules[name] = types.ModuleType(name)
vars(sys.modules[name])["SkyRLTrainConfig"] = SkyRLTrainConfig
exec(compile(tree, "utils.py", "exec"), vars(sys.modules[name]))
print(json.dumps(dataclasses.asdict(SkyRLTrainConfig.from_cli_overrides(sys.argv[1:]))))
"""

# OpenThinkerAgent-8B-RL, arXiv 2606.24855, and its model card: by SkyRL's key.
PUBLISHED = {
    "trainer.algorithm.advantage_estimator": "rloo_n",
    "trainer.algorithm.use_kl_loss": False,
    "trainer.algorithm.use_kl_in_reward": False,
    "trainer.algorithm.kl_loss_coef": 0.0,
    "trainer.algorithm.eps_clip_low": 0.2,
    "trainer.algorithm.eps_clip_high": 0.2,
    "trainer.algorithm.loss_reduction": "token_mean",
    "trainer.policy.optimizer_config.lr": 5e-6,
    "trainer.policy.optimizer_config.weight_decay": 0.0,
    "trainer.policy.optimizer_config.adam_betas": [0.9, 0.999],
    "trainer.train_batch_size": 64,
    "trainer.policy_mini_batch_size": 64,
    "trainer.strategy": "fsdp",
    "trainer.hf_save_interval": 5,
    "trainer.ckpt_interval": 5,
    "trainer.resume_mode": "latest",
    "trainer.max_training_steps": 45,
    "generator.n_samples_per_prompt": 8,
    "generator.sampling_params.temperature": 0.7,
    "generator.sampling_params.top_p": 0.95,
    "generator.sampling_params.top_k": 20,
    "generator.sampling_params.max_generate_length": 4096,
    "generator.inference_engine.backend": "vllm",
    "generator.inference_engine.engine_init_kwargs.max_model_len": 32768,
}
# What the recipe chooses where nothing is published, by SkyRL's key.
CHOSEN = {
    "trainer.placement.policy_num_nodes": 4,
    "trainer.placement.policy_num_gpus_per_node": 4,
    "trainer.micro_train_batch_size_per_gpu": 1,
    "trainer.micro_forward_batch_size_per_gpu": 1,
    "trainer.seed": 42,
    "generator.max_turns": 64,
    "generator.inference_engine.num_engines": 16,
}
# What SkyRL has no key for: the flags of this project's part of it. The first three are published.
OWN = {
    "agent-timeout": "1800.0",
    "verifier-timeout": "120.0",
    "trial-retries": "3",
    "least-samples": "4",
    "concurrency": "128",
    "date": "2026-01-01",
}
STEP = load_plan(ROOT / "workflow" / "recipes" / "ot-agent-rl.yaml")["train-rl/rl"]
# Another value for each of its parameters, and what of the command that changes.
OTHERWISE: dict[str, tuple[object, set[str]]] = {
    "nodes": (2, {"trainer.placement.policy_num_nodes", "generator.inference_engine.num_engines"}),
    "gpus": (8, {"trainer.placement.policy_num_gpus_per_node", "generator.inference_engine.num_engines"}),
    "micro-batch-size": (
        2,
        {"trainer.micro_train_batch_size_per_gpu", "trainer.micro_forward_batch_size_per_gpu"},
    ),
    "steps": (90, {"trainer.max_training_steps", "trainer.epochs"}),
    "prompts": (32, {"trainer.train_batch_size", "trainer.policy_mini_batch_size", "trainer.epochs"}),
    "samples": (4, {"generator.n_samples_per_prompt"}),
    "least-samples": (2, {"--least-samples"}),
    "learning-rate": (1e-5, {"trainer.policy.optimizer_config.lr"}),
    "weight-decay": (0.1, {"trainer.policy.optimizer_config.weight_decay"}),
    "adam-beta1": (0.8, {"trainer.policy.optimizer_config.adam_betas"}),
    "adam-beta2": (0.99, {"trainer.policy.optimizer_config.adam_betas"}),
    "clip-low": (0.1, {"trainer.algorithm.eps_clip_low"}),
    "clip-high": (0.28, {"trainer.algorithm.eps_clip_high"}),
    "temperature": (1.0, {"generator.sampling_params.temperature"}),
    "top-p": (1.0, {"generator.sampling_params.top_p"}),
    "top-k": (50, {"generator.sampling_params.top_k"}),
    "max-tokens": (2048, {"generator.sampling_params.max_generate_length"}),
    "max-model-len": (
        16384,
        {"generator.inference_engine.engine_init_kwargs.max_model_len", "trainer.max_prompt_length"},
    ),
    "max-turns": (8, {"generator.max_turns"}),
    "agent-timeout": (60, {"--agent-timeout"}),
    "verifier-timeout": (60, {"--verifier-timeout"}),
    "trial-retries": (0, {"--trial-retries"}),
    "concurrency": (8, {"--concurrency"}),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    out = tmp_path / "model with a space"
    with ArtifactWriter(out, stage="train-sft", params={}, seed=0, inputs={}, tier="T1", package=[]) as writer:
        writer.path("config.json").write_text("{}")
        writer.count(rows_in=None, rows_out=1)
    return out


@pytest.fixture
def dry_run(tool, tasks_artifact, model: Path, tmp_path: Path):
    """Return a runner of the recipe's step as its rule does, but dry, with more flags or others."""
    tasks = tasks_artifact(70)

    def run(*more: object, flags: Sequence[str] = STEP.flags) -> subprocess.CompletedProcess[str]:
        given = ["--model", model, "--tasks", tasks, *flags, "--seed", STEP.seed, "--date", STEP.date]
        return tool("train-rl", *given, "--out", tmp_path / "rl", "--dry-run", *more)

    return run


def words_of(printed: str) -> list[str]:
    return shlex.split(printed.replace("\\\n", " "))


def keys_of(printed: str) -> list[str]:
    return [word for word in words_of(printed)[3:] if not word.startswith("--")]


def values_of(words: Sequence[str]) -> dict[str, str]:
    """Return what stands behind each key and flag of a command."""
    return dict(word.split("=", 1) for word in words[3:])


def test_the_command_stands_one_key_a_line_and_nothing_is_written(dry_run, tmp_path: Path):
    done = dry_run()
    assert done.returncode == 0, done.stderr
    words = words_of(done.stdout)
    assert words[:3] == ["python", "-m", "train_rl.trainers.skyrl"]
    assert len(done.stdout.splitlines()) == len(words) - 2
    assert len(values_of(words)) == len(words) - 3
    own = {f"--{name}": value for name, value in OWN.items()}
    assert own.items() <= values_of(words).items()
    assert not list(tmp_path.glob("rl*"))


@needs_skyrl
def test_skyrl_reads_the_published_values(dry_run, model: Path):
    printed = dry_run().stdout
    read = subprocess.run([PYTHON, "-c", READ, *keys_of(printed)], capture_output=True, text=True)
    assert read.returncode == 0, read.stderr
    config = json.loads(read.stdout)

    def value(key: str):
        found = config
        for name in key.split("."):
            found = found[name]
        return found

    wanted = PUBLISHED | CHOSEN
    assert {key: value(key) for key in wanted} == wanted
    assert value("trainer.policy.model.path") == str(model)
    assert value("generator.inference_engine.router_init_kwargs") == {"policy": "round_robin"}
    # What SkyRL derives from the keys.
    assert value("trainer.algorithm.temperature") == 0.7
    assert value("trainer.algorithm.policy_loss_type") == "regular"
    assert value("generator.max_input_length") == 32768
    # A value that changed its type on the way would be another value.
    kinds = {key: type(value(key)) for key in wanted}
    assert kinds == {key: type(one) for key, one in wanted.items()}


def test_no_parameter_of_the_recipe_is_lost_on_the_way_to_the_command():
    def given(**changed: object) -> dict[str, str]:
        step = replace(STEP, parameters={**STEP.parameters, **changed})
        args = build_parser().parse_args(["--model", "m", "--tasks", "t", "--out", "o", *step.flags])
        job = make_job(args, tuple(f"task-{number}" for number in range(70)), Path("w"))
        machines = Topology(args.nodes, args.gpus)
        return values_of(command(job, make_sampling(args), machines, Path("t.parquet"), Path("metrics.jsonl")))

    # The trainer is which command it is.
    assert OTHERWISE.keys() == STEP.parameters.keys() - {"trainer"}
    usual = given()
    compared = (PUBLISHED | CHOSEN).keys() | {f"--{name}" for name in OWN}
    for name, (value, keys) in OTHERWISE.items():
        other = given(**{name: value})
        assert {key for key in usual | other if usual.get(key) != other.get(key)} == keys, name
        # So the two tests above would not pass with another value in the recipe.
        assert keys & compared, name


@needs_skyrl
def test_skyrl_refuses_a_key_it_does_not_know():
    read = subprocess.run([PYTHON, "-c", READ, "trainer.algorithm.advantages=rloo_n"], capture_output=True, text=True)
    assert read.returncode and "Invalid fields {'advantages'}" in read.stderr


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--nodes", 3, "--gpus", 4), "do not divide over 3 nodes x 4 GPUs"),
        (("--nodes", 0), "--nodes"),
        (("--samples", 3), "--samples 3 is below --least-samples 4"),
        (("--prompts", 71), "70 tasks, but a step takes --prompts 71"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(dry_run, more, said):
    done = dry_run(*more)
    assert done.returncode == 2 and said in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not done.stdout


def test_the_cpu_trainer_has_no_dry_run(dry_run):
    done = dry_run(flags=["--trainer", "trl"])
    assert done.returncode == 2 and "belong to --trainer skyrl" in done.stderr


def class_of(file: str, name: str) -> ast.ClassDef:
    assert PACKAGE is not None
    tree = ast.parse((PACKAGE / file).read_text())
    return next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name)


def fields_of(node: ast.ClassDef) -> set[str]:
    return {one.target.id for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)}


def methods_of(node: ast.ClassDef) -> dict[str, list[str]]:
    found = [one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {one.name: [argument.arg for argument in one.args.args] for one in found}


@needs_skyrl
def test_trials_have_the_keys_of_skyrls_generator_output():
    row = {"error_class": None, "error_message": None, "reward": 1.0, "turns": 1}
    row |= {"prompt_token_ids": [[1]], "completion_token_ids": [[2]], "logprobs": [[-0.5]]}
    assert set(trajectory_output([row], end=0)) < fields_of(class_of("train/generators/base.py", "GeneratorOutput"))


@needs_skyrl
def test_what_is_overridden_exists_in_skyrl_with_the_same_arguments():
    ours = ast.parse((ROOT / "tools/train-rl/src/train_rl/trainers/skyrl/experiment.py").read_text())
    classes = {node.name: methods_of(node) for node in ours.body if isinstance(node, ast.ClassDef)}
    for own, file, name in [
        ("ExcludingTrainer", "train/trainer.py", "RayPPOTrainer"),
        ("TrialGenerator", "train/generators/base.py", "GeneratorInterface"),
        ("MetricsFile", "train/utils/callbacks.py", "TrainingCallback"),
        ("Experiment", "train/entrypoints/main_base.py", "BasePPOExp"),
    ]:
        theirs = methods_of(class_of(file, name))
        for method, arguments in classes[own].items():
            if method not in ("__init__", "get_trainer"):
                assert arguments == theirs[method], f"{own}.{method}"


# Random rewards and exclusions, the tensors of SkyRL's estimators against the formula on plain numbers.
ADVANTAGES = """
import random, torch
from train_rl.estimators import rloo_n
from train_rl.trainers.skyrl.advantages import rloo_n_advantages
draw = random.Random(1)
seen = {"excluded": 0, "too few": 0, "equal": 0, "informative": 0}
for _ in range(200):
    prompts, samples, length = draw.randint(1, 4), draw.randint(1, 9), draw.randint(1, 6)
    index = [f"task-{i}" for i in range(prompts) for _ in range(samples)]
    rewards = [draw.choice([None, 0.0, 1.0, draw.random()]) for _ in index]
    lengths = [draw.randint(1, length) for _ in index]
    order = draw.sample(range(len(index)), len(index))
    index, rewards, lengths = ([column[i] for i in order] for column in (index, rewards, lengths))
    mask, tokens = torch.zeros(len(index), length), torch.zeros(len(index), length)
    for row, (reward, size) in enumerate(zip(rewards, lengths)):
        mask[row, :size] = reward is not None
        tokens[row, size - 1] = 0.0 if reward is None else reward
    advantages, returns = rloo_n_advantages(
        token_level_rewards=tokens, response_mask=mask, index=index, least=4,
        values=None, grpo_norm_by_std=True, gamma=1.0, lambd=1.0, config=None,
    )
    assert torch.equal(advantages, returns)
    for prompt in set(index):
        rows = [row for row, one in enumerate(index) if one == prompt]
        given = [rewards[row] for row in rows]
        wanted = rloo_n(given)
        counted = [reward for reward in given if reward is not None]
        kind = "too few" if len(counted) < 4 else "equal" if len(set(counted)) == 1 else "informative"
        seen[kind] += 1
        seen["excluded"] += len(given) - len(counted)
        for row, advantage in zip(rows, wanted):
            expected = advantage * mask[row]
            assert torch.allclose(advantages[row], expected, atol=1e-6), (advantages[row], expected)
assert all(seen.values()), seen
"""


@pytest.mark.full
def test_skyrls_estimator_equals_the_formula():
    python = VENVS / "rl" / "bin" / "python"
    done = subprocess.run([python, "-c", ADVANTAGES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
