"""A step of reinforcement learning runs in the image that has its trainer, and is refused where no image has it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from images.names import own_stack
from train_rl.trainers import TRAINERS

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "tools" / "train-rl" / "src" / "train_rl" / "trainers"
OURS = {"recipe_core", "serve", "train_rl"}


def imports_of(trainer: str) -> set[str]:
    """Return the packages of others that a trainer's modules import."""
    files = [PACKAGE / f"{trainer}.py", *(PACKAGE / trainer).glob("*.py")]
    nodes = [node for file in files if file.is_file() for node in ast.walk(ast.parse(file.read_text()))]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - OURS


def locked(stack: str) -> set[str]:
    """Return the packages that a stack's lock pins."""
    lock = (ROOT / "envs" / stack / "requirements.lock").read_text()
    return set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))


@pytest.fixture
def start(tool, tmp_path: Path):
    """Return a start of a recipe with one trainer, in images of which none is built: it ends before the first job."""
    for name in ("workflow", "containers", "envs", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "Snakefile").write_bytes((ROOT / "Snakefile").read_bytes())
    # Snakemake asks for its version, and starts none.
    apptainer = tmp_path / "bin" / "apptainer"
    apptainer.parent.mkdir()
    apptainer.write_text('#!/bin/sh\n[ "$1" = --version ] && echo apptainer version 1.4.5\n')
    apptainer.chmod(0o755)

    def run(step: str, *config: str) -> subprocess.CompletedProcess[str]:
        recipe = tmp_path / "one.yaml"
        recipe.write_text(f"""
recipe: one
description: x
date: 2026-01-01
stages:
  source-tasks: {{a: {{source: shell, count: 3}}}}
  init-model: {{m: {{pretrained: smollm2}}}}
  train-rl: {{l: {{model: init-model/m, from: source-tasks/a{step}}}}}
""")
        path = f"{apptainer.parent}:{ROOT / '.venvs' / 'bin'}:/usr/bin:/bin"
        words = ["--cores", "2", "--software-deployment-method", "apptainer"]
        words += ["--config", f"recipes={recipe}", *config, "--", "one"]
        return tool("snakemake", *words, cwd=tmp_path, env={"PATH": path})

    return run


@pytest.mark.full
@pytest.mark.parametrize(
    ("trainer", "step", "image"), [("trl", "", "rl"), ("skyrl", ", trainer: skyrl, gpus: 4", "rl-cuda")]
)
def test_with_gpus_each_trainer_gets_the_image_whose_lock_has_it(trainer: str, step: str, image: str, start):
    done = start(step, "cuda=on")
    assert done.returncode == 1
    asked = re.search(r"images are not built: .*; build them: images build (.*)", done.stdout + done.stderr)
    assert asked, done.stderr
    [got] = {"rl", "rl-cuda"}.intersection(asked[1].split())
    assert got == image
    wanted = imports_of(trainer)
    assert trainer in wanted
    assert wanted <= locked(own_stack(ROOT, got))


@pytest.mark.full
def test_a_trainer_for_gpus_is_refused_before_the_first_job_where_there_are_none(start):
    done = start(", trainer: skyrl", "cuda=off")
    assert done.returncode == 1
    said = (
        "steps with trainer skyrl, which the images for CPUs have not: train-rl/l; in the site file write `cuda=on` "
        "into config, or for a small model `trainer: trl` into the recipe"
    )
    assert said in (done.stdout + done.stderr).splitlines()


def test_neither_image_has_the_other_trainer():
    """Why a site with GPUs needs both of them."""
    assert set(TRAINERS) == {"trl", "skyrl"}
    assert "skyrl" not in locked("rl") and "trl" not in locked("rl-cuda")


@pytest.mark.full
def test_a_trainer_that_is_not_installed_is_one_line(tmp_path: Path):
    """As where the stack for GPUs took the place of the one for CPUs, and the other way round."""
    python = ROOT / ".venvs" / "rl" / "bin" / "python"
    (tmp_path / "trl.py").write_text("raise ModuleNotFoundError(\"No module named 'trl'\")\n")
    call = """
from recipe_core.errors import BadInput
try:
    import train_rl.trainers.trl
except BadInput as error:
    print(error)
"""
    done = subprocess.run([python, "-c", call], capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)})
    assert done.stdout == "No module named 'trl'; this trainer needs the stack of envs/rl\n", done.stderr
    words = ["--work", tmp_path, "--metrics", tmp_path / "m", "trainer.seed=0"]
    done = subprocess.run([python, "-m", "train_rl.trainers.skyrl", *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.endswith("; this trainer needs the stack of envs/rl-cuda\n")
    assert len(done.stderr.splitlines()) == 1
