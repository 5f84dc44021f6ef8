"""A ranking as a table in the terminal, and as a line for a recipe."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
# What YAML reads as something else than a name.
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


def yaml_name(name: str) -> str:
    """Return a name as it stands in a YAML list, quoted where it has to be.

    >>> yaml_name("swe-smith"), yaml_name("no"), yaml_name("3b")
    ('swe-smith', '"no"', '"3b"')
    """
    plain = _PLAIN.fullmatch(name) and name.lower() not in _WORDS
    return name if plain else json.dumps(name, ensure_ascii=False)


def recipe_lines(result: Mapping[str, Any]) -> list[str]:
    """Return the keys `order` and, where it is asked for, `top` as a recipe's mix has them."""
    lines = [f"order: [{', '.join(map(yaml_name, result['order']))}]"]
    return lines if result["top"] is None else [*lines, f"top: {result['top']}"]


def verdict(step: Mapping[str, Any]) -> str:
    """Return how far a candidate is above the next one, in words."""
    # Rounded first, so that nothing is shown as -0.00.
    distance, low, high = (round(value, 2) + 0.0 for value in (step["mean_z"], *step["ci95"]))
    inside = "inside the noise" if step["inside_noise"] else "better"
    return f"{distance:+.2f} ({low:+.2f} to {high:+.2f}) {inside}"


def ranking(result: Mapping[str, Any]) -> Table:
    """Return the candidates in order, with pass@1 in per cent and z-score on each benchmark."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("candidate", overflow="fold")
    for name in ("mean z", "mean", *(benchmark["name"] for benchmark in result["benchmarks"]), "best in"):
        table.add_column(escape(name), justify="right", no_wrap=True)
    table.add_column("above the next, mean z (95 % interval)", no_wrap=True)
    steps = {step["upper"]: step for step in result["neighbours"]}
    for found in result["candidates"]:
        rates = found["benchmarks"]
        table.add_row(
            str(found["rank"]),
            escape(found["name"]),
            f"{found['mean_z']:+.2f}",
            f"{found['mean']:.1%}",
            *(
                f"{rates[benchmark['name']]['pass_at_1']:.1%} ({rates[benchmark['name']]['z']:+.2f})"
                for benchmark in result["benchmarks"]
            ),
            f"{found['probability_best']:.1%}",
            verdict(steps[found["name"]]) if found["name"] in steps else "",
            end_section=found["rank"] == result["top"],
        )
    return table


def show(result: Mapping[str, Any]) -> None:
    """Print the ranking on standard output."""
    # A number that is cut helps nobody, so the table is wider than a narrow terminal rather than cut.
    table = ranking(result)
    width = Console(width=10_000).measure(table).maximum
    Console(width=max(Console().width, width), highlight=False).print(table)
    for found in result["candidates"]:
        if found["infra_errors"]:
            print(f"{found['name']}: {found['infra_errors']} trials failed outside the model and are left out")
    for benchmark in result["benchmarks"]:
        if benchmark["excluded_tasks"]:
            print(
                f"{benchmark['name']}: {benchmark['excluded_tasks']} tasks left out, at which all attempts of a "
                f"candidate failed outside the model; {benchmark['tasks']} are compared"
            )
    print("\n".join(recipe_lines(result)))
