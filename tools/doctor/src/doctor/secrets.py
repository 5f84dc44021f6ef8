"""Whether the file of secrets is as private as it must be; what is in it is never read."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from doctor.findings import Finding
from doctor.profile import Profile

CHECK = "secrets"


@dataclass(frozen=True)
class Facts:
    """What the file's directory entry says: `mode` its permission bits, None where there is no file."""

    path: str = ""
    mode: int | None = None
    regular: bool = True
    own: bool = True
    below_project: bool = False
    unset: tuple[str, ...] = ()


def examine(profile: Profile, *, node: bool, shared: bool) -> list[Finding]:
    """Gather the facts and judge them."""
    return judge(gather(profile, os.environ))


def gather(profile: Profile, environment: Mapping[str, str]) -> Facts:
    """Look at the file that config names as `secrets`, and at the environment's variables, by name only."""
    path = profile.config.get("secrets", "")
    unset = tuple(name for name in profile.envvars if name not in environment)
    if not path:
        return Facts(unset=unset)
    real = Path(path).resolve()
    below = real.is_relative_to(Path.cwd().resolve())
    try:
        status = real.stat()
    except OSError:
        return Facts(path, None, below_project=below, unset=unset)
    return Facts(
        path, stat.S_IMODE(status.st_mode), stat.S_ISREG(status.st_mode), status.st_uid == os.getuid(), below, unset
    )


def judge(facts: Facts) -> list[Finding]:
    """Return what the facts mean for the workflow."""
    found = [_file(facts)]
    if facts.unset:
        names = ", ".join(facts.unset)
        mend = "export them, or take them out of envvars in the site file; snakemake does not start otherwise"
        found.append(Finding("fail", CHECK, f"envvars names variables that are not set: {names}", mend))
    return found


def _file(facts: Facts) -> Finding:
    if not facts.path:
        return Finding("ok", CHECK, "the profile names no file of secrets")
    make = f"(umask 077; touch {facts.path}) and write NAME=VALUE lines into it"
    move = "move it out of the project's folder, and correct `secrets=` of config in the site file"
    problems = (
        (facts.below_project, "is below the project, where it may be published", move),
        (facts.mode is None, "does not exist", make),
        (not facts.regular, "is not a file", make),
        (not facts.own, "is not yours", "name a file of your own in the site file"),
        (facts.mode != 0o600, f"has mode {facts.mode or 0:04o}, not 0600", f"chmod 600 {facts.path}"),
    )
    for holds, text, mend in problems:
        if holds:
            return Finding("fail", CHECK, f"{facts.path} {text}", mend)
    return Finding("ok", CHECK, f"{facts.path} has mode 0600")
