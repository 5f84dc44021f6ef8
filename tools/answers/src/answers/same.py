"""Whether two final answers are the same: math-verify in a process of its own, which bounds what it may use.

An expression such as 9^(9^(9^9)) can take a computer algebra system for ever and all memory. A limit on the CPU time of
its process ends it, which unlike a clock does not depend on how busy the machine is. What cannot be compared within the
limits is not the same.

Run as a program (`python -m answers.same`) this is that process: it reads one JSON list of two texts a line, and
answers each by a line `1` or `0`.
"""

from __future__ import annotations

import functools
import json
import math
import os
import subprocess
import sys
import time
from types import TracebackType
from typing import Any

from answers.final import as_latex, as_text, is_mathematical
from recipe_core.errors import BadInput

_CPU_SEC = 5
_MEMORY_BYTES = 2 << 30
_READY = b"ready\n"


class Comparer:
    """Compares final answers; a context manager. Its process starts when first needed. Not for several threads."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def same(self, left: str, right: str) -> bool:
        """Tell whether two final answers are the same: as text, or where both are mathematical, by math-verify.

        Symmetric: math-verify is asked both ways round, and one yes is enough.

        Raises:
            BadInput: math-verify cannot be started here.
        """
        if as_text(left) == as_text(right):
            return True
        if not (is_mathematical(left) and is_mathematical(right)):
            return False
        process = self._process or self._start()
        assert process.stdin and process.stdout
        try:
            process.stdin.write(json.dumps(sorted([as_latex(left), as_latex(right)])).encode() + b"\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        if not answer:
            self._stop()
        return answer == b"1\n"

    def _start(self) -> subprocess.Popen[bytes]:
        # Sets of symbols iterate in the order of their hashes: with a seed of its own, what is tried first differs.
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "answers.same"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        assert self._process.stdout
        if self._process.stdout.readline() != _READY:
            self._stop()
            raise BadInput(f"math-verify does not start in {sys.prefix}; run the set-up again")
        return self._process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def __enter__(self) -> Comparer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()


@functools.lru_cache(maxsize=1024)
def _parsed(latex: str) -> list[Any]:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    targets = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())
    return parse(f"\\boxed{{{latex}}}", targets, fallback_mode="no_fallback", parsing_timeout=None)


def _equal(left: str, right: str) -> bool:
    from math_verify import verify

    pair = _parsed(left), _parsed(right)
    if not all(pair):
        return False
    return verify(*pair, timeout_seconds=None) or verify(*reversed(pair), timeout_seconds=None)


def _serve() -> None:
    import logging
    import resource

    import math_verify  # noqa: F401

    # Its warning that it has no time limit of its own: this process has one.
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    answers.write(_READY)
    for line in sys.stdin.buffer:
        left, right = json.loads(line)
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        # The kernel ends this process (SIGXCPU) when it has used so much more.
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time()) + _CPU_SEC, hard))
        try:
            same = _equal(left, right)
        except (Exception, MemoryError):
            same = False
        answers.write(b"1\n" if same else b"0\n")


if __name__ == "__main__":
    _serve()
