"""The command lines of `recipe status`, `recipe cancel` and the end of `recipe plan`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from recipe.plan import load_plan
from recipe_core.artifact import ArtifactWriter

BIN = Path(__file__).resolve().parents[2] / ".venvs" / "bin"
# Builds of this machine alone: a Slurm client that is installed may have no Slurm behind it.
WITHOUT_SLURM = {"PATH": str(BIN)}
RECIPE = """
recipe: mine
description: for tests
date: 2026-01-01
stages:
  source-tasks:
    a: {source: shell, split: train, count: 5}
    b: {source: shell, split: train, count: 6}
  mix:
    train: {from: [source-tasks/a, source-tasks/b], method: shares, rows: 8}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder with the recipe `mine`, of which source-tasks/a is built."""
    recipes = tmp_path / "workflow" / "recipes"
    recipes.mkdir(parents=True)
    (recipes / "mine.yaml").write_text(RECIPE)
    out = tmp_path / load_plan(recipes / "mine.yaml")["source-tasks/a"].artifact
    parameters = {"source": "shell", "count": 5}
    with ArtifactWriter(
        out, stage="source-tasks", params=parameters, seed=0, inputs={}, tier="T0", package=[]
    ) as writer:
        writer.path("tasks.parquet").write_text("x")
        writer.count(rows_in=None, rows_out=5)
    return tmp_path


def test_status_says_what_is_built_what_failed_and_why(project: Path, tool):
    step = load_plan(project / "workflow/recipes/mine.yaml")["source-tasks/b"]
    logs = project / ".snakemake" / "log"
    logs.mkdir(parents=True)
    (logs / "2026-01-01T000000.000000.snakemake.log").write_text(
        f"{'x' * 200}\n  Host: here\nrule source_tasks:\n    output: {step.artifact}/manifest.json\n    jobid: 1\n"
        f"Command 'source-tasks --out {step.artifact}' returned non-zero exit status 2.\n"
        f"Error in rule source_tasks:\n    message: None\n    jobid: 1\n    output: {step.artifact}/manifest.json\n"
    )
    log = project / "results" / "logs" / "source_tasks" / f"{step.key}.log"
    log.parent.mkdir(parents=True)
    log.write_text("source-tasks shell train: 2/6\nsource-tasks: error: no room\n")
    done = tool("recipe", "status", "mine", cwd=project)
    assert done.returncode == 0, done.stderr
    assert "4 steps: 1 built, 1 failed, 2 to build" in done.stdout
    assert "2/6 (33%)" in done.stdout
    assert "source-tasks/b: FAILED: exit code 2" in done.stdout
    assert "source-tasks: error: no room" in done.stdout
    value = json.loads(tool("recipe", "status", "mine", "--json", cwd=project).stdout)
    assert value["counts"] == {"built": 1, "running": 0, "waiting": 0, "failed": 1, "to build": 2}
    assert [(step["name"], step["state"]) for step in value["steps"]] == [
        ("source-tasks/a", "built"),
        ("source-tasks/b", "failed"),
        ("mix/train", "to build"),
        ("report", "to build"),
    ]
    assert value["failures"][0]["logs"][f"results/logs/source_tasks/{step.key}.log"][-1].endswith("no room")
    assert value["rest"]["steps_by_basis"] == {"measured": 1, "unknown": 2}


@pytest.mark.full
def test_a_build_is_watched_and_cancelled_and_goes_on_later(project: Path, tool):
    step = load_plan(project / "workflow/recipes/mine.yaml")["source-tasks/b"]
    (project / "Snakefile").write_text(
        f'rule mine:\n    input: "{step.artifact}/manifest.json"\n    localrule: True\n'
        'rule source_tasks:\n    output: "results/source_tasks/{key}/manifest.json"\n'
        '    log: "results/logs/source_tasks/{key}.log"\n'
        '    shell: "echo tasks: 3/6 >{log}; mkdir -p results/source_tasks/{wildcards.key}.work; '
        'sleep 60; : --out results/source_tasks/{wildcards.key}"\n'
    )
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    words = [BIN / "snakemake", "--cores", "1", "--", "mine"]
    with (project / "out").open("w") as out:
        build = subprocess.Popen(words, cwd=project, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        end = time.monotonic() + 60
        value = {"steps": []}
        while time.monotonic() < end and "running" not in [step["state"] for step in value["steps"]]:
            value = json.loads(tool("recipe", "status", "mine", "--json", cwd=project, env=WITHOUT_SLURM).stdout)
        running = next(step for step in value["steps"] if step["state"] == "running")
        assert (running["name"], running["progress"]) == ("source-tasks/b", {"done": 3, "total": 6})
        assert running["elapsed_seconds"] >= 0
        assert f"process {build.pid}" in value["notes"][0]
        planned = tool("recipe", "cancel", "mine", "--dry-run", cwd=project, env=WITHOUT_SLURM)
        assert f"would end: Snakemake, process {build.pid}" in planned.stdout
        assert build.poll() is None
        done = tool("recipe", "cancel", "mine", cwd=project, env=WITHOUT_SLURM)
        assert done.returncode == 0, done.stderr
        assert f"ended: Snakemake, process {build.pid}" in done.stdout
        assert build.wait(10) != 0
    finally:
        build.kill()
        build.wait()
    after = json.loads(tool("recipe", "status", "mine", "--json", cwd=project, env=WITHOUT_SLURM).stdout)
    assert [(step["state"], step["reason"]) for step in after["steps"][:2]] == [
        ("built", ""),
        ("to build", "was stopped"),
    ]
    assert not (project / ".snakemake" / "locks").exists() or not any((project / ".snakemake" / "locks").iterdir())
    assert (project / f"{step.artifact}.work").is_dir()


@pytest.mark.full
def test_a_damaged_artifact_and_a_slurm_that_does_not_answer_are_told_beside_the_table(project: Path, tool):
    step = load_plan(project / "workflow/recipes/mine.yaml")["source-tasks/a"]
    (project / step.artifact / "tasks.parquet").write_text("")
    done = tool("recipe", "status", "mine", cwd=project, env={"SLURM_CONF": str(project / "none.conf")})
    assert done.returncode == 0, done.stderr
    assert "built (damaged)" in done.stdout
    assert "0 bytes, the manifest says 1; the file is truncated" in done.stdout
    assert ("squeue: " in done.stdout) == (shutil.which("squeue") is not None)


def test_there_may_be_nothing_to_cancel(project: Path, tool):
    # Nor a Slurm to ask: one whose client is installed and that does not answer is an error.
    done = tool("recipe", "cancel", "mine", cwd=project, env=WITHOUT_SLURM)
    assert done.returncode == 0
    assert done.stdout == "mine: no Snakemake that builds it goes on here, and no Slurm job of it waits or runs\n"


def test_a_build_on_another_machine_is_named_and_nothing_is_cancelled(project: Path, tool):
    step = load_plan(project / "workflow/recipes/mine.yaml")["source-tasks/b"]
    for place, text in (
        ("log/2026-01-01T000000.000000.snakemake.log", f"{'x' * 200}\n  Host: login2\n"),
        ("locks/0.output.lock", f"{step.artifact}/manifest.json\n"),
    ):
        (project / ".snakemake" / place).parent.mkdir(parents=True)
        (project / ".snakemake" / place).write_text(text)
    done = tool("recipe", "cancel", "mine", cwd=project, env=WITHOUT_SLURM)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("recipe: error: mine: Snakemake on login2 holds the lock")
    assert len(done.stderr.splitlines()) == 1
    (project / ".snakemake" / "locks" / "0.output.lock").unlink()
    assert tool("recipe", "cancel", "mine", cwd=project, env=WITHOUT_SLURM).returncode == 0


def test_watching_ends_when_nothing_moves(project: Path, tool):
    done = tool("recipe", "status", "mine", "--watch", "--json", cwd=project, timeout=20)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1


def test_a_plan_ends_with_the_jobs_that_are_left(project: Path, tool):
    done = tool("recipe", "plan", "mine", cwd=project)
    assert done.returncode == 0, done.stderr
    assert "left to build" in done.stdout
    assert "3 steps, 2 of them to build; left to run: 3 jobs (2 of steps, 1 of reports" in done.stdout


def test_a_grid_shows_a_row_a_recipe(project: Path, tool):
    (project / "workflow/recipes/many.yaml").write_text(
        "extends: mine\nrecipe: many\ndescription: x\ngrid:\n  size:\n"
        "    few: {mix: {train: {rows: 3}}}\n    more: {mix: {train: {rows: 4}}}\n"
    )
    done = tool("recipe", "status", "many", cwd=project)
    assert done.returncode == 0, done.stderr
    assert "many/few" in done.stdout and "many/more" in done.stdout
    assert "6 steps: 1 built, 5 to build" in done.stdout
    one = tool("recipe", "status", "many", "--cell", "few", cwd=project)
    assert "4 steps: 1 built, 3 to build" in one.stdout


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["status", "none"], "none.yaml"),
        (["status", "mine", "--cell", "x"], "has no cells"),
        (["status", "mine", "--watch", "1"], "not a number at least 5"),
        (["status", "mine", "--watch", "soon"], "not a number"),
        (["cancel", "none"], "none.yaml"),
        (["cancel", "mine", "--cell", "x"], "has no cells"),
        (["cancel"], "required"),
    ],
)
def test_bad_input_is_told_in_a_line(project: Path, tool, words: list[str], complaint: str):
    done = tool("recipe", *words, cwd=project)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
