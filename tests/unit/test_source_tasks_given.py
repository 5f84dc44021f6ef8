"""Sources of given data: task folders, published task tables and JSON lines, on small files of the true form."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import random
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sandbox
from recipe_core.errors import BadInput
from recipe_core.tasks import TaskFile, pack_files, read_files
from source_tasks import folder, given, hf, jsonl
from source_tasks.build import ENVIRONMENT, UNSOLVED, Journal, rejected_row, rejection, row, settle
from source_tasks.given import BAD_PATH, BAD_SETTINGS, LINK, NO_INSTRUCTION, NO_VERIFIER, OVERSIZE, REPEATED
from source_tasks.heldout import SPLITS, leaks
from source_tasks.source import Candidate, GivenSource, Rejected, unverifiable

SETTINGS = (
    b'version = "1.0"\n[metadata]\nlicense = "MIT"\n[agent]\ntimeout_sec = 60.0\n[verifier]\ntimeout_sec = 30.0\n'
)


def task(name: str, **changes: bytes | None) -> dict[str, TaskFile]:
    files = {
        "instruction.md": f"Create {name}.txt.\n".encode(),
        "task.toml": SETTINGS,
        "environment/Dockerfile": b"FROM scratch\nWORKDIR /app\n",
        "environment/data/blob.bin": bytes(range(256)),
        "solution/solve.sh": f"#!/bin/bash\ntouch {name}.txt\n".encode(),
        "tests/test.sh": f"test -f {name}.txt; echo $((! $?)) > /logs/verifier/reward.txt\n".encode(),
    }
    paths = {key.replace("__", "/").replace("_sh", ".sh").replace("_", "."): key for key in changes}
    files |= {path: changes[key] for path, key in paths.items()}  # type: ignore[dict-item]
    return {
        path: TaskFile(content, 0o755 if path.endswith(".sh") else 0o644)
        for path, content in files.items()
        if content is not None
    }


def lay_out(root: Path, files: dict[str, TaskFile]) -> Path:
    for path, (content, mode) in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(mode)
    return root


def everything(source: Any, seed: int = 0) -> list[Candidate]:
    return [one for split in SPLITS for one in source.generate(split, seed, source.families())]


def by_name(candidates: Iterable[Candidate]) -> dict[str, Candidate]:
    return {next(iter(one.meta["parameters"].values())): one for one in candidates}


def archive(*members: tuple[str, bytes | None]) -> bytes:
    """Pack members as they are named; one without content is a link to /etc/passwd."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def table(path: Path, rows: list[tuple[str | None, bytes | None]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    names, binaries = [list(column) for column in zip(*rows, strict=True)]
    pq.write_table(
        pa.table({"path": pa.array(names, pa.string()), "task_binary": pa.array(binaries, pa.binary())}), path
    )
    return path


def test_folders_become_tasks_byte_for_byte(tmp_path: Path) -> None:
    for name in ("one", "two"):
        lay_out(tmp_path / name, task(name))
    (tmp_path / "README.md").write_text("no task")
    (tmp_path / ".git").mkdir()
    found = by_name(everything(folder.open_source(tmp_path)))
    assert set(found) == {"one", "two"}
    assert found["one"].files == task("one")
    assert (found["one"].licence, found["one"].reason, found["one"].meta["solution"]) == ("MIT", None, True)
    assert read_files(row("folder", found["one"])["task_binary"]) == task("one")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tests__test_sh": None}, NO_VERIFIER),
        ({"instruction_md": None}, NO_INSTRUCTION),
        ({"instruction_md": b" \n"}, NO_INSTRUCTION),
        ({"instruction_md": b"\xff\xfe"}, NO_INSTRUCTION),
        ({"task_toml": None}, BAD_SETTINGS),
        ({"task_toml": b"[agent"}, BAD_SETTINGS),
        ({"task_toml": b"[agent]\ntimeout_sec = inf\n"}, BAD_SETTINGS),
        ({"task_toml": b"[verifier]\ntimeout_sec = 0\n"}, BAD_SETTINGS),
        ({"task_toml": b"agent = 3\n"}, BAD_SETTINGS),
    ],
)
def test_a_folder_that_is_no_task_is_rejected_with_what_there_is(tmp_path: Path, changes, reason) -> None:
    lay_out(tmp_path / "bad", task("bad", **changes))
    (found,) = everything(folder.open_source(tmp_path))
    assert found.reason == reason
    rejected = rejected_row("folder", found, reason)
    assert rejected["reason"] == reason
    assert read_files(rejected["task_binary"]) == task("bad", **changes)


