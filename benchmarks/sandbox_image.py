"""Make the image for trials in Harbor's own `singularity` back end: Debian with what that back end asks for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SUITE = "bookworm"
# What Harbor's bootstrap would otherwise install in every trial.
PACKAGES = ("python3", "python3-venv", "tmux", "asciinema")
SERVER = "/opt/harbor-server"
SERVER_PACKAGES = ("uvicorn", "fastapi")
SERVER_PYTHON = "3.11"


class NoImage(Exception):
    """The image cannot be made here; the message is one line."""


def make_image(sif: Path) -> Path:
    """Make the SIF where it is not there yet, and return its path.

    `/app` and the server's virtual environment are in it, and no package source is configured, so that the
    `apt-get update` of every trial has nothing to fetch: the kindest image for the back end that is compared with.

    Raises:
        NoImage: a program is missing or fails.
    """
    if sif.exists():
        return sif
    missing = [name for name in ("mmdebstrap", "apptainer") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        raise NoImage(
            f"making {sif.name} needs root, mmdebstrap and apptainer; missing: {', '.join(missing) or 'root'}"
        )
    sif.parent.mkdir(parents=True, exist_ok=True)
    root = sif.with_suffix(".root")
    shutil.rmtree(root, ignore_errors=True)
    _run(["mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, root])
    _run(["chroot", root, "python3", "-m", "venv", "--without-pip", SERVER])
    packages = root / SERVER.lstrip("/") / "lib" / f"python{SERVER_PYTHON}" / "site-packages"
    wheels: list[str | Path] = ["--python-version", SERVER_PYTHON, "--only-binary", ":all:", "--target", packages]
    _run([sys.executable, "-m", "pip", "install", "--quiet", *wheels, *SERVER_PACKAGES])
    (root / "app").mkdir(exist_ok=True)
    for place in ("etc/apt/sources.list", "etc/apt/sources.list.d", "var/lib/apt/lists", "var/cache/apt", "dev"):
        _empty(root / place)
    partial = sif.with_suffix(".part")
    compression = ["--mksquashfs-args", "-comp zstd -Xcompression-level 3"]
    _run(["apptainer", "--silent", "build", "--fakeroot", "--force", *compression, partial, root])
    partial.rename(sif)
    shutil.rmtree(root)
    return sif


def _empty(place: Path) -> None:
    if place.is_dir():
        for each in place.iterdir():
            shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()
    else:
        place.write_text("")


def _run(command: Sequence[str | Path]) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise NoImage(f"{command[0]} failed with code {done.returncode}: {said[-1] if said else ''}")


if __name__ == "__main__":
    try:
        print(make_image(Path(sys.argv[1])))
    except NoImage as error:
        sys.exit(f"sandbox_image: {error}")
