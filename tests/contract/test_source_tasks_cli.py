"""The command line of `source-tasks`: help, bad flags, a build in the sandbox, and a rerun that does nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from recipe_core.artifact import file_digest, open_artifact
from recipe_core.records import TASK_SCHEMA, read_rows
from recipe_core.tasks import check_task, read_files, task_id

Tool = Callable[..., object]


def words(out: Path, **changes: object) -> list[object]:
    flags = {"source": "shell", "split": "train", "count": 6, "seed": 3, "out": out, **changes}
    return ["source-tasks", *(word for name, value in flags.items() for word in (f"--{name}", value))]


@pytest.mark.parametrize("command", [("--help",), ("fetch", "--help"), ("pin", "--help"), ("sources", "--help")])
def test_help_shows_an_example(tool, command) -> None:
    done = tool("source-tasks", *command)
    assert done.returncode == 0
    assert "Example:" in done.stdout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "shel"}, "invalid choice: 'shel'"),
        ({"split": "validation"}, "invalid choice: 'validation'"),
        ({"count": 0}, "'0' is not a whole number of at least 1"),
        ({"families": "copy-fil"}, "source shell has no family 'copy-fil'; did you mean 'copy-file'?"),
        ({"families": ","}, "no name given"),
        ({"workers": "many"}, "'many' is not a whole number of at least 1"),
    ],
)
def test_bad_flags_are_one_line(tool, tmp_path: Path, changes, message) -> None:
    done = tool(*words(tmp_path / "out", **changes))
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_pybugs_without_its_packages_says_what_to_run(tool, tmp_path: Path) -> None:
    done = tool(*words(tmp_path / "out", source="pybugs", cache=tmp_path / "empty"))
    assert done.returncode == 2
    assert f"run `source-tasks fetch --cache {tmp_path / 'empty'}`" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.full
@pytest.mark.parametrize("source", ["folder", "jsonl", "inferredbugs", "swe-smith", "superuser", "questions"])
def test_a_source_of_given_data_needs_an_input_that_is_there(tool, tmp_path: Path, source: str) -> None:
    for changes, message in (
        ({}, f"--input: source {source} needs it: "),
        (
            {"input": tmp_path / "absent"},
            f"--input {tmp_path / 'absent'}: no such file or folder; source {source} reads",
        ),
    ):
        done = tool(*words(tmp_path / "out", source=source, **changes))
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("source", ["shell", "quantities", "humaneval", "pybugs"])
def test_other_sources_refuse_an_input(tool, tmp_path: Path, source: str) -> None:
    done = tool(*words(tmp_path / "out", source=source, input=tmp_path))
    assert done.returncode == 2
    assert (
        f"--input: source {source} reads none (those that do: folder, hf, jsonl, nl2bash, inferredbugs" in done.stderr
    )
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "given", "message"),
    [
        ("jsonl", '{"instruction": "x"}\n', "given line 1: tests: missing or empty; expected a text"),
        ("hf", "PAR1", "given: truncated or not a Parquet file"),
        ("folder", "x", "a file; source folder reads a directory of task folders"),
    ],
)
def test_an_input_that_cannot_be_read_is_one_line(tool, tmp_path: Path, source, given, message) -> None:
    path = tmp_path / "given"
    path.write_text(given)
    done = tool(*words(tmp_path / "out", source=source, input=path))
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.full
def test_given_data_pin_the_artifact(tool, tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    rows = [
        {"instruction": f"Create {n}.txt.", "tests": f"test -f {n}.txt", "solution": f"touch {n}.txt", "id": f"t{n}"}
        for n in range(8)
    ]
    rows += [
        {"instruction": "Do nothing.", "tests": "true"},
        {"instruction": "Leave.", "tests": "true", "files": {"../x": ""}},
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    def build(out: str) -> object:
        return tool(*words(tmp_path / out, source="jsonl", input=path, count=3))

    assert build("one").returncode == 0
    manifest = open_artifact(tmp_path / "one").manifest
    assert manifest["inputs"]["input"] == f"sha256:{file_digest(path)}"
    assert str(tmp_path) not in json.dumps(manifest["parameters"])
    kept = list(read_rows(tmp_path / "one" / "tasks.parquet", TASK_SCHEMA.names))
    assert len(kept) == 3
    rejected = list(read_rows(tmp_path / "one" / "rejects.parquet", ["reason"]))
    assert len(rejected) == sum(manifest["dropped"].values())

    # The same rows in another order: another input, the same tasks.
    path.write_text("".join(f"{json.dumps(row)}\n" for row in reversed(rows)))
    assert build("two").returncode == 0
    again = open_artifact(tmp_path / "two")
    assert again.manifest["inputs"] != manifest["inputs"]
    assert again.manifest["files"] == manifest["files"]


@pytest.mark.full
def test_asking_for_more_than_there_is_says_how_many_there_are(tool, tmp_path: Path) -> None:
    done = tool(*words(tmp_path / "out", source="humaneval", split="test", count=1000))
    assert done.returncode == 2
    assert "source humaneval has only 38 valid test tasks" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.full
def test_tasks_are_made_once_and_the_same_with_any_number_of_workers(tool, tmp_path: Path) -> None:
    digests = []
    for workers in (1, 3):
        out = tmp_path / f"out{workers}"
        done = tool(*words(out, workers=workers))
        assert done.returncode == 0, done.stderr
        digests.append(open_artifact(out).digest)
    assert digests[0] == digests[1]

    out = tmp_path / "out1"
    manifest = open_artifact(out).manifest
    assert (manifest["tier"], manifest["rows_out"], manifest["dropped"]) == ("T0", 6, {})
    rows = list(read_rows(out / "tasks.parquet", TASK_SCHEMA.names))
    assert len({row["task_id"] for row in rows}) == len({row["path"] for row in rows}) == 6
    for row in rows:
        files = read_files(row["task_binary"])
        check_task(files, row["path"])
        assert task_id(files) == row["task_id"]
        assert json.loads(row["meta"])["split"] == "train"
    assert list(read_rows(out / "rejects.parquet", ["reason"])) == []

    before = (out / "provenance.json").read_bytes()
    again = tool(*words(out))
    assert (again.returncode, again.stderr) == (0, f"{out}: up to date\n")
    assert (out / "provenance.json").read_bytes() == before


@pytest.mark.full
def test_packages_are_fetched_once_and_by_content(tool, tmp_path: Path):
    first = tool("source-tasks", "fetch", "--cache", tmp_path)
    assert first.returncode == 0, first.stderr
    assert all(": fetched (" in line for line in first.stdout.splitlines())
    for path in (tmp_path / "sha256").iterdir():
        assert path.name == f"{file_digest(path)}.tar.gz"
    again = tool("source-tasks", "fetch", "--cache", tmp_path)
    assert all(": in the cache (" in line for line in again.stdout.splitlines())
