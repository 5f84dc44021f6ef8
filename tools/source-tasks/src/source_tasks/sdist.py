"""Source distributions pinned by SHA-256: fetch them once, keep them by content, read them without a network.

pip would run each package's build to learn its metadata; instead it is given a build backend that copies the `PKG-INFO`
which every source distribution ships, so that no foreign code runs.
"""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path, PurePosixPath

from recipe_core.errors import BadInput
from recipe_core.packages import Pin, cached_path, read_cached
from recipe_core.packages import fetch as fetch_packages

# Several times the largest source distribution in the lock.
MAX_UNPACKED_BYTES = 64 * 1024 * 1024

_BACKEND = """
import email
import os
import shutil


class Backend:
    def get_requires_for_build_wheel(self, config_settings=None):
        return []

    def prepare_metadata_for_build_wheel(self, metadata_directory, config_settings=None):
        with open("PKG-INFO", encoding="utf-8") as file:
            info = email.message_from_file(file)
        name = "%s-%s.dist-info" % (info["Name"].replace("-", "_"), info["Version"])
        os.makedirs(os.path.join(metadata_directory, name))
        shutil.copyfile("PKG-INFO", os.path.join(metadata_directory, name, "METADATA"))
        return name


__legacy__ = Backend()
get_requires_for_build_wheel = __legacy__.get_requires_for_build_wheel
prepare_metadata_for_build_wheel = __legacy__.prepare_metadata_for_build_wheel
"""
_BACKEND_MODULES = (
    "setuptools.build_meta",
    "flit_core.buildapi",
    "hatchling.build",
    "pdm.backend",
    "poetry.core.masonry.api",
)


@dataclass(frozen=True)
class Package(Pin):
    """One row of `pybugs.lock.json`."""

    suffix = "tar.gz"

    licence_file: str
    import_root: str
    """Folder to put on the import path, relative to the distribution's root."""
    code: Sequence[str]
    """Files and folders that faults go into."""
    tests: Sequence[str]
    """Files and folders that hold the tests."""
    discover: dict[str, str]
    """`start`, `top` and `pattern` of unittest's discovery."""

    @property
    def origin(self) -> str:
        """What a task row says about where it came from."""
        return f"{self.name}=={self.version} source distribution sha256:{self.sha256}"


def load_lock() -> list[Package]:
    """Return the pinned packages."""
    rows = json.loads(package_files("source_tasks").joinpath("pybugs.lock.json").read_text(encoding="utf-8"))
    return [Package(**row) for row in rows]


def _write_backends(folder: Path) -> None:
    for module in _BACKEND_MODULES:
        path = folder.joinpath(*module.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_BACKEND)
        # Regular packages, not namespace packages: those would lose against an installed setuptools.
        for parent in path.relative_to(folder).parents[:-1]:
            (folder / parent / "__init__.py").touch()


def fetch(packages: Iterable[Package], cache: Path) -> list[Package]:
    """Bring the source distributions that the cache lacks into it; return those that were fetched.

    Raises:
        BadInput: pip is missing or could not download a package with the pinned hash.
    """
    with tempfile.TemporaryDirectory() as backends:
        _write_backends(Path(backends))
        words = ["--no-binary", ":all:", "--use-pep517", "--no-build-isolation"]
        return fetch_packages(packages, cache, words, {"PYTHONPATH": backends})


def read_sdist(cache: Path, package: Package) -> dict[str, bytes]:
    """Return the regular files of a cached source distribution by their path below its root folder.

    Raises:
        BadInput: it is not in the cache, is not the pinned one, or has members that leave its folder.
    """
    content = read_cached(cache, package, "source-tasks fetch")
    return unpack_sdist(content, str(cached_path(cache, package)))


def unpack_sdist(content: bytes, where: str) -> dict[str, bytes]:
    """Return the regular files of a tar.gz below its single root folder; links and devices are left out.

    Raises:
        BadInput: a member path is absolute or contains `..`, or the archive is broken or too large.
    """
    found: dict[str, bytes] = {}
    total = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts:
                    raise BadInput(f"{where}: member {member.name!r} leaves the archive's folder; do not use this file")
                if not member.isfile() or len(path.parts) < 2:
                    continue
                total += member.size
                if total > MAX_UNPACKED_BYTES:
                    raise BadInput(f"{where}: unpacks to more than {MAX_UNPACKED_BYTES} bytes; do not use this file")
                stream = archive.extractfile(member)
                assert stream is not None  # regular files have a stream
                found[PurePosixPath(*path.parts[1:]).as_posix()] = stream.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise BadInput(f"{where}: not a readable source distribution ({error}); fetch it again") from None
    return found
