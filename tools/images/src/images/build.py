"""A base of Debian's packages, and on it each image's stacks, installed by the same program as on a laptop."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

from images.contents import WALK, digest_of, entries_of, listing, write_listing
from images.names import IMAGES, definition, image_path, lineage, own_stack, source_digest, source_files, stacks_of
from recipe_core.errors import BadInput

# A base that is made here where no registry can be reached.
LOCAL = "local"
PACKAGES = (
    "bash,ca-certificates,g++,git,libbz2-1.0,libffi8,liblzma5,libnuma1,libreadline8,libsqlite3-0,libssl3,make,procps,"
    "python3.11-dev,tmux,zlib1g"
)
# gzip, the default, takes several times as long.
SQUASH = "-comp zstd -Xcompression-level 3"
# What Apptainer writes when all else is done.
ADDED = "/.singularity.d"
_LINES_SHOWN = 15
_UNDER_WAY: list[subprocess.Popen[bytes]] = []
_PIP_SETTINGS = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS")


def apptainer(words: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> None:
    """Run apptainer, its output into a file.

    Raises:
        BadInput: it is not installed, or failed; the last lines are printed before.
    """
    with log.open("w") as output:
        try:
            process = subprocess.Popen(
                ["apptainer", *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
            )
        except FileNotFoundError:
            raise BadInput("apptainer: not found on PATH; install Apptainer (>= 1.1), or load its module") from None
        _UNDER_WAY.append(process)
        try:
            code = process.wait()
        finally:
            _UNDER_WAY.remove(process)
    if code:
        print("\n".join(log.read_text(errors="replace").splitlines()[-_LINES_SHOWN:]), file=sys.stderr)
        raise BadInput(f"apptainer {words[0]} failed with code {code}; all it said is in {log}")


def stop_all() -> None:
    """End the builds that are under way in other threads."""
    for process in list(_UNDER_WAY):
        process.terminate()


def _installer(root: Path) -> ModuleType:
    # The set-up knows how to find a Python, and how to tell uv what this machine's pip knows.
    spec = importlib.util.spec_from_file_location("install", root / "envs" / "install.py")
    assert spec and spec.loader
    install = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(install)
    return install


def _pip_settings(root: Path) -> dict[str, str]:
    return dict(_installer(root).pip_settings([shutil.which("python3") or sys.executable, "-m", "pip"]))


def bound_here(settings: Mapping[str, str]) -> tuple[dict[str, str], dict[Path, str]]:
    """Return settings in which places of this machine are named as a build sees them, and where each of those is bound.

    Only /mnt is there to be bound in every base, so all of it goes below.

    >>> here, binds = bound_here({"UV_FIND_LINKS": "/", "UV_INDEX": "https://mirror.example.org/simple file:///"})
    >>> here
    {'UV_FIND_LINKS': '/mnt/0', 'UV_INDEX': 'https://mirror.example.org/simple file:///mnt/0'}
    >>> binds
    {PosixPath('/'): '/mnt/0'}
    """
    binds: dict[Path, str] = {}

    def moved(word: str) -> str:
        scheme = "file://" if word.startswith("file://") else ""
        path = Path(word.removeprefix(scheme))
        if not path.is_absolute() or not path.exists():
            return word
        return scheme + binds.setdefault(path, f"/mnt/{len(binds)}")

    return {
        name: "".join(word if word in " ,\n" else moved(word) for word in re.split(r"([ ,\n])", value) if word)
        for name, value in settings.items()
    }, binds


@contextlib.contextmanager
def build_folder(root: Path, work: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder that a build sees as /mnt, and the `--bind` words for it; it is no part of the image.

    In it stand where this machine's pip finds packages, uv's cache, so that what this machine has downloaded is not
    downloaded again, and the program that lists the image's files.
    """
    uv = root / ".venvs" / "bin" / "uv"
    asked = subprocess.run([uv, "cache", "dir"], capture_output=True, text=True) if uv.exists() else None
    cache = Path(asked.stdout.strip()) if asked and asked.returncode == 0 else work / "uv-cache"
    cache.mkdir(parents=True, exist_ok=True)
    given = _pip_settings(root)
    given |= {name: os.environ[name] for name in _PIP_SETTINGS if name in os.environ}
    certificate = given.pop("SSL_CERT_FILE", None) or os.environ.get("SSL_CERT_FILE")
    words, binds = bound_here(given)
    folder = Path(tempfile.mkdtemp(prefix="settings-", dir=work))
    for path, target in (*binds.items(), (cache, "/mnt/cache")):
        place = folder / Path(target).name
        if path.is_dir():
            place.mkdir()
        else:
            place.touch()
    if certificate:
        shutil.copyfile(certificate, folder / "certificates.pem")
        words |= dict.fromkeys(("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE"), "/mnt/certificates.pem")
    # Compiled files are checked by what their sources contain: two builds hold the same.
    words |= {"UV_CACHE_DIR": "/mnt/cache", "UV_LINK_MODE": "copy", "PYC_INVALIDATION_MODE": "UNCHECKED_HASH"}
    settings = folder / "settings"
    settings.touch(mode=0o600)
    settings.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(words.items())))
    shutil.copyfile(WALK, folder / "walk.py")
    bound = [f"{folder}:/mnt", f"{cache}:/mnt/cache", *(f"{path}:{target}:ro" for path, target in binds.items())]
    try:
        yield folder, [word for bind in bound for word in ("--bind", bind)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_context(root: Path, files: Sequence[Path], folder: Path) -> None:
    """Copy the files below `root` into a folder, with the same modes whatever this machine's umask is."""
    shutil.rmtree(folder, ignore_errors=True)
    for path in files:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / path, target)
        target.chmod(0o755 if os.access(root / path, os.X_OK) else 0o644)
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)


