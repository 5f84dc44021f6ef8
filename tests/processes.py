"""What runs on this machine: processes below another, and whether they are gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path


def words_of(pid: int) -> list[str]:
    """Return a process's command line, one empty word when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return [""]


def descendants(pid: int, of: Callable[[list[str]], bool]) -> list[int]:
    """Return the processes below a process whose words `of` is true of."""
    found, todo = [], [pid]
    while todo:
        for path in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
            try:
                below = [int(word) for word in path.read_text().split()]
            except (FileNotFoundError, ProcessLookupError):
                continue
            todo += below
            found += below
    return [child for child in found if of(words_of(child))]


def is_sandbox(words: list[str]) -> bool:
    return "bwrap" in words[0] or "apptainer" in words[0]


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that has ended but not been waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pids: Iterable[int], timeout_sec: float = 20.0) -> dict[int, list[str]]:
    """Wait for processes to end and return those that did not, with their words.

    What ends because its parent did does so a moment later, and stays in the table until whoever inherited it asks.
    """
    left, deadline = set(pids), time.monotonic() + timeout_sec
    while (left := {pid for pid in left if is_alive(pid)}) and time.monotonic() < deadline:
        time.sleep(0.05)
    return {pid: words_of(pid) for pid in left}
