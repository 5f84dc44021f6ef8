"""Sources that nothing can verify: `freelancer`, `issue-tasks` and the Stack Exchange sites.

The dumps cannot be had without a network: here they are a few posts in the form that dumps have, plain and in 7z.
"""

from __future__ import annotations

import asyncio
import json
import tomllib
import tracemalloc
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import py7zr
import pytest

from recipe_core.errors import BadInput
from recipe_core.tasks import check_task
from sandbox import validate_task
from source_tasks import stackexchange, unverified
from source_tasks.build import Journal, row, settle
from source_tasks.heldout import SPLITS, leaks
from source_tasks.source import BASE_IMAGE, Candidate, unverifiable
from source_tasks.stackexchange import BAD_BODY, markdown, read_posts
from source_tasks.swesmith import BAD_IMAGE
from source_tasks.tables import NO_TEXT

LONG = "<p>My disk is full, and I do not know which of my many folders is the one that takes all of the space.</p>"
BODY = f"{LONG}<pre><code>du -sh *\n</code></pre><p>Use <code>a_b</code>?</p>"


def everything(source: Any, seed: int = 0) -> list[Candidate]:
    return [one for split in SPLITS for one in source.generate(split, seed, source.families())]


def given(module_open: Any, path: Path, *rows: dict[str, Any]) -> list[Candidate]:
    path.write_text("".join(f"{json.dumps(one)}\n" for one in rows))
    return everything(module_open(path))


def post(number: int, **attributes: str) -> str:
    cells = {"Id": str(number), "PostTypeId": "1", "Score": "3", "Body": BODY, "Title": f"Disk {number} full"}
    return "<row " + " ".join(f"{name}={quoteattr(value)}" for name, value in {**cells, **attributes}.items()) + " />"


