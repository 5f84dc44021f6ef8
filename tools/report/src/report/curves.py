"""Learning curves: what `metrics.jsonl` holds, as series to draw."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe_core.errors import BadInput
from report.steps import Step

# Drawn first, in this order; other numbers follow by name.
FIRST = ("loss", "reward_mean", "reward", "pass_rate", "lr", "learning_rate", "kl", "entropy", "grad_norm")
_NOT_DRAWN = ("step", "epoch")
# More charts than this a step say less than fewer; the rest stay in metrics.jsonl and are named below the charts.
MOST = 6


@dataclass(frozen=True)
class Curve:
    """One quantity of one training step: `points` are (step, value), by step."""

    step: str
    quantity: str
    points: tuple[tuple[float, float], ...]


def is_number(value: object) -> bool:
    """Tell whether a JSON value is a finite number (a boolean is not one)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def curves(step: str, lines: Iterable[dict[str, Any]]) -> list[Curve]:
    """Return one curve for every number that the lines hold; a line without `step` counts from the start."""
    series: dict[str, list[tuple[float, float]]] = {}
    for number, line in enumerate(lines):
        at = line.get("step")
        at = float(at) if is_number(at) else float(number)  # type: ignore[arg-type]
        for name, value in line.items():
            if name not in _NOT_DRAWN and is_number(value):
                series.setdefault(name, []).append((at, float(value)))
    names = sorted(series, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
    return [Curve(step, name, tuple(sorted(series[name]))) for name in names]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a `metrics.jsonl`.

    Raises:
        BadInput: a line that is not a JSON object.
    """
    lines = []
    for number, text in enumerate(path.read_text().splitlines(), 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if not isinstance(line, dict):
            raise BadInput(f"{path}: line {number} is not a JSON object; train the model again")
        lines.append(line)
    return lines


def training_curves(steps: Sequence[Step]) -> list[Curve]:
    """Return the curves of all training steps that recorded metrics."""
    found: list[Curve] = []
    for step in steps:
        if step.stage in ("train-sft", "train-rl") and "metrics.jsonl" in step.artifact.manifest["files"]:
            found += curves(step.name, read_lines(step.artifact.data("metrics.jsonl")))
    return found
