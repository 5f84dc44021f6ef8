"""The content of `summary.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from evaluate.statistics import difference, outcomes
from recipe_core.errors import BadInput
from recipe_core.records import read_rows
from report.steps import Step, evaluations

SCORE_KEYS = ("source", "n_tasks", "attempts", "pass_at_1", "ci95", "infra_errors")


def stage_entry(step: Step) -> dict[str, Any]:
    """Return one step's line: what went in and out, and how long it took (seconds; None when it was not recorded)."""
    manifest = step.artifact.manifest
    return {
        "stage": step.name,
        "key": step.artifact.path.resolve().name,
        "digest": step.artifact.digest,
        "tier": manifest["tier"],
        "rows_in": manifest["rows_in"],
        "rows_out": manifest["rows_out"],
        "dropped": manifest["dropped"],
        "seconds": step.artifact.provenance().get("seconds"),
    }


def score_entries(step: Step) -> list[dict[str, Any]]:
    """Return an evaluation's scores.

    Raises:
        BadInput: its `scores.json` is not what `evaluate` writes.
    """
    path = step.artifact.data("scores.json")
    try:
        scores = json.loads(path.read_text())["scores"]
        return [{"model": step.label, **{key: score[key] for key in SCORE_KEYS}} for score in scores]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path}: not the scores of an evaluation ({error!r}); evaluate the model again") from None


def delta_entries(steps: Sequence[Step], seed: int) -> list[dict[str, Any]]:
    """Return the paired differences between the models that were evaluated, each step first, then base to rl.

    A pair without a task that both tried is left out.
    """
    trials = {
        label: outcomes(
            read_rows(step.artifact.data("trials.parquet"), ("task_id", "source", "attempt", "reward", "error_class"))
        )
        for label, step in evaluations(steps).items()
    }
    labels = list(trials)
    pairs = sorted(combinations(labels, 2), key=lambda pair: labels.index(pair[1]) - labels.index(pair[0]))
    entries = []
    for first, second in pairs:
        found = difference(trials[first], trials[second], seed=seed)
        if found.diff is not None and found.ci95 is not None:
            entries.append({"from": first, "to": second, "diff": found.diff, "ci95": list(found.ci95)})
    return entries


def summarise(steps: Sequence[Step], seed: int) -> dict[str, Any]:
    """Return the content of `summary.json` for the steps of a recipe in pipeline order."""
    return {
        "stages": [stage_entry(step) for step in steps],
        "scores": [entry for step in evaluations(steps).values() for entry in score_entries(step)],
        "deltas": delta_entries(steps, seed),
    }


def read_summary(folder: Path) -> dict[str, Any]:
    """Read the summary of a recipe that was built.

    Raises:
        BadInput: there is none, or it is not one.
    """
    path = folder / "summary.json"
    try:
        summary = json.loads(path.read_text())
        return {part: list(summary[part]) for part in ("stages", "scores", "deltas")}
    except (FileNotFoundError, NotADirectoryError):
        raise BadInput(f"{path}: no such file; build the recipe first, or correct the path") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path}: not a recipe's summary ({error!r}); build the recipe's report again") from None
