"""Source `inferredbugs`: bugs that the analyser Infer found in Java and C# projects, each with the recorded fix.

The sandbox has no compilers, so the verifier looks at the file: it accepts the recorded fix up to layout and comments
(`files/fix_check.py`), either of the reported method alone or of the whole file, and nothing else. Another correct fix
scores 0. `meta` says so (`"verifier"`), and so does the instruction.

The data are the folders `<language>/<project>/<number>/` of microsoft/InferredBugs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any, Literal, NamedTuple

from recipe_core.errors import BadInput
from recipe_core.seeds import row_seed
from recipe_core.tasks import TaskFile
from source_tasks.files.fix_check import form, tokens
from source_tasks.given import (
    BAD_PATH,
    OVERSIZE,
    bad_path,
    input_digest,
    mark_repeats,
    must_exist,
    on_both_sides,
    too_large,
)
from source_tasks.heldout import in_split
from source_tasks.pybugs import patch, repair
from source_tasks.source import Candidate, Rejected, dockerfile, script, task_toml, text, verifier

LICENCE = "MIT (the data set); the code in it keeps its project's licence"
ORIGIN = "microsoft/InferredBugs"
LANGUAGES = ("csharp", "java")
VERIFIER = "accepts only the recorded fix, up to layout and comments"

REPORT = "bug.json"
TEXTS = ("file_before.txt", "file_after.txt", "method_before.txt", "method_after.txt")

INCOMPLETE = "a file of the bug is missing or not UTF-8 text"
BAD_REPORT = "bug.json cannot be read, or lacks qualifier, file, line or procedure"
BOTH_SIDES = "the same method stands in a project of the other split"
NO_METHOD = "the reported method is not in the file exactly once"
NO_FIX = "the recorded fix changes nothing but layout and comments of the method"


class Bug(NamedTuple):
    """One bug as the data set has it; the texts keep their line ends."""

    language: str
    project: str
    number: str
    report: Mapping[str, Any]
    file_before: str
    file_after: str
    method_before: str
    method_after: str


def find_data(root: Path) -> Path:
    """Return the folder that holds the languages: the one given, or `inferredbugs` in it.

    Raises:
        BadInput: neither does.
    """
    for folder in (root, root / "inferredbugs"):
        if any((folder / language).is_dir() for language in LANGUAGES):
            return folder
    raise BadInput(f"--input {root}: no folder {' or '.join(LANGUAGES)} in it; give a copy of {ORIGIN}")


def read_bug(folder: Path) -> Bug:
    """Read a bug's folder.

    Raises:
        Rejected: a file is missing, is no text, or is no report.
    """
    try:
        texts = [(folder / name).read_bytes().decode() for name in TEXTS]
        content = (folder / REPORT).read_bytes().decode()
    except (FileNotFoundError, UnicodeDecodeError):
        raise Rejected(INCOMPLETE) from None
    try:
        report = json.loads(content)
        if not all(isinstance(report[name], str) for name in ("qualifier", "file", "procedure")):
            raise TypeError
        int(report["line"])
    except (ValueError, KeyError, TypeError):
        raise Rejected(BAD_REPORT) from None
    language, project, number = folder.parts[-3:]
    return Bug(language, project, number, report, *texts)


def repaired(bug: Bug) -> str:
    """Return the file before with the method of the file after: the recorded fix of what was reported.

    Raises:
        Rejected: the method is not in the file exactly once, or the fix does not change it.
    """
    method = [token for token, _, _ in tokens(bug.method_before)]
    fixed = tokens(bug.method_after)
    if method == [token for token, _, _ in fixed]:
        raise Rejected(NO_FIX)
    if not method or not fixed:
        raise Rejected(NO_METHOD)
    file = tokens(bug.file_before)
    plain = [token for token, _, _ in file]
    size = len(method)
    places = [at for at in range(len(plain) - size + 1) if plain[at] == method[0] and plain[at : at + size] == method]
    if len(places) != 1:
        raise Rejected(NO_METHOD)
    start, end = file[places[0]][1], file[places[0] + size - 1][2]
    new = bug.method_after[fixed[0][1] : fixed[-1][2]].replace("\r\n", "\n")
    if "\r\n" in bug.file_before:
        new = new.replace("\n", "\r\n")
    return bug.file_before[:start] + new + bug.file_before[end:]


def instruction(bug: Bug) -> str:
    """Return what the agent is asked."""
    report = bug.report
    kind = report.get("bug_type_hum") or report.get("bug_type") or "bug"
    return (
        f"The static analyser Infer reports in /app/{report['file']}, line {report['line']}, in the method\n\n"
        f"    {report['procedure']}\n\n"
        f"a bug of the kind {kind}: {report['qualifier']}\n\n"
        "Fix it by editing the file. There is no compiler here: the file is compared with the fix that the project's "
        "developers made, without regard to layout and comments.\n"
    )


def task_files(bug: Bug) -> dict[str, TaskFile]:
    """Return the Harbor task folder of a bug.

    Raises:
        Rejected: the recorded fix cannot be placed, or the file's path cannot be used.
    """
    path = bug.report["file"]
    fixed = repaired(bug)
    accepted = [form(token for token, _, _ in tokens(content)) for content in (fixed, bug.file_after)]
    checker = package_files("source_tasks").joinpath("files/fix_check.py").read_text(encoding="utf-8")
    before, after = bug.file_before.encode(), fixed.encode()
    files = {
        "instruction.md": text(instruction(bug)),
        "task.toml": task_toml("inferredbugs", bug.language),
        "environment/Dockerfile": dockerfile(copies=True),
        f"environment/files/{path}": TaskFile(before),
        "solution/solve.sh": script(repair(path, before, after)),
        "solution/fix.patch": text(patch(path, before, after)),
        "tests/test.sh": verifier("python3 -I /tests/check.py /tests/expected.json"),
        "tests/check.py": text(checker),
        "tests/expected.json": text(json.dumps({"file": path, "accepted": sorted(set(accepted))}, indent=1) + "\n"),
    }
    if (wrong := bad_path(files)) is not None:
        raise Rejected(BAD_PATH, wrong)
    if too_large(files):
        raise Rejected(OVERSIZE)
    return files


class InferredBugs:
    """Bugs of the data set."""

    name: Literal["inferredbugs"] = "inferredbugs"

    def __init__(self, root: Path) -> None:
        must_exist(root, self.name, f"a folder with the folders {' and '.join(LANGUAGES)}")
        self.root = find_data(root)
        folders = (self.root / language for language in LANGUAGES)
        self.bugs = sorted(path for folder in folders for path in folder.glob("*/*") if path.is_dir())
        if not self.bugs:
            raise BadInput(f"--input {root}: no bug in it; expected folders <language>/<project>/<number>")

    def digest(self) -> str:
        """Return the digest over the files of all bugs."""
        paths = (folder / name for folder in self.bugs for name in (REPORT, *TEXTS))
        return input_digest(self.root, [path for path in paths if path.is_file()])

    def families(self) -> tuple[str, ...]:
        """Return the languages."""
        return LANGUAGES

    def generate(self, split: str, seed: int, families: tuple[str, ...]) -> Iterator[Candidate]:
        """Yield the bugs of a split in an order drawn from the seed.

        A project belongs to one split; a method that stands in projects of both (copied code) is in neither.
        """
        keys = {folder: (_project_key(folder), _method_key(folder)) for folder in self.bugs}
        shared = on_both_sides(keys.values())
        mine = [folder for folder in self.bugs if in_split(keys[folder][0], split) and folder.parts[-3] in families]
        mine.sort(key=lambda folder: (row_seed(seed, self.name, split, *folder.parts[-3:]), folder))
        return mark_repeats(_candidate(split, folder, list(keys[folder]), keys[folder][1] in shared) for folder in mine)


def _project_key(folder: Path) -> str:
    return f"project:{folder.parts[-3]}/{folder.parts[-2]}"


def _method_key(folder: Path) -> str:
    path = folder / "method_before.txt"
    content = b"".join(path.read_bytes().split()) if path.is_file() else "/".join(folder.parts[-3:]).encode()
    return f"method:{hashlib.sha256(content).hexdigest()[:32]}"


def _candidate(split: str, folder: Path, keys: list[str], shared: bool) -> Candidate:
    language, name = folder.parts[-3], "/".join(folder.parts[-3:])
    meta = {
        "family": language,
        "parameters": {"bug": name},
        "split": split,
        "held_out": keys,
        "verifier": VERIFIER,
    }
    origin = f"{ORIGIN} {name}"
    try:
        if shared:
            raise Rejected(BOTH_SIDES)
        bug = read_bug(folder)
        parameters = {"bug": name, "kind": bug.report.get("bug_type"), "file": bug.report["file"]}
        return Candidate(language, task_files(bug), LICENCE, origin, {**meta, "parameters": parameters})
    except Rejected as reason:
        detail = {"detail": reason.detail} if reason.detail else {}
        return Candidate(language, {}, LICENCE, origin, {**meta, **detail}, reason=str(reason))


def open_source(given: Path) -> InferredBugs:
    """Return the source; `given` is the folder that holds the data."""
    return InferredBugs(given)