def make_root(root: Path, folder: Path, log: Path) -> None:
    """Make a Debian 12 root file system from this machine's package sources, with this machine's Python 3.12.

    Args:
        root: the project's folder.
        folder: where to make it; what is there is removed.
        log: what mmdebstrap says.

    Raises:
        BadInput: mmdebstrap or patchelf is missing, or the bootstrap failed.
    """
    for program in ("mmdebstrap", "patchelf"):
        if not shutil.which(program):
            raise BadInput(f"{program}: not found; install it (sudo apt-get install {program}), or use --base registry")
    python = _installer(root).find_python("3.12", {}, headers=True)
    asked = subprocess.run(
        [python, "-c", "import sys; print(sys.base_prefix)"], capture_output=True, text=True, check=True
    )
    prefix = Path(asked.stdout.strip())
    shutil.rmtree(folder, ignore_errors=True)
    # Debian's tools honour this: no build time in any file.
    words = ["mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(folder)]
    with log.open("w") as output:
        done = subprocess.run(
            words, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "SOURCE_DATE_EPOCH": "0"}
        )
    if done.returncode:
        raise BadInput(f"mmdebstrap failed with code {done.returncode}; all it said is in {log}")
    home = folder / "opt" / "python3.12"
    skipped = shutil.ignore_patterns("test", "idlelib", "tkinter", "turtledemo", "site-packages", "__pycache__")
    library = Path("lib", "python3.12")
    shutil.copytree(prefix / library, home / library, symlinks=True, ignore=skipped)
    (home / library / "site-packages").mkdir()
    shutil.copytree(prefix / "include" / "python3.12", home / "include" / "python3.12")
    (home / "bin").mkdir()
    for path in [prefix / "bin" / "python3.12", *sorted((prefix / "lib").glob("libpython3*.so*"))]:
        shutil.copy2(path, home / path.relative_to(prefix), follow_symlinks=False)
    # It finds its own library there, and, where /proc is mounted, wherever a sandbox shows it.
    subprocess.run(
        ["patchelf", "--set-rpath", f"/{home.relative_to(folder)}/lib:$ORIGIN/../lib", home / "bin" / "python3.12"],
        check=True,
    )
    subprocess.run(
        ["chroot", folder, "/opt/python3.12/bin/python3.12", "-m", "ensurepip"], check=True, capture_output=True
    )
    # Apptainer makes /dev itself and could not own these.
    for device in (folder / "dev").iterdir():
        shutil.rmtree(device) if device.is_dir() and not device.is_symlink() else device.unlink()
    # Folders that only apt's own user may enter cannot be copied without being root.
    for path in folder.rglob("partial"):
        path.chmod(0o755)


