"""Folders of a repository of the hub at one commit: fetched with a network, checked by every step that reads them.

`fetched.json` says what was fetched: of each path the SHA-256 and the bytes. It is written last: without it a folder is
not whole.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from glob import escape
from pathlib import Path
from typing import Any

from recipe_core.artifact import canonical_json, file_entry, write_atomically
from recipe_core.errors import BadInput

LISTING = "fetched.json"
# The second is what Snakemake leaves in a folder that a rule makes.
_BESIDE = {LISTING, ".snakemake_timestamp"}
_PART = ".fetched.part"
# What finished a folder before there were listings.
_OLD_MARK = ".complete"

Listing = Mapping[str, Mapping[str, Any]]


def check_fetched(folder: Path, command: str) -> list[str]:
    """Return the paths of a fetched folder's files, in order, after reading them all.

    Args:
        folder: where :func:`fetch_folder` or :func:`copy_fetched` put them.
        command: what fetches them again, for errors.

    Raises:
        BadInput: no listing, a file that is missing or not the one that was fetched, or one that was not fetched.
    """
    listing = _read_listing(folder)
    if listing is None:
        raise BadInput(
            f"{folder / LISTING}: missing, or no list of what was fetched, so the folder is not whole; run `{command}`"
        )
    for name, entry in listing.items():
        if fault := _fault(folder / name, entry):
            raise BadInput(f"{folder / name}: {fault}; run `{command}` to fetch it again")
    _refuse_unlisted(folder, listing)
    return sorted(listing)


def check_data(path: Path) -> None:
    """Check what a user names as data where it is a folder that was fetched; others have no listing.

    Raises:
        BadInput: as :func:`check_fetched`.
    """
    if (path / LISTING).is_file():
        name = path.resolve().name
        # In the cache a folder has the name of its repository, which is not the one that it is fetched by.
        check_fetched(path, f"source-tasks fetch {'NAME' if '@' in name else name} --out {path}")


def fetch_folder(folder: Path, repo: str, revision: str, patterns: Sequence[str], *, repo_type: str = "model") -> bool:
    """Bring files of a repository into a folder; return whether one was missing or not the one that was fetched.

    Needs the package `huggingface_hub`. Files that are as they were fetched are not downloaded again.

    Args:
        folder: where they go.
        repo: `OWNER/NAME`.
        revision: a commit.
        patterns: shell patterns of their paths.
        repo_type: `model` or `dataset`.

    Raises:
        BadInput: the hub cannot be reached, or does not have it; the folder holds a file that is not of it.
    """
    before = _read_listing(folder)
    wrong = {name for name, entry in (before or {}).items() if _fault(folder / name, entry)}
    if before is not None:
        _refuse_unlisted(folder, before)
        if not wrong:
            return False
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HTTPError
    from huggingface_hub.utils import disable_progress_bars, filter_repo_objects, logging

    # What fails is said once, below; the client would say it for every try.
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        disable_progress_bars()
    where = f"{repo}@{revision}"
    try:
        # Without a network the client takes what lies in the folder for all there is; this says what has to be there.
        found = HfApi().list_repo_files(repo, revision=revision, repo_type=repo_type)
        names = sorted(filter_repo_objects(found, allow_patterns=[*patterns]))
        if LISTING in names:
            raise BadInput(f"{where}: has a {LISTING} of its own, where the list of what was fetched has to be")
        for name in (LISTING, _OLD_MARK, *wrong.intersection(names)):
            (folder / name).unlink(missing_ok=True)
        snapshot_download(
            repo,
            repo_type=repo_type,
            revision=revision,
            local_dir=folder,
            allow_patterns=[*patterns],
            ignore_patterns=[escape(name) for name in before or {} if name not in wrong],
        )
        shutil.rmtree(folder / ".cache", ignore_errors=True)
        listing = {name: file_entry(folder / name) for name in names}
    except HfHubHTTPError as error:
        raise BadInput(f"{where}: the hub does not give it ({first_line(error)})") from None
    except (HTTPError, OSError) as error:
        reason = first_line(error)
        raise BadInput(f"{where}: the hub cannot be reached ({reason}); what came is kept: run it again") from None
    _refuse_unlisted(folder, listing)
    write_atomically(folder / LISTING, canonical_json(listing))
    return True


def copy_fetched(folder: Path, out: Path) -> None:
    """Put what :func:`fetch_folder` brought into another folder too, its listing last; linked where that can be.

    Raises:
        BadInput: a file is in the folder's place, or one in it is not of what was fetched.
    """
    if out.exists() and not out.is_dir():
        raise BadInput(f"--out {out}: a file is in the folder's place; give another")
    listing, before = _read_listing(folder) or {}, _read_listing(out)
    # Another commit may have other files.
    for name in (before or {}).keys() - listing.keys():
        (out / name).unlink(missing_ok=True)
    _refuse_unlisted(out, listing)
    for name, entry in listing.items():
        target = out / name
        if fault := _fault(target, entry):
            if target.exists() and before is None:
                raise BadInput(f"{target}: {fault}; delete it, or give another --out")
            target.unlink(missing_ok=True)
            link_or_copy(folder / name, target)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / LISTING, canonical_json(listing))


def link_or_copy(path: Path, target: Path) -> None:
    """Make a file appear at another place, which is free, without a second copy of it where the file system can."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, target)
    except OSError:
        # Under another name first: a copy that is cut off must not look like the file.
        part = target.with_name(f"{target.name}{_PART}")
        shutil.copyfile(path, part)
        part.replace(target)


def _read_listing(folder: Path) -> Listing | None:
    """Return what `fetched.json` says, or None where it is missing or says nothing that can be used."""
    try:
        found = json.loads((folder / LISTING).read_bytes())
        return {name: {"bytes": int(entry["bytes"]), "sha256": str(entry["sha256"])} for name, entry in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _fault(path: Path, entry: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a file; one of another size is not read."""
    if not path.is_file():
        return f"missing, expected {entry['bytes']} bytes"
    if (size := path.stat().st_size) != entry["bytes"]:
        return f"{size} bytes, expected {entry['bytes']}"
    if (digest := file_entry(path)["sha256"]) != entry["sha256"]:
        return f"its SHA-256 is {digest[:16]}…, expected {entry['sha256'][:16]}…"
    return None


def _refuse_unlisted(folder: Path, listing: Listing) -> None:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        known = name in listing or name in _BESIDE or name.removesuffix(_PART) in listing
        if not known and (path.is_symlink() or not path.is_dir()):
            raise BadInput(f"{path}: was not fetched, expected only what {folder / LISTING} names; delete this file")


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, or its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
