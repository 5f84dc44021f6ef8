"""Reads the subset of Dockerfiles that a sandbox follows: FROM, WORKDIR, COPY, ENV, RUN.

FROM names the image for people who run the task under Docker; here the host's /usr takes its place.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from recipe_core.errors import BadInput
from recipe_core.tasks import TaskFile

_KNOWN = "FROM, WORKDIR, COPY, ENV and RUN"
_VARIABLE = re.compile(r"\\(\$)|\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True)
class Workdir:
    """Make a folder and run what follows in it."""

    where: str
    path: str


@dataclass(frozen=True)
class Env:
    """Set variables for what follows and for every command later."""

    where: str
    values: dict[str, str]


@dataclass(frozen=True)
class Run:
    """Run a command line with bash."""

    where: str
    command: str


@dataclass(frozen=True)
class Copy:
    """Copy files of the environment folder."""

    where: str
    sources: tuple[str, ...]
    target: str

    def makes_folder(self, files: Mapping[str, TaskFile], target: str) -> bool:
        """Tell whether the target is a folder by COPY's rules alone: it ends in `/`, or a source is a folder."""
        return target.endswith(("/", ".")) or len(self.sources) > 1 or self.sources[0] not in files

    def select(self, files: Mapping[str, TaskFile], place: str, *, is_folder: bool) -> dict[str, TaskFile]:
        """Return what to write where.

        Args:
            files: path below the environment folder -> file.
            place: absolute target path.
            is_folder: whether single files go into the target rather than onto it.

        Raises:
            BadInput: a source that the folder does not hold, or several sources and a target that is no folder.
        """
        chosen: dict[str, TaskFile] = {}
        if len(self.sources) > 1 and not is_folder:
            raise BadInput(f"{self.where}: COPY of several files: expected a target that ends in '/'")
        for source in self.sources:
            prefix = "" if source == "." else f"{source}/"
            below = {name.removeprefix(prefix): file for name, file in files.items() if name.startswith(prefix)}
            if source in files:
                name = PurePosixPath(source).name
                chosen[str(PurePosixPath(place) / name) if is_folder else place] = files[source]
            elif below:
                chosen |= {str(PurePosixPath(place) / name): file for name, file in below.items()}
            else:
                raise BadInput(f"{self.where}: COPY {source}: no such file in environment/")
        return chosen


def expand(text: str, env: Mapping[str, str], where: str) -> str:
    """Put variables (`$NAME`, `${NAME}`) into a text; `\\$` stays a dollar sign.

    Raises:
        BadInput: a variable that is not set.
    """

    def value(match: re.Match[str]) -> str:
        if match[1]:
            return "$"
        name = match[2] or match[3]
        if name not in env:
            raise BadInput(f"{where}: the variable {name} is not set; set it with ENV before")
        return env[name]

    return _VARIABLE.sub(value, text)


def parse(files: Mapping[str, TaskFile]) -> list[Workdir | Env | Copy | Run] | None:
    """Return the steps of `Dockerfile` among the environment's files, or None where there is none.

    Raises:
        BadInput: anything outside the subset.
    """
    if "Dockerfile" not in files:
        return None
    if ".dockerignore" in files:
        raise BadInput("environment/.dockerignore: not supported; leave out of the folder what is not to be copied")
    try:
        text = files["Dockerfile"].content.decode()
    except UnicodeDecodeError:
        raise BadInput("environment/Dockerfile: not UTF-8 text") from None
    steps: list[Workdir | Env | Copy | Run] = []
    begun = False
    for number, line in _logical_lines(text):
        where = f"environment/Dockerfile line {number}"
        keyword, _, rest = line.partition(" ")
        keyword, rest = keyword.upper(), rest.strip()
        if keyword == "FROM":
            if begun:
                raise BadInput(f"{where}: a second FROM: only one build stage is supported")
            begun = True
            continue
        if keyword not in ("WORKDIR", "COPY", "ENV", "RUN"):
            raise BadInput(f"{where}: {keyword}: not supported; a task's environment may use {_KNOWN}")
        if not rest:
            raise BadInput(f"{where}: {keyword} without arguments")
        if rest.startswith("--") or ("<<" in rest and keyword == "COPY"):
            raise BadInput(f"{where}: {keyword} {rest.split()[0]}: flags and here-documents are not supported")
        steps.append(_step(keyword, rest, where))
    if not begun:
        raise BadInput("environment/Dockerfile: no FROM; it names the image for those who run the task under Docker")
    return steps


def _logical_lines(text: str) -> list[tuple[int, str]]:
    lines: list[tuple[int, str]] = []
    parts: list[str] = []
    start = 0
    for number, raw in enumerate(text.splitlines(), 1):
        if raw.lstrip().startswith("#") or (not raw.strip()):
            continue
        start = start if parts else number
        if raw.rstrip().endswith("\\"):
            parts.append(raw.rstrip()[:-1])
            continue
        lines.append((start, "".join([*parts, raw]).strip().replace("\t", " ", 1)))
        parts = []
    if parts:
        lines.append((start, "".join(parts).strip()))
    return lines


def _step(keyword: str, rest: str, where: str) -> Workdir | Env | Copy | Run:
    try:
        if keyword == "WORKDIR":
            return Workdir(where, rest.strip("\"'"))
        if keyword == "RUN":
            if rest.startswith("["):
                return Run(where, shlex.join(json.loads(rest)))
            if "<<" in rest and "\n" not in rest and re.search(r"<<-?\s*['\"]?\w", rest):
                raise BadInput(f"{where}: RUN with a here-document is not supported; COPY a script and run that")
            return Run(where, rest)
        if keyword == "ENV":
            return Env(where, _variables(rest, where))
        words = json.loads(rest) if rest.startswith("[") else shlex.split(rest)
    except (ValueError, TypeError):
        raise BadInput(f"{where}: {keyword}: cannot be read; look at its quotes and brackets") from None
    if len(words) < 2:
        raise BadInput(f"{where}: COPY: expected sources and a target")
    sources = tuple(_source(word, where) for word in words[:-1])
    return Copy(where, sources, words[-1])


def _source(word: str, where: str) -> str:
    if any(character in word for character in "*?[$"):
        raise BadInput(f"{where}: COPY {word}: patterns and variables are not supported; name the files or a folder")
    path = PurePosixPath(word.lstrip("/") or ".")
    if ".." in path.parts:
        raise BadInput(f"{where}: COPY {word}: expected a path inside environment/")
    return str(path)


def _variables(rest: str, where: str) -> dict[str, str]:
    words = shlex.split(rest)
    if "=" not in words[0]:
        # The old form: ENV NAME the rest of the line.
        name, _, value = rest.partition(" ")
        return {name: value.strip()}
    values = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise BadInput(f"{where}: ENV {word}: expected NAME=value")
        values[name] = value
    return values
