"""A dry run of every recipe under every profile plans each artifact once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from recipe.plan import load_plans

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "workflow" / "recipes").glob("*.yaml"))
PROFILES = sorted(folder for folder in (ROOT / "workflow" / "profiles").iterdir() if folder.is_dir())


def dry_run(tool, *words: object) -> subprocess.CompletedProcess[str]:
    return tool("snakemake", "--dry-run", "--forceall", "--nolock", "--printshellcmds", *words, cwd=ROOT)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.name)
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_step_is_planned_once(recipe: Path, profile: Path, tool):
    done = dry_run(tool, "--profile", profile, recipe.stem)
    assert done.returncode == 0, done.stderr
    for key, step in {step.key: step for steps in load_plans(recipe).values() for step in steps.values()}.items():
        assert step.artifact.name == key
        planned = [
            line for line in done.stdout.splitlines() if line.strip() == f"output: {step.artifact}/manifest.json"
        ]
        assert len(planned) == 1, step.name


def test_a_recipe_from_elsewhere_is_a_target(tmp_path: Path, tool):
    recipe = tmp_path / "mine.yaml"
    text = "recipe: mine\ndescription: x\ndate: 2026-01-01\nstages: {source-tasks: {a: {source: shell, count: 3}}}\n"
    recipe.write_text(text)
    done = dry_run(tool, "--config", f"recipes={recipe}", "--cores", "1", "--", "mine")
    assert done.returncode == 0, done.stderr
    assert "source-tasks --count 3 --source shell" in done.stdout


def test_a_broken_recipe_is_one_line_that_names_the_key(tmp_path: Path, tool):
    recipe = tmp_path / "broken.yaml"
    recipe.write_text("recipe: broken\ndescription: x\ndate: 2026-01-01\nstages: {source-task: {}}\n")
    done = tool("recipe", "check", recipe)
    assert done.returncode == 2
    assert done.stderr == (
        f"recipe: error: {recipe}: unknown key 'source-task' at stages.source-task; did you mean 'source-tasks'?\n"
    )
    through_snakemake = dry_run(tool, "--config", f"recipes={recipe}", "--cores", "1", "--", "broken")
    assert through_snakemake.returncode == 1
    assert "unknown key 'source-task' at stages.source-task; did you mean 'source-tasks'?" in through_snakemake.stdout


def test_a_missing_recipe_names_the_nearest(tool):
    done = tool("make", "--no-print-directory", "-o", "setup", "build", "RECIPE=demoo", cwd=ROOT)
    assert done.returncode == 2
    assert "no such recipe; did you mean 'demo'?" in done.stderr
