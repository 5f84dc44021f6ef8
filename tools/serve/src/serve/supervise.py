"""Keep an engine process: start it, wait for its health, say why it died, and let it outlive nobody."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from recipe_core.errors import BadInput
from serve.engine import HOST

# Waits until the other end of its standard input is gone, however that came about, then kills a process group.
_GUARD = "import os,signal,sys\nsys.stdin.buffer.read()\nos.killpg(int(sys.argv[1]), signal.SIGKILL)"
# What vLLM writes before a line: `(EngineCore pid=7) ERROR 01-31 12:00:00 [core.py:1] `, each part only sometimes.
_PREFIX = re.compile(r"(\([^)]* pid=\d+\)\s*)?(ERROR \S+ \S+ \[[^\]]*\]\s*)?")
_ERROR = re.compile(r"[\w.]*(Error|Exception)\b.*: .")
_SECONDS_TO_STOP = 10.0
_POLL_SEC = 0.25


def free_port() -> int:
    """Return a TCP port that was free on the loopback interface a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def check_port(port: int) -> None:
    """Raise BadInput when something listens on the port already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise BadInput(f"--port {port}: {error.strerror}; choose another, or 0 for any free one") from None


def last_words(log: Path, lines: int = 4) -> str:
    """Return what an engine's log says about its end: its first and last error, or its last lines if it names none.

    The engine's processes pass a failure on, each with a trace of its own, so the first error is the cause.
    """
    written = [_PREFIX.sub("", line.strip()) for line in log.read_text(errors="replace").splitlines()]
    errors = [line for line in written if _ERROR.match(line)]
    said = list(dict.fromkeys([errors[0], errors[-1]])) if errors else [line for line in written if line][-lines:]
    return " | ".join(said) or "it wrote nothing"


@contextlib.contextmanager
def running(words: Sequence[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a process group of its own while the block runs; its output goes to `log`.

    At the end of the block the group gets SIGTERM, then SIGKILL. If this process is killed first, a guard process
    kills the group.
    """
    with log.open("wb") as output:
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
            raise BadInput(f"{words[0]}: not found on PATH; run serve from its stack (see envs/serve)") from None
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


def is_healthy(root_url: str) -> bool:
    """Tell whether a server answers its health check."""
    try:
        with urllib.request.urlopen(f"{root_url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def wait_until_healthy(
    process: subprocess.Popen[bytes],
    root_url: str,
    log: Path,
    timeout: float,
    abandoned: Callable[[], bool] = lambda: False,
) -> None:
    """Return when the server answers, or when `abandoned` says that nobody waits for it any more.

    Raises:
        BadInput: the engine ended, or `timeout` seconds went by; the message holds its last words.
    """
    deadline = time.monotonic() + timeout
    while not is_healthy(root_url):
        if abandoned():
            return
        if process.poll() is not None:
            raise BadInput(f"the engine ended with code {process.returncode}: {last_words(log)} (all of it: {log})")
        if time.monotonic() > deadline:
            raise BadInput(f"the engine was not ready in {timeout:.0f} s: {last_words(log)} (all of it: {log})")
        time.sleep(_POLL_SEC)
