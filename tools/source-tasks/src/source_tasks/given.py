"""What the sources of given data share: the digest of the input, the checks of foreign task folders, order and repeats.

Given data is a file or folder that the user obtained and names with `--input`. Rows are drawn in an order that follows
from the seed and their own content, so that neither the order of a file's rows nor their division into files matters.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from recipe_core.artifact import file_digest
from recipe_core.errors import BadInput
from recipe_core.seeds import row_seed
from recipe_core.tasks import TaskFile
from recipe_core.text import normalise
from source_tasks.heldout import in_split, split_of
from source_tasks.source import Candidate, Rejected, identity

# A sandbox holds 512 MiB of files, and all of them lie in memory.
MAX_FILE_BYTES = 16 * 1024 * 1024
MAX_TASK_BYTES = 64 * 1024 * 1024

FAMILY = "task"
UNKNOWN_LICENCE = "unknown"

NO_VERIFIER = "the task has no verifier (tests/test.sh)"
NO_INSTRUCTION = "instruction.md is missing, empty or not UTF-8 text"
BAD_SETTINGS = "task.toml is missing, cannot be read, or has a time limit that is no number above 0"
OVERSIZE = "a file is larger than 16 MiB, or all of them together are larger than 64 MiB"
BAD_PATH = "a path leaves the folder, stands for two things, or cannot be packed"
LINK = "a link or a special file; a task holds plain files"
REPEATED = "the same task as another one of the input"


def must_exist(path: Path, source: str, expected: str) -> None:
    """Raise BadInput where nothing lies at the path that `--input` gives."""
    if not path.exists():
        raise BadInput(f"--input {path}: no such file or folder; source {source} reads {expected}")


def files_below(folder: Path) -> list[Path]:
    """Return everything below a folder but folders, in the order of paths; links are listed, not followed.

    Raises:
        OSError: a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    found = []
    for where, folders, names in os.walk(folder, onerror=fail):
        found += [Path(where, name) for name in names]
        found += [Path(where, name) for name in folders if Path(where, name).is_symlink()]
    return sorted(found)


def input_digest(root: Path, files: Iterable[Path]) -> str:
    """Return `sha256:...` of a single file (what `sha256sum` prints), or over the files below a folder.

    Of a folder it covers paths, executable bits and contents; of a link its target, of a special file its path.
    """
    if root.is_file():
        return f"sha256:{file_digest(root)}"
    digest = hashlib.sha256()
    for path in sorted(files):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            kind, content = "link", hashlib.sha256(os.fsencode(path.readlink())).hexdigest()
        elif stat.S_ISREG(mode):
            kind, content = ("program" if mode & 0o100 else "file"), file_digest(path)
        else:
            kind, content = "special", ""
        digest.update(f"{kind} {content} ".encode() + os.fsencode(path.relative_to(root).as_posix()) + b"\n")
    return f"sha256:{digest.hexdigest()}"


def read_task_folder(folder: Path) -> dict[str, TaskFile]:
    """Read a task folder that somebody else made.

    Raises:
        Rejected: it holds a link or a special file, or is too large.
    """
    if folder.is_symlink():
        raise Rejected(LINK, folder.name)
    files: dict[str, TaskFile] = {}
    total = 0
    for path in files_below(folder):
        name = path.relative_to(folder).as_posix()
        state = path.lstat()
        if not stat.S_ISREG(state.st_mode):
            raise Rejected(LINK, _shown(name))
        total += state.st_size
        if state.st_size > MAX_FILE_BYTES or total > MAX_TASK_BYTES:
            raise Rejected(OVERSIZE, _shown(name))
        files[name] = TaskFile(path.read_bytes(), 0o755 if state.st_mode & 0o100 else 0o644)
    return files


