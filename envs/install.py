"""Install the pinned software stacks below .venvs/, and nothing outside this folder.

    python3 envs/install.py [STACK ...]      every stack but the optional by default; `--list` shows them

Each stack of envs/stacks.toml becomes a virtual environment made from its hash-pinned lock, with its tools installed
from tools/, and its commands linked into .venvs/bin. Stacks that are already as their lock says are left alone, so an
interrupted set-up goes on where it stopped. Needs Python 3.11 or newer with pip, and the standard library.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
ENVS = ROOT / "envs"
VENVS = ROOT / ".venvs"
UV = VENVS / "bin" / "uv"
# Interpreters that uv fetches.
PYTHONS = VENVS / "python"
# Programs the tools call that no Python package carries, and the Debian package of each; g++ is for what torch compiles
# when a model is served on a CPU. Where only the workflow is installed, the tools and these stand in images.
SYSTEM_PROGRAMS = {"tmux": "tmux", "bash": "bash", "g++": "g++"}
# Libraries that packages are linked with and do not carry (vLLM's build for the CPU), likewise.
SYSTEM_LIBRARIES = {"libnuma.so.1": "libnuma1"}


def fail(message: str) -> NoReturn:
    """Print one line and exit with code 2."""
    print(f"set-up: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def say(message: str) -> None:
    """Print a line of progress at once."""
    print(f"set-up: {message}", flush=True)


def run(command: Sequence[str | Path], env: dict[str, str] | None = None) -> None:
    """Run a command; its failure ends the set-up with one line that names it."""
    words = [str(word) for word in command]
    done = subprocess.run(words, env={**os.environ, **(env or {})})
    if done.returncode:
        fail(f"`{' '.join(words)}` failed with code {done.returncode}; mend what it says above and run this again")


def is_loadable(library: str) -> bool:
    """Tell whether the dynamic loader finds a library."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def install_system_programs() -> None:
    """Install missing system programs and libraries where that is allowed, else ask for them in one line."""
    missing = {package for program, package in SYSTEM_PROGRAMS.items() if shutil.which(program) is None}
    missing |= {package for library, package in SYSTEM_LIBRARIES.items() if not is_loadable(library)}
    if not missing:
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        say(f"installing system packages: {' '.join(sorted(missing))}")
        run(["apt-get", "update", "-qq"])
        run(
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *sorted(missing)],
            {"DEBIAN_FRONTEND": "noninteractive"},
        )
        return
    fail(f"system packages are missing; install them: sudo apt-get install {' '.join(sorted(missing))}")


