"""Settings of Snakemake's Slurm executor that are refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from recipe.executor import refuse_what_harms
from recipe_core.errors import BadInput

GOOD = {"array_jobs": None, "status_command": "squeue"}


@pytest.mark.parametrize(
    ("changes", "grouped", "said"),
    [
        ({"array_jobs": "mix"}, (), "slurm-array-jobs: "),
        ({"status_command": "sacct"}, (), "slurm-status-command: sacct: "),
        ({}, ("score", "mix"), "groups: mix, score: "),
    ],
)
def test_what_harms_is_refused_in_a_line_that_names_it(changes, grouped, said: str):
    with pytest.raises(BadInput) as raised:
        refuse_what_harms(SimpleNamespace(**GOOD | changes), grouped)
    assert str(raised.value).startswith(said) and "\n" not in str(raised.value)


@pytest.mark.parametrize("settings", [SimpleNamespace(**GOOD), SimpleNamespace(), None])
def test_all_else_is_taken(settings):
    refuse_what_harms(settings, ["mix"] if settings is None else [])
