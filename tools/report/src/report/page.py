"""The page: one HTML file with its style, script, charts and data inside."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from report import svg
from report.curves import MOST, Curve


def _asset(name: str) -> str:
    return (files("report") / "assets" / name).read_text(encoding="utf-8")


def _policy_hash(text: str) -> str:
    """Return what a content security policy calls an inline block by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def embed(value: Any) -> Markup:
    """Return JSON that is safe inside a script element: no character in it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def percent(value: float | None) -> str:
    """Return a share as per cent with one decimal, a dash when there is none."""
    return "–" if value is None else f"{100 * value:.1f} %"


def points(value: float) -> str:
    """Return a difference of shares as signed percentage points."""
    return f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")


def duration(seconds: float | None) -> str:
    """Return a duration as people read it.

    >>> duration(0.21), duration(75.0), duration(None)
    ('0.2 s', '1 min 15 s', '–')
    """
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def verdict(interval: Sequence[float]) -> str:
    """Say in words on which side of zero an interval lies."""
    if interval[0] > 0:
        return "better: the interval lies above 0"
    if interval[1] < 0:
        return "worse: the interval lies below 0"
    return "undecided: the interval includes 0"


def by_source(scores: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Group scores by source: `all` first, then by name."""
    names = sorted({score["source"] for score in scores}, key=lambda name: (name != "all", name))
    return {name: [score for score in scores if score["source"] == name] for name in names}


def by_step(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """Group curves by the training step that they belong to."""
    grouped: dict[str, list[Curve]] = {}
    for curve in curves:
        grouped.setdefault(curve.step, []).append(curve)
    return grouped


def share_prompts(trajectories: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the page's data: the same long prompt, in most trajectories, is kept once and referred to by number."""
    prompts = list(dict.fromkeys(trajectory["prompt"] for trajectory in trajectories))
    entries = [{**trajectory, "prompt": prompts.index(trajectory["prompt"])} for trajectory in trajectories]
    return {"prompts": prompts, "trajectories": entries}


def render(
    recipe: str, summary: Mapping[str, Any], curves: Sequence[Curve], trajectories: Sequence[Mapping[str, Any]]
) -> str:
    """Return the page as HTML, determined by the arguments.

    Args:
        recipe: its name, the page's title.
        summary: as :func:`report.summary.summarise` returns it.
        curves: learning curves.
        trajectories: as :func:`report.trajectories.sample` returns them.
    """
    environment = Environment(
        loader=FunctionLoader(_asset), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(percent=percent, points=points, duration=duration, verdict=verdict)
    style, script = _asset("page.css"), _asset("page.js")
    stages = summary["stages"]
    most = max((stage["rows_out"] + sum(stage["dropped"].values()) for stage in stages if stage["rows_out"]), default=0)
    return environment.get_template("page.html.j2").render(
        # The page's own files; no data in them.
        style=Markup(style),
        script=Markup(script),
        style_hash=_policy_hash(style),
        script_hash=_policy_hash(script),
        recipe=recipe,
        summary=summary,
        scores=by_source(summary["scores"]),
        curves=by_step(curves),
        most_curves=MOST,
        most_rows=most,
        svg=svg,
        n_trajectories=len(trajectories),
        data=embed(share_prompts(trajectories)),
    )
