"""Whether what jobs write has room, and stands on a file system of the right kind."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from doctor.commands import ask, find, read
from doctor.findings import Finding, Level, bytes_text
from doctor.profile import Profile

CHECK = "storage"
# Types by which several machines share files (Linux names, /proc/filesystems and the vendors' clients).
NETWORK = frozenset(
    {
        "9p",
        "afs",
        "autofs",
        "beegfs",
        "ceph",
        "cifs",
        "cvmfs",
        "fhgfs",
        "fuse.ceph",
        "fuse.glusterfs",
        "fuse.gpfs",
        "fuse.s3fs",
        "fuse.sshfs",
        "glusterfs",
        "gpfs",
        "lustre",
        "nfs",
        "nfs4",
        "orangefs",
        "panfs",
        "pvfs2",
        "smb3",
        "virtiofs",
        "wekafs",
    }
)
MENDS = {
    "project": "clone the project where there is room and you may write",
    "bind": "correct `bind=` of config in the site file, or make the folder",
    "apptainer-prefix": "correct `apptainer-prefix` in the site file, or make the folder, or make room",
    "tmp": "set TMPDIR to a folder on the machine's own disk",
    "shm": "ask the site for a larger /dev/shm",
    "tmux": "set TMUX_TMPDIR to a folder on the machine's own disk, such as /tmp",
}
GB = 10**9
# The CPU stacks alone take 5 GB once installed, and so again inside the images; below this a build runs full.
ROOMY = 50 * GB
TIGHT = 2 * GB
# A sandbox keeps its files in memory, but Ray, vLLM and compilers spill to the folder for temporary files.
ROOMY_TMP = 10 * GB
# Servers and data loaders of several processes pass tensors through /dev/shm.
ROOMY_SHM = GB
FEW_INODES = 200_000
# sockaddr_un holds 108 bytes with the final zero (man 7 unix); tmux adds /tmux-UID/NAME to its folder.
SOCKET_PATH = 107
TMUX_ADDS = len("/tmux-4294967295/") + 32
# Ray's own folders and sockets below the temporary folder, such as
# /ray/session_2026-01-31_12-00-00_000000_4194304/sockets/plasma_store.
RAY_ADDS = 70
NEARLY_FULL = 0.9


@dataclass(frozen=True)
class Place:
    """A folder that jobs use.

    `free` is bytes, `inodes` files, for this user; `inodes` is None where the file system has no fixed number.
    """

    name: str
    path: str
    exists: bool = True
    writable: bool = True
    kind: str = ""
    free: int = 0
    inodes: int | None = None

    @property
    def network(self) -> bool:
        """Whether other machines see the folder too, as far as its type says."""
        return self.kind in NETWORK


@dataclass(frozen=True)
class Quota:
    """What of the home's quota is used, both in the units `quota` prints; a limit of 0 is none."""

    device: str
    used: int
    limit: int
    files: int
    files_limit: int


def examine(profile: Profile, *, node: bool, shared: bool) -> list[Finding]:
    """Gather the facts and judge them."""
    places, quotas = gather(profile, os.environ)
    return judge(places, quotas, shared=shared)


def gather(profile: Profile, environment: Mapping[str, str]) -> tuple[list[Place], list[Quota]]:
    """Look at the folders that the profile and the environment name."""
    mounts = read("/proc/self/mountinfo") or ""
    places = [look(name, path, mounts) for name, path in named_places(profile, environment, str(Path.cwd()))]
    quotas = parse_quota(ask(["quota", "-w", "-p"]).output) if find("quota") else []
    return places, quotas


def named_places(profile: Profile, environment: Mapping[str, str], project: str) -> list[tuple[str, str]]:
    """Return the folders to look at, each with what it is for."""
    temporary = environment.get("TMPDIR") or "/tmp"
    prefix = profile.settings.get("apptainer-prefix", "")
    named = [
        ("project", project),
        *(("bind", str(Path(path).expanduser())) for path in profile.config.get("bind", "").split(",") if path),
        ("apptainer-prefix", prefix),
        ("tmp", temporary),
        ("shm", "/dev/shm"),
        ("tmux", environment.get("TMUX_TMPDIR") or "/tmp"),
    ]
    return [(name, path) for name, path in named if path]


def look(name: str, path: str, mounts: str) -> Place:
    """Return what a folder is; one that cannot be looked at does not exist."""
    try:
        real = Path(path).resolve()
        size = os.statvfs(real)
    except OSError:
        return Place(name, path, exists=False, writable=False)
    return Place(
        name,
        path,
        writable=os.access(real, os.W_OK | os.X_OK),
        kind=file_system(str(real), mounts),
        free=size.f_bavail * size.f_frsize,
        inodes=size.f_favail if size.f_files else None,
    )


