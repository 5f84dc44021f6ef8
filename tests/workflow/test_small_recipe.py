"""Builds a recipe with every stage, for real, in a network namespace that holds nothing but its own loopback."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from recipe.plan import load_plan
from recipe_core.artifact import open_artifact
from recipe_core.records import read_rows
from sandbox.backends import BACKENDS

ROOT = Path(__file__).resolve().parents[2]
RECIPE = Path(__file__).with_name("small.yaml")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the workflow to build in, so that results of the working tree are neither used nor touched."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("Snakefile", "workflow", "envs", "tools"):
        source = ROOT / name
        shutil.copytree(source, copy / name) if source.is_dir() else shutil.copy(source, copy / name)
    (copy / ".venvs").symlink_to(ROOT / ".venvs")
    shutil.copy(RECIPE, copy / "workflow" / "recipes")
    (copy / "benchmark.txt").write_text("Write a function that returns the n-th prime number, counting from one.\n")
    return copy


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_every_stage_is_built_with_the_network_off(checkout: Path, tool):
    offline = [
        BACKENDS["bubblewrap"].require(),
        "--dev-bind",
        "/",
        "/",
        "--unshare-net",
        "--die-with-parent",
        "--chdir",
        checkout,
        "--",
    ]
    reaches_out = tool(*offline, "python3", "-c", "import socket; socket.create_connection(('1.1.1.1', 53), 3)")
    assert "unreachable" in reaches_out.stderr

    build = [*offline, "snakemake", "--profile", "workflow/profiles/local", "--", "small"]
    done = tool(*build, timeout=1700)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]

    steps = load_plan(RECIPE)
    home = checkout / "results" / "recipes" / "small"
    for name in steps:
        assert open_artifact(home / name).stage == name.split("/")[0]
    summary = json.loads((home / "summary.json").read_text())
    assert [stage["stage"] for stage in summary["stages"]]
    for stage in summary["stages"]:
        if stage["rows_in"] is not None:
            assert stage["rows_in"] == stage["rows_out"] + sum(stage["dropped"].values()), stage
    assert {(score["model"], score["source"]) for score in summary["scores"]} >= {
        (model, source) for model in ("base", "sft", "rl") for source in ("shell", "all")
    }
    assert {(delta["from"], delta["to"]) for delta in summary["deltas"]} >= {("base", "sft"), ("sft", "rl")}
    trajectories = list(read_rows(home / "filter-turns" / "train" / "trajectories.parquet"))
    assert trajectories
    assert all(row["reward"] == 1 and row["turns"] >= 3 and row["model"] == "reference" for row in trajectories)
    assert "<html" in (home / "index.html").read_text()

    again = tool(*build, timeout=120)
    assert again.returncode == 0, again.stderr
    assert "Nothing to be done" in again.stdout + again.stderr
