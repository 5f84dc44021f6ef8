"""Source `nl2bash`: English requests with their Bash one-liners, where a run can show whether another script does that.

A pair becomes a task if its command is one pipeline of programs that only read names and text below the current folder
(:mod:`source_tasks.pipeline`) and if, in the sandbox and on two small folders made for it, it succeeds, changes
nothing, prints the same when the files were made in the opposite order, and prints something else in each folder that
is no copy of a file. Where only the order of lines follows from that of the files, it does not count. The agent sees
one folder and what is to be printed there, and writes a script; the verifier runs the script in both. Everything else
is rejected with the reason.

The data are `data/bash/all.nl` and `all.cm` of TellinaTool/nl2bash: line n of one belongs to line n of the other.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any, Literal, NamedTuple

from recipe_core.errors import BadInput
from recipe_core.seeds import row_random, row_seed
from recipe_core.tasks import TaskFile
from recipe_core.text import normalise
from source_tasks import words
from source_tasks.files.command_check import lines_of
from source_tasks.given import bad_path, input_digest, mark_repeats, must_exist, on_both_sides
from source_tasks.heldout import in_split
from source_tasks.pipeline import Command, analyse
from source_tasks.source import Candidate, Rejected, dockerfile, script, task_toml, text, verifier

LICENCE = "MIT"
ORIGIN = "TellinaTool/nl2bash data/bash"
REQUESTS, COMMANDS = "all.nl", "all.cm"

EMPTY = "the request or the command is empty"
BOTH_SIDES = "the same request stands beside a command of the other split"
FAILS = "the command fails or does not end"
CHANGES = "the command changes files"
SILENT = "the command prints nothing on the folders made for it"
LONG = "the command prints more than 40 lines or 2,000 characters, or what is no text"
UNSTEADY = "what the command prints depends on more than the files"
CONSTANT = "the command prints the same whatever the files"
COPY = "the command prints a file as it is, so nothing shows that it was understood"

_END = "END_OF_COMMAND"
_MAX_LINES = 40
_MAX_CHARACTERS = 2000
_RUN_TIMEOUT_SEC = 90.0
_SUFFIXES = ("txt", "log", "md", "csv", "py", "sh", "c", "h", "java", "html", "php", "jpg")

_PART = r"[\w.,+@~-]+( [\w.,+@~-]+)*"
_PLAIN_PATH = re.compile(rf"{_PART}(/{_PART})*", re.ASCII)

Folder = dict[str, list[str]]
"""Path -> text and mode, as `files/command_check.py` takes them."""


class Pair(NamedTuple):
    """A request and its command."""

    request: str
    command: str

    @property
    def keys(self) -> tuple[str, str]:
        """The held-out keys; the first, that of the command, decides the split."""
        return f"command:{' '.join(self.command.split())}", f"request:{normalise(self.request)}"


def find_data(root: Path) -> Path:
    """Return the folder that holds the two files: the one given, or `data/bash` in it.

    Raises:
        BadInput: they are in neither.
    """
    for folder in (root, root / "data" / "bash"):
        if (folder / REQUESTS).is_file() and (folder / COMMANDS).is_file():
            return folder
    raise BadInput(f"--input {root}: no {REQUESTS} and {COMMANDS} there or in data/bash; give a copy of {ORIGIN}")


def read_pairs(folder: Path) -> list[Pair]:
    """Read all pairs, repeated ones once.

    Raises:
        BadInput: a file is not UTF-8, or they differ in their number of lines.
    """
    columns = []
    for name in (REQUESTS, COMMANDS):
        try:
            content = (folder / name).read_bytes().decode()
        except UnicodeDecodeError as error:
            raise BadInput(f"{folder / name}: not UTF-8 text (byte {error.start}); obtain it again") from None
        columns.append([line.strip() for line in content.removesuffix("\n").split("\n")])
    if len(columns[0]) != len(columns[1]):
        raise BadInput(
            f"{folder}: {REQUESTS} has {len(columns[0])} lines, {COMMANDS} {len(columns[1])}; "
            "expected as many, line by line a pair: obtain both again"
        )
    return list(dict.fromkeys(Pair(*pair) for pair in zip(*columns, strict=True)))


def instance(pattern: str, rng: random.Random) -> str:
    """Return a path that a shell pattern matches, or the empty string where none is plain.

    >>> instance("[ab]?.txt", random.Random(0))[0]
    'a'
    """
    found, at = "", 0
    while at < len(pattern):
        letter = pattern[at]
        if letter == "*":
            found += rng.choice(words.FIRST)
        elif letter == "?":
            found += rng.choice("abcxyz")
        elif letter == "[" and "]" in pattern[at + 2 :]:
            end = pattern.index("]", at + 2)
            inside = pattern[at + 1 : end]
            named = {"[:digit:": "7", "[:alpha:": "m", "[:alnum:": "m", "[:upper:": "M", "[:lower:": "m"}
            found += named.get(inside) or ("Q" if inside[0] in "!^" else inside[0])
            at = end + (pattern[end + 1 : end + 2] == "]" and inside.startswith("[:"))
        elif letter == "\\":
            found, at = found + pattern[at + 1 : at + 2], at + 1
        else:
            found += letter
        at += 1
    path = re.sub(r"/+", "/", found).removeprefix("./").strip("/")
    # A blank at the end of a name would not be seen in what is printed.
    return path if _PLAIN_PATH.fullmatch(path) and path not in (".", "..") else ""


def _searched(program: str, pattern: str) -> str:
    """Return the regular expression in a program's first operand, or the empty string."""
    if program == "sed":
        match = re.match(r"(?:s(.)(.*?)\1|/(.*?)/)", pattern)
        return (match[2] or match[3] or "") if match else ""
    if program == "awk":
        match = re.search(r"/([^/]+)/|==\s*\"([^\"]+)\"", pattern)
        return (match[1] or match[2]) if match else ""
    return pattern


