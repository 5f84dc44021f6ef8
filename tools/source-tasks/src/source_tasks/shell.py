"""Source `shell`: parametrised terminal tasks on files, text, archives, permissions and small pipelines.

A family is a function that draws its parameters and says what to ask, how to do it and what must be true then. The
verifier (`files/shell_check.py`) looks at the files below `/app`, never at the commands, so any way that leads there
counts. Values of open domains (file names, lines, search words) are two-word values that belong to one split; values of
closed domains (modes, counts) are shared, but two tasks never share all of them.
"""

from __future__ import annotations

import io
import itertools
import json
import random
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any, Literal

from recipe_core.seeds import row_random
from recipe_core.tasks import TaskFile
from source_tasks import words
from source_tasks.source import Candidate, dockerfile, script, task_toml, text, verifier

LICENCE = "Apache-2.0"
ORIGIN = "generated: source_tasks.shell"

Check = dict[str, Any]


class Draw:
    """The parameters of one task, drawn by name."""

    def __init__(self, split: str, rng: random.Random) -> None:
        self._split = split
        self._rng = rng
        self._first_words: set[str] = set()
        self.open: list[str] = []
        """Values of open domains in the order they were drawn."""
        self.parameters: dict[str, Any] = {}

    def _value(self) -> str:
        while True:
            value = self._rng.choice(words.values(self._split))
            # Different first words: what a task asks to sort or search is then never ambiguous.
            first = value.partition("-")[0]
            if first not in self._first_words:
                self._first_words.add(first)
                self.open.append(value)
                return value

    def value(self, name: str) -> str:
        """Draw a value of an open domain, such as `amber-falcon`."""
        self.parameters[name] = self._value()
        return self.parameters[name]

    def lines(self, name: str, least: int, most: int) -> list[str]:
        """Draw between `least` and `most` different lines, each one value."""
        self.parameters[name] = [self._value() for _ in range(self._rng.randint(least, most))]
        return list(self.parameters[name])

    def choice(self, name: str, options: Sequence[Any]) -> Any:
        """Draw a value of a closed domain."""
        self.parameters[name] = self._rng.choice(list(options))
        return self.parameters[name]

    def shuffled(self, name: str, items: Sequence[str]) -> list[str]:
        """Put items in a drawn order."""
        self.parameters[name] = self._rng.sample(list(items), len(items))
        return list(self.parameters[name])


@dataclass
class Spec:
    """One task in plain values."""

    ask: Sequence[str]
    """Ways to say what is wanted; one is drawn."""
    commands: Sequence[str]
    """The reference solution, one command a line, run in `/app`."""
    checks: Sequence[Check]
    """The state expected afterwards, as `files/shell_check.py` reads it."""
    setup: Mapping[str, Sequence[str] | bytes] = field(default_factory=dict)
    """What lies in `/app` at the start: lines of text, or raw bytes."""


def _file(path: str, lines: Sequence[str] | None = None, mode: str | None = None) -> Check:
    check: Check = {"path": path, "kind": "file"}
    if lines is not None:
        check["lines"] = list(lines)
    if mode is not None:
        check["mode"] = mode
    return check


def _absent(path: str) -> Check:
    return {"path": path, "kind": "absent"}


def _directory(path: str) -> Check:
    return {"path": path, "kind": "directory"}


