"""Builds recipes for real, in a network namespace that holds nothing but its own loopback."""

from __future__ import annotations

import json
import shutil
from collections import Counter
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
    for name in ("Snakefile", "workflow", "envs", "tools", "containers"):
        source = ROOT / name
        shutil.copytree(source, copy / name) if source.is_dir() else shutil.copy(source, copy / name)
    (copy / ".venvs").symlink_to(ROOT / ".venvs")
    shutil.copy(RECIPE, copy / "workflow" / "recipes")
    (copy / "benchmark.txt").write_text("Write a function that returns the n-th prime number, counting from one.\n")
    return copy


@pytest.fixture(scope="module")
def offline(checkout: Path) -> list[object]:
    """The words before a command that run it in the checkout without a network."""
    bind = ("--dev-bind", "/", "/", "--unshare-net", "--die-with-parent", "--chdir", checkout, "--")
    return [BACKENDS["bubblewrap"].require(), *bind]


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_every_stage_is_built_with_the_network_off(checkout: Path, offline: list[object], tool):
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


# The published recipes on a few hundred rows, and what their last stage holds then.
PUBLISHED = {
    "ot-agent-v2-small": ("export-data/sft", 280),
    "ot-agent-rl-small": ("export-data/rl", 60),
    "openthoughts3-small": ("export-data/sft", 480),
}


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_the_published_recipes_are_built_small_with_the_network_off(checkout: Path, offline: list[object], tool):
    packages = checkout / "results" / "fetch"
    packages.mkdir(parents=True, exist_ok=True)
    # What pybugs breaks is the one thing that these recipes fetch.
    fetched = tool("snakemake", "--profile", "workflow/profiles/local", "results/fetch/packages.done", cwd=checkout)
    assert fetched.returncode == 0, fetched.stdout[-2000:] + fetched.stderr[-2000:]
    done = tool(*offline, "snakemake", "--profile", "workflow/profiles/local", "--", *PUBLISHED, timeout=1700)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    for name, (last, rows) in PUBLISHED.items():
        home = checkout / "results" / "recipes" / name
        steps = load_plan(checkout / "workflow" / "recipes" / f"{name}.yaml")
        assert {step.stage for step in steps.values()} >= {
            "source-tasks",
            "mix",
            "score",
            "decontaminate",
            "export-data",
        }
        for step in steps:
            assert open_artifact(home / step).manifest["rows_out"] > 0, step
        assert open_artifact(home / last).manifest["rows_out"] == rows
    # Every rewritten task still says which it was made from, and every trace is of a task that was asked for.
    home = checkout / "results" / "recipes" / "ot-agent-v2-small"
    tasks = {row["task_id"]: row for row in read_rows(home / "mix" / "train" / "tasks.parquet")}
    originals = {row["task_id"] for row in read_rows(home / "source-tasks" / "tezos" / "tasks.parquet")}
    lineage = [json.loads(row["meta"]).get("augment") for row in tasks.values()]
    assert sum(entry is not None for entry in lineage) == 88
    assert all(entry is None or entry["from"] in originals for entry in lineage)
    attempts = Counter(row["task_id"] for row in read_rows(home / "rollout" / "train" / "trajectories.parquet"))
    assert attempts == {task_id: row["attempts"] for task_id, row in tasks.items()}


PLANTED = """
recipe: planted
description: One of three tasks is a benchmark's.
date: 2026-01-01
stages:
  source-tasks:
    mine: {source: jsonl, split: all, input: mine.jsonl, count: 3}
  decontaminate:
    gate: {from: source-tasks/mine, benchmarks: [benchmark.txt], max-share: 0.01}
"""


@pytest.mark.full
def test_a_planted_benchmark_item_fails_the_build_and_is_named(checkout: Path, offline: list[object], tool):
    leaked = (checkout / "benchmark.txt").read_text().strip()
    rows = [
        {"instruction": text, "tests": "test -f done.txt", "solution": "touch done.txt"}
        for text in ("Create done.txt.", leaked + " Then create done.txt.", "Make an empty file done.txt, please.")
    ]
    (checkout / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (checkout / "planted.yaml").write_text(PLANTED)
    words = ("--profile", "workflow/profiles/local", "--config", "bin=.venvs/bin", "sandbox=bubblewrap")
    done = tool(*offline, "snakemake", *words, "recipes=planted.yaml", "--", "planted", timeout=300)
    assert done.returncode == 1
    said = next(line for line in (done.stdout + done.stderr).splitlines() if line.startswith("decontaminate: error:"))
    assert "1 of 3 rows (33.33%) hit a benchmark, --max-share is 0.01; most (1) hit 'benchmark'" in said
    assert "of source 'jsonl' its row 1" in said
    made = checkout / "results" / "source_tasks"
    tasks = [row for file in made.glob("*/tasks.parquet") for row in read_rows(file) if leaked in row["instruction"]]
    assert f"task {tasks[0]['task_id']} " in said
