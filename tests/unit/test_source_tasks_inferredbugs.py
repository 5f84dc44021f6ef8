"""Source `inferredbugs`: the form by which files are compared, the placing of a fix, what is rejected, the split."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from recipe_core.errors import BadInput
from recipe_core.tasks import check_task
from source_tasks import inferredbugs
from source_tasks.build import Journal, row, settle
from source_tasks.files import fix_check
from source_tasks.given import BAD_PATH
from source_tasks.heldout import SPLITS, leaks
from source_tasks.inferredbugs import Bug, InferredBugs, repaired
from source_tasks.source import Candidate, Rejected

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "inferredbugs"
real_data = pytest.mark.skipif(not REAL.is_dir(), reason="the real data are not here")

BEFORE = """package a;

class Box {
    // Reads.
    int size(String name) {
        return name.length(); /* may fail */
    }

    int other() { return 1; }
}
"""
AFTER = BEFORE.replace("return name.length()", "return name == null ? 0 : name.length()").replace(
    "return 1", "return 2"
)
METHOD = "int size(String name) {\n        return name.length(); /* may fail */\n    }"
FIXED = "int size(String name) {\n        return name == null ? 0 : name.length();\n    }"
REPORT = {
    "bug_type": "NULL_DEREFERENCE",
    "bug_type_hum": "Null Dereference",
    "qualifier": "object `name` could be null and is dereferenced at line 6.",
    "line": 6,
    "procedure": "int Box.size(String)",
    "file": "src/a/Box.java",
}


def bug(root: Path, name: str = "java/box/1", report: dict[str, Any] | str | None = None, **texts: str | None) -> Path:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"file_before": BEFORE, "file_after": AFTER, "method_before": METHOD, "method_after": FIXED, **texts}
    for key, content in whole.items():
        if content is not None:
            (folder / f"{key}.txt").write_bytes(content.encode())
    found = REPORT if report is None else report
    (folder / "bug.json").write_text(found if isinstance(found, str) else json.dumps(found))
    return root


def everything(source: InferredBugs, seed: int = 0) -> list[Candidate]:
    return [one for split in SPLITS for one in source.generate(split, seed, source.families())]


def words(text: str) -> list[str]:
    return [word for word, _, _ in fix_check.tokens(text)]


def a_bug(**texts: str) -> Bug:
    whole = {"file_before": BEFORE, "file_after": AFTER, "method_before": METHOD, "method_after": FIXED, **texts}
    return Bug("java", "box", "1", REPORT, **whole)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("int a=1;", "int  a\r\n = 1 ;"),
        ("f(); // note", "f();"),
        ("f(/* x\n y */);", "f();"),
        ("\ufeffusing A;", "using A;"),
        ("a( b,c )", "a(b, c)"),
    ],
)
def test_layout_and_comments_do_not_count(one: str, other: str) -> None:
    assert words(one) == words(other)
    assert fix_check.form(words(one)) == fix_check.form(words(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("int a", "inta"),
        ('f("a b")', 'f("ab")'),
        ('f("// a")', 'f("// b")'),
        ('f("\\"// a"); g()', 'f("\\"// a"); h()'),
        ("c = '\"'; f(1); // \"", "c = '\"'; f(2); // \""),
        ("c = '\\''; f(1);", "c = '\\''; f(2);"),
        ('f(@"c:\\"); g(); // "', 'f(@"c:\\"); h(); // "'),
        ('f("""a "quoted" // b"""); g()', 'f("""a "quoted" // c"""); g()'),
        ('f($"// {a}")', 'f($"// {b}")'),
        ("a == b", "a = b"),
    ],
)
def test_what_the_code_says_counts(one: str, other: str) -> None:
    assert words(one) != words(other)
    assert fix_check.form(words(one)) != fix_check.form(words(other))


def test_the_fix_of_the_method_alone_is_put_in_its_place() -> None:
    assert repaired(a_bug()) == BEFORE.replace(METHOD, FIXED)
    # The data set cuts methods out with other blanks than the file has.
    squeezed = METHOD.replace("\n        ", "\n\t")
    assert words(repaired(a_bug(method_before=f" {squeezed}"))) == words(BEFORE.replace(METHOD, FIXED))


def test_line_ends_stay_those_of_the_file() -> None:
    found = repaired(a_bug(file_before=BEFORE.replace("\n", "\r\n")))
    assert found.count("\n") == found.count("\r\n") == BEFORE.count("\n")


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        ({"method_before": "int absent() { }"}, inferredbugs.NO_METHOD),
        ({"file_before": BEFORE + METHOD}, inferredbugs.NO_METHOD),
        ({"method_before": ""}, inferredbugs.NO_METHOD),
        ({"method_after": ""}, inferredbugs.NO_METHOD),
        ({"method_after": METHOD + " // fixed"}, inferredbugs.NO_FIX),
    ],
)
def test_a_fix_that_cannot_be_placed_is_rejected(texts: dict[str, str], reason: str) -> None:
    with pytest.raises(Rejected) as error:
        repaired(a_bug(**texts))
    assert str(error.value) == reason


