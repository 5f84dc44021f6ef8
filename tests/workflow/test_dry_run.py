"""A dry run of every recipe under every profile plans each artifact once."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import yaml

from recipe.plan import STAGES, load_plans

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "workflow" / "recipes").glob("*.yaml"))
SLURM = ROOT / "workflow" / "profiles" / "slurm"
LOCAL = ROOT / "workflow" / "profiles" / "local"


def profile_words(folder: Path) -> list[object]:
    """The words that name a profile; a site's file names no executor and is laid over the one for Slurm."""
    site = "executor:" not in (folder / "config.yaml").read_text() and folder.name != "local"
    words: list[object] = ["--profile", SLURM, "--workflow-profile", folder] if site else ["--profile", folder]
    # A plan needs no Apptainer, but Snakemake looks for it.
    if folder.name != "local" and shutil.which("apptainer") is None:
        words += ["--software-deployment-method", "env-modules"]
    # Nor the folders that a site binds. With one entry on the command line the site's own are gone.
    entries = yaml.safe_load((folder / "config.yaml").read_text()).get("config", [])
    return (
        [*words, "--config", *(entry for entry in entries if not entry.startswith(("bind=", "modules="))), "bind=/"]
        if site
        else words
    )


PROFILES = sorted(path.parent for path in (ROOT / "workflow" / "profiles").glob("*/config.yaml"))


def dry_run(tool, *words: object) -> subprocess.CompletedProcess[str]:
    return tool("snakemake", "--dry-run", "--forceall", "--nolock", "--printshellcmds", *words, cwd=ROOT)


def outputs(done: subprocess.CompletedProcess[str]) -> Counter[str]:
    """Return how often each file is planned to be made."""
    lines = (line.strip() for line in done.stdout.splitlines())
    return Counter(line.removeprefix("output: ") for line in lines if line.startswith("output: "))


@pytest.mark.parametrize(
    "profile",
    [pytest.param(path, id=path.name, marks=[] if path == LOCAL else pytest.mark.full) for path in PROFILES],
)
def test_every_step_of_every_recipe_is_planned_once(profile: Path, tool):
    done = dry_run(tool, *profile_words(profile), "--", *(recipe.stem for recipe in RECIPES))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    planned = outputs(done)
    steps = [step for recipe in RECIPES for plan in load_plans(recipe).values() for step in plan.values()]
    assert len({step.key for step in steps}) < len(steps) / 2, "recipes share little"
    for step in steps:
        assert step.artifact.name == step.key
        assert planned[f"{step.artifact}/manifest.json"] == 1, step.name


@pytest.mark.full
@pytest.mark.parametrize("name", [path.stem for path in RECIPES if "-ablate-" not in path.stem])
def test_a_recipe_is_planned_alone(name: str, tool):
    done = dry_run(tool, *profile_words(LOCAL), "--", name)
    assert done.returncode == 0, done.stderr
    planned = outputs(done)
    plans = load_plans(ROOT / "workflow" / "recipes" / f"{name}.yaml")
    for step in {step.key: step for plan in plans.values() for step in plan.values()}.values():
        assert planned[f"{step.artifact}/manifest.json"] == 1, step.name


@pytest.mark.full
def test_the_ablations_are_more_than_a_hundred_recipes_that_share_what_they_can(tool):
    ablations = {
        name: plan for recipe in RECIPES if "-ablate-" in recipe.stem for name, plan in load_plans(recipe).items()
    }
    assert len(ablations) > 100
    done = dry_run(tool, *profile_words(LOCAL), "ablations")
    assert done.returncode == 0, done.stderr
    planned = outputs(done)
    keys = {step.artifact for plan in ablations.values() for step in plan.values()}
    assert all(planned[f"{artifact}/manifest.json"] == 1 for artifact in keys)
    assert all(count == 1 for count in planned.values())