def dump(path: Path, *posts: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ['\ufeff<?xml version="1.0" encoding="utf-8"?>', "<posts>", *(f"  {one}" for one in posts), "</posts>", ""]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def answer(number: int, parent: int, body: str) -> str:
    return post(number, PostTypeId="2", ParentId=str(parent), Body=body)


def test_the_task_says_that_nothing_is_verified_and_writes_no_reward() -> None:
    files = unverifiable("superuser", "task", "Free my disk.")
    check_task(files, "task")
    assert tomllib.loads(files["task.toml"].content.decode())["metadata"]["verifiable"] is False
    verdict = asyncio.run(validate_task(files))
    assert (verdict.oracle, verdict.noop) == (None, None)
    assert "no readable reward in /logs/verifier" in verdict.detail


def test_a_description_becomes_a_task_that_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.validate_task", None)
    cells = {"title": "Logo", "description": "Draw a logo.", "skills": ["svg", "", "art"], "id": "7", "licence": "MIT"}
    (one,) = given(unverified.open_freelancer, tmp_path / "a.jsonl", cells)
    assert one.files["instruction.md"].content == b"# Logo\n\nDraw a logo.\n\nSkills: svg, art\n"
    assert (one.licence, one.origin) == ("MIT", "freelancer: 7")
    settled = asyncio.run(settle(one, Journal(tmp_path / "journal")))
    assert settled.reason is None
    meta = json.loads(row("freelancer", settled.candidate)["meta"])
    assert (meta["verifiable"], meta["solution"]) == (False, False)


def test_descriptions_that_are_none_are_rejected(tmp_path: Path) -> None:
    found = given(unverified.open_freelancer, tmp_path / "a.jsonl", {"description": " "}, {"description": 3})
    assert [one.reason for one in found] == [NO_TEXT, NO_TEXT]


def test_published_task_folders_are_not_descriptions(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="line 1: no key 'description'; it has path, task_binary"):
        given(unverified.open_freelancer, tmp_path / "a.jsonl", {"path": "a", "task_binary": ""})


def test_an_issue_becomes_a_task_in_the_rows_image_or_the_plain_one(tmp_path: Path) -> None:
    issue = {"instance_id": "a", "repo": "owner/name", "base_commit": "f00", "problem_statement": "It breaks."}
    rows = (
        issue,
        {"issue": "It also breaks."},
        {**issue, "image_name": "owner/image:1", "problem_statement": "Inside."},
        {**issue, "image_name": "x\nRUN y", "problem_statement": "Bad."},
    )
    plain, bare, inside, bad = sorted(
        given(unverified.open_issue_tasks, tmp_path / "a.jsonl", *rows),
        key=lambda one: (one.reason or "", one.meta.get("image") or "", not one.meta.get("repository")),
    )
    about = b"This issue is about the repository owner/name at commit f00.\n\n"
    assert plain.files["instruction.md"].content == about + b"It breaks.\n"
    assert plain.files["environment/Dockerfile"].content.decode().startswith(f"FROM {BASE_IMAGE}\n")
    assert bare.files["instruction.md"].content == b"It also breaks.\n"
    assert inside.files["environment/Dockerfile"].content.decode().startswith("FROM owner/image:1\n")
    assert bad.reason == BAD_IMAGE
    assert {one.meta["verifiable"] for one in (plain, bare, inside)} == {False}


@pytest.mark.parametrize(
    "cells",
    [
        {"instance_id": "scikit-learn__scikit-learn-10297"},
        {"split": "test"},
        {"dataset": "SWE-bench/SWE-bench_Verified"},
    ],
)
def test_issues_of_a_benchmarks_test_split_end_the_run(tmp_path: Path, cells: dict[str, str]) -> None:
    rows = [{"problem_statement": f"Issue {n}."} for n in range(5)]
    with pytest.raises(BadInput, match=r"a.jsonl line 6: from a benchmark's test split"):
        given(unverified.open_issue_tasks, tmp_path / "a.jsonl", *rows, {"problem_statement": "x", **cells})


def test_questions_with_code_become_tasks(tmp_path: Path) -> None:
    posts = [
        post(1, Tags="<linux><disk>", ContentLicense="CC BY-SA 4.0", AcceptedAnswerId="9"),
        post(2, Score="-1"),
        post(3, Body="<code>ls</code>"),
        post(4, Body=LONG),
        post(5, Score="many"),
        post(6, PostTypeId="4"),
        answer(8, 1, "<p>No.</p>"),
        answer(9, 1, "<p>Run <code>ncdu</code>.</p>"),
        post(10, Score="0", Tags="|disk|", AcceptedAnswerId="77"),
    ]
    source = stackexchange.open_superuser(dump(tmp_path / "Posts.xml", *posts))
    one, ten = sorted(everything(source), key=lambda found: found.meta["parameters"]["question"])
    assert one.files["instruction.md"].content.decode() == (
        "# Disk 1 full\n\n"
        "My disk is full, and I do not know which of my many folders is the one that takes all of the space.\n\n"
        "```\ndu -sh *\n```\n\nUse `a_b`?\n"
    )
    assert (one.licence, ten.licence) == ("CC BY-SA 4.0", "CC BY-SA")
    assert (one.meta["accepted_answer"], ten.meta["accepted_answer"]) == ("Run `ncdu`.", None)
    assert (one.meta["tags"], ten.meta["tags"]) == (["linux", "disk"], ["disk"])
    assert (one.meta["verifiable"], one.meta["score"], one.validate) == (False, 3, False)
    assert ten.meta["held_out"] == ["question:superuser/10"]


def test_questions_of_two_sites_have_no_environment(tmp_path: Path) -> None:
    path = dump(tmp_path / "Posts.xml", post(1), post(2, Body=LONG))
    (golf,) = everything(stackexchange.open_codegolf(path))
    assert golf.question is not None and golf.question.startswith("# Disk 1 full\n\nMy disk is full")
    assert (golf.files, golf.family, golf.validate) == ({}, "code", False)
    assert {name: golf.meta[name] for name in ("domain", "answer", "tests", "solution", "source")} == {
        "domain": "code",
        "answer": None,
        "tests": None,
        "solution": None,
        "source": "codegolf",
    }
    physics = everything(stackexchange.open_physics(path))
    assert {found.meta["parameters"]["question"] for found in physics} == {1, 2}
    assert "verifiable" not in golf.meta and {found.family for found in physics} == {"science"}


def test_an_answer_may_stand_before_its_question(tmp_path: Path) -> None:
    posts = [answer(1, 2, "<p>Yes.</p>"), post(2, AcceptedAnswerId="1")]
    (one,) = everything(stackexchange.open_tezos(dump(tmp_path / "Posts.xml", *posts)))
    assert one.meta["accepted_answer"] == "Yes."
    assert one.origin == "tezos: question 2"


def test_plain_and_packed_dumps_give_the_same_tasks_in_any_order(tmp_path: Path) -> None:
    posts = [post(n) for n in range(1, 60)]
    plain = dump(tmp_path / "a" / "Posts.xml", *posts)
    other = dump(tmp_path / "b" / "Posts.xml", *reversed(posts))
    with py7zr.SevenZipFile(tmp_path / "superuser.com.7z", "w") as archive:
        archive.writestr(b"<users />", "Users.xml")
        archive.write(other, "Posts.xml")
        archive.writestr(b"<tags />", "Tags.xml")
    sources = [stackexchange.open_superuser(path) for path in (plain.parent, tmp_path / "superuser.com.7z")]
    for split in SPLITS:
        first, second = (list(source.generate(split, 3, source.families())) for source in sources)
        assert first == second
        assert first != list(sources[0].generate(split, 4, sources[0].families()))
    rows = {split: [row("superuser", one) for one in sources[0].generate(split, 0, ("task",))] for split in SPLITS}
    assert leaks(rows["train"], rows["test"]) == []
    assert len(rows["train"]) + len(rows["test"]) == 59


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "broken XML (no element found"),
        (b"<posts>", "broken XML (no element found"),
        (b'<posts><row Id="1" PostTypeId="1"', "broken XML (unclosed token"),
        (b'<posts><row Id="1" PostTypeId="1" Body="\xff"/></posts>', "broken XML (not well-formed"),
        (b"\x00\x01", "broken XML"),
        (b"<users><row /></users>", "element 'users', expected <posts>"),
        (b"<posts><post /></posts>", "element 'post', expected <posts> with <row>s"),
        (b'<posts><row Id="1" PostTypeId="1"><row /></row></posts>', "element 'row', expected"),
        (b'<posts><row PostTypeId="1" /></posts>', "row 1 has no Id or PostTypeId"),
        (b'<posts><row Id="x" PostTypeId="1" /></posts>', "row 1 has no Id or PostTypeId"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><posts />', "has a document type"),
        (b"<posts></posts>", "no post in it"),
    ],
)
def test_a_dump_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "Posts.xml").write_bytes(content)
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w") as archive:
        archive.write(tmp_path / "Posts.xml", "Posts.xml")
    for name in ("Posts.xml", "a.7z"):
        with pytest.raises(BadInput) as error:
            everything(stackexchange.open_superuser(tmp_path / name))
        assert message in str(error.value)
        assert len(str(error.value).splitlines()) == 1