def _tar_bytes(members: Mapping[str, Sequence[str]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(members):
            content = _text(members[path])
            info = tarfile.TarInfo(path)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _text(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def create_file(draw: Draw) -> Spec:
    """A new file with one line."""
    name, line = f"{draw.value('name')}.txt", draw.value("line")
    return Spec(
        ask=(
            f"Create the file {name} with the line {line}.",
            f"Write the line {line} to a new file {name}.",
            f"Make a file called {name} that contains the line {line}.",
        ),
        commands=[f"echo {line} > {name}"],
        checks=[_file(name, [line])],
    )


def append_line(draw: Draw) -> Spec:
    """One more line at the end of a file."""
    name, line = f"{draw.value('name')}.txt", draw.value("line")
    before = draw.lines("before", 1, 3)
    return Spec(
        ask=(
            f"Append the line {line} to the file {name}.",
            f"Add the line {line} at the end of {name}.",
        ),
        commands=[f"echo {line} >> {name}"],
        checks=[_file(name, [*before, line])],
        setup={name: before},
    )


def copy_file(draw: Draw) -> Spec:
    """A second file with the same content."""
    old, new = f"{draw.value('old')}.txt", f"{draw.value('new')}.txt"
    content = draw.lines("content", 1, 3)
    return Spec(
        ask=(
            f"Copy the file {old} to {new}.",
            f"Make a copy of {old} with the name {new}.",
        ),
        commands=[f"cp {old} {new}"],
        checks=[_file(old, content), _file(new, content)],
        setup={old: content},
    )


def rename_file(draw: Draw) -> Spec:
    """A file under another name."""
    old, new = f"{draw.value('old')}.txt", f"{draw.value('new')}.txt"
    content = draw.lines("content", 1, 3)
    return Spec(
        ask=(
            f"Rename the file {old} to {new}.",
            f"Change the name of the file {old} to {new}.",
        ),
        commands=[f"mv {old} {new}"],
        checks=[_absent(old), _file(new, content)],
        setup={old: content},
    )


def delete_file(draw: Draw) -> Spec:
    """One file less; the other one stays."""
    name, other = f"{draw.value('name')}.txt", f"{draw.value('other')}.txt"
    content = draw.lines("content", 1, 2)
    return Spec(
        ask=(
            f"Delete the file {name} and keep the other files.",
            f"Remove the file {name} only.",
        ),
        commands=[f"rm {name}"],
        checks=[_absent(name), _file(other, content)],
        setup={name: content, other: content},
    )


def make_directories(draw: Draw) -> Spec:
    """A directory in a new directory."""
    path = f"{draw.value('outer')}/{draw.value('inner')}"
    return Spec(
        ask=(
            f"Create the directory {path}.",
            f"Make the nested directories {path}.",
        ),
        commands=[f"mkdir -p {path}"],
        checks=[_directory(path)],
    )


def file_in_directory(draw: Draw) -> Spec:
    """A new directory with a new file in it."""
    folder, name, line = draw.value("folder"), f"{draw.value('name')}.txt", draw.value("line")
    return Spec(
        ask=(
            f"Create the directory {folder} and in it the file {name} with the line {line}.",
            f"Make a directory {folder} that holds a file {name} with the line {line}.",
        ),
        commands=[f"mkdir {folder}", f"echo {line} > {folder}/{name}"],
        checks=[_file(f"{folder}/{name}", [line])],
    )


def move_into_directory(draw: Draw) -> Spec:
    """A file that moves into a new directory."""
    name, folder = f"{draw.value('name')}.txt", draw.value("folder")
    content = draw.lines("content", 1, 3)
    return Spec(
        ask=(
            f"Move the file {name} into a new directory {folder}.",
            f"Create the directory {folder} and move {name} into it.",
        ),
        commands=[f"mkdir {folder}", f"mv {name} {folder}"],
        checks=[_absent(name), _file(f"{folder}/{name}", content)],
        setup={name: content},
    )


def change_mode(draw: Draw) -> Spec:
    """Other permissions of a file."""
    name = f"{draw.value('name')}.txt"
    mode = draw.choice("mode", ("400", "444", "600", "640", "700", "750"))
    content = draw.lines("content", 1, 2)
    return Spec(
        ask=(
            f"Set the permissions of {name} to {mode}.",
            f"Change the mode of the file {name} to {mode}.",
        ),
        commands=[f"chmod {mode} {name}"],
        checks=[_file(name, content, mode)],
        setup={name: content},
    )


def make_link(draw: Draw) -> Spec:
    """A symbolic link to a file."""
    name, link = f"{draw.value('name')}.txt", f"{draw.value('link')}.txt"
    content = draw.lines("content", 1, 2)
    return Spec(
        ask=(
            f"Create a symbolic link {link} that points to {name}.",
            f"Make {link} a symbolic link to the file {name}.",
        ),
        commands=[f"ln -s {name} {link}"],
        checks=[_file(name, content), {"path": link, "kind": "link", "target": name}],
        setup={name: content},
    )


def sort_lines(draw: Draw) -> Spec:
    """Sorted lines of a file in a new file."""
    name, new = f"{draw.value('name')}.txt", f"{draw.value('new')}.txt"
    content = draw.lines("content", 4, 7)
    return Spec(
        ask=(
            f"Sort the lines of {name} and write them to {new}.",
            f"Write the sorted lines of {name} to the file {new}.",
        ),
        commands=[f"sort {name} > {new}"],
        checks=[_file(name, content), _file(new, sorted(content))],
        setup={name: content},
    )


def unique_lines(draw: Draw) -> Spec:
    """Sorted lines without repeats in a new file."""
    name, new = f"{draw.value('name')}.txt", f"{draw.value('new')}.txt"
    once = draw.lines("lines", 3, 4)
    content = draw.shuffled("content", once + once[:2])
    return Spec(
        ask=(
            f"Sort {name}, drop repeated lines and write the result to {new}.",
            f"Write the sorted lines of {name} without repeats to {new}.",
        ),
        commands=[f"sort -u {name} > {new}"],
        checks=[_file(name, content), _file(new, sorted(once))],
        setup={name: content},
    )


def count_lines(draw: Draw) -> Spec:
    """The number of lines in a new file."""
    name, new = f"{draw.value('name')}.txt", f"{draw.value('new')}.txt"
    content = draw.lines("content", 3, 9)
    return Spec(
        ask=(
            f"Count the lines of {name} and write the number to {new}.",
            f"Write the number of lines in {name} to the file {new}.",
        ),
        commands=[f"wc -l < {name} > {new}"],
        checks=[_file(name, content), _file(new, [str(len(content))])],
        setup={name: content},
    )


def first_lines(draw: Draw) -> Spec:
    """The first lines of a file in a new file."""
    name, new = f"{draw.value('name')}.txt", f"{draw.value('new')}.txt"
    content, count = draw.lines("content", 5, 8), draw.choice("count", (2, 3, 4))
    return Spec(
        ask=(
            f"Write the first {count} lines of {name} to {new}.",
            f"Put the first {count} lines of the file {name} into {new}.",
        ),
        commands=[f"head -n {count} {name} > {new}"],
        checks=[_file(name, content), _file(new, content[:count])],
        setup={name: content},
    )


def last_lines(draw: Draw) -> Spec:
    """The last lines of a file in a new file."""
    name, new = f"{draw.value('name')}.txt", f"{draw.value('new')}.txt"
    content, count = draw.lines("content", 5, 8), draw.choice("count", (2, 3, 4))
    return Spec(
        ask=(
            f"Write the last {count} lines of {name} to {new}.",
            f"Put the last {count} lines of the file {name} into {new}.",
        ),
        commands=[f"tail -n {count} {name} > {new}"],
        checks=[_file(name, content), _file(new, content[-count:])],
        setup={name: content},
    )


def join_files(draw: Draw) -> Spec:
    """The lines of two files, one after the other, in a new file."""
    first, second = f"{draw.value('first')}.txt", f"{draw.value('second')}.txt"
    new = f"{draw.value('new')}.txt"
    one, two = draw.lines("one", 1, 3), draw.lines("two", 1, 3)
    return Spec(
        ask=(
            f"Join {first} and {second} in this order into {new}.",
            f"Write the lines of {first} and then those of {second} to {new}.",
        ),
        commands=[f"cat {first} {second} > {new}"],
        checks=[_file(first, one), _file(second, two), _file(new, one + two)],
        setup={first: one, second: two},
    )


def _searched(draw: Draw) -> tuple[str, list[str]]:
    # A searched word, and lines of which some begin with it.
    word = draw.value("word")
    some, others = draw.lines("with", 2, 3), draw.lines("without", 2, 3)
    lines = draw.shuffled("content", [f"{word} {line}" for line in some] + others)
    return word, lines


def search_lines(draw: Draw) -> Spec:
    """The lines that contain a word in a new file."""
    name, new = f"{draw.value('name')}.txt", f"{draw.value('new')}.txt"
    word, content = _searched(draw)
    return Spec(
        ask=(
            f"Write the lines of {name} that contain {word} to {new}.",
            f"Find the lines with {word} in {name} and write them to {new}.",
        ),
        commands=[f"grep {word} {name} > {new}"],
        checks=[_file(name, content), _file(new, [line for line in content if word in line])],
        setup={name: content},
    )


def count_matches(draw: Draw) -> Spec:
    """How many lines contain a word, in a new file."""
    name, new = f"{draw.value('name')}.txt", f"{draw.value('new')}.txt"
    word, content = _searched(draw)
    return Spec(
        ask=(
            f"Count the lines of {name} that contain {word} and write the number to {new}.",
            f"Write to {new} how many lines of {name} contain {word}.",
        ),
        commands=[f"grep {word} {name} | wc -l > {new}"],
        checks=[_file(name, content), _file(new, [str(sum(word in line for line in content))])],
        setup={name: content},
    )


def replace_word(draw: Draw) -> Spec:
    """A file with one word replaced."""
    name, old, new = f"{draw.value('name')}.txt", draw.value("old"), draw.value("new")
    rest = draw.lines("rest", 1, 3)
    content = draw.shuffled("content", [old, *rest])
    return Spec(
        ask=(
            f"Replace {old} with {new} in the file {name}.",
            f"In the file {name}, change {old} to {new}.",
        ),
        commands=[f"sed -i s/{old}/{new}/ {name}"],
        checks=[_file(name, [new if line == old else line for line in content])],
        setup={name: content},
    )


def upper_case(draw: Draw) -> Spec:
    """The text in upper case in a new file."""
    name, new = f"{draw.value('name')}.txt", f"{draw.value('new')}.txt"
    content = draw.lines("content", 1, 3)
    return Spec(
        ask=(
            f"Write {name} in upper case to {new}.",
            f"Convert the text of {name} to upper case and write it to {new}.",
        ),
        commands=[f"tr a-z A-Z < {name} > {new}"],
        checks=[_file(name, content), _file(new, [line.upper() for line in content])],
        setup={name: content},
    )


def pick_column(draw: Draw) -> Spec:
    """One column of a CSV file in a new file."""
    name, new = f"{draw.value('name')}.csv", f"{draw.value('new')}.txt"
    column = draw.choice("column", (1, 2))
    left, right = draw.lines("left", 3, 3), draw.lines("right", 3, 3)
    rows = [f"{a},{b}" for a, b in zip(left, right, strict=True)]
    return Spec(
        ask=(
            f"Write column {column} of {name} to {new}.",
            f"Extract column {column} of the file {name} to {new}.",
        ),
        commands=[f"cut -d , -f {column} {name} > {new}"],
        checks=[_file(name, rows), _file(new, (left, right)[column - 1])],
        setup={name: rows},
    )


def list_directory(draw: Draw) -> Spec:
    """The names of the files of a directory in a new file."""
    folder, new = draw.value("folder"), f"{draw.value('new')}.txt"
    names = [f"{value}.txt" for value in draw.lines("names", 2, 4)]
    return Spec(
        ask=(
            f"List the names of the files in {folder}, sorted, in {new}.",
            f"Write the sorted file names of the directory {folder} to {new}.",
        ),
        commands=[f"ls {folder} > {new}"],
        checks=[_file(new, sorted(names))],
        setup={f"{folder}/{name}": [folder] for name in names},
    )


def sort_first(draw: Draw) -> Spec:
    """The first of the sorted lines in a new file."""
    name, new = f"{draw.value('name')}.txt", f"{draw.value('new')}.txt"
    content, count = draw.lines("content", 5, 7), draw.choice("count", (2, 3, 4))
    return Spec(
        ask=(
            f"Sort {name} and write the first {count} lines of the result to {new}.",
            f"Write the first {count} of the sorted lines of {name} to {new}.",
        ),
        commands=[f"sort {name} | head -n {count} > {new}"],
        checks=[_file(name, content), _file(new, sorted(content)[:count])],
        setup={name: content},
    )


def create_archive(draw: Draw) -> Spec:
    """A tar archive of a directory."""
    folder, archive = draw.value("folder"), f"{draw.value('archive')}.tar"
    members = {f"{folder}/{value}.txt": [folder] for value in draw.lines("names", 1, 3)}
    return Spec(
        ask=(
            f"Create the tar archive {archive} of the directory {folder}.",
            f"Pack the directory {folder} into the tar archive {archive}.",
        ),
        commands=[f"tar -cf {archive} {folder}"],
        checks=[{"path": archive, "kind": "tar", "members": members}],
        setup=members,
    )


def extract_archive(draw: Draw) -> Spec:
    """The files of a tar archive."""
    folder, archive = draw.value("folder"), f"{draw.value('archive')}.tar"
    members = {f"{folder}/{value}.txt": [folder] for value in draw.lines("names", 1, 3)}
    return Spec(
        ask=(
            f"Extract the tar archive {archive}.",
            f"Unpack the tar archive {archive} here.",
        ),
        commands=[f"tar -xf {archive}"],
        checks=[_file(path, lines) for path, lines in members.items()],
        setup={archive: _tar_bytes(members)},
    )


FAMILIES: dict[str, Callable[[Draw], Spec]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        create_file,
        append_line,
        copy_file,
        rename_file,
        delete_file,
        make_directories,
        file_in_directory,
        move_into_directory,
        change_mode,
        make_link,
        sort_lines,
        unique_lines,
        count_lines,
        first_lines,
        last_lines,
        join_files,
        search_lines,
        count_matches,
        replace_word,
        upper_case,
        pick_column,
        list_directory,
        sort_first,
        create_archive,
        extract_archive,
    )
}


def task_files(family: str, spec: Spec, instruction: str) -> dict[str, TaskFile]:
    """Return the Harbor task folder of a spec."""
    checker = package_files("source_tasks").joinpath("files/shell_check.py").read_text(encoding="utf-8")
    files = {
        "instruction.md": text(f"{instruction}\n"),
        "task.toml": task_toml("shell", family, agent_sec=300, verifier_sec=30),
        "environment/Dockerfile": dockerfile(copies=bool(spec.setup)),
        "solution/solve.sh": script("#!/bin/bash\n" + "".join(f"{command}\n" for command in spec.commands)),
        # -I: what the agent leaves in /app must not shadow the modules that the checker imports.
        "tests/test.sh": verifier("python3 -I /tests/check.py /tests/expected.json"),
        "tests/check.py": text(checker),
        "tests/expected.json": text(json.dumps(list(spec.checks), indent=1) + "\n"),
    }
    for path, content in spec.setup.items():
        data = content if isinstance(content, bytes) else _text(content)
        files[f"environment/files/{path}"] = TaskFile(data)
    return files


def propose(family: str, split: str, seed: int, index: int) -> Candidate:
    """Return the candidate number `index` of a family: the same arguments give the same task everywhere."""
    rng = row_random(seed, "shell", split, family, index)
    draw = Draw(split, rng)
    spec = FAMILIES[family](draw)
    instruction = f"In /app: {rng.choice(list(spec.ask))}"
    return Candidate(
        family=family,
        files=task_files(family, spec, instruction),
        licence=LICENCE,
        origin=ORIGIN,
        meta={"family": family, "parameters": draw.parameters, "split": split, "held_out": sorted(draw.open)},
    )


class Shell:
    """Generated terminal tasks; the supply is practically endless."""

    name: Literal["shell"] = "shell"

    def families(self) -> tuple[str, ...]:
        """Return the names in :data:`FAMILIES`."""
        return tuple(FAMILIES)

    def generate(self, split: str, seed: int, families: tuple[str, ...]) -> Iterator[Candidate]:
        """Yield tasks family by family in turn, none with the parameters of an earlier one."""
        seen: set[tuple[str, str]] = set()
        for index in itertools.count():
            for family in families:
                candidate = propose(family, split, seed, index)
                key = (family, json.dumps(candidate.meta["parameters"], sort_keys=True))
                if key not in seen:
                    seen.add(key)
                    yield candidate


SOURCE = Shell()


def open_source(cache: Path) -> Shell:
    """Return the source; it needs nothing from `cache`."""
    return SOURCE
