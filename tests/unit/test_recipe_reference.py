"""What is generated from the schema is what is checked in."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipe.plan import CONCURRENCY
from recipe.reference import parser_of, reference

ROOT = Path(__file__).resolve().parents[2]


def test_the_reference_page_is_in_step():
    assert (ROOT / "docs" / "recipes.md").read_text() == reference(), "run `make docs`"


def test_the_json_schema_is_in_step(tool):
    assert (ROOT / "workflow" / "schemas" / "recipe.json").read_text() == tool("recipe", "schema").stdout, (
        "run `make docs`"
    )


@pytest.mark.parametrize("stage", CONCURRENCY)
def test_a_job_is_planned_for_as_many_trials_as_its_tool_runs(stage: str):
    assert parser_of(stage).get_default("concurrency") == CONCURRENCY[stage]


@pytest.mark.parametrize("key", ["`cutoff`", "`min-turns`", "`with-replacement`", "**`teacher`**"])
def test_every_key_has_a_meaning(key: str):
    rows = [line for line in reference().splitlines() if line.startswith(f"| {key} |")]
    if key.startswith("**"):
        assert not rows
    else:
        assert rows and all(line.split("|")[3].strip() for line in rows)
