"""What comes into containers from outside: variables named in the profile, and keys of remote services from a file."""

from __future__ import annotations

import re
from collections.abc import Iterable, MutableMapping, Sequence
from pathlib import Path

from recipe_core.errors import BadInput

_LINE = re.compile(r"(?:export +)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")


def let_in(environment: MutableMapping[str, str], names: Iterable[str], folders: Sequence[str] = ()) -> None:
    """Let variables into containers that are started with `--cleanenv`, and the files and folders that they name.

    Args:
        environment: the process's; each of the variables that it has is given a twin for Apptainer.
        names: of the variables.
        folders: further folders to be seen in containers.

    Raises:
        BadInput: one of the folders does not exist, or names a variable that is not set.
    """
    for folder in folders:
        if unset := re.search(r"\$\{?(\w+)", folder):
            raise BadInput(f"bind={folder} in the profile: ${unset[1]} is not set; export it, or name a folder")
        if not Path(folder).is_dir():
            raise BadInput(f"bind={folder} in the profile: no such folder; make it, or correct the site file")
    # A job inherits what was bound where it was submitted, and Apptainer starts nothing when one of those is not there.
    inherited = environment.get("APPTAINER_BIND", "").split(",")
    binds = [bind for bind in inherited if bind and _is_here(bind.partition(":")[0])]
    for name in names:
        value = environment.get(name)
        if value:
            environment[f"APPTAINERENV_{name}"] = value
            if Path(value).is_absolute() and _is_here(value):
                binds.append(value)
    binds += folders
    if binds:
        environment["APPTAINER_BIND"] = ",".join(dict.fromkeys(binds))
    else:
        environment.pop("APPTAINER_BIND", None)


def _is_here(path: str) -> bool:
    try:
        return Path(path).exists()
    except PermissionError:
        # Below a folder that this user may not look into, such as a home that this node does not have.
        return False


def let_secrets_in(environment: MutableMapping[str, str], path: Path) -> None:
    """Put the variables of a secrets file into the environment of jobs, and so into no command line and no log.

    Raises:
        BadInput: as :func:`read_secrets`.
    """
    for name, value in read_secrets(path).items():
        environment[name] = environment[f"APPTAINERENV_{name}"] = value


def read_secrets(path: Path) -> dict[str, str]:
    """Return the variables of a secrets file.

    Args:
        path: lines of `NAME=value`; empty lines and those that begin with `#` are passed over; quotes around
            a value are no part of it.

    Raises:
        BadInput: no such file, others may read it, or a line is not of that form. No message holds a value.
    """
    try:
        mode = path.stat().st_mode & 0o777
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"secrets file {path}: cannot be read ({type(error).__name__}); see `secrets` in the profile"
        ) from None
    if mode & 0o077:
        raise BadInput(f"secrets file {path}: mode {mode:o}, others may read it; run: chmod 600 {path}")
    found = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        if not match:
            raise BadInput(f"secrets file {path}, line {number}: expected NAME=value")
        value = match[2].strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        found[match[1]] = value
    return found