def test_links_and_special_files_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    root = tmp_path / "tasks"
    for name in ("file", "folder", "broken", "pipe"):
        lay_out(root / name, task(name))
    (root / "file" / "leak").symlink_to(secret)
    (root / "folder" / "leak").symlink_to(tmp_path, target_is_directory=True)
    (root / "broken" / "leak").symlink_to("nowhere")
    os.mkfifo(root / "pipe" / "leak")
    (root / "whole").symlink_to(root / "file", target_is_directory=True)
    source = folder.open_source(root)
    found = by_name(everything(source))
    assert {name: one.reason for name, one in found.items()} == dict.fromkeys(
        ("file", "folder", "broken", "pipe", "whole"), LINK
    )
    assert all(one.files == {} for one in found.values())
    assert found["file"].meta["detail"] == "leak"
    assert rejected_row("folder", found["file"], LINK)["task_binary"] is None
    assert source.digest().startswith("sha256:")


def test_large_files_and_bad_names_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(given, "MAX_FILE_BYTES", 1000)
    monkeypatch.setattr(given, "MAX_TASK_BYTES", 5000)
    lay_out(tmp_path / "file", task("file", big=b"x" * 1001))
    lay_out(tmp_path / "sum", task("sum", **{f"part{n}": b"x" * 900 for n in range(6)}))
    lay_out(tmp_path / "long", task("long", **{"n" * 120: b""}))
    lay_out(tmp_path / "line", task("line", **{"a\nb": b""}))
    lay_out(tmp_path / "good", task("good"))
    found = by_name(everything(folder.open_source(tmp_path)))
    assert {name: one.reason for name, one in found.items()} == {
        "file": OVERSIZE,
        "sum": OVERSIZE,
        "long": BAD_PATH,
        "line": BAD_PATH,
        "good": None,
    }