def file_system(path: str, mounts: str) -> str:
    """Return the type of the file system that a path is on, or the empty string.

    Args:
        path: absolute, without symbolic links.
        mounts: the text of /proc/self/mountinfo (man 5 proc), whose later lines cover earlier ones.
    """
    best, kind = -1, ""
    for row in mounts.splitlines():
        before, found, after = row.partition(" - ")
        fields = before.split()
        if not found or len(fields) < 5 or not after.split():
            continue
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:
            best, kind = len(point), after.split()[0]
    return kind


def parse_quota(text: str) -> list[Quota]:
    """Return the quotas of `quota -w -p`; lines of another form, such as its heading, are passed over."""
    found = []
    for row in text.splitlines():
        fields = row.split()
        if len(fields) != 9:
            continue
        numbers = [field.rstrip("*") for field in fields[1:]]
        if all(number.isdigit() for number in numbers):
            used, _, limit, _, files, _, files_limit, _ = map(int, numbers)
            found.append(Quota(fields[0], used, limit, files, files_limit))
    return found


def judge(places: Sequence[Place], quotas: Sequence[Quota], *, shared: bool) -> list[Finding]:
    """Return what the folders mean for the workflow.

    Args:
        places: as gathered.
        quotas: of the user, on this machine's file systems.
        shared: whether jobs run on other machines than this, which must see the project's folder.
    """
    return [*(_judge_place(place, shared=shared) for place in places), *map(_judge_quota, quotas)]


def _judge_place(place: Place, *, shared: bool) -> Finding:
    mend = MENDS[place.name]
    where = f"{place.name} {place.path}"
    if place.exists and place.name == "bind":
        # It is to be seen; whether it is written to is up to what is in it.
        return Finding("ok", CHECK, f"{where}: {place.kind or 'unknown type'}, {bytes_text(place.free)} free")
    if not place.exists or not place.writable:
        return Finding("fail", CHECK, f"{where}: {'not writable for you' if place.exists else 'no such folder'}", mend)
    text = f"{where}: {place.kind or 'unknown type'}, {'network' if place.network else 'of this machine'}, "
    text += f"{bytes_text(place.free)} free"
    text += f", {place.inodes:,} files" if place.inodes is not None else ""
    for holds, level, words, other in _problems(place, shared=shared):
        if holds:
            return Finding(level, CHECK, f"{text}: {words}", other or mend)
    return Finding("ok", CHECK, text)


def _problems(place: Place, *, shared: bool) -> list[tuple[bool, Level, str, str]]:
    """Return what may be wrong with a folder that exists, the worst first, each with a mend of its own or none."""
    length = len(place.path)
    if place.name == "tmux":
        return [
            (place.network, "fail", "tmux hangs on sockets on a network file system", ""),
            (length + TMUX_ADDS > SOCKET_PATH, "fail", f"a path of {length} letters is too long for a socket", ""),
        ]
    enough = {"tmp": ROOMY_TMP, "shm": ROOMY_SHM}.get(place.name, ROOMY)
    few = place.inodes is not None and place.inodes < FEW_INODES
    alone = place.name == "project" and shared and not place.network
    node = "nodes must see this folder: `doctor --node PARTITION` tells whether they do"
    temporary = place.name == "tmp"
    return [
        (place.free < TIGHT and place.name != "shm", "fail", "too little", ""),
        (place.free < enough, "warn", f"less than {bytes_text(enough)}", ""),
        (few and place.name != "shm", "warn", f"fewer than {FEW_INODES:,} files", ""),
        (temporary and place.network, "warn", "slow, and sockets may not work", ""),
        (temporary and length + RAY_ADDS > SOCKET_PATH, "warn", f"{length} letters are too long for sockets", ""),
        (alone, "warn", "a type that is often of one machine only", node),
    ]


def _judge_quota(quota: Quota) -> Finding:
    shares = [
        (used / limit, f"{used:,} of {limit:,} {unit}")
        for used, limit, unit in (
            (quota.used, quota.limit, "kB"),
            (quota.files, quota.files_limit, "files"),
        )
        if limit
    ]
    text = f"quota on {quota.device}: {', '.join(words for _, words in shares) or 'none set'}"
    if any(share >= NEARLY_FULL for share, _ in shares):
        return Finding("warn", CHECK, f"{text}: nearly full", "remove what you do not need, or work on scratch")
    return Finding("ok", CHECK, text)
