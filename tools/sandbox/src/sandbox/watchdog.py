# ruff: noqa: PTH110, PTH123, PTH208
# Four times a second for every process: plain system calls.
"""Watches sandboxes from outside: one thread looks at /proc four times a second and kills what is over its limits.

A thread, not a task of the event loop: it must look in time even when the loop is busy with something else.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from sandbox.model import Limits
from sandbox.skeleton import MAX_FILES

INTERVAL_SEC = 0.25


class Usage(NamedTuple):
    """What a sandbox's processes use: their number with threads, and KiB of anonymous and shared memory."""

    processes: int
    memory_kb: int


def excess(usage: Usage, files: int, age_sec: float, limits: Limits) -> tuple[str, str] | None:
    """Return the reason and the sentence for the first limit that is exceeded, or None."""
    if usage.processes > limits.processes:
        return "processes", f"{usage.processes} processes and threads, limit {limits.processes}"
    if usage.memory_kb > limits.memory_mb * 1024:
        return "memory", f"{usage.memory_kb // 1024} MiB of memory, limit {limits.memory_mb} MiB"
    if files > MAX_FILES:
        return "files", f"{files} files, limit {MAX_FILES}"
    if limits.wall_sec is not None and age_sec > limits.wall_sec:
        return "wall", f"it existed for more than {limits.wall_sec:g} s"
    return None


def children(pid: int) -> list[int]:
    """Return the children of a process, of all its threads."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as stream:
                found += map(int, stream.read().split())
    except (FileNotFoundError, ProcessLookupError):
        if not os.path.exists(f"/proc/self/task/{threading.get_native_id()}/children"):
            return _children_by_scan(pid)
    return found


def _children_by_scan(pid: int) -> list[int]:
    # Kernels without CONFIG_PROC_CHILDREN: look at every process's parent.
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as stream:
                if int(stream.read().rpartition(b")")[2].split()[1]) == pid:
                    found.append(int(name))
    return found


def measure(first: int) -> Usage:
    """Add up the processes from `first` (process 1 of the sandbox) down; `first` itself is not counted."""
    processes = memory = 0
    todo = children(first)
    seen: set[int] = set()
    while todo:
        pid = todo.pop()
        if pid in seen:
            continue
        seen.add(pid)
        threads, kilobytes = _status(pid)
        processes += threads
        memory += kilobytes
        todo += children(pid)
    return Usage(processes, memory)


def _status(pid: int) -> tuple[int, int]:
    threads = kilobytes = 0
    with suppress(OSError), open(f"/proc/{pid}/status", "rb") as stream:
        for line in stream.read().splitlines():
            if line.startswith((b"RssAnon:", b"RssShmem:")):
                kilobytes += int(line.split()[1])
            elif line.startswith(b"Threads:"):
                threads = int(line.split()[1])
    return threads, kilobytes


def file_count(first: int) -> int:
    """Return how many files the sandbox's root holds; 0 where that cannot be seen."""
    with suppress(OSError):
        state = os.statvfs(f"/proc/{first}/root")
        return state.f_files - state.f_ffree
    return 0


def first_process(launcher: int) -> int | None:
    """Return the host's number of the process below `launcher` that is process 1 of a namespace of its own."""
    todo = children(launcher)
    while todo:
        pid = todo.pop()
        with suppress(OSError), open(f"/proc/{pid}/status", "rb") as stream:
            for line in stream:
                if line.startswith(b"NSpid:") and line.split()[-1] == b"1":
                    return pid
        todo += children(pid)
    return None


@dataclass(eq=False)
class Watched:
    """A sandbox under watch; `verdict` is set before it is killed."""

    first: int
    pidfd: int
    limits: Limits
    started: float = field(default_factory=time.monotonic)
    verdict: tuple[str, str] | None = None

    def look(self) -> None:
        """Measure once, and kill the sandbox when it is over a limit."""
        usage, files = measure(self.first), file_count(self.first)
        self.verdict = excess(usage, files, time.monotonic() - self.started, self.limits)
        if self.verdict:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)


class Watchdog:
    """The thread and its sandboxes; it lives while there is one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: set[Watched] = set()
        self._thread: threading.Thread | None = None

    def add(self, watched: Watched) -> None:
        """Begin to watch."""
        with self._lock:
            self._watched.add(watched)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sandbox-watchdog", daemon=True)
                self._thread.start()

    def remove(self, watched: Watched) -> None:
        """Stop watching, and close the handle on its process."""
        with self._lock:
            if watched in self._watched:
                self._watched.discard(watched)
                os.close(watched.pidfd)

    def _run(self) -> None:
        while True:
            time.sleep(INTERVAL_SEC)
            with self._lock:
                if not self._watched:
                    self._thread = None
                    return
                for watched in self._watched:
                    if watched.verdict is None:
                        watched.look()


WATCHDOG = Watchdog()
