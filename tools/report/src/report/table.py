"""The same summary as tables in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from report.page import by_source, duration, percent, points, verdict

# Where no terminal gives a width, as in a log.
_WIDTH = 110
# The longest name of a step that is not folded.
_NAME = 40
_STYLE: dict[str, Any] = {"title_justify": "left", "box": box.SIMPLE_HEAD, "pad_edge": False}


def _count(value: int | None) -> str:
    return "–" if value is None else str(value)


def stage_table(summary: Mapping[str, Any]) -> Table:
    """Return the steps with their rows, drops, exactness and digests."""
    table = Table(title="Steps", **_STYLE)
    # Reasons read well in several lines, names do not.
    longest = max((len(stage["stage"]) for stage in summary["stages"]), default=0)
    table.add_column("step", overflow="fold", no_wrap=longest <= _NAME)
    for name in ("rows in", "rows out"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("dropped", overflow="fold")
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("tier", no_wrap=True)
    table.add_column("digest", no_wrap=True)
    for stage in summary["stages"]:
        dropped = "\n".join(f"{count} {reason}" for reason, count in stage["dropped"].items())
        table.add_row(
            escape(stage["stage"]),
            _count(stage["rows_in"]),
            _count(stage["rows_out"]),
            escape(dropped),
            duration(stage["seconds"]),
            stage["tier"],
            stage["digest"][:8],
        )
    return table


def score_table(summary: Mapping[str, Any]) -> Table:
    """Return pass@1 with its interval, a line a source and model."""
    table = Table(title="pass@1 on held-out tasks", **_STYLE)
    for name in ("source", "model"):
        table.add_column(name)
    for name in ("pass@1", "95 % interval", "tasks", "attempts", "infra errors"):
        table.add_column(name, justify="right", no_wrap=True)
    for source, scores in by_source(summary["scores"]).items():
        for score in scores:
            interval = score["ci95"]
            table.add_row(
                escape(source),
                score["model"],
                percent(score["pass_at_1"]),
                "–" if interval is None else f"{percent(interval[0])} to {percent(interval[1])}",
                str(score["n_tasks"]),
                str(score["attempts"]),
                str(score["infra_errors"]),
            )
        table.add_section()
    return table


def delta_table(summary: Mapping[str, Any]) -> Table:
    """Return the paired differences between models, in percentage points."""
    table = Table(title="Paired differences in points", **_STYLE)
    table.add_column("from, to")
    for name in ("difference", "95 % interval"):
        table.add_column(name, justify="right")
    table.add_column("")
    for delta in summary["deltas"]:
        low, high = delta["ci95"]
        table.add_row(
            f"{delta['from']}, {delta['to']}",
            points(delta["diff"]),
            f"{points(low)} to {points(high)}",
            verdict(delta["ci95"]).partition(":")[0],
        )
    return table


def print_summary(summary: Mapping[str, Any], page: object) -> None:
    """Print the tables that have content, and where the page is."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    console.print(stage_table(summary))
    if summary["scores"]:
        console.print(score_table(summary))
    if summary["deltas"]:
        console.print(delta_table(summary))
    console.print(f"page: {page}", soft_wrap=True, markup=False, highlight=False)
