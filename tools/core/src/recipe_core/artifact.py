"""Artifacts: folders that say what they are.

An artifact holds data files and two descriptions of itself:

- `manifest.json` is deterministic: stage, parameters, seed, digests of the inputs, of the tool's source, of the stack's
  lock and of every data file, row counts, drops by reason, tier. The artifact's digest is the digest of this file.
- `provenance.json` is not: when, where, how long, with how much memory.

A writer fills a private folder beside the artifact's place and renames it when everything is there, so an artifact is
either whole or absent.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.util
import json
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from recipe_core.errors import BadInput

MANIFEST = "manifest.json"
PROVENANCE = "provenance.json"
_FINGERPRINT = "fingerprint.json"
TIERS = ("T0", "T1", "T2")
# What readers of a manifest count on.
_KEYS = {"stage": str, "tier": str, "seed": int, "parameters": dict, "dropped": dict}


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_entry(path: Path) -> dict[str, Any]:
    """Return what lists say of a file: its SHA-256 and its size in bytes."""
    return {"sha256": file_digest(path), "bytes": path.stat().st_size}


def canonical_json(value: Any) -> str:
    """Return JSON whose bytes depend on the value alone: sorted keys, two-space indent, final newline."""
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def value_digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def source_digest(packages: Iterable[str]) -> str:
    """Return one digest over the source files of the named packages, wherever they are installed.

    Raises:
        BadInput: a package is not importable in this environment.
    """
    digest = hashlib.sha256()
    for package in sorted(packages):
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise BadInput(f"the package {package!r} is not installed in {sys.prefix}; run the set-up again")
        root = Path(spec.submodule_search_locations[0])
        for path in sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{package}/{path.relative_to(root).as_posix()}\0{file_digest(path)}\n".encode())
    return digest.hexdigest()


def stack_digest() -> str | None:
    """Return the digest of the lock this environment was installed from, or None outside a locked environment."""
    lock = Path(sys.prefix) / "requirements.lock"
    return file_digest(lock) if lock.is_file() else None


def tool_digest(packages: Iterable[str]) -> str:
    """Return one digest over the sources of packages, this one's included, and the lock of their environment."""
    return value_digest({"sources": source_digest({"recipe_core", *packages}), "stack": stack_digest()})


def command_digests(commands: Iterable[str]) -> dict[str, str]:
    """Return the :func:`tool_digest` of other tools, which live in other environments, as they state it themselves.

    Raises:
        BadInput: a command is not on PATH, or does not state one.
    """
    digests = {}
    for command in sorted(commands):
        try:
            done = subprocess.run([command, "--digest"], capture_output=True, text=True)
        except FileNotFoundError:
            raise BadInput(f"{command}: not found on PATH; put the command of its stack on PATH") from None
        digests[command] = done.stdout.strip()
        if done.returncode or not digests[command]:
            raise BadInput(f"{command} --digest: {done.stderr.strip() or 'no answer'}; run the set-up again")
    return digests


@dataclass(frozen=True)
class Artifact:
    """An artifact on disk, its manifest read and its files found to be there."""

    path: Path
    manifest: dict[str, Any]
    digest: str

    @property
    def stage(self) -> str:
        """The stage that wrote it, for example `mix`."""
        return str(self.manifest["stage"])

    def data(self, name: str) -> Path:
        """Return the path of one of its data files.

        Raises:
            BadInput: the artifact has no such file.
        """
        if name not in self.manifest["files"]:
            raise BadInput(
                f"{self.path}: a {self.stage} artifact has no {name} (it has {', '.join(self.manifest['files'])}); "
                "give the artifact of another stage"
            )
        return self.path / name

    def provenance(self) -> dict[str, Any]:
        """Return what is known of the run that wrote it; empty when it was not recorded."""
        path = self.path / PROVENANCE
        return json.loads(path.read_text()) if path.is_file() else {}


