"""The plain values of the interface: limits, results, errors."""

from __future__ import annotations

from dataclasses import dataclass

from recipe_core.errors import BadInput


class SandboxError(Exception):
    """The sandbox itself failed (not a command in it): an infrastructure error, never a result of the agent."""


class SandboxKilled(SandboxError):
    """The sandbox was killed because of what was done in it: it went over a limit, or was tampered with.

    Attributes:
        reason: the limit: `memory`, `processes`, `files` or `wall`; found before a verdict: `disk` or `tampered`.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"the sandbox was killed: {detail}")
        self.reason = reason


@dataclass(frozen=True)
class Limits:
    """What one sandbox may use; the README says which limits are hard and which are watched.

    Args:
        cpus: number of CPUs its processes are placed on.
        memory_mb: MiB of anonymous and shared memory of all its processes together (files count as disk).
        disk_mb: MiB of all files it writes together, outside /usr/local and /dev/shm (64 MiB each); they lie in memory.
        processes: processes and threads at the same time.
        wall_sec: seconds the sandbox may exist, or None.

    Raises:
        BadInput: a limit is not positive.
    """

    cpus: int = 1
    memory_mb: int = 1024
    disk_mb: int = 512
    processes: int = 256
    wall_sec: float | None = None

    def __post_init__(self) -> None:
        for name in ("cpus", "memory_mb", "disk_mb", "processes", "wall_sec"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise BadInput(f"sandbox limit {name}={value}: expected more than 0")


@dataclass(frozen=True)
class ExecResult:
    """What a command left.

    Attributes:
        stdout: at most 1 MiB, the middle cut out and marked when there was more; undecodable bytes are replaced.
        stderr: the same.
        code: exit code; 128 + n when signal n ended it.
        timed_out: it ran out of time and its process group was killed.
    """

    stdout: str
    stderr: str
    code: int
    timed_out: bool = False