def test_a_repeated_task_is_taken_once(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        lay_out(tmp_path / name, task("same"))
    assert sorted(str(one.reason) for one in everything(folder.open_source(tmp_path))) == ["None", REPEATED, REPEATED]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "absent", "no such file or folder; source folder reads a directory of task folders"),
        (lambda root: root, "no folder in it"),
        (lambda root: lay_out(root, task("t")), "itself a task folder; give the directory that holds it"),
        (lambda root: lay_out(root, task("t")) / "task.toml", "a file; source folder reads"),
    ],
)
def test_a_wrong_directory_is_one_line(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        folder.open_source(make(tmp_path))


def test_the_digest_follows_content_names_and_executable_bits(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "tasks" / "one", task("one")).parent
    first = folder.open_source(root).digest()
    (root / "notes.txt").write_text("beside the tasks")
    assert folder.open_source(root).digest() == first
    (root / "one" / "tests" / "test.sh").chmod(0o644)
    second = folder.open_source(root).digest()
    (root / "one" / "instruction.md").write_text("Other.\n")
    third = folder.open_source(root).digest()
    (root / "one").rename(root / "uno")
    assert len({first, second, third, folder.open_source(root).digest()}) == 4


def test_published_rows_become_tasks_byte_for_byte(tmp_path: Path) -> None:
    plain = archive(*((path, file.content) for path, file in task("a").items()))
    inside = archive(*((f"task-b/{path}", file.content) for path, file in task("b").items()))
    source = hf.open_source(table(tmp_path / "t.parquet", [("a", plain), ("b", inside), ("c", pack_files(task("c")))]))
    found = by_name(everything(source))
    for name in "abc":
        contents = {path: file.content for path, file in task(name).items()}
        assert found[name].reason is None
        assert {path: file.content for path, file in found[name].files.items()} == contents
        packed = read_files(row("hf", found[name])["task_binary"])
        assert {path: file.content for path, file in packed.items()} == contents
    assert source.digest() == f"sha256:{hashlib.sha256((tmp_path / 't.parquet').read_bytes()).hexdigest()}"


@pytest.mark.parametrize(
    ("binary", "reason"),
    [
        (None, hf.NO_ARCHIVE),
        (b"", hf.NO_ARCHIVE),
        (b"PK\x03\x04", hf.NO_ARCHIVE),
        (b"\x1f\x8b\x00", hf.BAD_ARCHIVE),
        (pack_files(task("t"))[:300], hf.BAD_ARCHIVE),
        (archive(("/etc/cron.d/x", b"")), hf.BAD_ARCHIVE),
        (archive(("../x", b"")), hf.BAD_ARCHIVE),
        (archive(("tests/../../x", b"")), hf.BAD_ARCHIVE),
        (archive(("tests\\..\\x", b"")), hf.BAD_ARCHIVE),
        (archive(("leak", None)), hf.BAD_ARCHIVE),
        (archive(("twice", b"1"), ("twice", b"2")), hf.BAD_ARCHIVE),
        (archive(("tests", b""), *((path, file.content) for path, file in task("t").items())), BAD_PATH),
        (archive(("a\x07b", b""), *((path, file.content) for path, file in task("t").items())), BAD_PATH),
        (archive(), NO_VERIFIER),
    ],
)
def test_hostile_archives_are_rejected_and_not_passed_on(tmp_path: Path, binary: bytes | None, reason: str) -> None:
    (found,) = everything(hf.open_source(table(tmp_path / "t.parquet", [("bad", binary)])))
    assert (found.reason, found.files) == (reason, {})
    assert rejected_row("hf", found, reason)["task_binary"] is None
    assert found.origin == "hf: bad"


def test_damaged_archives_never_end_the_run() -> None:
    rng = random.Random(0)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("instruction.md", "ü" * 120, "tests/test.sh"):
            info = tarfile.TarInfo(name)
            info.mtime = 1.5
            tar.addfile(info)
    whole = stream.getvalue()
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged) // 2)] = rng.randrange(256)
        try:
            hf.unpack(gzip.compress(bytes(damaged), 1))
        except Rejected as reason:
            assert str(reason) == hf.BAD_ARCHIVE


def test_neither_order_nor_division_of_rows_matters(tmp_path: Path) -> None:
    rows: list[tuple[str | None, bytes | None]] = [(f"task-{n}", pack_files(task(f"t{n}"))) for n in range(24)]
    rows += [("task-1", pack_files(task("t1", extra=b"1"))), ("none", None)]
    whole = hf.open_source(table(tmp_path / "whole.parquet", rows))
    for number, part in enumerate((rows[15:][::-1], rows[:15])):
        table(tmp_path / "parts" / "data" / f"{number}.parquet", part)
    parts = hf.open_source(tmp_path / "parts")
    for split in SPLITS:
        assert list(whole.generate(split, 7, whole.families())) == list(parts.generate(split, 7, parts.families()))
    assert len(everything(whole)) == 26
    assert everything(whole, 1) != everything(whole, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root, "no .parquet file in it"),
        (lambda root: root / "absent", "no such file or folder"),
        (lambda root: Path(root / "manifest.json").write_text("{}") and root, "an artifact of this project"),
    ],
)
def test_a_folder_without_tables_is_one_line(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        hf.open_source(make(tmp_path))


def test_a_table_without_the_columns_is_one_line(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["a"], "task_bin": [b""]}), tmp_path / "t.parquet")
    with pytest.raises(BadInput, match="no column 'task_binary'; did you mean 'task_bin'"):
        everything(hf.open_source(tmp_path))
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(BadInput, match="truncated or not a Parquet file"):
        everything(hf.open_source(tmp_path))


