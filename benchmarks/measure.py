"""Run a command and measure it: seconds, processor seconds, and the most memory that it and its children held."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_BETWEEN_SAMPLES = 0.1
# Looking at a large process takes time of a processor: between two looks, at least fifty times as long as one took.
_REST = 50


class Cost(NamedTuple):
    """What a command cost.

    Attributes:
        seconds: from start to end.
        cpu_seconds: user and system time, of children that ended too.
        peak_mb: most memory at a time, in 2^20 bytes: the proportional set sizes of all its processes together, sampled
            up to ten times a second, or the largest resident set of one of them if that is more.
    """

    seconds: float
    cpu_seconds: float
    peak_mb: float


class CommandFailed(Exception):
    """A measured command ended with another code than 0; the message is the end of what it said."""


def _family(root: int) -> list[int]:
    members = [root]
    for parent in members:
        try:
            for children in Path(f"/proc/{parent}/task").glob("*/children"):
                members += [int(child) for child in children.read_text().split()]
        except OSError:
            continue
    return members


def _held_mb(root: int) -> float:
    """Return the proportional set sizes of a process and its descendants, added up."""
    held = 0
    for member in _family(root):
        try:
            text = Path(f"/proc/{member}/smaps_rollup").read_text()
        except OSError:
            continue
        held += next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)
    return held / 1024


def measure(command: Sequence[str | Path], env: dict[str, str] | None = None) -> Cost:
    """Run a command to its end.

    Raises:
        CommandFailed: its exit code is not 0.
    """
    with tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in command], stdout=said, stderr=said, env={**os.environ, **(env or {})}
        )
        peak = 0.0
        done = threading.Event()

        def watch() -> None:
            nonlocal peak
            rest = _BETWEEN_SAMPLES
            while not done.wait(rest):
                began = time.perf_counter()
                peak = max(peak, _held_mb(process.pid))
                rest = max(_BETWEEN_SAMPLES, _REST * (time.perf_counter() - began))

        watcher = threading.Thread(target=watch)
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        done.set()
        watcher.join()
        if process.returncode:
            said.seek(0)
            tail = said.read()[-1500:].decode(errors="replace").strip()
            raise CommandFailed(f"`{' '.join(map(str, command))}` ended with code {process.returncode}: {tail}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, max(peak, usage.ru_maxrss / 1024))
