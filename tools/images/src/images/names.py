"""What an image is made from, and the name that follows from it: an image of other inputs has another name.

Snakemake knows an image by its path alone, so a path must never stand for two contents.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from recipe_core.errors import BadInput

IMAGES = Path("images")
# Where the project stands in every image.
HOME = "/opt/agent-recipes"


def definition(root: Path, image: str) -> Path:
    """Return the definition of an image.

    Raises:
        BadInput: there is none of that name.
    """
    path = root / "containers" / f"{image}.def"
    if not path.is_file() or image == "base":
        raise BadInput(f"no image {image!r}: containers/ defines {', '.join(all_images(root))}")
    return path


def all_images(root: Path) -> list[str]:
    """Return the names of all images but the base."""
    return sorted(path.stem for path in (root / "containers").glob("*.def") if path.stem != "base")


def _argument(root: Path, image: str, name: str) -> str | None:
    found = re.search(rf"^ *{name}=([a-z -]+)$", definition(root, image).read_text(), re.MULTILINE)
    return found[1] if found else None


def lineage(root: Path, image: str) -> list[str]:
    """Return an image and those it stands on, the lowest first, as the argument `on` of each definition names them."""
    below = _argument(root, image, "on")
    return [*(lineage(root, below) if below else []), image]


def stacks_of(root: Path, image: str) -> list[str]:
    """Return the stacks that an image holds, its own first: the argument `stacks` of its definition and those below it."""
    found: list[str] = []
    for name in reversed(lineage(root, image)):
        stacks = _argument(root, name, "stacks")
        if not stacks:
            raise BadInput(f"{definition(root, name)}: expected a line such as stacks=data below %arguments")
        found += stacks.split()
    return found


def source_files(root: Path, stacks: Sequence[str]) -> list[Path]:
    """Return what is copied into an image of these stacks, below `root`: locks, the installer, the stacks' tools."""
    spec = tomllib.loads((root / "envs" / "stacks.toml").read_text())
    folders = [root / "envs" / stack for stack in {*stacks, "uv"}]
    folders += [root / "tools" / tool for tool in {tool for stack in stacks for tool in spec[stack]["tools"]}]
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".md"]
    found += [root / "envs" / "install.py", root / "envs" / "stacks.toml"]
    return sorted(path.relative_to(root) for path in found if "__pycache__" not in path.parts)


def source_digest(root: Path, files: Sequence[Path]) -> str:
    """Return the SHA-256 over files below `root`, with their names."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path}\0".encode() + hashlib.sha256((root / path).read_bytes()).digest())
    return digest.hexdigest()


@lru_cache
def image_path(root: Path, image: str) -> Path:
    """Return where an image lies, below `root`; twelve digits of the digest of all its inputs are part of the name.

    Args:
        root: the project's folder.
        image: its name, that of its definition.
    """
    files = [Path("containers/base.def")]
    files += [definition(root, name).relative_to(root) for name in lineage(root, image)]
    files += source_files(root, stacks_of(root, image))
    return IMAGES / f"{image}-{source_digest(root, files)[:12]}.sif"