def build_base(root: Path, base: str, work: Path) -> Path:
    """Return the folder of the base, made where it is not there yet.

    Args:
        root: the project's folder.
        base: `registry` for the image that base.def pins, `local` for one made here, or the folder or file of one.
        work: where builds happen.
    """
    files = source_files(root, [])
    # What is put into a base that is made here stands in this file.
    made_by = [Path(__file__)] if base == LOCAL else []
    digest = source_digest(root, [Path("containers/base.def"), *files, *made_by])[:12]
    name = base if base in ("registry", LOCAL) else re.sub(r"[^A-Za-z0-9.]+", "-", base).strip("-")
    folder = work / f"base-{name}-{digest}"
    if folder.is_dir():
        return folder
    arguments = []
    if base == LOCAL:
        made = work / f"root-{digest}"
        if not made.is_dir():
            print("images: making a Debian root file system", file=sys.stderr)
            partial = made.with_suffix(".partial")
            make_root(root, partial, work / "mmdebstrap.log")
            partial.rename(made)
        arguments = ["bootstrap=localimage", f"base={made}"]
    elif base != "registry":
        if not Path(base).exists():
            raise BadInput(f"--base {base}: expected registry, local, or the folder or file of an image")
        arguments = ["bootstrap=localimage", f"base={Path(base).resolve()}"]
    print(f"images: building the base ({base})", file=sys.stderr)
    partial = folder.with_suffix(".partial")
    _build(root, "base", files, arguments, partial, work=work)
    partial.rename(folder)
    return folder


def _build(root: Path, image: str, files: Sequence[Path], arguments: Sequence[str], out: Path, *, work: Path) -> str:
    """Build an image, or the folder of the base, and return what its definition has put into /mnt/files."""
    path = root / "containers" / "base.def" if image == "base" else definition(root, image)
    context = work / f"source-{image}"
    make_context(root, files, context)
    _remove(out)
    temporary = work / "tmp"
    temporary.mkdir(exist_ok=True)
    given = [f"source={context.resolve()}", *arguments]
    with build_folder(root, work) as (folder, binds):
        words = ["build", "--fakeroot", "--force", *binds, "--mksquashfs-args", SQUASH]
        words += ["--sandbox"] if image == "base" else []
        words += [word for argument in given for word in ("--build-arg", argument)]
        apptainer([*words, str(out), str(path)], log=work / f"{image}.log", env={"APPTAINER_TMPDIR": str(temporary)})
        listed = folder / "files"
        found = listed.read_text() if listed.exists() else ""
    shutil.rmtree(context)
    return found


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def build_image(root: Path, image: str, base: Path, work: Path) -> Path:
    """Build one image and record what it holds beside it; return its path.

    Args:
        root: the project's folder.
        image: its name.
        base: the base's folder; an image that stands on another one starts from that, which must be built.
        work: where builds happen.
    """
    *below, _ = lineage(root, image)
    if below:
        base = root / image_path(root, below[-1])
    target = root / image_path(root, image)
    print(f"images: building {target.name}", file=sys.stderr)
    partial = work / f"{image}.partial.sif"
    files = source_files(root, stacks_of(root, image))
    arguments = [f"base={base.resolve()}", f"stack={own_stack(root, image)}"]
    # Listed while it is a folder, in a fifth of the time; what Apptainer adds is read from the file.
    listed = entries_of(_build(root, image, files, arguments, partial, work=work))
    if not listed:
        where = definition(root, image)
        raise BadInput(f"{where}: %post must end by listing the files: python3.12 /mnt/walk.py / >/mnt/files")
    entries = sorted([entry for entry in listed if not entry.path.startswith(ADDED)] + listing(partial, [ADDED]))
    # The record comes first: an image without one was not finished.
    write_listing(target.with_suffix(".files"), entries)
    partial.rename(target)
    return target


def work_folder(root: Path) -> Path:
    """Return the folder where builds happen."""
    work = root / IMAGES / "work"
    work.mkdir(parents=True, exist_ok=True)
    return work


def base_digest(base: Path) -> str:
    """Return the digest over the files of the base."""
    return digest_of(listing(base))