def literals(commands: Sequence[Command]) -> list[str]:
    """Return plain texts that the patterns of a pipeline would find."""
    found = []
    for command in commands:
        for pattern in command.patterns:
            for part in re.split(r"\\?\|", _searched(command.program, pattern)):
                plain = re.sub(r"\\[bB<>]|[\^$]", "", part).replace("\\.", ".")
                plain = plain.replace("[0-9]", "7").replace("[a-z]", "m").replace(".*", " ").replace("+", "")
                if re.fullmatch(r"[\w .,:;@=/-]{1,40}", plain, re.ASCII):
                    found.append(plain)
    return found


def make_folder(commands: Sequence[Command], split: str, rng: random.Random) -> Folder:
    """Return a small folder of files on which a pipeline is likely to print something.

    It has files of many kinds in a few folders, others that fit the names which the commands look for, and lines that
    hold what they search for, some of each kind that do not fit.
    """
    values = words.values(split)
    found = literals(commands)
    delimiter = next((command.delimiter for command in commands if command.delimiter), " ")
    sort_lines = any(command.program in ("comm", "join") for command in commands)
    starts = [path.strip("/").removeprefix("./") for command in commands for path in command.folders]
    starts = sorted({path for path in starts if _PLAIN_PATH.fullmatch(path)} - {"."})
    tops = ["", *starts]
    places = [*tops, *(f"{rng.choice(tops)}/{value}".strip("/") for value in rng.sample(values, 3))]
    first_words = rng.sample(words.SECOND, 3 if sort_lines else 6)

    def line() -> str:
        fields = [rng.choice(first_words), str(rng.randrange(1, 100)), rng.choice(words.FIRST), rng.choice(values)]
        # What `join` and `comm` compare has to be in both files now and then.
        if rng.random() < 0.5 and not sort_lines:
            fields[0], fields[1] = fields[1], fields[0]
        if found and rng.random() < 0.5:
            fields.insert(rng.randrange(4), rng.choice(found))
        return delimiter.join(fields)

    def content() -> str:
        rows = [line() for _ in range(rng.randint(2, 6))]
        rows.insert(rng.randrange(len(rows)), rng.choice(rows))
        if rng.random() < 0.4 and not sort_lines:
            # What commands that fold, trim and squeeze are for.
            rows += ["", f"  {delimiter.join(rows)}"]
        return "".join(f"{row}\n" for row in (sorted(rows) if sort_lines else rows))

    paths = [f"{rng.choice(places)}/{rng.choice(values)}.{suffix}" for suffix in rng.sample(_SUFFIXES, 7)]
    for command in commands:
        for pattern in command.files:
            if command.program == "find":
                fitting = [instance(pattern, rng) for _ in range(rng.randint(2, 4))]
                named = [f"{rng.choice(places)}/{name}" for name in fitting if name]
                # Folders of such a name too, but only where the command tells them from files.
                folders = len(named) - 1 if "d" in command.words else int("-type" in command.words)
                paths += [f"{path}/{rng.choice(values)}.txt" for path in named[:folders]] + named[folders:]
            else:
                paths += [instance(pattern, rng) for _ in range(2)]
    folder: Folder = {}
    for path in dict.fromkeys(path.strip("/") for path in paths):
        if path and bad_path([*folder, path]) is None:
            folder[path] = [content(), "755" if path.endswith(".sh") else "644"]
    for path in rng.sample(sorted(folder), 1) if any("-empty" in command.words for command in commands) else []:
        folder[path][0] = ""
    return folder


