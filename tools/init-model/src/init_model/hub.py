"""Models of the hub, pinned by the commit of their repository."""

from __future__ import annotations

import json
import os
import shutil
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

from recipe_core.errors import BadInput

# What a model needs to be trained and served: weights, tokenizer and configuration, and the licence they come under.
_PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "LICENSE*"]
_COMPLETE = ".complete"


@dataclass(frozen=True)
class HubModel:
    """A repository `OWNER/NAME` at a commit of 40 hexadecimal digits."""

    repo: str
    revision: str

    def folder(self, cache: Path) -> Path:
        """Return where it lies in a cache."""
        return cache / "hub" / f"{self.repo.replace('/', '--')}@{self.revision}"

    def is_cached(self, cache: Path) -> bool:
        """Tell whether all of it lies there."""
        return (self.folder(cache) / _COMPLETE).is_file()


def fetch_hub_model(model: HubModel, cache: Path) -> bool:
    """Bring a model into the cache; return whether it was not there.

    Raises:
        BadInput: the hub cannot be reached, or does not have it.
    """
    if model.is_cached(cache):
        return False
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    folder = model.folder(cache)
    try:
        snapshot_download(model.repo, revision=model.revision, local_dir=folder, allow_patterns=_PATTERNS)
    except HfHubHTTPError as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"{model.repo}@{model.revision}: the hub does not give it ({reason})") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(
            f"{model.repo}@{model.revision}: the hub cannot be reached ({reason}); what came is kept: run it again"
        ) from None
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    (folder / _COMPLETE).touch()
    return True


def write_hub_model(model: HubModel, cache: Path, out: Path) -> int:
    """Write a cached model as an artifact's files; return the number of parameters.

    The files are linked where the file system can, since a large model would double its disk.

    Raises:
        BadInput: it is not in the cache, or holds no weights in safetensors.
    """
    folder = model.folder(cache)
    if not model.is_cached(cache):
        raise BadInput(
            f"{folder}: {model.repo} is not in the cache; "
            f"run `init-model fetch --hub {model.repo} --revision {model.revision} --cache {cache}`"
        )
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name != _COMPLETE]
    weights = [path for path in files if path.suffix == ".safetensors"]
    if not weights or not (folder / "config.json").is_file():
        raise BadInput(f"{folder}: no config.json or no .safetensors file; this is no model that can be trained")
    out.mkdir(parents=True, exist_ok=True)
    for path in files:
        try:
            os.link(path, out / path.name)
        except OSError:
            shutil.copyfile(path, out / path.name)
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