@pytest.mark.full
def test_every_stage_is_a_rule_of_its_name(tool):
    done = tool("snakemake", "--list-rules", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert {stage.replace("-", "_") for stage in STAGES} <= set(done.stdout.split())


@pytest.mark.full
def test_a_recipe_from_elsewhere_is_a_target(tmp_path: Path, tool):
    recipe = tmp_path / "mine.yaml"
    text = "recipe: mine\ndescription: x\ndate: 2026-01-01\nstages: {source-tasks: {a: {source: shell, count: 3}}}\n"
    recipe.write_text(text)
    done = dry_run(tool, "--config", f"recipes={recipe}", "--cores", "1", "--", "mine")
    assert done.returncode == 0, done.stderr
    assert "source-tasks --count 3 --source shell" in done.stdout


@pytest.mark.full
def test_several_jobs_share_a_step_and_one_more_writes_its_artifact(tmp_path: Path, tool):
    recipe = tmp_path / "shared.yaml"
    recipe.write_text("""
recipe: shared
description: x
date: 2026-01-01
stages:
  source-tasks: {a: {source: shell, count: 3}}
  rollout: {r: {from: source-tasks/a, teacher: reference, shards: 3}}
  evaluate: {e: {from: source-tasks/a, endpoint: "http://h/v1", model-name: m, label: base, shards: 2}}
""")
    done = dry_run(tool, "--config", f"recipes={recipe}", "--cores", "1", "--", "shared")
    assert done.returncode == 0, done.stderr
    assert sorted(re.findall(r"(rollout|evaluate) pull .*?--shard (\d/\d)", done.stdout, re.DOTALL)) == [
        *(("evaluate", f"{shard}/2") for shard in (1, 2)),
        *(("rollout", f"{shard}/3") for shard in (1, 2, 3)),
    ]
    assert len(re.findall(r"--merge +--seed", done.stdout)) == 2
    planned = tool("recipe", "plan", recipe)
    assert planned.returncode == 0 and "9 jobs (8 of steps" in planned.stdout, planned.stdout


@pytest.mark.full
def test_jobs_get_the_gpus_that_the_recipe_needs_and_others_none(tmp_path: Path, tool):
    recipe = tmp_path / "gpus.yaml"
    recipe.write_text("""
recipe: gpus
description: x
date: 2026-01-01
stages:
  source-tasks: {a: {source: shell, count: 3}, held: {source: shell, split: test, count: 3}}
  rollout: {r: {from: source-tasks/a, teacher: reference, concurrency: 64}}
  filter-turns: {f: {from: rollout/r}}
  init-model: {m: {from: filter-turns/f}}
  train-sft: {s: {model: init-model/m, from: filter-turns/f, nodes: 2, processes-per-node: 4}}
  train-rl:
    l: {model: train-sft/s, from: source-tasks/a, trainer: skyrl, gpus: 8}
    c: {model: train-sft/s, from: source-tasks/a}
  evaluate: {e: {from: source-tasks/held, model: train-sft/s, label: sft, shards: 2, tensor-parallel: 2}}
  answers: {q: {from: source-tasks/a, model: train-sft/s, data-parallel: 3}}
""")

    def planned(*config: str) -> list[str]:
        done = dry_run(tool, "--config", f"recipes={recipe}", *config, "--cores", "64", "--", "gpus")
        assert done.returncode == 0, done.stderr
        return re.split(r"^rule ", done.stdout, flags=re.MULTILINE)[1:]

    def asked(blocks: list[str]) -> Counter[tuple[str, str]]:
        found = [(block.partition(":")[0], re.search(r" gres=([\w:]*)", block)) for block in blocks]
        return Counter((rule, gres[1]) for rule, gres in found if gres)

    with_gpus = planned("cuda=on", "gpus=gpu:a100")
    assert asked(with_gpus) == Counter(
        {
            ("rollout", ""): 1,
            ("train_sft", "gpu:a100:4"): 1,
            ("train_rl", "gpu:a100:8"): 1,
            ("train_rl", ""): 1,
            ("evaluate_shard", "gpu:a100:2"): 2,
            ("evaluate", ""): 1,
            ("answers", "gpu:a100:3"): 1,
        }
    )
    assert {gres for _, gres in asked(planned("cuda=off"))} == {""}
    [training] = [block for block in with_gpus if block.startswith("train_sft")]
    # With tasks alone the executor would ask for as many on each GPU (test_executor.py).
    for words in ("threads: 32", "mem_mb=240000", "nodes=2", "tasks_per_gpu=0"):
        assert words in training
    [on_cpus] = [block for block in with_gpus if block.startswith("train_rl") and "--trainer" not in block]
    for words in ("threads: 2", "mem_mb=6000"):
        assert words in on_cpus
    # As many as the trials need that run at the same time.
    [sampling] = [block for block in with_gpus if block.startswith("rollout:")]
    for words in ("threads: 8", "mem_mb=20000"):
        assert words in sampling
    assert "mem_mb=0" in planned("memory=off")[0] and not any("mem_mb=2" in block for block in planned("memory=off"))


@pytest.mark.full
def test_modules_that_are_not_loaded_are_said_before_apptainer_is_looked_for(tool):
    words = ("--cores", "1", "--software-deployment-method", "apptainer", "--config", "modules=gcc,tacc-apptainer")
    environment = {"LOADEDMODULES": "gcc/13.2:gcc-libs/1", "PATH": f"{ROOT / '.venvs' / 'bin'}:/usr/bin:/bin"}
    command = ("snakemake", "--dry-run", "--nolock", *words, "--", "demo")
    done = tool(*command, cwd=ROOT, env=environment)
    assert done.returncode == 1
    said = "modules that the profile names are not loaded: tacc-apptainer; in this shell: module load tacc-apptainer"
    assert said in done.stdout + done.stderr


@pytest.mark.full
@pytest.mark.parametrize(("entry", "meant"), [("cude=on", "did you mean cuda? "), ("partition=gpu", "")])
def test_an_unknown_entry_of_config_is_one_line(entry: str, meant: str, tool):
    done = dry_run(tool, "--config", entry, "--cores", "1", "--", "demo")
    assert done.returncode == 1
    assert f"config {entry}: not known; {meant}known are bin, bind, cuda," in done.stdout + done.stderr
