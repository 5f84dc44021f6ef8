"""Progress on standard error: a bar in a terminal, a plain line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Counts finished units of one piece of work."""

    def __init__(self, total: int, label: str) -> None:
        self.total = total
        self.label = label
        self.done = 0
        self._last_line = time.monotonic()

    def advance(self, n: int = 1) -> None:
        """Record that `n` more units are finished."""
        self.done += n
        now = time.monotonic()
        if now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            print(f"{self.label}: {self.done}/{self.total}", file=sys.stderr, flush=True)


class _Bar(Progress):
    def __init__(self, total: int, label: str) -> None:
        super().__init__(total, label)
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self.bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self.bar.add_task(label, total=total)

    def advance(self, n: int = 1) -> None:
        self.done += n
        self.bar.advance(self._task, n)


@contextmanager
def progress(total: int, label: str) -> Iterator[Progress]:
    """Show how far `total` units of work have come while the block runs."""
    if sys.stderr.isatty():
        bar = _Bar(total, label)
        with bar.bar:
            yield bar
        return
    plain = Progress(total, label)
    yield plain
    print(f"{label}: {plain.done}/{total} done", file=sys.stderr, flush=True)