def open_artifact(path: Path) -> Artifact:
    """Open an artifact folder and check that every file its manifest names is there with the size it names.

    Sizes are enough to catch truncation without reading everything.

    Raises:
        BadInput: no artifact there, an unreadable manifest, or a file that is missing or of another size.
    """
    path = Path(path)
    try:
        text = (path / MANIFEST).read_bytes()
        manifest = json.loads(text)
        files = {name: int(entry["bytes"]) for name, entry in manifest["files"].items()}
        for name, kind in _KEYS.items():
            if not isinstance(manifest[name], kind):
                raise TypeError(f"{name} is no {kind.__name__}")
    except (FileNotFoundError, NotADirectoryError):
        raise BadInput(f"{path}: no artifact here ({MANIFEST} is missing); build it or correct the path") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path / MANIFEST}: not an artifact's manifest ({error!r}); rebuild the artifact") from None
    for name, size in files.items():
        try:
            actual = (path / name).stat().st_size
        except FileNotFoundError:
            raise BadInput(f"{path / name}: missing though the manifest names it; rebuild the artifact") from None
        if actual != size:
            raise BadInput(
                f"{path / name}: {actual} bytes, the manifest says {size}; the file is truncated: rebuild it"
            )
    return Artifact(path, manifest, hashlib.sha256(text).hexdigest())


def is_artifact(path: Path) -> bool:
    """Tell whether a folder is an artifact rather than a plain folder."""
    return (path / MANIFEST).is_file()


def _input_digests(inputs: Mapping[str, Artifact | Sequence[Artifact] | str | None]) -> dict[str, Any]:
    digests: dict[str, Any] = {}
    for name, value in inputs.items():
        if isinstance(value, Artifact):
            digests[name] = value.digest
        elif value is None or isinstance(value, str):
            digests[name] = value
        else:
            digests[name] = [artifact.digest for artifact in value]
    return digests


def work_dir(out: Path, fingerprint: Mapping[str, Any]) -> Path:
    """Return the folder `<out>.work` where a long step keeps what it has finished, for the next try.

    It outlives a kill and is not a workflow output, so nothing deletes it between tries. When the fingerprint (what the
    step was asked to do) is not the one it was made for, it is emptied first.

    Raises:
        BadInput: a folder of that name that is somebody else's.
    """
    folder = _work_path(out)
    mark = folder / _FINGERPRINT
    text = canonical_json(fingerprint)
    if folder.exists() and not (mark.is_file() and mark.read_text() == text):
        if not mark.is_file() and any(folder.iterdir()):
            raise BadInput(f"{folder}: would be used for unfinished work, but holds other files; give another --out")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(mark, text)
    return folder


def _work_path(out: Path) -> Path:
    return out.with_name(out.name + ".work")


