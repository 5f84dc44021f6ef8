"""Programs that a tool starts and that must not outlive it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from recipe_core.errors import BadInput

# Waits until the other end of its standard input is gone, however that came about, then kills a process group.
_GUARD = "import os,signal,sys\nsys.stdin.buffer.read()\nos.killpg(int(sys.argv[1]), signal.SIGKILL)"
_SECONDS_TO_STOP = 10.0


@contextlib.contextmanager
def running(words: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a process group of its own while the block runs; its output is added to `log`.

    At the end of the block the group gets SIGTERM, then SIGKILL. If this process is killed first, a guard process
    kills the group.

    Args:
        words: the command.
        environment: variables added to this process's.
        log: a file.

    Raises:
        BadInput: no such command.
    """
    with log.open("ab") as output:
        try:
            process = subprocess.Popen(
                words,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise BadInput(f"{words[0]}: not found on PATH; run the tool from its stack (see envs/)") from None
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _GUARD, str(process.pid)], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        yield process
    finally:
        _signal_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_STOP)
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()
        guard.kill()
        guard.wait()


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
