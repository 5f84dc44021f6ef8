"""Other programs, asked with a time limit; nothing here decides anything."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from doctor.findings import one_line

NOT_FOUND = 127
TIMED_OUT = 124


@dataclass(frozen=True)
class Answer:
    """How a command ended: its exit code and what it wrote."""

    code: int
    output: str = ""
    errors: str = ""

    @property
    def complaint(self) -> str:
        """What it said, in one line, for people: of several lines of error the last, which names the cause."""
        lines = [text for text in (self.errors or self.output).splitlines() if text.strip()]
        return one_line(lines[-1]) if lines else f"exit code {self.code}"


OK = Answer(0)


def ask(words: Sequence[str], seconds: float = 20.0, environment: Mapping[str, str] | None = None) -> Answer:
    """Run a command that ends by itself; never raises.

    Args:
        words: the command.
        seconds: after which it is killed; the code is then 124.
        environment: variables added to this process's.
    """
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            # The programs' words are read here, so they must be English.
            env={**os.environ, "LC_ALL": "C", **(environment or {})},
        )
    except subprocess.TimeoutExpired:
        return Answer(TIMED_OUT, errors=f"no answer within {seconds:g} s")
    except OSError as error:
        return Answer(NOT_FOUND, errors=f"{words[0]}: {error.strerror}")
    return Answer(done.returncode, done.stdout, done.stderr)


def find(name: str, folders: Sequence[str | Path] = ()) -> str | None:
    """Return the path of a program on PATH, else in one of the folders, else None."""
    extra = os.pathsep.join(map(str, folders))
    return shutil.which(name) or (shutil.which(name, path=extra) if extra else None)


def read(path: str) -> str | None:
    """Return a small text file, stripped, or None where it cannot be read."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return None