def _shown(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode()


def bad_path(paths: Iterable[str]) -> str | None:
    """Return the first path that is not a plain relative one, cannot be packed, or is a file and a folder at once.

    >>> bad_path(["a/b.txt", "a"])
    'a'
    >>> bad_path(["a/b.txt", "c"]) is None
    True
    """
    names = sorted(paths)
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    for name in names:
        path = PurePosixPath(name)
        plain = name == path.as_posix() and not path.is_absolute() and ".." not in path.parts
        # The tar format of a packed task keeps 100 bytes for a name and 155 for the folder before it.
        packs = len(os.fsencode(path.name)) <= 100 and len(os.fsencode(str(path.parent))) <= 155
        if not plain or not packs or name in folders or "\\" in name or not name.isprintable():
            return _shown(name)
    return None


def too_large(files: Mapping[str, TaskFile]) -> bool:
    """Tell whether a file, or all of them together, are larger than a task may be."""
    sizes = [len(file.content) for file in files.values()]
    return max(sizes, default=0) > MAX_FILE_BYTES or sum(sizes) > MAX_TASK_BYTES


def settings(files: Mapping[str, TaskFile]) -> dict[str, Any]:
    """Return the content of `task.toml`.

    Raises:
        Rejected: it is missing, cannot be read, or has a time limit that is no number above 0.
    """
    try:
        found = tomllib.loads(files["task.toml"].content.decode())
        for table in ("agent", "verifier"):
            seconds = float(found.get(table, {}).get("timeout_sec", 1.0))
            if not (math.isfinite(seconds) and seconds > 0):
                raise Rejected(BAD_SETTINGS, f"{table}.timeout_sec is {seconds:g}")
    except (KeyError, ValueError, TypeError, AttributeError):
        raise Rejected(BAD_SETTINGS) from None
    return found


def check_foreign(files: Mapping[str, TaskFile]) -> None:
    """Check a task folder that somebody else made, as far as that goes without running it.

    Raises:
        Rejected: something that every task needs is missing or cannot be used.
    """
    if (wrong := bad_path(files)) is not None:
        raise Rejected(BAD_PATH, wrong)
    if too_large(files):
        raise Rejected(OVERSIZE)
    if "tests/test.sh" not in files:
        raise Rejected(NO_VERIFIER)
    if instruction_of(files) is None:
        raise Rejected(NO_INSTRUCTION)
    settings(files)


def instruction_of(files: Mapping[str, TaskFile]) -> str | None:
    """Return the instruction, or None where there is none that can be read."""
    try:
        return files["instruction.md"].content.decode().strip() or None
    except (KeyError, UnicodeDecodeError):
        return None


def instruction_key(instruction: str) -> str:
    """Return the held-out key of a request: the same for every way to set it in blanks and in upper or lower case.

    >>> instruction_key("Sort  it.") == instruction_key("sort it.")
    True
    """
    return f"instruction:{hashlib.sha256(normalise(instruction).encode()).hexdigest()[:32]}"


def licence_of(files: Mapping[str, TaskFile]) -> str:
    """Return the licence that `[metadata]` in a checked task's `task.toml` names, or `unknown`."""
    metadata = settings(files).get("metadata", {})
    found = [metadata.get(name) for name in ("licence", "license")] if isinstance(metadata, dict) else []
    return next((value for value in found if isinstance(value, str) and value.strip()), UNKNOWN_LICENCE)


def is_verifiable(files: Mapping[str, TaskFile]) -> bool:
    """Tell whether a checked task can be verified: `[metadata] verifiable = false` in its `task.toml` says no."""
    metadata = settings(files).get("metadata", {})
    return not (isinstance(metadata, dict) and metadata.get("verifiable") is False)


class Given(NamedTuple):
    """One task folder of the input that is not read yet."""

    name: str
    """What the input calls it."""
    mark: str
    """Tells apart what has the same name and the same instruction; follows from the content."""
    read: Callable[[], dict[str, TaskFile]]
    """Returns the files, or raises :class:`Rejected`."""


def propose_folders(source: str, given: Iterable[Given], split: str, seed: int) -> Iterator[Candidate]:
    """Yield the task folders of one split in an order drawn from the seed, those that are none with the reason.

    The held-out key is the instruction, so one request never stands on both sides; what has none goes by its name.
    """
    drawn = []
    for item in given:
        try:
            instruction = instruction_of(item.read())
        except Rejected:
            instruction = None
        key = instruction_key(instruction) if instruction else f"name:{_shown(item.name)}"
        if in_split(key, split):
            drawn.append((row_seed(seed, source, split, key), item.name, item.mark, key, item.read))
    for _, name, _, key, read in sorted(drawn, key=lambda entry: entry[:3]):
        meta: dict[str, Any] = {
            "family": FAMILY,
            "parameters": {"name": _shown(name)},
            "split": split,
            "held_out": [key],
        }
        origin = f"{source}: {_shown(name)}"
        files: dict[str, TaskFile] = {}
        try:
            files = read()
            check_foreign(files)
        except Rejected as reason:
            # What cannot be packed, or is too large to be, is not carried along.
            files = {} if str(reason) in (BAD_PATH, OVERSIZE) else files
            meta |= {"detail": reason.detail} if reason.detail else {}
            yield Candidate(FAMILY, files, UNKNOWN_LICENCE, origin, meta, reason=str(reason))
            continue
        meta["solution"] = "solution/solve.sh" in files
        verifiable = is_verifiable(files)
        meta |= {} if verifiable else {"verifiable": False}
        yield Candidate(FAMILY, files, licence_of(files), origin, meta, foreign=True, validate=verifiable)


def mark_repeats(candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    """Yield candidates; one that is the same task as an earlier one that was not rejected is rejected."""
    seen: set[str] = set()
    for candidate in candidates:
        name = identity(candidate)
        if candidate.reason is None and name in seen:
            yield replace(candidate, reason=REPEATED, refine=None)
            continue
        if candidate.reason is None:
            seen.add(name)
        yield candidate


def on_both_sides(pairs: Iterable[tuple[str, str]]) -> set[str]:
    """Return every second value that stands beside first values of both splits.

    Where something has two held-out keys, the first decides the split; what this returns belongs to neither.

    >>> on_both_sides([("b", "x"), ("c", "x"), ("c", "y")]) <= {"x"}
    True
    """
    splits: dict[str, set[str]] = {}
    for first, second in pairs:
        splits.setdefault(second, set()).add(split_of(first))
    return {second for second, found in splits.items() if len(found) > 1}
