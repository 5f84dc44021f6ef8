"""What holds for every stage's command line."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

from recipe.plan import STAGES
from recipe.schema import Stages

ROOT = Path(__file__).resolve().parents[2]
# Flags that decide nothing of the result, or that rules set for every step.
_NO_KEYS = {"-h", "help", "out", "seed", "date", "workers", "cache", "logging-steps", "step"}
# Where a step runs, and whether it runs at all.
_NO_KEYS |= {"dry-run", "nodes", "gpus", "merge", "worker-timeout", "device", "collective-timeout"}
# Keys that decide how many jobs the workflow makes of a step.
_NO_FLAGS = {"shards"}
# A ranking is made of several recipes, so that none of them can refer to it; they state the order it prints.
_NO_KEYS |= {"rank"}


def flags_of(stage: str) -> set[str]:
    module = stage.replace("-", "_")
    for name in ("cli", "__main__"):
        try:
            parser = importlib.import_module(f"{module}.{name}").build_parser()
        except ModuleNotFoundError as error:
            if error.name != f"{module}.{name}":
                raise
            continue
        return {option.removeprefix("--") for action in parser._actions for option in action.option_strings}
    raise AssertionError(f"{module} has no command line")


@pytest.mark.parametrize("stage", STAGES)
def test_recipe_keys_and_flags_are_the_same(stage: str):
    annotation = Stages.model_fields[stage.replace("-", "_")].annotation
    model = annotation.__args__[1]  # type: ignore[union-attr]
    keys = {info.alias or name for name, info in model.model_fields.items()} - {"from", "seed"}
    named = keys | set(model.references.values())
    assert named - flags_of(stage) - _NO_FLAGS == set()
    assert {flag for flag in flags_of(stage) - named - _NO_KEYS if not flag.startswith("no-")} == set()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_one_name(stage: str):
    module = stage.replace("-", "_")
    assert (ROOT / "tools" / stage / "pyproject.toml").is_file()
    assert f'{stage} = "{module}.' in (ROOT / "tools" / stage / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    "stage", [*STAGES, "report", "rank", "publish", "recipe", "images", "doctor", "serve", "sandbox"]
)
def test_help_is_fast_enough_to_ask_for_and_shows_an_example(stage: str, tool):
    done = tool(stage, "--help", timeout=20)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"^ +{stage} ", done.stdout, re.M), "no example in the help"


@pytest.mark.parametrize(
    "stage", [*STAGES, "report", "rank", "publish", "recipe", "images", "doctor", "serve", "sandbox"]
)
def test_an_unknown_flag_is_one_line_and_code_2(stage: str, tool):
    done = tool(stage, "--no-such-flag")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith(f"{stage}: error:")


TASK_READERS = {
    "mix": ["--rows", "2"],
    "score": ["--method", "random"],
    "filter-length": ["--min", "1"],
    "filter-tasks": ["--column", "instruction_chars", "--min", "1"],
    "augment": ["--method", "rewrite", "--copies", "1", "--teacher", "reference"],
    "answers": ["--teacher", "reference"],
    "dedup": ["--method", "exact"],
    "upsample": ["--column", "instruction_chars", "--rows", "9"],
    "rollout": ["--teacher", "reference", "--date", "2026-01-01"],
    "evaluate": ["--endpoint", "http://127.0.0.1:9/v1", "--model-name", "x", "--label", "base", "--date", "2026-01-01"],
}


@pytest.mark.parametrize("stage", TASK_READERS)
def test_a_truncated_table_is_one_line_that_names_it(stage: str, tool, tasks_artifact, tmp_path: Path):
    tasks = tasks_artifact()
    table = tasks / "tasks.parquet"
    table.write_bytes(table.read_bytes()[:-200])
    manifest = json.loads((tasks / "manifest.json").read_text())
    manifest["files"]["tasks.parquet"]["bytes"] -= 200
    (tasks / "manifest.json").write_text(json.dumps(manifest))
    done = tool(stage, "--tasks", tasks, *TASK_READERS[stage], "--out", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert str(table) in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stage", TASK_READERS)
def test_a_missing_artifact_is_one_line_that_names_it(stage: str, tool, tmp_path: Path):
    done = tool(stage, "--tasks", tmp_path / "absent", *TASK_READERS[stage], "--out", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().splitlines() == [
        f"{stage}: error: {tmp_path / 'absent'}: no artifact here (manifest.json is missing); "
        "build it or correct the path"
    ]
