"""Source `hf`: tasks in the published Parquet form, columns `path` and `task_binary` (tar.gz of a task folder).

`--input` names a Parquet file or a folder of them. The files of a task are taken byte for byte; only their packing is
this project's own. A tar whose files all lie in one folder is read as that folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from recipe_core.artifact import is_artifact
from recipe_core.errors import BadInput
from recipe_core.tasks import TaskFile, read_files
from source_tasks.given import (
    FAMILY,
    Given,
    files_below,
    input_digest,
    mark_repeats,
    must_exist,
    propose_folders,
)
from source_tasks.source import Candidate, Rejected

COLUMNS = ("path", "task_binary")

NO_ARCHIVE = "task_binary is null or no gzip file"
BAD_ARCHIVE = "task_binary is not a tar.gz of plain files inside the task folder"

_GZIP = b"\x1f\x8b"


def without_root(files: Mapping[str, TaskFile]) -> dict[str, TaskFile]:
    """Return the files below their one common folder, if they have one and no instruction lies above it.

    >>> sorted(without_root({"t/instruction.md": TaskFile(b""), "t/tests/test.sh": TaskFile(b"")}))
    ['instruction.md', 'tests/test.sh']
    """
    roots = {path.partition("/")[0] for path in files}
    if len(roots) != 1 or f"{next(iter(roots))}/instruction.md" not in files:
        return dict(files)
    return {path.partition("/")[2]: file for path, file in files.items()}


def unpack(binary: bytes | None) -> dict[str, TaskFile]:
    """Return the files of a packed task.

    Raises:
        Rejected: not a gzip-compressed tar of plain files inside the folder; the detail says what is wrong with it.
    """
    if binary is None or not binary.startswith(_GZIP):
        raise Rejected(NO_ARCHIVE)
    try:
        return without_root(read_files(binary))
    # ValueError is what tarfile lets through of numbers and names in a header that cannot be read.
    except (BadInput, ValueError) as error:
        raise Rejected(BAD_ARCHIVE, str(error)) from None


class HubTables:
    """Task tables on disk; the packed tasks of one split are kept in memory."""

    name: Literal["hf"] = "hf"

    def __init__(self, root: Path) -> None:
        must_exist(root, self.name, "a Parquet file or a folder of Parquet files")
        if root.is_dir() and is_artifact(root):
            raise BadInput(f"--input {root}: an artifact of this project; give the tasks.parquet in it")
        self.root = root
        self.tables = [root] if root.is_file() else [path for path in files_below(root) if path.suffix == ".parquet"]
        if not self.tables:
            raise BadInput(f"--input {root}: no .parquet file in it; source hf reads columns {', '.join(COLUMNS)}")

    def digest(self) -> str:
        """Return the digest over the Parquet files."""
        return input_digest(self.root, self.tables)

    def families(self) -> tuple[str, ...]:
        """Return the one kind of task there is."""
        return (FAMILY,)

    def _rows(self) -> Iterator[dict[str, Any]]:
        from recipe_core.records import read_rows

        for table in self.tables:
            yield from read_rows(table, COLUMNS)

    def generate(self, split: str, seed: int, families: tuple[str, ...]) -> Iterator[Candidate]:
        """Yield the rows of a split in an order drawn from the seed, whatever file they stand in.

        Raises:
            BadInput: a file is not Parquet, or lacks a column.
        """
        given = (
            Given(row["path"] or "", hashlib.sha256(binary or b"").hexdigest(), partial(unpack, binary))
            for row in self._rows()
            for binary in (row["task_binary"],)
        )
        return mark_repeats(propose_folders(self.name, given, split, seed))


def open_source(given: Path) -> HubTables:
    """Return the source; `given` is the Parquet file or folder."""
    return HubTables(given)
