"""Sets of texts that tasks are compared with: files of prompts, folders of these, artifacts of evaluation tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from recipe_core.artifact import Artifact, file_digest
from recipe_core.errors import BadInput, nearest
from recipe_core.fetched import check_data

COLUMNS = ("prompt", "question", "instruction", "problem", "problem_statement", "question_content", "text")
KINDS = (".jsonl", ".parquet", ".csv", ".txt")
# Of a folder: text files there are as likely licences or lists of requirements.
_KINDS_IN_FOLDERS = (".jsonl", ".parquet", ".csv")
# What a task folder asks.
INSTRUCTION = "instruction.md"


class Prompt(NamedTuple):
    """One prompt: the set it is of, its row there counted from 1 (in text files its line), and its text."""

    benchmark: str
    row: int
    text: str


class Benchmark(NamedTuple):
    """A set: its name, its files in order, and a SHA-256 over them."""

    name: str
    paths: tuple[Path, ...]
    digest: str

    @property
    def where(self) -> Path:
        """The file, or the folder that holds the files, for errors."""
        return self.paths[0] if len(self.paths) == 1 else self.paths[0].parent


def find_sets(
    paths: Sequence[Path], held_out: Sequence[Artifact] = (), *, flag: str = "--benchmarks"
) -> list[Benchmark]:
    """Return the sets in order of name, whatever the order they are given in.

    Args:
        paths: files of prompts, named without the ending, and folders of such files or of task folders.
        held_out: artifacts of evaluation tasks, named `tasks-` and the start of their digest.
        flag: what named the paths, for errors.

    Raises:
        BadInput: a path that is missing or holds nothing of the kind, two sets with one name, or a fetched folder that
            is not as it was fetched.
    """
    sets: dict[str, Benchmark] = {}
    for path in paths:
        found = _folder(path) if path.is_dir() else _file(path, flag)
        if found.name in sets:
            raise BadInput(f"{path}: names the set {found.name!r} as {sets[found.name].where} does; rename one of them")
        sets[found.name] = found
    for artifact in held_out:
        name = f"tasks-{artifact.digest[:12]}"
        sets[name] = Benchmark(name, (artifact.data("tasks.parquet"),), artifact.digest)
    return [sets[name] for name in sorted(sets)]


def _file(path: Path, flag: str) -> Benchmark:
    if path.suffix not in KINDS:
        raise BadInput(f"{path}: not a file of prompts; give {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    if not path.is_file():
        raise BadInput(f"{path}: no such file; correct the path of {flag}")
    return Benchmark(path.stem, (path,), file_digest(path))


def _folder(folder: Path) -> Benchmark:
    check_data(folder)
    inside = (path for path in folder.rglob("*") if path.is_file())
    files = sorted(path for path in inside if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    # What else lies in task folders belongs to the tasks.
    found = [path for path in files if path.name == INSTRUCTION]
    found = found or [path for path in files if path.suffix in _KINDS_IN_FOLDERS]
    if not found:
        kinds = ", ".join(_KINDS_IN_FOLDERS)
        raise BadInput(f"{folder}: holds no file of prompts ({kinds}) and no task folder; correct the path")
    lines = "".join(f"{path.relative_to(folder).as_posix()}={file_digest(path)}\n" for path in found)
    return Benchmark(folder.name, tuple(found), sha256(lines.encode()).hexdigest())


def sets_digest(sets: Sequence[Benchmark]) -> str:
    """Return one digest over the names and contents of all sets, as `sha256:` and hex."""
    lines = sorted(f"{benchmark.name}={benchmark.digest}\n" for benchmark in sets)
    return "sha256:" + sha256("".join(lines).encode()).hexdigest()


def read_prompts(benchmark: Benchmark, column: str | None = None) -> Iterator[Prompt]:
    """Yield a set's prompts; rows without one (null, empty, blanks alone) are passed over.

    Rows are counted on from one file of a folder to the next.

    Args:
        benchmark: the set.
        column: where its prompts are; by default the first of `COLUMNS` that it has. Plain text has no columns.

    Raises:
        BadInput: an unreadable file, no such column, a prompt that is not text, or no prompt at all.
    """
    found = before = 0
    for path in benchmark.paths:
        row = 0
        for row, text in _cells(path, column):
            if text is not None and not isinstance(text, str):
                kind = type(text).__name__
                raise BadInput(f"{path}: row {row} has a prompt of type {kind}, not text; mend the file")
            if text and not text.isspace():
                if not _is_unicode(text):
                    raise BadInput(f"{path}: row {row} has half a surrogate pair in its prompt; mend the file")
                found += 1
                yield Prompt(benchmark.name, before + row, text)
        before += row
    if not found:
        raise BadInput(f"{benchmark.where}: no prompts; give a file that has some, or leave it out")


def choose_column(known: Sequence[str], column: str | None, where: str) -> str:
    """Return the column that holds the prompts; raises BadInput with the nearest name when there is none such."""
    if column is not None:
        if column not in known:
            hint = nearest(column, list(known)) or f"; it has {', '.join(known)}"
            raise BadInput(f"{where}: no column {column!r}{hint}")
        return column
    by_name = {name.lower(): name for name in reversed(known)}
    for name in COLUMNS:
        if name in by_name:
            return by_name[name]
    raise BadInput(f"{where}: none of the columns {', '.join(COLUMNS)} (it has {', '.join(known)}); rename one")


def _cells(path: Path, column: str | None) -> Iterator[tuple[int, Any]]:
    if path.name == INSTRUCTION:
        yield 1, _text(path)
    elif path.suffix == ".parquet":
        from recipe_core.records import read_rows, read_schema

        name = choose_column(read_schema(path).names, column, str(path))
        for number, row in enumerate(read_rows(path, [name]), 1):
            yield number, row[name]
    elif path.suffix == ".jsonl":
        yield from _json_cells(path, column)
    elif path.suffix == ".csv":
        yield from _csv_cells(path, column)
    else:
        yield from _lines(path)


def _is_unicode(text: str) -> bool:
    # JSON can spell what no UTF-8 file can hold: half a surrogate pair, such as "\ud800".
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 text ({error.reason}); convert it") from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                yield number, line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 text ({error.reason}); convert it") from None


def _csv_cells(path: Path, column: str | None) -> Iterator[tuple[int, Any]]:
    import csv

    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream)
            name = choose_column(list(rows.fieldnames or ()), column, str(path))
            for number, row in enumerate(rows, 1):
                yield number, row[name]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path}: not a CSV file in UTF-8 ({error}); convert it") from None


def _json_cells(path: Path, column: str | None) -> Iterator[tuple[int, Any]]:
    name: str | None = None
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BadInput(f"{path}: line {number} is not JSON ({error}); it should be one object a line") from None
        if not isinstance(row, dict):
            raise BadInput(f"{path}: line {number} is a JSON {type(row).__name__}; it should be one object a line")
        if name is None or name not in row:
            # Every row must have the column that the first one settled.
            name = choose_column(list(row), name or column, f"{path}: line {number}")
        yield number, row[name]
