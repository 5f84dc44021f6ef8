"""What the checks say: one line each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal, get_args

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    `level` is fail where a build cannot work, warn where a part of it may not. `text` has the figure that was seen;
    `mend` says what to do, and is empty where nothing is to be done.
    """

    level: Level
    check: str
    text: str
    mend: str = ""


def line(finding: Finding, machine: str) -> str:
    """Return a finding as it is printed.

    >>> line(Finding("warn", "hub", "no answer", "fetch elsewhere"), "login1")
    'warn  login1  hub: no answer; fetch elsewhere'
    """
    mend = f"; {finding.mend}" if finding.mend else ""
    return f"{finding.level:<4}  {machine}  {finding.check}: {finding.text}{mend}"


def dump(finding: Finding, machine: str) -> str:
    """Return a finding as a line of JSON, which :func:`load` reads."""
    return json.dumps({"machine": machine, **asdict(finding)})


def load(text: str) -> tuple[str, Finding] | None:
    """Return the machine and the finding of a line of :func:`dump`, or None for any other line."""
    try:
        row = json.loads(text)
        machine = str(row.pop("machine"))
        finding = Finding(**row)
    except (ValueError, TypeError, AttributeError, KeyError):
        return None
    return (machine, finding) if finding.level in get_args(Level) else None


def summary(findings: Iterable[Finding]) -> str:
    """Return how many findings there are of each level, in a line."""
    count = Counter(finding.level for finding in findings)
    return f"{count['ok']} ok, {count['warn']} to look at (warn), {count['fail']} to mend (fail)"


def one_line(text: str, most: int = 300) -> str:
    """Return text from another program in one printable line of at most `most` characters."""
    import re

    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    plain = " ".join("".join(sign if sign.isprintable() else " " for sign in plain).split())
    return plain if len(plain) <= most else plain[: most - 1] + "…"


def bytes_text(count: float) -> str:
    """Return a number of bytes as people write it, in powers of 1000.

    >>> bytes_text(59709984768)
    '59.7 GB'
    """
    for power, unit in ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB")):
        if count >= 10**power:
            return f"{count / 10**power:.3g} {unit}"
    return f"{count:.0f} B"
