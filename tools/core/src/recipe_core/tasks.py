"""Harbor task folders as bytes: pack, unpack, name, check.

A task is a small set of files (`instruction.md`, `task.toml`, `environment/`, `tests/`, `solution/`). Packed, it is a
deterministic tar.gz: the same files give the same bytes on every machine.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from recipe_core.errors import BadInput

REQUIRED_FILES = ("instruction.md", "task.toml", "tests/test.sh")
# A task folder holds text and small fixtures; a member beyond this is a decompression bomb or a mistake.
MAX_UNPACKED_BYTES = 256 * 1024 * 1024


class TaskFile(NamedTuple):
    """One regular file: its bytes and its permission bits."""

    content: bytes
    mode: int = 0o644


def _normal_mode(mode: int) -> int:
    # Only the executable bit is part of a task: umask and the user who unpacked it must not change its digest.
    return 0o755 if mode & 0o100 else 0o644


def task_id(files: Mapping[str, TaskFile]) -> str:
    """Return the task's name: 16 hex digits of the SHA-256 over its sorted paths, executable bits and contents."""
    digest = hashlib.sha256()
    for path in sorted(files):
        content, mode = files[path]
        digest.update(f"{path}\0{_normal_mode(mode):o}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def pack_files(files: Mapping[str, TaskFile]) -> bytes:
    """Pack files into a tar.gz whose bytes depend on paths, executable bits and contents alone."""
    tar_bytes = io.BytesIO()
    with tarfile.open(fileobj=tar_bytes, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(files):
            content, mode = files[path]
            member = tarfile.TarInfo(path)
            member.size = len(content)
            member.mode = _normal_mode(mode)
            tar.addfile(member, io.BytesIO(content))
    packed = io.BytesIO()
    # zlib implementations differ in what they compress to; stored blocks are the same everywhere (Parquet compresses).
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=0, mtime=0, filename="") as stream:
        stream.write(tar_bytes.getvalue())
    return packed.getvalue()


def pack_folder(folder: Path) -> bytes:
    """Pack a task folder from disk; links inside it are refused."""
    return pack_files(read_folder(folder))


def read_folder(folder: Path) -> dict[str, TaskFile]:
    """Read a task folder from disk into memory.

    Raises:
        BadInput: the folder is absent, or holds a link or a special file.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such task folder")
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise BadInput(f"{path}: a task folder may hold only plain files and folders; replace the link by its file")
        if path.is_file():
            files[path.relative_to(folder).as_posix()] = TaskFile(path.read_bytes(), path.stat().st_mode)
    return files


def _safe_member_path(name: str, where: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise BadInput(f"{where}: member {name!r} leaves the task folder; expected relative paths without '..'")
    return path.as_posix()


def read_files(binary: bytes, where: str = "task_binary") -> dict[str, TaskFile]:
    """Read a packed task into memory without touching the disk.

    Args:
        binary: a tar archive, gzip-compressed or plain.
        where: what to call it in an error (file and row).

    Raises:
        BadInput: not a tar archive, truncated, too large, or holding anything but plain files and folders inside it.
    """
    files: dict[str, TaskFile] = {}
    total = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(binary), mode="r:*") as tar:
            for member in tar:
                path = _safe_member_path(member.name, where)
                if member.isdir():
                    continue
                if not member.isreg():
                    raise BadInput(f"{where}: member {member.name!r} is a link or device; only plain files are allowed")
                total += member.size
                if total > MAX_UNPACKED_BYTES:
                    raise BadInput(f"{where}: unpacks to more than {MAX_UNPACKED_BYTES} bytes; not a task folder")
                if path in files:
                    raise BadInput(f"{where}: member {path!r} occurs twice; repack the task folder")
                stream = tar.extractfile(member)
                assert stream is not None  # a regular member always has a stream
                files[path] = TaskFile(stream.read(), _normal_mode(member.mode))
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise BadInput(f"{where}: not a readable tar.gz of a task folder ({error}); fetch or rebuild it") from None
    return files


def unpack(binary: bytes, destination: Path, where: str = "task_binary") -> None:
    """Write a packed task below `destination`, which is created; see :func:`read_files` for what is refused."""
    for path, (content, mode) in read_files(binary, where).items():
        target = destination / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(mode)


def check_task(files: Mapping[str, TaskFile], where: str) -> None:
    """Raise BadInput when a file that every task needs is missing or empty."""
    for name in REQUIRED_FILES:
        if name not in files:
            role = "verifier" if name == "tests/test.sh" else name
            raise BadInput(f"{where}: the task has no {role} ({name} is missing); add it or drop the task")
    if not files["instruction.md"].content.strip():
        raise BadInput(f"{where}: instruction.md is empty; write what the agent is to do")


def _meta(row: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        found = json.loads(row.get("meta") or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def is_verifiable(row: Mapping[str, Any]) -> bool:
    """Tell whether a task's verifier can say anything; `source-tasks` marks those of which it cannot."""
    return _meta(row).get("verifiable") is not False


def check_runnable(row: Mapping[str, Any], where: str, *, verdict: bool) -> None:
    """Check that an agent can work on a row of a tasks artifact.

    Args:
        row: the row, with at least `task_binary` and `meta`.
        where: its task, for errors.
        verdict: whether the verifier's verdict is needed.

    Raises:
        BadInput: a question without an environment, a task in a container image, or one that nothing can verify.
    """
    if row.get("task_binary") is None:
        raise BadInput(f"{where}: a question, which has no environment to work in; sample answers to it with `answers`")
    if image := _meta(row).get("image"):
        raise BadInput(f"{where}: works in the container image {image}, which no sandbox has; leave its source out")
    if verdict and not is_verifiable(row):
        raise BadInput(f"{where}: nothing verifies it, so it has no reward; use it in rollouts for fine-tuning alone")


def task_row(
    files: Mapping[str, TaskFile], *, path: str, source: str, licence: str, origin: str, meta: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a row of `records.TASK_SCHEMA` for one task."""
    check_task(files, path)
    return {
        "task_id": task_id(files),
        "path": path,
        "task_binary": pack_files(files),
        "source": source,
        "instruction": files["instruction.md"].content.decode("utf-8", errors="replace").strip(),
        "licence": licence,
        "origin": origin,
        "meta": json.dumps(meta, sort_keys=True, ensure_ascii=False),
    }