def instruction(request: str, ordered: bool, output: str) -> str:
    """Return what the agent is asked."""
    order = "in this order" if ordered else "in any order"
    return (
        "Write a Bash script /app/command.sh that does the following in the folder in which it is run:\n\n"
        f"{request}\n\n"
        "It is run with `bash` in a copy of /app/files and in another folder with other files. It changes no file and "
        f"prints only what is asked for, {order}. In /app/files that is:\n\n"
        f"```\n{output}```\n"
    )


def judge(runs: Sequence[Sequence[dict[str, Any]]]) -> tuple[bool, list[str]]:
    """Return whether the order of lines counts, and what is printed in every folder, sorted if it does not.

    Args:
        runs: of every folder, the runs in copies whose files were made in opposite orders.

    Raises:
        Rejected: the command makes no task.
    """
    every = [run for pair in runs for run in pair]
    if any(run["code"] != 0 for run in every):
        raise Rejected(FAILS)
    if any(run["changed"] for run in every):
        raise Rejected(CHANGES)
    outputs = [run["output"] for run in every]
    if any(output is None or not re.fullmatch(r"[\t\n -~\u00a0-\ud7ff]*", output) for output in outputs):
        raise Rejected(LONG)
    if not all(output.strip() for output in outputs):
        raise Rejected(SILENT)
    if any(len(output) > _MAX_CHARACTERS or len(output.splitlines()) > _MAX_LINES for output in outputs):
        raise Rejected(LONG)
    if any(lines_of(one["output"], False) != lines_of(other["output"], False) for one, other in runs):
        raise Rejected(UNSTEADY)
    ordered = all(lines_of(one["output"], True) == lines_of(other["output"], True) for one, other in runs)
    # The order in which a machine happens to list files must not get into the task.
    printed = ["\n".join(lines_of(one["output"], ordered)) + "\n" for one, _ in runs]
    if len(set(printed)) < len(printed):
        raise Rejected(CONSTANT)
    return ordered, printed


def copies(outputs: Sequence[str], folders: Sequence[Folder]) -> bool:
    """Tell whether every output is the content of a file of its folder."""
    pairs = zip(outputs, folders, strict=True)
    return all(
        lines_of(output, True) in [lines_of(content, True) for content, _ in folder.values()]
        for output, folder in pairs
    )


def task_files(pair: Pair, family: str, folders: Sequence[Folder]) -> dict[str, TaskFile]:
    """Return the Harbor task folder, as yet without what is to be printed."""
    checker = package_files("source_tasks").joinpath("files/command_check.py").read_text(encoding="utf-8")
    expected = {"ordered": True, "folders": [{"files": folder} for folder in folders]}
    return {
        "instruction.md": text(f"{pair.request}\n"),
        "task.toml": task_toml("nl2bash", family),
        "environment/Dockerfile": dockerfile(copies=True),
        "solution/solve.sh": script(f"#!/bin/bash\ncat > /app/command.sh <<'{_END}'\n{pair.command}\n{_END}\n"),
        "tests/test.sh": verifier("python3 -I /tests/check.py /tests/expected.json /app/command.sh"),
        "tests/check.py": text(checker),
        "tests/expected.json": text(json.dumps(expected, indent=1) + "\n"),
        **{
            f"environment/files/files/{path}": TaskFile(content.encode(), int(mode, 8))
            for path, (content, mode) in folders[0].items()
        },
    }