def lines(path: Path, *rows: dict[str, Any] | str) -> Path:
    path.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in rows))
    return path


def test_lines_become_task_folders(tmp_path: Path) -> None:
    full = {
        "instruction": "Count the lines of a.txt into n.txt.",
        "tests": 'test "$(cat n.txt)" = 2',
        "files": {"a.txt": "1\u20282\n2\n", "sub/b.txt": ""},
        "solution": "wc -l < a.txt > n.txt",
        "id": "count",
        "licence": "CC0-1.0",
    }
    source = jsonl.open_source(lines(tmp_path / "t.jsonl", full, "", {"instruction": "Do it.", "tests": "false"}))
    found = everything(source)
    (one,) = [candidate for candidate in found if candidate.licence == "CC0-1.0"]
    (bare,) = [candidate for candidate in found if candidate.licence == "unknown"]
    assert (one.origin, one.meta["solution"], bare.meta["solution"]) == ("jsonl: count", True, False)
    assert one.files["environment/files/a.txt"].content == "1\u20282\n2\n".encode()
    assert one.files["tests/check.sh"].content == b'test "$(cat n.txt)" = 2\n'
    assert b"if bash /tests/check.sh; then" in one.files["tests/test.sh"].content
    assert "solution/solve.sh" not in bare.files
    assert b"COPY" not in bare.files["environment/Dockerfile"].content
    # A name from the content: the same row has the same one wherever it stands.
    again = jsonl.open_source(lines(tmp_path / "u.jsonl", {"tests": "false", "instruction": "Do it."}, full))
    assert sorted(map(repr, everything(again))) == sorted(map(repr, found))


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", "a//b", "x/", "n" * 101, "a\\b"])
def test_a_file_outside_the_folder_is_rejected(tmp_path: Path, path: str) -> None:
    bad = {"instruction": "Do it.", "tests": "false", "files": {path: "x"}}
    (found,) = everything(jsonl.open_source(lines(tmp_path / "t.jsonl", bad)))
    assert (found.reason, set(found.files)) == (BAD_PATH, {"instruction.md"})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"instruction": ', "line 2: not JSON"),
        ("[1]", "line 2: not a JSON object"),
        ({"instruction": "x"}, "line 2: tests: missing or empty"),
        ({"instruction": " ", "tests": "x"}, "line 2: instruction: missing or empty"),
        ({"instruction": "x", "test": "x"}, "no such key 'test'; did you mean 'tests'"),
        ({"instruction": "x", "tests": ["x"]}, "tests: expected a text, found list"),
        ({"instruction": "x", "tests": "x", "files": ["a"]}, "files: expected an object"),
        ({"instruction": "x", "tests": "x", "files": {"a": 1}}, "files: a: expected a text, found int"),
        ('{"instruction": "x", "tests": "\\ud800"}', "half a surrogate pair"),
        ({"instruction": "x", "tests": "x", "id": "first"}, "id 'first' is that of line 1 too"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, line: dict[str, Any] | str, message: str) -> None:
    path = lines(tmp_path / "t.jsonl", {"instruction": "a", "tests": "b", "id": "first"}, line)
    with pytest.raises(BadInput, match=message):
        everything(jsonl.open_source(path))


