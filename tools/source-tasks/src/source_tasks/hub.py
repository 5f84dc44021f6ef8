"""Data sets of the hub, each pinned by the commit of its repository in `sources.lock.json`.

A revision that is not in the file is not known: `pin` asks the hub for the present one and writes it, `fetch` brings
the data set of the pinned one into the cache.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from recipe_core.artifact import canonical_json, write_atomically
from recipe_core.errors import BadInput
from recipe_core.fetched import fetch_folder, first_line

LOCK_FILE = "sources.lock.json"
ORIGIN = "hub:"

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NOTICES = ("README.md", "LICENSE*")


def lock_path() -> Path:
    """Return the lock file of this package."""
    return Path(str(package_files("source_tasks").joinpath(LOCK_FILE)))


def read_lock(path: Path) -> dict[str, str]:
    """Return the pinned revision of each source by name; a file that is not there pins none.

    Raises:
        BadInput: it is not what :func:`pin` writes.
    """
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise TypeError
        for name, revision in found.items():
            if not isinstance(revision, str) or not _COMMIT.fullmatch(revision):
                raise BadInput(f"{path}: {name}: expected a commit of 40 hexadecimal digits; pin the source again")
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError):
        raise BadInput(f"{path}: not a JSON object of source names and commits; restore it") from None
    return found


def repository(origin: str) -> str | None:
    """Return `OWNER/NAME` of an origin `hub:OWNER/NAME`, or None where the origin is no repository of the hub."""
    return origin.removeprefix(ORIGIN) if origin.startswith(ORIGIN) else None


def resolve(repo: str) -> str:
    """Return the commit that the hub's data set is at now.

    Raises:
        BadInput: the hub cannot be reached, or has no such data set.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    try:
        found = HfApi().dataset_info(repo, timeout=30).sha
    except HfHubHTTPError as error:
        raise BadInput(f"{repo}: the hub does not give it ({first_line(error)})") from None
    except (HTTPError, OfflineModeIsEnabled, OSError) as error:
        raise BadInput(f"{repo}: the hub cannot be reached ({first_line(error)}); pin it where a network is") from None
    if found is None or not _COMMIT.fullmatch(found):
        raise BadInput(f"{repo}: the hub names no commit of it")
    return found


def pin(name: str, repo: str, lock: Path) -> str:
    """Write the present revision of a data set into the lock file and return it; errors as in :func:`resolve`."""
    known = read_lock(lock)
    known[name] = resolve(repo)
    write_atomically(lock, canonical_json(known))
    return known[name]


def folder(cache: Path, repo: str, revision: str) -> Path:
    """Return where a data set lies in a cache."""
    return cache / "hub-datasets" / f"{repo.replace('/', '--')}@{revision}"


def fetch(repo: str, revision: str, cache: Path, files: Sequence[str]) -> bool:
    """Bring a data set into the cache; return whether it was not there, or not as it was fetched.

    Args:
        repo: `OWNER/NAME`.
        revision: a commit.
        cache: where it goes, below `hub-datasets`.
        files: shell patterns of the data files; what says under which licence they come is brought too.

    Raises:
        BadInput: see :func:`recipe_core.fetched.fetch_folder`.
    """
    return fetch_folder(folder(cache, repo, revision), repo, revision, [*files, *_NOTICES], repo_type="dataset")
