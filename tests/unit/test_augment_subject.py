"""A task read, and a row made from it."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
from tests.conftest import small_task

from augment.prompts import METHODS, manner, messages
from augment.subject import MAX_INSTRUCTION_CHARS, Subject, Unusable, new_id, new_row, read_subject
from recipe_core.tasks import TaskFile, pack_files, read_files, task_id, task_row


def row_of(**changes) -> dict:
    row = task_row(
        small_task("one"),
        path="one",
        source="s",
        licence="MIT",
        origin="test",
        meta={"held_out": ["k"], "split": "test"},
    )
    return {**row, **changes}


def packed(**files: bytes | None) -> bytes:
    contents = dict(small_task("one"))
    for name, content in files.items():
        path = name.replace("__", "/").replace("_md", ".md").replace("_sh", ".sh")
        if content is None:
            del contents[path]
        else:
            contents[path] = TaskFile(content)
    return pack_files(contents)


def with_long_name() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("instruction.md", "x" * 300):
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"task_binary": packed()[:900]}, "unreadable-task"),
        ({"task_binary": b""}, "unreadable-task"),
        ({"task_binary": b"no archive"}, "unreadable-task"),
        ({"task_binary": with_long_name()}, "unreadable-task"),
        ({"task_binary": packed(instruction_md=None)}, "no-instruction"),
        ({"task_binary": packed(instruction_md=b" \n")}, "no-instruction"),
        ({"task_binary": None, "instruction": None}, "no-instruction"),
        ({"task_binary": None, "instruction": " "}, "no-instruction"),
        ({"task_binary": packed(instruction_md=b"x" * (MAX_INSTRUCTION_CHARS + 1))}, "too-long"),
        ({"meta": "{"}, "unreadable-meta"),
        ({"meta": "[1]"}, "unreadable-meta"),
        ({"meta": "[" * 100_000}, "unreadable-meta"),
    ],
)
def test_an_unusable_task_has_a_reason(changes: dict, reason: str):
    with pytest.raises(Unusable) as raised:
        read_subject(row_of(**changes))
    assert raised.value.reason == reason
    assert "\n" not in raised.value.detail


def test_only_the_instruction_changes():
    row = row_of(difficulty=3)
    made = new_row(row, read_subject(row), "New words.", method="rewrite", copy=2, model="m")
    before, after = read_files(row["task_binary"]), read_files(made["task_binary"])
    assert after.pop("instruction.md").content == b"New words.\n"
    assert {path: file for path, file in before.items() if path != "instruction.md"} == after
    assert made["task_id"] == task_id(read_files(made["task_binary"])) != row["task_id"]
    assert (made["instruction"], made["path"], made["difficulty"]) == ("New words.", "one-rewrite-2", 3)
    lineage = {"method": "rewrite", "from": row["task_id"], "copy": 2, "model": "m"}
    assert json.loads(made["meta"]) == {"held_out": ["k"], "split": "test", "augment": lineage}


def test_a_row_augmented_twice_keeps_both_lineages():
    row = row_of()
    once = new_row(row, read_subject(row), "One.", method="rewrite", copy=1, model="m")
    twice = new_row(once, read_subject(once), "Two.", method="hints", copy=3, model="n")
    lineage = json.loads(twice["meta"])["augment"]
    assert lineage["from"] == once["task_id"]
    assert lineage["before"] == json.loads(once["meta"])["augment"]
    assert twice["path"] == "one-rewrite-1-hints-3"


def test_a_question_has_the_id_of_a_folder_with_its_instruction_alone():
    row = row_of(task_binary=None, instruction="What is 2 + 2?", meta=None, path=None)
    subject = read_subject(row)
    made = new_row(row, subject, "How much is 2 + 2?", method="rewrite", copy=1, model="m")
    assert made["task_binary"] is None
    assert made["task_id"] == task_id({"instruction.md": TaskFile(b"How much is 2 + 2?\n")})
    assert made["task_id"] == new_id(subject, "How much is 2 + 2?")
    assert made["path"] == f"{row['task_id']}-rewrite-1"


def test_bytes_that_are_no_text_are_replaced():
    row = row_of(task_binary=packed(instruction_md=b"caf\xe9 \xff\n"))
    assert read_subject(row).instruction == "caf\ufffd \ufffd"


def test_meta_with_half_a_character_can_be_written():
    row = row_of(meta='{"x": "\\ud800", "y": "é"}')
    made = new_row(row, read_subject(row), "New.", method="rewrite", copy=1, model="m")
    assert json.loads(made["meta"].encode())["x"] == "\ud800"


def test_what_a_prompt_shows_of_tests_and_solution():
    files = {
        "tests/test.sh": TaskFile(b"grep -qx keen-pencil out\n"),
        "tests/image.bin": TaskFile(b"\0\1"),
        "tests/latin.txt": TaskFile(b"\xff"),
        "solution/solve.sh": TaskFile(b"echo keen-pencil > out\n"),
    }
    subject = Subject("t", "Write keen-pencil.", {}, files)
    assert subject.shown("tests") == "--- tests/test.sh\ngrep -qx keen-pencil out"
    assert "keen-pencil" in subject.decided_by
    assert subject.script == "echo keen-pencil > out\n"
    long = Subject("t", "x", {}, {"tests/test.sh": TaskFile(b"y" * 10**6)})
    assert len(long.shown("tests")) < 13_000
    assert long.shown("tests").endswith("[cut]")


def test_a_question_shows_the_tests_and_solution_in_its_meta():
    subject = Subject("t", "Double.", {"tests": "assert double(2) == 4", "solution": "def double", "answer": 4}, None)
    assert "assert double" in subject.shown("tests")
    assert "def double" in subject.shown("solution")
    assert Subject("t", "x", {"tests": ["no text"]}, None).shown("tests") == ""


@pytest.mark.parametrize("method", METHODS)
def test_a_prompt_holds_the_original_and_only_what_its_method_needs(method: str):
    subject = read_subject(row_of())
    asked = messages(method, subject, seed=0, copy=1)
    assert [message["role"] for message in asked] == ["system", "user"]
    assert f"<original>\n{subject.instruction}\n</original>" in asked[1]["content"]
    assert ("reward.txt" in asked[1]["content"]) == (method in ("harden", "constrain"))
    assert ("echo done > done.txt" in asked[1]["content"]) == (method == "hints")
    assert "{" not in asked[0]["content"]


def test_copies_of_a_task_go_through_all_manners():
    assert len({manner(0, "a", copy) for copy in range(1, 13)}) == 12
    assert len({manner(0, f"t{index}", 1) for index in range(100)}) > 6
