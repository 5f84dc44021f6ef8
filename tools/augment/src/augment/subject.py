"""A task as this tool sees it: a row read, and a row made from it with another instruction."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recipe_core.errors import BadInput
from recipe_core.tasks import TaskFile, pack_files, read_files, task_id

INSTRUCTION = "instruction.md"
# Of a longer instruction no rewriting is wanted: it would fit no context, and its details could not be looked for.
MAX_INSTRUCTION_CHARS = 100_000
# What of tests and solutions a prompt shows, and what of them names are looked for in.
_MAX_SHOWN_CHARS = 12_000
_MAX_KNOWN_CHARS = 1_000_000


class Unusable(Exception):
    """A task that cannot be rewritten: a reason for rejects.parquet, and what exactly is wrong."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Subject:
    """A task to rewrite.

    Attributes:
        task_id: of the original.
        instruction: what its agent is told, without blanks at the ends.
        meta: the row's.
        files: the task folder; None for a question without an environment.
    """

    task_id: str
    instruction: str
    meta: Mapping[str, Any]
    files: Mapping[str, TaskFile] | None

    def shown(self, folder: str) -> str:
        """Return the text files below `tests` or `solution` for a prompt, named, and cut where they are long."""
        parts = [f"--- {path}\n{text.strip()}" for path, text in self._texts(folder)]
        text = "\n".join(parts)
        return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}\n[cut]"

    @property
    def script(self) -> str:
        """The reference solution's shell script, or the empty string."""
        return dict(self._texts("solution")).get("solution/solve.sh", "")

    @property
    def decided_by(self) -> str:
        """The text of tests and solution, as far as it is text."""
        texts = (text for folder in ("tests", "solution") for _, text in self._texts(folder))
        return "\n".join(texts)[:_MAX_KNOWN_CHARS]

    def _texts(self, folder: str) -> list[tuple[str, str]]:
        if self.files is None:
            # A question keeps its tests and its solution in meta, where it has any.
            text = self.meta.get(folder)
            return [(folder, text)] if isinstance(text, str) and text else []
        texts = []
        for path, file in sorted(self.files.items()):
            if path.startswith(f"{folder}/") and b"\0" not in file.content:
                try:
                    texts.append((path, file.content.decode()))
                except UnicodeDecodeError:
                    continue
        return texts


def read_subject(row: Mapping[str, Any]) -> Subject:
    """Read a task row.

    Bytes of an instruction that are not UTF-8 become U+FFFD, as in the row's `instruction` column.

    Raises:
        Unusable: `unreadable-task`, `unreadable-meta`, `no-instruction` or `too-long`.
    """
    files = _files(row["task_binary"]) if row["task_binary"] is not None else None
    if files is None:
        text = row["instruction"] or ""
    elif INSTRUCTION in files:
        text = files[INSTRUCTION].content.decode("utf-8", errors="replace")
    else:
        raise Unusable("no-instruction", f"{INSTRUCTION} is missing")
    if not text.strip():
        raise Unusable("no-instruction", "it is empty")
    if len(text) > MAX_INSTRUCTION_CHARS:
        raise Unusable("too-long", f"{len(text)} characters, the most is {MAX_INSTRUCTION_CHARS}")
    return Subject(row["task_id"], text.strip(), _meta(row["meta"]), files)


def _files(binary: bytes) -> dict[str, TaskFile]:
    try:
        files = read_files(binary)
        for path in files:
            tarfile.TarInfo(path).tobuf(tarfile.USTAR_FORMAT)
    except (BadInput, ValueError) as error:
        # A name that is too long for the packed form cannot be written again.
        raise Unusable("unreadable-task", " ".join(str(error).split())) from None
    return files


def _meta(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise Unusable("unreadable-meta", f"not JSON ({type(error).__name__})") from None
    if not isinstance(value, dict):
        raise Unusable("unreadable-meta", f"{type(value).__name__}, not a JSON object")
    return value


def _new_files(subject: Subject, text: str) -> dict[str, TaskFile]:
    return {**(subject.files or {}), INSTRUCTION: TaskFile(f"{text}\n".encode())}


def new_id(subject: Subject, text: str) -> str:
    """Return the id of a task with another instruction.

    A question without an environment has the id of a task folder that holds its instruction and nothing else.
    """
    return task_id(_new_files(subject, text))


def new_row(
    row: Mapping[str, Any], subject: Subject, text: str, *, method: str, copy: int, model: str
) -> dict[str, Any]:
    """Return a row with another instruction; every other column, and everything in `meta`, stays.

    `meta.augment` says where it comes from; that of a row which was itself augmented stands inside it as `before`.
    """
    lineage: dict[str, Any] = {"method": method, "from": subject.task_id, "copy": copy, "model": model}
    if "augment" in subject.meta:
        lineage["before"] = subject.meta["augment"]
    return {
        **row,
        "task_id": new_id(subject, text),
        "path": f"{row['path'] or subject.task_id}-{method}-{copy}",
        "task_binary": pack_files(_new_files(subject, text)) if subject.files is not None else None,
        "instruction": text,
        "meta": _json({**subject.meta, "augment": lineage}),
    }


def _json(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, sort_keys=True)
    return text