async def probe(command: str, files: dict[str, TaskFile]) -> list[list[dict[str, Any]]]:
    """Run a command in the folders of a task, in a sandbox, and return the runs as :func:`judge` takes them."""
    from sandbox import Sandbox, SandboxKilled

    async with Sandbox.start() as box:
        try:
            tests = {f"/{path}": file for path, file in files.items() if path.startswith("tests/")}
            await box.upload({**tests, "/tests/reference.sh": script(f"{command}\n")})
            done = await box.exec(
                "python3 -I /tests/check.py /tests/expected.json /tests/reference.sh probe", timeout=_RUN_TIMEOUT_SEC
            )
        except SandboxKilled:
            raise Rejected(FAILS) from None
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise Rejected(LONG) from None


async def finish(candidate: Candidate, pair: Pair, folders: Sequence[Folder]) -> Candidate:
    """Add to a candidate what its command prints, as the sandbox shows it."""
    ordered, outputs = judge(await probe(pair.command, candidate.files))
    if copies(outputs, folders):
        raise Rejected(COPY)
    cases = [{"files": folder, "output": output} for folder, output in zip(folders, outputs, strict=True)]
    files = {
        **candidate.files,
        "instruction.md": text(instruction(pair.request, ordered, outputs[0])),
        "tests/expected.json": text(json.dumps({"ordered": ordered, "folders": cases}, indent=1) + "\n"),
    }
    return replace(candidate, files=files, refine=None)


class NL2Bash:
    """Pairs of the data set."""

    name: Literal["nl2bash"] = "nl2bash"

    def __init__(self, root: Path) -> None:
        must_exist(root, self.name, f"a folder with {REQUESTS} and {COMMANDS}")
        self.root = find_data(root)

    def digest(self) -> str:
        """Return the digest over the two files."""
        return input_digest(self.root, [self.root / REQUESTS, self.root / COMMANDS])

    def families(self) -> tuple[str, ...]:
        """Return `find` (commands that begin with it) and `text` (all others)."""
        return ("find", "text")

    def generate(self, split: str, seed: int, families: tuple[str, ...]) -> Iterator[Candidate]:
        """Yield the pairs of a split in an order drawn from the seed; errors as in :func:`read_pairs`."""
        pairs = read_pairs(self.root)
        shared = on_both_sides(pair.keys for pair in pairs)
        mine = [pair for pair in pairs if in_split(pair.keys[0], split) and _family(pair) in families]
        mine.sort(key=lambda pair: (row_seed(seed, self.name, split, *pair), pair))
        return mark_repeats(self._candidate(split, seed, pair, pair.keys[1] in shared) for pair in mine)

    def _candidate(self, split: str, seed: int, pair: Pair, shared: bool) -> Candidate:
        family = _family(pair)
        meta = {
            "family": family,
            "parameters": pair._asdict(),
            "split": split,
            "held_out": list(pair.keys),
        }
        bare = {"instruction.md": text(f"{pair.request}\n"), "solution/solve.sh": script(f"{pair.command}\n")}
        candidate = Candidate(family, bare, LICENCE, ORIGIN, meta)
        if not pair.request or not pair.command:
            return replace(candidate, reason=EMPTY)
        if shared:
            return replace(candidate, reason=BOTH_SIDES)
        try:
            commands = analyse(pair.command)
        except Rejected as reason:
            return replace(candidate, reason=str(reason))
        folders = [
            make_folder(commands, split, row_random(seed, self.name, split, *pair, which))
            for which in ("shown", "hidden")
        ]
        candidate = replace(candidate, files=task_files(pair, family, folders))
        return replace(candidate, refine=partial(finish, candidate, pair, folders))


def _family(pair: Pair) -> str:
    return "find" if pair.command.split()[:1] == ["find"] else "text"


def open_source(given: Path) -> NL2Bash:
    """Return the source; `given` is the folder that holds the data."""
    return NL2Bash(given)
