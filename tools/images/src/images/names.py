"""What an image is made from, and the name that follows from it: an image of other inputs has another name.

Snakemake knows an image by its path alone, so a path should never stand for two contents. The one input that the name
does not tell is the base's root file system: which one was taken `images.lock` says, what came of it the `.files`.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from recipe_core.errors import BadInput

IMAGES = Path("images")
# Where the project stands in every image.
HOME = "/opt/agent-recipes"
# An image of this name is made by the definition of the name without it, of those stacks that have a build for GPUs.
CUDA = "-cuda"


def definition(root: Path, image: str) -> Path:
    """Return the definition of an image.

    Raises:
        BadInput: there is none of that name.
    """
    path = root / "containers" / f"{image.removesuffix(CUDA)}.def"
    if image not in (names := every_image(root)):
        raise BadInput(f"no image {image!r}: containers/ defines {', '.join(names)}")
    return path


@lru_cache
def all_images(root: Path, *, cuda: bool = False) -> list[str]:
    """Return the names of all images but the base: those for CPUs, or those for GPUs."""
    names = sorted(path.stem for path in (root / "containers").glob("*.def") if path.stem != "base")
    if not cuda:
        return names
    return [
        name + CUDA for name in names if any(own_stack(root, each + CUDA).endswith(CUDA) for each in _below(root, name))
    ]


def every_image(root: Path) -> list[str]:
    """Return the names of all images, for CPUs and for GPUs."""
    return [*all_images(root), *all_images(root, cuda=True)]


def for_gpus(root: Path, image: str) -> str:
    """Return the image that stands for this one where there are GPUs; the same where none of its stacks uses them."""
    return image + CUDA if image + CUDA in all_images(root, cuda=True) else image


@lru_cache
def _spec(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "envs" / "stacks.toml").read_text())


def _argument(root: Path, image: str, name: str) -> str | None:
    text = (root / "containers" / f"{image}.def").read_text()
    arguments = re.search(r"^%arguments\n((?: .*\n|\n)*)", text, re.MULTILINE)
    found = re.search(rf"^ *{name}=(\S+)$", arguments[1], re.MULTILINE) if arguments else None
    return found[1] if found else None


def _below(root: Path, image: str, above: tuple[str, ...] = ()) -> list[str]:
    below = _argument(root, image, "on")
    if below is None:
        return [image]
    chain = (*above, image)
    if below not in all_images(root) or below in chain:
        raise BadInput(f"containers/{image}.def: on={below}: no image that it can stand on")
    return [*_below(root, below, chain), image]


def own_stack(root: Path, image: str) -> str:
    """Return the stack that an image adds to what it stands on: the argument `stack` of its definition."""
    name = image.removesuffix(CUDA)
    stack = _argument(root, name, "stack")
    if not stack:
        raise BadInput(f"containers/{name}.def: expected a line such as stack=data below %arguments")
    return stack + CUDA if image.endswith(CUDA) and stack + CUDA in _spec(root) else stack


def lineage(root: Path, image: str) -> list[str]:
    """Return an image and those it stands on, the lowest first, as the argument `on` of each definition names them."""
    definition(root, image)
    below = _below(root, image.removesuffix(CUDA))
    return [for_gpus(root, name) for name in below] if image.endswith(CUDA) else below


def stacks_of(root: Path, image: str) -> list[str]:
    """Return the stacks that an image holds, its own first, then those of the images below it."""
    return [own_stack(root, name) for name in reversed(lineage(root, image))]


def source_files(root: Path, stacks: Sequence[str]) -> list[Path]:
    """Return what is copied into an image of these stacks, below `root`: locks, the installer, the stacks' tools."""
    spec = _spec(root)
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


def is_built(root: Path, image: str) -> bool:
    """Tell whether an image's file is there."""
    return (root / image_path(root, image)).is_file()
