"""What a sandbox holds before a task adds to it: the same in every back end and on every host."""

from __future__ import annotations

import os
import resource
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe_core.errors import BadInput
from sandbox.model import Limits

WORK_FOLDER = "/app"
HOSTNAME = "sandbox"
PYTHON = "/opt/python"
AGENT = "/opt/sandbox/agent.py"
# Mounted apart from the root: size in bytes.
SMALL_WRITABLE = {"/usr/local": 64 << 20, "/dev/shm": 64 << 20}
SYMLINKS = {"/bin": "usr/bin", "/sbin": "usr/sbin", "/lib": "usr/lib", "/lib64": "usr/lib64"}
# Of the host's /etc only what programs in /usr need to be found.
HOST_ETC = ("/etc/alternatives", "/etc/ld.so.cache")
# In /proc, what the owner of the host's files may write although a user namespace has no right to it.
PROC_READ_ONLY = ("/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/acpi", "/proc/sysrq-trigger")
# Powers over the sandbox's own files and users; nothing that reaches mounts, the network or the kernel.
CAPABILITIES = {"CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_FOWNER": 3, "CAP_FSETID": 4, "CAP_KILL": 5}
# What every program that runs later stands on. A process inside cannot change it, but can move most of it away and put
# something else in its place; before a verdict it must still be what it was.
GUARDED = ("/usr", *SYMLINKS, PYTHON, *HOST_ETC)
# Folders on PATH that cannot be written to.
FIXED_PATH = (f"{PYTHON}/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
# Where a verifier's files are put and where it leaves its verdict.
VERIFIER_FOLDERS = ("/tests", "/logs/verifier")
# A verifier that finds no room at all cannot say that the work failed.
VERIFIER_BYTES = 4 << 20
# Empty files cost kernel memory that no size limit counts.
MAX_FILES = 262_144

_FOLDERS = {
    "/etc": 0o755,
    "/app": 0o755,
    "/logs": 0o755,
    "/logs/agent": 0o755,
    "/logs/verifier": 0o755,
    "/root": 0o700,
    "/tmp": 0o1777,
    "/var/tmp": 0o1777,
    "/var/log": 0o755,
    "/run": 0o755,
    "/home": 0o755,
    "/srv": 0o755,
    "/mnt": 0o755,
    "/usr/local/bin": 0o755,
    "/usr/local/lib": 0o755,
    "/usr/local/sbin": 0o755,
    "/usr/local/share": 0o755,
    "/opt": 0o755,
    "/opt/sandbox": 0o755,
}

# Interactive shells look the same everywhere, and nothing they print depends on time or on the host.
_BASHRC = """\
case $- in *i*) ;; *) return ;; esac
PS1='\\u@\\h:\\w# '
unset HISTFILE MAILCHECK PROMPT_COMMAND
"""

_FILES = {
    "/etc/passwd": (
        "root:x:0:0:root:/root:/bin/bash\n"
        "daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    ),
    "/etc/group": "root:x:0:\ndaemon:x:1:\ntty:x:5:\nusers:x:100:\nnogroup:x:65534:\n",
    "/etc/hostname": f"{HOSTNAME}\n",
    "/etc/hosts": f"127.0.0.1 localhost {HOSTNAME}\n::1 localhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "/etc/resolv.conf": "",
    "/etc/inputrc": "set enable-bracketed-paste off\nset bell-style none\n",
    "/etc/bash.bashrc": _BASHRC,
    "/etc/profile": ". /etc/bash.bashrc\n",
    "/etc/shells": "/bin/sh\n/bin/bash\n",
}

_LINKS = (("../usr/lib/os-release", "/etc/os-release"), ("/proc/self/mounts", "/etc/mtab"))


@dataclass(frozen=True)
class HostPython:
    """The host's interpreter, without what is installed beside its standard library.

    Attributes:
        prefix: its folder on the host.
        name: its file name, such as `python3.12`.
        binds: host path -> place in the sandbox, all read-only.
        links: place in the sandbox -> link target.
        hidden: places in the sandbox to cover with an empty folder.
        libraries: whether the interpreter needs `LD_LIBRARY_PATH` to find its shared library where it now lies.
    """

    prefix: Path
    name: str
    binds: dict[str, str]
    links: dict[str, str]
    hidden: tuple[str, ...]
    libraries: bool


def host_python() -> HostPython:
    """Describe the running interpreter (behind its virtual environment) as the sandbox's `python3`.

    Raises:
        BadInput: it does not lie where interpreters do, so that it cannot be moved.
    """
    prefix = Path(os.path.realpath(sys.base_prefix))
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    program = prefix / "bin" / name
    if not program.exists():
        raise BadInput(f"{program}: not there; the sandbox needs a Python installed the usual way (bin/, lib/)")
    binds = {str(program): f"{PYTHON}/bin/{name}"}
    hidden = []
    for folder in sorted({"lib", sys.platlibdir}):
        source = prefix / folder / name
        if source.is_dir():
            binds[str(source)] = f"{PYTHON}/{folder}/{name}"
            hidden += [
                f"{PYTHON}/{folder}/{name}/{packages}"
                for packages in ("site-packages", "dist-packages")
                if (source / packages).is_dir()
            ]
    library = prefix / "lib" / str(sysconfig.get_config_var("INSTSONAME") or "")
    shared = bool(sysconfig.get_config_var("Py_ENABLE_SHARED")) and library.is_file()
    if shared:
        binds[str(library)] = f"{PYTHON}/lib/{library.name}"
    links = {f"{PYTHON}/bin/python3": name, f"{PYTHON}/bin/python": name}
    return HostPython(prefix, name, binds, links, tuple(hidden), shared)


def base_env(python: HostPython) -> dict[str, str]:
    """Return the whole environment of a command that asks for nothing more."""
    env = {
        "HOME": "/root",
        "USER": "root",
        "LOGNAME": "root",
        "SHELL": "/bin/bash",
        "PATH": f"{PYTHON}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "TERM": "xterm-256color",
        "PYTHONDONTWRITEBYTECODE": "1",
        # Only uid 0 exists inside: an archive's foreign owners cannot be restored, and tar would call that an error.
        "TAR_OPTIONS": "--no-same-owner",
    }
    if python.libraries:
        env["LD_LIBRARY_PATH"] = f"{PYTHON}/lib"
    return env


def verifier_env(env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which no program can be put before those of the sandbox.

    Folders that cannot be written to come first on PATH, the others after them in their order; Python does not look
    for packages in the home.
    """
    found = [folder for folder in env.get("PATH", "").split(":") if folder]
    fixed = [folder for folder in FIXED_PATH if folder in found]
    path = ":".join(dict.fromkeys([*fixed, *found]))
    return {**env, "PATH": path, "PYTHONNOUSERSITE": "1"}


def init_request(limits: Limits, cpus: list[int]) -> dict[str, Any]:
    """Return the agent's first request: folders, files, links, rlimits and CPUs."""
    megabyte = 1 << 20
    rlimits = [
        # A backstop for one process between two looks of the watchdog; runtimes reserve far more than they use.
        ["RLIMIT_AS", max(8192, 4 * limits.memory_mb) * megabyte],
        ["RLIMIT_FSIZE", limits.disk_mb * megabyte],
        ["RLIMIT_NOFILE", 4096],
        ["RLIMIT_CORE", 0],
    ]
    if per_namespace_nproc():
        rlimits.append(["RLIMIT_NPROC", 2 * limits.processes + 64])
    return {
        "op": "init",
        "folders": list(_FOLDERS.items()),
        "files": list(_FILES.items()),
        "links": _LINKS,
        "guarded": GUARDED,
        "cpus": cpus,
        "rlimits": [[name, value] for name, value in rlimits if hasattr(resource, str(name))],
    }


def per_namespace_nproc() -> bool:
    """Tell whether the kernel counts RLIMIT_NPROC per user namespace, not over all the user's processes (5.14)."""
    major, minor = (int("".join(filter(str.isdigit, part)) or 0) for part in os.uname().release.split(".")[:2])
    return (major, minor) >= (5, 14)