def test_a_broken_archive_is_one_line(tmp_path: Path) -> None:
    whole = dump(tmp_path / "Posts.xml", *(post(n) for n in range(200)))
    path = tmp_path / "a.7z"
    with py7zr.SevenZipFile(path, "w") as archive:
        archive.write(whole, "Posts.xml")
    packed = path.read_bytes()
    middle = len(packed) // 2
    for content in (b"", b"7z", packed[:middle], packed[:32] + bytes(200) + packed[232:], packed[:-40] + bytes(40)):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=r"a.7z: (not a readable 7z archive|Posts.xml: broken XML)"):
            everything(stackexchange.open_superuser(path))
    with py7zr.SevenZipFile(path, "w") as archive:
        archive.writestr(b"<users />", "Users.xml")
    with pytest.raises(BadInput, match=r"holds 0 files Posts.xml, expected one"):
        everything(stackexchange.open_superuser(path))


def test_a_post_of_an_impossible_size_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stackexchange, "MAX_POST_BYTES", 10_000)
    monkeypatch.setattr(stackexchange, "_CHUNK_BYTES", 1000)
    path = dump(tmp_path / "Posts.xml", post(1), post(2, Body=BODY + "x" * 20_000))
    with pytest.raises(BadInput, match="more than 10000 bytes without a post after row 1"):
        everything(stackexchange.open_superuser(path))


def test_a_wrong_input_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no Posts.xml in it; source tezos reads Posts.xml, or the .7z that holds it"):
        stackexchange.open_tezos(tmp_path)
    with pytest.raises(BadInput, match=r"no such file or folder; source tezos reads Posts.xml"):
        stackexchange.open_tezos(tmp_path / "absent")


def test_what_cannot_be_converted_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = "<b>" * 3000 + BODY
    (one,) = everything(stackexchange.open_superuser(dump(tmp_path / "Posts.xml", post(1, Body=deep))))
    assert (one.reason, one.files) == (BAD_BODY, {})


def test_markdown_leaves_words_as_they_are() -> None:
    html = "<h2>Why</h2><p>snake_case * 2 &lt; 3</p><ul><li>one</li></ul><pre><code>  a\n</code></pre>"
    assert markdown(html) == "## Why\n\nsnake_case * 2 < 3\n\n* one\n\n```\n  a\n```"


def test_memory_does_not_grow_with_the_dump(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        path = dump(tmp_path / f"{count}" / "Posts.xml", *(post(n, Body=BODY + "x" * 5000) for n in range(count)))
        tracemalloc.start()
        assert read_posts(path, lambda _: None) == count
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(2000) < peak(400) + 2_000_000
