"""Source `folder`: a directory of Harbor task folders, one task each.

`--input` names a directory whose direct subfolders are task folders; plain files and hidden folders beside them are
left alone. A task without `solution/solve.sh` is kept if doing nothing scores 0; its `meta` says `"solution": false`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from recipe_core.errors import BadInput
from source_tasks.given import (
    FAMILY,
    Given,
    files_below,
    input_digest,
    mark_repeats,
    must_exist,
    propose_folders,
    read_task_folder,
)
from source_tasks.source import Candidate


class Folder:
    """Task folders on disk."""

    name: Literal["folder"] = "folder"

    def __init__(self, root: Path) -> None:
        must_exist(root, self.name, "a directory of task folders")
        if not root.is_dir():
            raise BadInput(f"--input {root}: a file; source folder reads a directory of task folders")
        if (root / "task.toml").is_file():
            raise BadInput(f"--input {root}: itself a task folder; give the directory that holds it")
        self.root = root
        self.folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        if not self.folders:
            raise BadInput(f"--input {root}: no folder in it; source folder reads one task from each subfolder")

    def digest(self) -> str:
        """Return the digest over all task folders."""
        links = [folder for folder in self.folders if folder.is_symlink()]
        folders = [folder for folder in self.folders if not folder.is_symlink()]
        return input_digest(self.root, [*links, *(path for folder in folders for path in files_below(folder))])

    def families(self) -> tuple[str, ...]:
        """Return the one kind of task there is."""
        return (FAMILY,)

    def generate(self, split: str, seed: int, families: tuple[str, ...]) -> Iterator[Candidate]:
        """Yield the task folders of a split in an order drawn from the seed."""
        given = (Given(folder.name, "", partial(read_task_folder, folder)) for folder in self.folders)
        return mark_repeats(propose_folders(self.name, given, split, seed))


def open_source(given: Path) -> Folder:
    """Return the source; `given` is the directory."""
    return Folder(given)
