"""Files from the package index, pinned by SHA-256 and kept by content: fetched once, read without a network.

The machine's own pip finds and downloads them, so mirrors, proxies and certificates are configured in one place.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from recipe_core.artifact import file_digest
from recipe_core.errors import BadInput

FETCH_TIMEOUT_SEC = 600


@dataclass(frozen=True)
class Pin:
    """One file of a package's release."""

    name: str
    version: str
    sha256: str
    licence: str

    suffix = "whl"

    @property
    def requirement(self) -> str:
        """The line of a hash-checked requirements file."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


AnyPin = TypeVar("AnyPin", bound=Pin)


def default_cache() -> Path:
    """Return the folder that keeps packages where `--cache` does not name one."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "agent-recipes"


def cached_path(cache: Path, pin: Pin) -> Path:
    """Return where a package lies in the cache: by what it contains, not by what it is called."""
    return cache / "sha256" / f"{pin.sha256}.{pin.suffix}"


def read_cached(cache: Path, pin: Pin, command: str) -> bytes:
    """Return the bytes of a cached package.

    Args:
        cache: the cache folder.
        pin: the package.
        command: what fetches it, for errors.

    Raises:
        BadInput: it is not in the cache, or is not the pinned one.
    """
    path = cached_path(cache, pin)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise BadInput(
            f"{path}: {pin.name} {pin.version} is not in the cache; run `{command} --cache {cache}`"
        ) from None
    if hashlib.sha256(content).hexdigest() != pin.sha256:
        raise BadInput(f"{path}: not the pinned {pin.name} {pin.version}; delete it and run `{command}`")
    return content


def fetch(
    pins: Iterable[AnyPin], cache: Path, words: Sequence[str], environment: Mapping[str, str] | None = None
) -> list[AnyPin]:
    """Bring the packages that the cache lacks into it; return those that were fetched.

    Args:
        pins: packages whose files are all of one kind.
        cache: the cache folder.
        words: arguments of `pip download` that choose the kind.
        environment: variables for pip.

    Raises:
        BadInput: pip is missing or could not download a package with the pinned hash.
    """
    missing = [pin for pin in pins if not _is_cached(cache, pin)]
    if not missing:
        return []
    (cache / "sha256").mkdir(parents=True, exist_ok=True)
    # Inside the cache folder, so that moving a file into place is a rename.
    with tempfile.TemporaryDirectory(dir=cache) as name:
        requirements, downloads = Path(name, "requirements.txt"), Path(name, "downloads")
        requirements.write_text("".join(f"{pin.requirement}\n" for pin in missing))
        command = [*_pip(), "download", "--quiet", "--no-deps", "--require-hashes", *words]
        command += ["--dest", str(downloads), "-r", str(requirements)]
        try:
            done = subprocess.run(
                command,
                env={**os.environ, **(environment or {})},
                capture_output=True,
                text=True,
                timeout=FETCH_TIMEOUT_SEC,
            )
        except subprocess.TimeoutExpired:
            raise BadInput(f"pip did not finish in {FETCH_TIMEOUT_SEC} s; is an index reachable?") from None
        if done.returncode != 0:
            errors = [line for line in done.stderr.splitlines() if line.lower().startswith("error:")]
            names = ", ".join(pin.name for pin in missing)
            raise BadInput(
                f"pip could not fetch {names} as pinned ({errors[-1] if errors else f'exit code {done.returncode}'}); "
                "is an index reachable?"
            )
        for path in sorted(downloads.iterdir()):
            path.replace(cache / "sha256" / f"{file_digest(path)}.{missing[0].suffix}")
    for pin in missing:
        if not _is_cached(cache, pin):
            raise BadInput(f"pip fetched no {pin.name} with sha256 {pin.sha256}")
    return missing


def _pip() -> list[str]:
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode == 0:
        return [sys.executable, "-m", "pip"]
    for name in ("pip3", "pip"):
        if found := shutil.which(name):
            return [found]
    raise BadInput("no pip found to fetch packages with; install pip next to Python or on PATH")


def _is_cached(cache: Path, pin: Pin) -> bool:
    path = cached_path(cache, pin)
    return path.is_file() and file_digest(path) == pin.sha256