def check_place(out: Path) -> None:
    """Check that an artifact may be written to a folder: nothing but an artifact is ever replaced.

    A workflow may have removed the manifest of the old artifact already; its provenance is left.

    Raises:
        BadInput: no folder's name, a link, a file, or a folder that holds something else.
    """
    if not out.name or out.name == "..":
        raise BadInput(f"--out {out}: not a folder's name; give one, for example results/mix/mine")
    if out.is_symlink():
        raise BadInput(f"{out}: a link; give the folder it points to, or another")
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out}: a file is in the place of the artifact's folder; give another --out")
    if out.is_dir() and any(out.iterdir()) and not ((out / MANIFEST).is_file() or (out / PROVENANCE).is_file()):
        raise BadInput(f"{out}: holds files that are no artifact; nothing was written: give another --out")


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file so that readers see the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class ArtifactWriter:
    """Context manager that publishes one artifact, whole or not at all.

    Args:
        out: where the artifact goes.
        stage: the stage's name, for example `filter-turns`.
        params: everything besides seed and inputs that decides the content; JSON values.
        seed: the step's seed.
        inputs: the artifacts it is made from; a string stands for an outside input pinned by digest or revision.
        tier: exactness: `T0` bitwise anywhere, `T1` bitwise on one image and hardware model, `T2` pinned by digest.
        package: the packages whose source decides the content besides `recipe_core`.
        commands: other tools that it runs, by the name of their command.

    When an artifact made of the very same things is already in place, `up_to_date` is true: the caller returns and
    nothing is written.
    """

    def __init__(
        self,
        out: Path,
        *,
        stage: str,
        params: Mapping[str, Any],
        seed: int,
        inputs: Mapping[str, Artifact | Sequence[Artifact] | str | None],
        tier: str,
        package: str | Sequence[str],
        commands: Iterable[str] = (),
    ) -> None:
        if tier not in TIERS:
            raise ValueError(f"tier is one of {TIERS}, not {tier!r}")
        self.out = Path(out)
        check_place(self.out)
        packages = (package,) if isinstance(package, str) else tuple(package)
        self._identity = {
            "stage": stage,
            "parameters": json.loads(canonical_json(params)),
            "seed": seed,
            "inputs": _input_digests(inputs),
            "tool": source_digest({"recipe_core", *packages}),
            "stack": stack_digest(),
            "commands": command_digests(commands),
            "tier": tier,
        }
        self._counts: dict[str, Any] = {"rows_in": None, "rows_out": None, "dropped": {}}
        self._provenance: dict[str, Any] = {}
        self._folder = self.out.with_name(f"{self.out.name}.partial.{os.getpid()}")
        self._started = time.time()
        self.up_to_date = self._is_current()

    def _is_current(self) -> bool:
        if not is_artifact(self.out):
            return False
        try:
            manifest = open_artifact(self.out).manifest
        except BadInput:
            return False
        return all(manifest.get(name) == value for name, value in self._identity.items())

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the artifact is made of, for :func:`work_dir`."""
        return self._identity

    def path(self, name: str) -> Path:
        """Return where to write the data file `name`; its folders are created."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def count(self, *, rows_in: int | None, rows_out: int, dropped: Mapping[str, int] | None = None) -> None:
        """Record the row counts; they must add up where both sides count the same kind of row.

        Raises:
            ValueError: `rows_in` is not `rows_out` plus everything dropped.
        """
        drops = {reason: n for reason, n in sorted((dropped or {}).items()) if n}
        if rows_in is not None and rows_in != rows_out + sum(drops.values()):
            raise ValueError(f"{rows_in} rows in, but {rows_out} out and {drops} dropped")
        self._counts = {"rows_in": rows_in, "rows_out": rows_out, "dropped": drops}

    def provenance(self, **facts: Any) -> None:
        """Add facts about this run that do not decide the content."""
        self._provenance.update(facts)

    def __enter__(self) -> ArtifactWriter:
        if self.up_to_date:
            print(f"{self.out}: up to date", file=sys.stderr)
            return self
        self.out.parent.mkdir(parents=True, exist_ok=True)
        for leftover in self.out.parent.glob(f"{self.out.name}.partial.*"):
            if not Path(f"/proc/{leftover.suffix[1:]}").exists():
                shutil.rmtree(leftover)
        self._folder.mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.up_to_date:
            return
        try:
            if kind is None:
                self._publish()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _publish(self) -> None:
        files = {
            path.relative_to(self._folder).as_posix(): file_entry(path)
            for path in sorted(self._folder.rglob("*"))
            if path.is_file()
        }
        self.path(MANIFEST).write_text(canonical_json({**self._identity, **self._counts, "files": files}))
        self.path(PROVENANCE).write_text(canonical_json(self._facts()))
        if self.out.exists():
            # A folder cannot be renamed over one that is not empty; the old artifact steps aside first.
            aside = self.out.with_name(f"{self.out.name}.partial.old.{os.getpid()}")
            self.out.rename(aside)
            self._folder.rename(self.out)
            shutil.rmtree(aside)
        else:
            self._folder.rename(self.out)
        work = _work_path(self.out)
        if (work / _FINGERPRINT).is_file():
            shutil.rmtree(work, ignore_errors=True)

    def _facts(self) -> dict[str, Any]:
        usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return {
            "started": datetime.datetime.fromtimestamp(self._started, datetime.UTC).isoformat(timespec="seconds"),
            "seconds": round(time.time() - self._started, 3),
            "cpu_seconds": round(sum(use.ru_utime + use.ru_stime for use in usage), 3),
            "peak_memory_mb": round(max(use.ru_maxrss for use in usage) / 1024, 1),
            "host": socket.gethostname(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
            # Apptainer's own variable; the file's name holds a digest of what the image is made from.
            "image": Path(os.environ.get("APPTAINER_CONTAINER", "")).name or None,
            **self._provenance,
        }
