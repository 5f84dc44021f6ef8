"""Models of the hub, pinned by the commit of their repository."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

from recipe_core.errors import BadInput
from recipe_core.fetched import check_fetched, fetch_folder, link_or_copy

# What a model needs to be trained and served: weights, tokenizer and configuration, and the licence they come under.
_PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "LICENSE*"]


@dataclass(frozen=True)
class HubModel:
    """A repository `OWNER/NAME` at a commit of 40 hexadecimal digits."""

    repo: str
    revision: str

    def folder(self, cache: Path) -> Path:
        """Return where it lies in a cache."""
        return cache / "hub" / f"{self.repo.replace('/', '--')}@{self.revision}"

    def fetch_command(self, cache: Path) -> str:
        """Return what brings it into a cache, for errors."""
        return f"init-model fetch --hub {self.repo} --revision {self.revision} --cache {cache}"


def fetch_hub_model(model: HubModel, cache: Path) -> bool:
    """Bring a model into the cache; return whether it was not there, or not as it was fetched.

    Raises:
        BadInput: see :func:`recipe_core.fetched.fetch_folder`.
    """
    return fetch_folder(model.folder(cache), model.repo, model.revision, _PATTERNS)


def write_hub_model(model: HubModel, cache: Path, out: Path) -> int:
    """Write a cached model as an artifact's files; return the number of parameters.

    The files are linked where the file system can, since a large model would double its disk.

    Raises:
        BadInput: it is not in the cache, is not as it was fetched, or holds no weights in safetensors.
    """
    folder = model.folder(cache)
    names = check_fetched(folder, model.fetch_command(cache))
    files = [folder / name for name in names if "/" not in name]
    weights = [path for path in files if path.suffix == ".safetensors"]
    if not weights or not (folder / "config.json").is_file():
        raise BadInput(f"{folder}: no config.json or no .safetensors file; this is no model that can be trained")
    for path in files:
        link_or_copy(path, out / path.name)
    return sum(parameters(path) for path in weights)


def parameters(path: Path) -> int:
    """Return how many numbers a safetensors file holds, from its header.

    Raises:
        BadInput: it is none.
    """
    with path.open("rb") as stream:
        try:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length) if length < 2**30 else b"")
            return sum(prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
        except (struct.error, ValueError, KeyError, TypeError):
            raise BadInput(f"{path}: truncated or not a safetensors file; fetch the model again") from None
