"""Source distributions pinned by SHA-256: fetch them once, keep them by content, read them without a network.

The machine's own pip finds and downloads them, so mirrors, proxies and certificates are configured in one place. pip
would run each package's build to learn its metadata; instead it is given a build backend that copies the `PKG-INFO`
which every source distribution ships, so that no foreign code runs.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path, PurePosixPath

from recipe_core.errors import BadInput

# Several times the largest source distribution in the lock.
MAX_UNPACKED_BYTES = 64 * 1024 * 1024
FETCH_TIMEOUT_SEC = 600

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
class Package:
    """One row of `pybugs.lock.json`."""

    name: str
    version: str
    sha256: str
    licence: str
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
    def requirement(self) -> str:
        """The line of a hash-checked requirements file."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"

    @property
    def origin(self) -> str:
        """What a task row says about where it came from."""
        return f"{self.name}=={self.version} source distribution sha256:{self.sha256}"


def load_lock() -> list[Package]:
    """Return the pinned packages."""
    rows = json.loads(package_files("source_tasks").joinpath("pybugs.lock.json").read_text(encoding="utf-8"))
    return [Package(**row) for row in rows]


def default_cache() -> Path:
    """Return the folder that keeps source distributions where `--cache` does not name one."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "source-tasks"


def cached_path(cache: Path, package: Package) -> Path:
    """Return where a package lies in the cache: by what it contains, not by what it is called."""
    return cache / "sha256" / f"{package.sha256}.tar.gz"


def _pip() -> list[str]:
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode == 0:
        return [sys.executable, "-m", "pip"]
    for name in ("pip3", "pip"):
        if found := shutil.which(name):
            return [found]
    raise BadInput("source pybugs: no pip found to fetch source distributions; install pip next to Python or on PATH")


def _write_backends(folder: Path) -> None:
    for module in _BACKEND_MODULES:
        path = folder.joinpath(*module.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_BACKEND)
        # Regular packages, not namespace packages: those would lose against an installed setuptools.
        for parent in path.relative_to(folder).parents[:-1]:
            (folder / parent / "__init__.py").touch()


def fetch(packages: Iterable[Package], cache: Path) -> list[Package]:
    """Bring the packages that the cache lacks into it; return those that were fetched.

    Raises:
        BadInput: pip is missing or could not download a package with the pinned hash.
    """
    missing = [package for package in packages if not _is_cached(cache, package)]
    if not missing:
        return []
    (cache / "sha256").mkdir(parents=True, exist_ok=True)
    # Inside the cache folder, so that moving a file into place is a rename.
    with tempfile.TemporaryDirectory(dir=cache) as name:
        work = Path(name)
        requirements = work / "requirements.txt"
        requirements.write_text("".join(f"{package.requirement}\n" for package in missing))
        _write_backends(work / "backends")
        command = [*_pip(), "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--require-hashes"]
        command += ["--use-pep517", "--no-build-isolation", "--dest", str(work / "sdists"), "-r", str(requirements)]
        environment = {**os.environ, "PYTHONPATH": str(work / "backends")}
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=FETCH_TIMEOUT_SEC)
        except subprocess.TimeoutExpired:
            raise BadInput(
                f"source pybugs: pip did not finish in {FETCH_TIMEOUT_SEC} s; is an index reachable?"
            ) from None
        if done.returncode != 0:
            errors = [line for line in done.stderr.splitlines() if line.lower().startswith("error:")]
            reason = errors[-1] if errors else f"exit code {done.returncode}"
            raise BadInput(f"source pybugs: pip could not fetch the pinned source distributions ({reason})")
        for path in sorted((work / "sdists").iterdir()):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            path.replace(cache / "sha256" / f"{digest}.tar.gz")
    for package in missing:
        if not _is_cached(cache, package):
            raise BadInput(f"source pybugs: pip fetched no {package.name} with sha256 {package.sha256}")
    return missing


def _is_cached(cache: Path, package: Package) -> bool:
    path = cached_path(cache, package)
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == package.sha256


def read_sdist(cache: Path, package: Package) -> dict[str, bytes]:
    """Return the regular files of a cached source distribution by their path below its root folder.

    Raises:
        BadInput: it is not in the cache, is not the pinned one, or has members that leave its folder.
    """
    path = cached_path(cache, package)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise BadInput(
            f"{path}: {package.name} {package.version} is not in the cache; run `source-tasks fetch --cache {cache}`"
        ) from None
    if hashlib.sha256(content).hexdigest() != package.sha256:
        raise BadInput(
            f"{path}: not the pinned {package.name} {package.version}; delete it and run `source-tasks fetch`"
        )
    return unpack_sdist(content, str(path))


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
