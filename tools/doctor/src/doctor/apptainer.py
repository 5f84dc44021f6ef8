"""Whether Apptainer runs the workflow's images for this user."""

from __future__ import annotations

import os
import pwd
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from doctor.commands import OK, Answer, ask, find, read
from doctor.findings import Finding, one_line
from doctor.profile import Profile

CHECK = "apptainer"
# From 1.1 on no setuid program is needed: images and overlays are mounted through FUSE in a user namespace.
OLDEST = (1, 1)
# newuidmap and a range of this many ids give a build the users that Debian's packages make.
SUBORDINATE_IDS = 65536
_SYSCTL = "ask the site to allow user namespaces: sysctl"


@dataclass(frozen=True)
class Facts:
    """What this machine has; a sysctl is None where the kernel has none of that name."""

    version: str = ""
    setuid: bool = False
    max_user_namespaces: int | None = None
    unprivileged_userns_clone: int | None = None
    apparmor_restrict: int | None = None
    root: bool = False
    subuid: int = 0
    subgid: int = 0
    newuidmap: bool = False
    overlay: bool = False
    fuse: bool = False
    squashfuse: bool = False
    fuse_overlayfs: bool = False
    trial: Answer = OK
    trial_ms: float = 0.0


def examine(profile: Profile, *, node: bool, shared: bool) -> list[Finding]:
    """Gather the facts and judge them."""
    return judge(gather())


def gather() -> Facts:
    """Look at the machine, and run `true` in an image that is a folder."""
    program = find("apptainer")
    if program is None:
        other = find("singularity")
        return Facts(version=ask([other, "--version"]).output.strip() if other else "")
    build = dict(row.split("=", 1) for row in ask([program, "buildcfg"]).output.splitlines() if "=" in row)
    helpers = Path(build.get("LIBEXECDIR", "/usr/libexec"), "apptainer", "bin")
    try:
        setuid = bool((helpers / "starter-suid").stat().st_mode & 0o4000)
    except OSError:
        setuid = False
    trial, milliseconds = _trial(program)
    user = pwd.getpwuid(os.getuid()).pw_name
    names = (user, str(os.getuid()))
    return Facts(
        version=ask([program, "--version"]).output.strip(),
        setuid=setuid,
        max_user_namespaces=_sysctl("user/max_user_namespaces"),
        unprivileged_userns_clone=_sysctl("kernel/unprivileged_userns_clone"),
        apparmor_restrict=_sysctl("kernel/apparmor_restrict_unprivileged_userns"),
        root=os.geteuid() == 0,
        subuid=subordinate_ids(read("/etc/subuid") or "", names),
        subgid=subordinate_ids(read("/etc/subgid") or "", names),
        newuidmap=find("newuidmap") is not None,
        overlay="overlay" in (read("/proc/filesystems") or "").split(),
        fuse=os.access("/dev/fuse", os.R_OK | os.W_OK),
        squashfuse=any(find(name, [helpers]) for name in ("squashfuse_ll", "squashfuse")),
        fuse_overlayfs=find("fuse-overlayfs", [helpers]) is not None,
        trial=trial,
        trial_ms=milliseconds,
    )


def _sysctl(name: str) -> int | None:
    text = read(f"/proc/sys/{name}")
    return int(text) if text and text.lstrip("-").isdigit() else None


def _trial(program: str) -> tuple[Answer, float]:
    system = ("/usr", "/bin", "/lib", "/lib64")
    with tempfile.TemporaryDirectory(prefix="doctor-") as folder:
        for name in (*system, "/proc", "/dev", "/tmp", "/etc"):
            Path(folder, name[1:]).mkdir()
        words = [program, "--silent", "exec", "--userns", "--containall", "--no-home"]
        words += ["--no-mount", "tmp,sys,home,cwd,hostfs,bind-paths"]
        for path in system:
            words += ["--bind", f"{path}:{path}:ro"] if Path(path).exists() else []
        began = time.perf_counter()
        answer = ask([*words, folder, "/usr/bin/true"], seconds=60)
        return answer, 1000 * (time.perf_counter() - began)


def subordinate_ids(text: str, names: tuple[str, ...]) -> int:
    """Return how many ids `/etc/subuid` or `/etc/subgid` gives a user (man 5 subuid).

    >>> subordinate_ids("ann:100000:65536", ("ann", "1000"))
    65536
    """
    total = 0
    for row in text.splitlines():
        parts = row.strip().split(":")
        if len(parts) == 3 and parts[0] in names and parts[2].isdigit():
            total += int(parts[2])
    return total