def pip_settings(pip: list[str]) -> dict[str, str]:
    """Return the uv settings that make it find packages where this machine's pip finds them.

    Args:
        pip: the words that start pip.
    """
    listing = subprocess.run([*pip, "config", "list"], capture_output=True, text=True).stdout
    found: dict[str, str] = {}
    for line in listing.splitlines():
        # A setting may come from the environment (`:env:.`), a section for a command (`install.`) or `global.`.
        match = re.match(r"(?::env:|[a-z]+)\.([a-z-]+)='(.*)'$", line)
        if match:
            found[match[1]] = match[2].replace("\\n", " ").strip()
    settings = {}
    names = {"find-links": "UV_FIND_LINKS", "index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE"}
    for pip_name, uv_name in names.items():
        if found.get(pip_name) and uv_name not in os.environ:
            settings[uv_name] = ",".join(found[pip_name].split()) if pip_name == "find-links" else found[pip_name]
    if found.get("extra-index-url") and found.get("index-url") and "UV_INDEX" not in os.environ:
        settings["UV_INDEX"] = found["extra-index-url"]
        # Every package is pinned by hash, so it does not matter which index offers it.
        settings["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    settings.setdefault("UV_HTTP_TIMEOUT", "180")
    return settings


def install_uv() -> dict[str, str]:
    """Install the pinned uv below .venvs/uv with this Python's pip; return the settings to run it with."""
    home = VENVS / "uv"
    lock = ENVS / "uv" / "requirements.lock"
    ready = home / "ready"
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run([*pip, "--version"], capture_output=True).returncode:
        fail(f"{sys.executable} has no pip; install it (for example: sudo apt-get install python3-pip) and run again")
    if not (ready.is_file() and ready.read_text() == digest_of([lock])):
        say("installing uv")
        shutil.rmtree(home, ignore_errors=True)
        # --target needs neither the venv module nor a writable Python, so it works on a Debian without python3-venv.
        run([*pip, "install", "--quiet", "--require-hashes", "--no-deps", "--target", home, "-r", lock])
        VENVS.joinpath("bin").mkdir(parents=True, exist_ok=True)
        UV.unlink(missing_ok=True)
        UV.symlink_to(Path("..") / "uv" / "bin" / "uv")
        ready.write_text(digest_of([lock]))
    return pip_settings(pip)


def find_python(version: str, settings: dict[str, str], *, headers: bool = False) -> str:
    """Return an interpreter of that minor version: one on this machine, else one that uv fetches.

    Args:
        version: as in `3.11`.
        settings: uv's.
        headers: whether Python.h must be beside it; Debian keeps it in a package of its own.
    """
    here = Path(sys.executable).resolve()
    candidates = [shutil.which(f"python{version}") or "", f"/usr/bin/python{version}"]
    # Version managers keep interpreters side by side: <versions>/<3.x.y>/bin/python.
    managers = [here.parent.parent.parent, Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"]
    for folder in managers:
        if not os.access(folder, os.R_OK):
            continue
        candidates += sorted(map(str, folder.glob(f"{version}.*/bin/python{version}")), reverse=True)
    for candidate in [str(here), *candidates]:
        if candidate and Path(candidate).exists():
            probe = "import sys, sysconfig, venv; print('%d.%d' % sys.version_info[:2], sysconfig.get_path('include'))"
            answer = subprocess.run([candidate, "-c", probe], capture_output=True, text=True)
            found, _, include = answer.stdout.strip().partition(" ")
            if answer.returncode == 0 and found == version and (not headers or Path(include, "Python.h").is_file()):
                return candidate
    wanted = f"Python {version} with its headers" if headers else f"Python {version}"
    say(f"no {wanted} on this machine; fetching one")
    # A home may be small, and not be there where jobs run.
    environment = {"UV_PYTHON_INSTALL_DIR": str(PYTHONS), **os.environ, **settings}
    fetched = subprocess.run([UV, "python", "install", "--no-bin", version], env=environment)
    if fetched.returncode:
        package = f" (Debian: python{version}-dev)" if headers else ""
        fail(f"{wanted} is not on this machine and could not be fetched; install it{package} and run this again")
    words = [str(UV), "python", "find", "--managed-python", version]
    return subprocess.run(words, capture_output=True, text=True, env=environment).stdout.strip()


def digest_of(paths: list[Path]) -> str:
    """Return one digest over files and the names they have below the project."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def wanted_state(stack: str, spec: dict[str, Any]) -> str:
    """Return the digest of everything a stack is installed from."""
    files = [ENVS / stack / "requirements.lock", Path(__file__).resolve()]
    files += [path for path in (ENVS / stack / "site").rglob("*") if path.is_file()]
    files += [ROOT / "tools" / tool / "pyproject.toml" for tool in spec["tools"]]
    decisive = {name: spec.get(name) for name in ("python", "headers", "cuda", "built", "tools", "commands")}
    return digest_of(files) + json.dumps(decisive, sort_keys=True)


def parts_of(lock: Path, built: Sequence[str], folder: Path) -> list[Path]:
    """Write a lock's entries to files: those that come built, and, where there are any, those that are built here.

    Args:
        lock: the lock.
        built: names of packages that are compiled against others of the lock, which must be there first.
        folder: where to write.
    """
    entries = re.split(r"\n(?=[a-z0-9])", lock.read_text())
    own = [entry for entry in entries if entry.partition("==")[0] in built]
    files = [folder / "first.lock", folder / "then.lock"][: 2 if own else 1]
    for path, chosen in zip(files, ([entry for entry in entries if entry not in own], own), strict=False):
        path.write_text("\n".join(chosen) + "\n")
    return files


def install_stack(stack: str, spec: dict[str, Any], settings: dict[str, str]) -> None:
    """Make one stack's environment from its lock, unless it already is as the lock says."""
    home = VENVS / stack
    ready = home / "ready"
    state = wanted_state(stack, spec)
    if ready.is_file() and ready.read_text() == state:
        return
    python = find_python(spec["python"], settings, headers=spec.get("headers", False))
    say(f"installing stack {stack} (Python {spec['python']} at {python}; {spec['download_mb']} MB to download at most)")
    started = time.monotonic()
    ready.unlink(missing_ok=True)
    run([UV, "venv", "--quiet", "--allow-existing", "--python", python, home], settings)
    interpreter = home / "bin" / "python"
    lock = ENVS / stack / "requirements.lock"
    install: list[str | Path] = [UV, "pip", "install", "--python", interpreter, "--quiet"]
    parts = tempfile.TemporaryDirectory()
    first, *then = parts_of(lock, spec.get("built", []), Path(parts.name))
    sync: list[str | Path] = [UV, "pip", "sync", "--python", interpreter, "--quiet", "--require-hashes", first]
    # Servers and harnesses import thousands of modules at every start; compiled once, they start in half the time.
    sync.append("--compile-bytecode")
    attempt = subprocess.run(
        [str(word) for word in sync], env={**os.environ, **settings}, stderr=subprocess.PIPE, text=True
    )
    if attempt.returncode:
        if "torch" not in lock.read_text() or spec.get("cuda"):
            print(attempt.stderr, file=sys.stderr)
            fail(f"stack {stack} could not be installed; mend what uv says above and run the same command again")
        # Builds of torch for the CPU are often on no index of the machine's own; uv knows where PyTorch keeps them.
        run([*sync, "--torch-backend", "cpu"], settings)
    packages = next(home.glob("lib/python*/site-packages"))
    # What vLLM noted of model classes is of the packages that were there.
    shutil.rmtree(home / "var", ignore_errors=True)
    for part in then:
        say(f"compiling {', '.join(spec['built'])} for {stack}; that takes hours on few cores")
        runtime = next(packages.glob("nvidia/cu*/lib/libcudart.so.*"), None)
        if runtime is None:
            fail(
                f"stack {stack}: no CUDA runtime among its packages, which {', '.join(spec['built'])} is compiled with"
            )
        # The linker asks for the name without the version.
        (runtime.parent / "libcudart.so").unlink(missing_ok=True)
        (runtime.parent / "libcudart.so").symlink_to(runtime.name)
        # A build that somebody else has made is not what the lock's hash stands for; nor is one in uv's cache, which
        # may have been compiled against another torch.
        compiler = {f"{name}_FORCE_BUILD": "TRUE" for name in ("FLASH_ATTENTION", "CAUSAL_CONV1D")}
        compiler["CUDA_HOME"] = str(runtime.parent.parent)
        compiler["PATH"] = f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"
        words = [*install, "--no-cache", "--no-deps", "--no-build-isolation", "--require-hashes", "-r", part]
        run(words, {**settings, **compiler})
    parts.cleanup()
    if (ENVS / stack / "site").is_dir():
        shutil.copytree(ENVS / stack / "site", packages, dirs_exist_ok=True)
    tools = [word for tool in spec["tools"] for word in ("--editable", str(ROOT / "tools" / tool))]
    if tools:
        run([*install, "--no-deps", "--no-build-isolation", *tools], settings)
    shutil.copyfile(lock, home / "requirements.lock")
    for command in spec["commands"]:
        link = VENVS / "bin" / command
        link.unlink(missing_ok=True)
        link.symlink_to(Path("..") / stack / "bin" / command)
    ready.write_text(state)
    say(f"stack {stack} ready in {time.monotonic() - started:.0f} s")


def disk_usage_mb(folder: Path) -> int:
    """Return the megabytes below a folder, each hard-linked file counted once."""
    seen: dict[tuple[int, int], int] = {}
    for path in folder.rglob("*"):
        if not path.is_symlink() and path.is_file():
            status = path.stat()
            seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(seen.values()) // 2**20


def main(arguments: list[str]) -> None:
    """Install the named stacks, or all."""
    stacks = tomllib.loads((ENVS / "stacks.toml").read_text())
    if "--help" in arguments or "-h" in arguments:
        print(__doc__)
        return
    if "--list" in arguments:
        for name, spec in stacks.items():
            print(f"{name}: {', '.join(spec['commands'])}")
        return
    for name in arguments:
        if name not in stacks:
            fail(f"no stack {name!r}; there are {', '.join(stacks)}")
    names = arguments or [name for name, spec in stacks.items() if not spec.get("optional")]
    pending = [name for name in names if not is_ready(name, stacks[name])]
    if set(names) != {"workflow"}:
        install_system_programs()
    if not pending:
        return
    download, disk = (sum(stacks[name][key] for name in pending) for key in ("download_mb", "disk_mb"))
    say(f"{len(pending)} of {len(names)} stacks to install: about {download} MB to download, {disk} MB on disk")
    settings = install_uv()
    for name in pending:
        install_stack(name, stacks[name], settings)
    say(f"all stacks ready; .venvs/ takes {disk_usage_mb(VENVS)} MB on disk")


def is_ready(stack: str, spec: dict[str, Any]) -> bool:
    """Tell whether a stack is installed as its lock and its tools say."""
    ready = VENVS / stack / "ready"
    return ready.is_file() and ready.read_text() == wanted_state(stack, spec)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        fail("interrupted; run the same command again to go on")
