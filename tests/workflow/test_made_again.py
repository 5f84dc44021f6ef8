"""What Snakemake makes again when something changes, and what not; the tools are stand-ins that make a manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from recipe.plan import load_plan

pytestmark = pytest.mark.full

ROOT = Path(__file__).resolve().parents[2]
LOCK = Path("tools/source-tasks/src/source_tasks/sources.lock.json")
TOOL = '#!/bin/bash\nwhile [ "$1" != --out ]; do shift; done\nmkdir -p "$2" && echo {} > "$2/manifest.json"\n'
RECIPE = """
recipe: served
description: A rollout of a model that is served.
seed: 1
date: 2026-01-01
stages:
  source-tasks: {a: {source: shell, split: train, count: COUNT}}
  rollout:
    taught: {from: source-tasks/a, teacher: reference}
    served: {from: source-tasks/a, model: init-model/m, tensor-parallel: GPUS}
  filter-turns: {f: {from: rollout/taught, min-turns: 1}}
  init-model: {m: {from: filter-turns/f}}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The workflow in a folder of its own, with stand-ins for its tools."""
    for name in ("Snakefile", "workflow", "containers", "envs", "tools"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    (tmp_path / "stub").mkdir()
    for name in ("source-tasks", "rollout", "filter-turns", "init-model"):
        (tmp_path / "stub" / name).write_text(TOOL)
        (tmp_path / "stub" / name).chmod(0o755)
    return tmp_path


@pytest.fixture
def make(project: Path, tool) -> Callable[[object], bool]:
    """What has Snakemake make a file, and returns whether anything was done for it."""

    def run(target: object) -> bool:
        done = tool(
            "snakemake", "--profile", "workflow/profiles/local", "--config", "bin=stub", "--", target, cwd=project
        )
        assert done.returncode == 0, done.stderr
        return "Nothing to be done" not in done.stdout + done.stderr

    return run


def test_a_data_set_with_a_new_pin_is_fetched_again_and_no_other(project: Path, make: Callable[[object], bool]):
    def pin(name: str) -> None:
        pins = json.loads((project / LOCK).read_text())
        (project / LOCK).write_text(json.dumps(pins | {name: "0" * 40}))

    assert make("results/fetch/data/swe-smith")
    pin("swe-bench-verified")
    assert not make("results/fetch/data/swe-smith")
    pin("swe-smith")
    assert make("results/fetch/data/swe-smith")


def test_a_step_is_made_again_for_what_decides_it_and_not_for_how_it_is_run(
    project: Path, make: Callable[[object], bool]
):
    recipe = project / "workflow" / "recipes" / "served.yaml"

    def served(count: int, gpus: int) -> Path:
        recipe.write_text(RECIPE.replace("COUNT", str(count)).replace("GPUS", str(gpus)))
        return load_plan(recipe)["rollout/served"].artifact / "manifest.json"

    assert make(served(3, 1))
    assert not make(served(3, 2))
    assert make(served(4, 2))