def parse_version(text: str) -> tuple[int, int] | None:
    """Return the first two numbers of Apptainer's version, or None for any other program's.

    >>> parse_version("apptainer version 1.3.4-1.el9")
    (1, 3)
    """
    match = re.match(r"apptainer version (\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else None


def judge(facts: Facts) -> list[Finding]:
    """Return what the facts mean for the workflow."""
    install = "install Apptainer 1.1 or newer, or load its module in the shell that starts snakemake"
    version = parse_version(facts.version)
    if version is None:
        text = f"not Apptainer but {one_line(facts.version)}" if facts.version else "apptainer is not on PATH"
        return [Finding("fail", CHECK, text, install)]
    kind = "setuid" if facts.setuid else "without setuid"
    if version < OLDEST:
        return [Finding("fail", CHECK, f"{facts.version} ({kind}), older than 1.1", install)]
    return [
        Finding("ok", CHECK, f"{facts.version} ({kind})"),
        _namespaces(facts),
        _run(facts),
        _fakeroot(facts),
        _mounts(facts),
    ]


def _namespaces(facts: Facts) -> Finding:
    seen = f"user.max_user_namespaces={facts.max_user_namespaces}"
    if facts.max_user_namespaces == 0:
        return Finding("fail", CHECK, f"no user namespaces: {seen}", f"{_SYSCTL} user.max_user_namespaces=15000")
    if facts.unprivileged_userns_clone == 0:
        text = "no user namespaces for users: kernel.unprivileged_userns_clone=0"
        return Finding("fail", CHECK, text, f"{_SYSCTL} kernel.unprivileged_userns_clone=1")
    if facts.apparmor_restrict == 1:
        text = f"{seen}, but kernel.apparmor_restrict_unprivileged_userns=1"
        if facts.trial.code == 0:
            return Finding("ok", CHECK, f"{text}; a profile exempts Apptainer, as the run below shows")
        mend = "ask the site for Apptainer's own package, which brings its AppArmor profile, or for the value 0"
        return Finding("fail", CHECK, text, mend)
    return Finding("ok", CHECK, f"user namespaces: {seen if facts.max_user_namespaces is not None else 'no limit set'}")


def _run(facts: Facts) -> Finding:
    if facts.trial.code == 0:
        return Finding("ok", CHECK, f"apptainer exec --userns of a folder works ({facts.trial_ms:.0f} ms)")
    mend = "mend the findings about namespaces first; then `apptainer --debug exec` says more"
    return Finding("fail", CHECK, f"apptainer exec --userns of a folder fails: {facts.trial.complaint}", mend)


def _fakeroot(facts: Facts) -> Finding:
    if facts.root:
        return Finding("ok", CHECK, "--fakeroot: root needs no subordinate ids")
    ids = min(facts.subuid, facts.subgid)
    if ids >= SUBORDINATE_IDS and facts.newuidmap:
        return Finding("ok", CHECK, f"--fakeroot: {ids} subordinate ids and newuidmap")
    lacks = f"{ids} subordinate ids" if ids < SUBORDINATE_IDS else "newuidmap is not on PATH"
    mend = (
        "build the images on a machine of your own and copy them, or ask the site for a range in /etc/subuid and subgid"
    )
    return Finding("warn", CHECK, f"--fakeroot has one user only ({lacks}); `images build` may fail", mend)


def _mounts(facts: Facts) -> Finding:
    parts = {
        "/dev/fuse": facts.fuse,
        "squashfuse": facts.squashfuse,
        "fuse-overlayfs": facts.fuse_overlayfs,
        "kernel overlay": facts.overlay,
    }
    text = ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in parts.items())
    if not facts.setuid and not (facts.fuse and facts.squashfuse):
        mend = "ask the site for /dev/fuse and squashfuse; without them every start unpacks the whole image"
        return Finding("warn", CHECK, f"images cannot be mounted: {text}", mend)
    if not (facts.overlay or (facts.fuse and facts.fuse_overlayfs)):
        mend = "ask the site for fuse-overlayfs, or the kernel's overlay module"
        return Finding("warn", CHECK, f"no writable layer over an image: {text}", mend)
    return Finding("ok", CHECK, f"mounts: {text}")