@pytest.mark.parametrize(
    ("change", "accepted"),
    [
        (lambda text: text, False),
        (lambda text: text.replace(METHOD, FIXED), True),
        (lambda text: AFTER, True),
        (lambda text: text.replace(METHOD, FIXED.replace("\n", " ")).replace("// Reads.", ""), True),
        (lambda text: text.replace("name.length()", "(name == null ? 0 : name.length())"), False),
        (lambda text: text.replace(METHOD, FIXED) + "class More { }", False),
    ],
)
def test_the_verifier_accepts_the_recorded_fix_alone(
    change: Any, accepted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = everything(inferredbugs.open_source(bug(tmp_path / "data")))
    monkeypatch.setattr(fix_check, "APP", tmp_path)
    (tmp_path / "expected.json").write_bytes(found.files["tests/expected.json"].content)
    path = tmp_path / REPORT["file"]
    assert fix_check.main(["check", str(tmp_path / "expected.json")]) == 1
    path.parent.mkdir(parents=True)
    path.write_text(change(BEFORE))
    assert fix_check.main(["check", str(tmp_path / "expected.json")]) == (0 if accepted else 1)


def test_a_bug_becomes_a_validated_task(tmp_path: Path) -> None:
    (found,) = everything(inferredbugs.open_source(bug(tmp_path / "data")))
    check_task(found.files, "task")
    shown = found.files["instruction.md"].content.decode()
    for part in (REPORT["file"], "line 6", REPORT["procedure"], "Null Dereference: object `name`", "compared with"):
        assert str(part) in shown
    assert found.meta["verifier"] == inferredbugs.VERIFIER
    assert found.meta["parameters"] == {"bug": "java/box/1", "kind": "NULL_DEREFERENCE", "file": REPORT["file"]}
    assert "name == null" not in "".join(
        file.content.decode() for path, file in found.files.items() if not path.startswith("solution/")
    )
    assert asyncio.run(settle(found, Journal(tmp_path / "journal"))).reason is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"file_after": None}, inferredbugs.INCOMPLETE),
        ({"method_before": None}, inferredbugs.INCOMPLETE),
        ({"report": "{"}, inferredbugs.BAD_REPORT),
        ({"report": "[]"}, inferredbugs.BAD_REPORT),
        ({"report": {**REPORT, "qualifier": None}}, inferredbugs.BAD_REPORT),
        ({"report": {key: REPORT[key] for key in REPORT if key != "line"}}, inferredbugs.BAD_REPORT),
        ({"report": {**REPORT, "file": "../a.java"}}, BAD_PATH),
        ({"report": {**REPORT, "file": "/etc/a.java"}}, BAD_PATH),
        ({"method_after": METHOD}, inferredbugs.NO_FIX),
    ],
)
def test_a_bug_that_makes_no_task_is_rejected(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    (found,) = everything(inferredbugs.open_source(bug(tmp_path, **changes)))
    assert (found.reason, found.files) == (reason, {})


def test_a_project_is_on_one_side_and_copied_methods_on_none(tmp_path: Path) -> None:
    for number in range(24):
        own = METHOD.replace("name", f"name{number // 2}")
        after = FIXED.replace("name", f"name{number // 2}")
        before = BEFORE.replace(METHOD, own)
        report = {**REPORT, "qualifier": f"bug {number}"}
        bug(tmp_path, f"java/p{number}/1", report, file_before=before, method_before=own, method_after=after)
    source = inferredbugs.open_source(tmp_path)
    sides = {
        split: [row("inferredbugs", one) for one in source.generate(split, 0, ("java",)) if one.reason is None]
        for split in SPLITS
    }
    assert sides["train"]
    assert leaks(sides["train"], sides["test"]) == []
    assert any(one.reason == inferredbugs.BOTH_SIDES for one in everything(source))
    assert everything(source, 1) != everything(source, 2)


def test_data_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file or folder"):
        inferredbugs.open_source(tmp_path / "absent")
    with pytest.raises(BadInput, match="no folder csharp or java in it"):
        inferredbugs.open_source(tmp_path)
    (tmp_path / "inferredbugs" / "java").mkdir(parents=True)
    with pytest.raises(BadInput, match="no bug in it"):
        inferredbugs.open_source(tmp_path)


def test_only_what_is_read_decides_the_digest(tmp_path: Path) -> None:
    source = inferredbugs.open_source(bug(tmp_path / "inferredbugs"))
    first = source.digest()
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "inferredbugs" / "java" / "box" / "1" / "commit_info.json").write_text("{}")
    assert inferredbugs.open_source(tmp_path).digest() == first
    bug(tmp_path / "inferredbugs", method_after=FIXED + ";")
    assert source.digest() != first


@real_data
@pytest.mark.full
def test_the_real_bugs_become_tasks_and_their_solutions_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = everything(inferredbugs.open_source(REAL))
    assert len(found) == 40
    assert [one.meta["parameters"]["bug"] for one in found if one.reason is not None] == []
    for number, one in enumerate(found):
        place = tmp_path / str(number)
        for path, file in one.files.items():
            target = place / path.removeprefix("environment/files/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.content)
        monkeypatch.setattr(fix_check, "APP", place)
        check = ["check", str(place / "tests" / "expected.json")]
        assert fix_check.main(check) == 1
        subprocess.run(["bash", "solution/solve.sh"], cwd=place, check=True)
        assert fix_check.main(check) == 0
