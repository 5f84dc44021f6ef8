"""The report: each hit beside what it hit, as JSON and as one HTML page with nothing outside it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, NamedTuple

from decontaminate.rules import Rule
from decontaminate.text import Gram

MOST_HITS = 200
# Characters of a text that are shown; the whole text is in the tables.
MOST_SHOWN = 2000


class Excerpt(NamedTuple):
    """A text as it is shown: the marked part with what stands around it, and how many characters are left out."""

    cut_before: int
    before: str
    marked: str
    after: str
    cut_after: int


def excerpt(text: str, gram: Gram | None, most: int = MOST_SHOWN) -> Excerpt:
    """Return at most `most` characters of a text, those around the gram when it can be found in it.

    The gram was taken from folded text, so it is looked for without regard to case or blanks; where folding changed
    more than that nothing is marked. This is for reading only: nothing is decided by it.
    """
    pattern = r"\s*".join(re.escape(str(token)) for token in gram or ())
    found = re.search(pattern, text, re.IGNORECASE) if pattern else None
    start, end = found.span() if found else (0, 0)
    first = max(0, min(start - most // 4, len(text) - most))
    last = min(len(text), first + most)
    start, end = min(start, last), min(end, last)
    return Excerpt(
        first, text[first : max(first, start)], text[start:end], text[max(first, end) : last], len(text) - last
    )


def render(report: Mapping[str, Any], rule: Rule) -> str:
    """Return the page as HTML, determined by the arguments.

    Args:
        report: what report.json holds.
        rule: what was too close.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FunctionLoader(_asset), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = _asset("report.css")
    policy_hash = "sha256-" + base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        # The page's own file; no data in it.
        style=Markup(style),
        style_hash=policy_hash,
        report=report,
        rule=rule,
    )


def _asset(name: str) -> str:
    return (files("decontaminate") / "assets" / name).read_text(encoding="utf-8")
