"""What an image holds, file by file; and in what it differs from what it should hold."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from images.names import HOME
from recipe_core.errors import BadInput

WALK = Path(__file__).with_name("walk.py")
# What the installer wrote from the locks.
PACKAGES = f"{HOME}/.venvs/"


class Entry(NamedTuple):
    """One path of an image."""

    path: str
    mode: str
    # The SHA-256 of a file's bytes, `-> target`, `dir`, or `unreadable: why`.
    what: str


def listing(image: Path, folders: Sequence[str] = ("/",)) -> list[Entry]:
    """Read every file of an image and return what it holds, sorted by path.

    Raises:
        BadInput: the image cannot be started.
    """
    words = ["apptainer", "--silent", "exec", "--fakeroot", "--containall", "--no-home", "--cleanenv"]
    words += ["--no-mount", "tmp,home,cwd,hostfs,bind-paths", "--pwd", "/"]
    try:
        done = subprocess.run(
            [*words, str(image), "/opt/python3.12/bin/python3.12", "-I", "-S", "-", *folders],
            stdin=WALK.open("rb"),
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        raise BadInput("apptainer: not found on PATH; install Apptainer (>= 1.1), or load its module") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise BadInput(f"{image}: cannot be started ({last}); build it again: images build")
    return entries_of(done.stdout)


def entries_of(text: str) -> list[Entry]:
    """Return what walk.py printed, sorted by path."""
    return sorted(Entry(*json.loads(line)) for line in text.splitlines())


def digest_of(entries: Iterable[Entry]) -> str:
    """Return the SHA-256 over entries.

    Compiled Python files are left out: their bytes depend on what else the compiler had met, not on the source alone.
    """
    digest = hashlib.sha256()
    for entry in entries:
        if not entry.path.endswith(".pyc"):
            digest.update("\0".join(entry).encode() + b"\n")
    return digest.hexdigest()


def packages_of(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries of installed packages: what the locks decide, whatever the base and the commit.

    The installer's mark `ready` is none of them, nor what tells where the project's own tools stand: uv writes the time
    of their sources there (`uv_cache.json`).
    """
    found = [entry for entry in entries if entry.path.startswith(PACKAGES) and not entry.path.endswith("/ready")]
    own = {entry.path.removesuffix("/uv_cache.json") for entry in found if entry.path.endswith("/uv_cache.json")}
    return [entry for entry in found if entry.path.rpartition("/")[0] not in own]


def write_listing(path: Path, entries: Iterable[Entry]) -> None:
    """Write entries, a line each."""
    path.write_text("".join("\t".join(entry) + "\n" for entry in entries))


def read_listing(path: Path) -> list[Entry]:
    """Read what :func:`write_listing` wrote.

    Raises:
        BadInput: no such file, or not one of these.
    """
    try:
        return [Entry(*line.split("\t")) for line in path.read_text().splitlines()]
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; build the image again: images build") from None
    except (TypeError, UnicodeDecodeError):
        raise BadInput(f"{path}: not a list of an image's files; build the image again: images build") from None


def differences(expected: Iterable[Entry], found: Iterable[Entry]) -> list[str]:
    """Return a line for every path that is missing, added or other than expected."""
    wanted = {entry.path: entry for entry in expected}
    seen = {entry.path: entry for entry in found}
    lines = []
    for path in sorted(wanted.keys() | seen.keys()):
        want, have = wanted.get(path), seen.get(path)
        if want == have:
            continue
        if have is None:
            lines.append(f"{path}: missing")
        elif want is None:
            lines.append(f"{path}: not expected")
        elif want.what != have.what:
            lines.append(f"{path}: {have.what[:40]}, expected {want.what[:40]}")
        else:
            lines.append(f"{path}: mode {have.mode}, expected {want.mode}")
    return lines