def test_a_file_without_lines_or_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(b"\n")
    with pytest.raises(BadInput, match="no line in it"):
        everything(jsonl.open_source(tmp_path / "t.jsonl"))
    (tmp_path / "t.jsonl").write_bytes(b"\xff")
    with pytest.raises(BadInput, match="not UTF-8 text"):
        everything(jsonl.open_source(tmp_path / "t.jsonl"))
    with pytest.raises(BadInput, match="not a file"):
        jsonl.open_source(tmp_path)


def test_one_request_never_stands_on_both_sides(tmp_path: Path) -> None:
    rows = [
        {"instruction": f"{blank}Do  number {n % 40}.", "tests": f"test {n}"}
        for n, blank in enumerate([" ", "", "\n"] * 40)
    ]
    source = jsonl.open_source(lines(tmp_path / "t.jsonl", *rows))
    sides = {split: [row("jsonl", one) for one in source.generate(split, 0, source.families())] for split in SPLITS}
    assert leaks(sides["train"], sides["test"]) == []
    assert len(sides["train"]) + len(sides["test"]) == 120
    assert sides["test"]


def test_the_sources_say_that_they_have_an_input(tmp_path: Path) -> None:
    assert isinstance(jsonl.open_source(lines(tmp_path / "t.jsonl", {})), GivenSource)


@pytest.mark.parametrize(("noop", "reason"), [(0.0, None), (1.0, "doing nothing does not score 0")])
def test_without_a_solution_doing_nothing_decides(noop: float, reason: str | None) -> None:
    assert rejection(0.0, noop, solvable=False) == reason
    assert rejection(0.0, noop) == UNSOLVED


def settled(candidate: Candidate, journal: Path) -> Any:
    return asyncio.run(settle(candidate, Journal(journal)))


def foreign(files: dict[str, TaskFile]) -> Candidate:
    return Candidate("task", files, "unknown", "test", {"held_out": []}, foreign=True)


def test_what_the_sandbox_cannot_follow_rejects_a_foreign_task(tmp_path: Path) -> None:
    dockerfile = b"FROM scratch\nRUN echo $RANDOM-$$ >&2; exit 3\n"
    candidate = foreign(task("t", environment__Dockerfile=dockerfile))
    first = settled(candidate, tmp_path / "journal")
    assert (first.reason, first.candidate.meta["detail"]) == (ENVIRONMENT, "environment/Dockerfile line 2")
    assert settled(candidate, tmp_path / "journal") == first
    with pytest.raises(BadInput, match="line 2"):
        settled(Candidate("task", candidate.files, "", "", {}), tmp_path / "other")


def test_a_machine_without_a_sandbox_rejects_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_BACKEND", "none")
    with pytest.raises(BadInput, match="'none' is unknown"):
        settled(foreign(task("t")), tmp_path / "journal")


def test_a_given_task_is_validated(tmp_path: Path) -> None:
    assert settled(foreign(task("t")), tmp_path / "journal").reason is None
    assert settled(foreign(task("t", solution__solve_sh=b"true\n")), tmp_path / "journal").reason == UNSOLVED
    assert settled(foreign(task("t", solution__solve_sh=None)), tmp_path / "journal").reason is None


def test_a_task_that_says_it_cannot_be_verified_is_kept_and_marked(tmp_path: Path) -> None:
    lay_out(tmp_path / "tasks" / "a", unverifiable("superuser", "task", "Free my disk."))
    lay_out(tmp_path / "tasks" / "b", task("b", task_toml=b"metadata = 3\n" + SETTINGS.partition(b"\n")[0]))
    found = by_name(everything(folder.open_source(tmp_path / "tasks")))
    assert (found["a"].meta["verifiable"], found["a"].validate) == (False, False)
    assert settled(found["a"], tmp_path / "journal").reason is None
    assert ("verifiable" in found["b"].meta, found["b"].validate) == (False, True)


def test_a_candidate_rejected_before_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "validate_task", None)
    candidate = Candidate("task", {}, "", "", {}, reason=LINK)
    assert settled(candidate, tmp_path / "journal").reason == LINK
