"""Keep an engine process: start it, wait for its health, say why it died, and let it outlive nobody."""

from __future__ import annotations

import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from recipe_core.errors import BadInput
from serve.engine import HOST

# What vLLM writes before a line: `(EngineCore pid=7) ERROR 01-31 12:00:00 [core.py:1] `, each part only sometimes.
_PREFIX = re.compile(r"(\([^)]* pid=\d+\)\s*)?(ERROR \S+ \S+ \[[^\]]*\]\s*)?")
_ERROR = re.compile(r"[\w.]*(Error|Exception)\b.*: .")
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
