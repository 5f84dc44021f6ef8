"""Source `nl2bash`: which commands are understood, the folders made for them, the judgement of runs, the split."""

from __future__ import annotations

import asyncio
import fnmatch
import json
import random
from pathlib import Path
from typing import Any

import pytest

from recipe_core.errors import BadInput
from recipe_core.tasks import check_task, task_id
from source_tasks import nl2bash
from source_tasks.build import Journal, row, settle
from source_tasks.files import command_check
from source_tasks.heldout import SPLITS, leaks, split_of
from source_tasks.nl2bash import NL2Bash, Pair, instance, judge, literals, make_folder
from source_tasks.pipeline import CHANGING, DIALECT, OUTSIDE, PROGRAM, analyse, split_words
from source_tasks.source import Candidate, Rejected

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "nl2bash"
real_data = pytest.mark.skipif(not REAL.is_dir(), reason="the real data are not here")

PAIRS = [
    ("Find all C files", "find . -name '*.c'"),
    ("find all  c files", 'find . -name "*.c" -print'),
    ("Count the lines of every log", "wc -l *.log"),
    ("Show the second field of data.csv", "cut -d, -f2 data.csv"),
    ("Print the sorted lines with foo", "grep foo notes.txt | sort"),
    ("Delete all logs", "find . -name '*.log' -delete"),
    ("Say hello", "echo hello"),
    ("Copy it", "cp $a b"),
]


def data(root: Path, pairs: list[tuple[str, str]]) -> NL2Bash:
    root.mkdir(parents=True, exist_ok=True)
    (root / "all.nl").write_text("".join(f"{request}\n" for request, _ in pairs))
    (root / "all.cm").write_text("".join(f"{command}\n" for _, command in pairs))
    return nl2bash.open_source(root)


def everything(source: NL2Bash, seed: int = 0) -> list[Candidate]:
    return [one for split in SPLITS for one in source.generate(split, seed, source.families())]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ls  -1 | wc -l", [["ls", "-1"], ["wc", "-l"]]),
        (r"""grep "a\"b" 'c d' e\ f""", [["grep", 'a"b', "c d", "e f"]]),
        ("grep 'x$' a", [["grep", "x$", "a"]]),
        ('grep "x$" a', [["grep", "x$", "a"]]),
        ("awk '{print $1}' a", [["awk", "{print $1}", "a"]]),
        (r"find . \( -name a \) -exec cat {} \;", [["find", ".", "(", "-name", "a", ")", "-exec", "cat", "{}", ";"]]),
        ("find . 2>/dev/null", [["find", "."]]),
        ("echo ''", [["echo", ""]]),
    ],
)
def test_words(line: str, words: list[list[str]]) -> None:
    assert split_words(line) == words


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("echo $HOME", DIALECT),
        ('echo "$HOME"', DIALECT),
        ("echo `ls`", DIALECT),
        ('echo "`ls`"', DIALECT),
        ("cat $(ls)", DIALECT),
        ("diff <(ls a) <(ls b)", DIALECT),
        ("ls > a", DIALECT),
        ("ls; ls", DIALECT),
        ("ls && ls", DIALECT),
        ("ls &", DIALECT),
        ("ls |", DIALECT),
        ("| ls", DIALECT),
        ("cat 'a", DIALECT),
        ("cat ~/a", DIALECT),
        ("echo {a,b}", DIALECT),
        ("$ ls", PROGRAM),
        ("rm a", PROGRAM),
        ("sudo ls", PROGRAM),
        ("ls | tee a", PROGRAM),
        ("find . -exec rm {} +", PROGRAM),
        ("find . -exec", PROGRAM),
        ("ls | xargs rm", PROGRAM),
        ("ls | xargs -n 1 find", PROGRAM),
        ("find . -mtime 1", CHANGING),
        ("find . -delete", CHANGING),
        ("find . -size +1k", CHANGING),
        ("find . -printf '%t'", CHANGING),
        ("find . -user root", CHANGING),
        # It is false for every file of a file system that runs none.
        ("find . -executable", CHANGING),
        ("ls -l", CHANGING),
        ("ls -t", CHANGING),
        ("sort -R a", CHANGING),
        ("tail -f a", CHANGING),
        ("diff -u a b", CHANGING),
        ("awk 'BEGIN { print rand() }'", CHANGING),
        ("awk 'BEGIN { system(\"date\") }'", CHANGING),
        ("ls | xargs -P 4 cat", CHANGING),
        ("find / -name a", OUTSIDE),
        ("cat ../a", OUTSIDE),
        ("wc -l /etc/passwd", OUTSIDE),
    ],
)
def test_what_may_depend_on_more_than_the_files_is_refused(line: str, reason: str) -> None:
    with pytest.raises(Rejected, match="^" + "".join(f"[{c}]" if c in "()" else c for c in reason) + "$"):
        analyse(line)


def test_operands_options_and_patterns_are_told_apart() -> None:
    find, grep = analyse("find src lib -name '*.c' | xargs -n 2 grep -m 3 -e main a.txt")
    assert (find.folders, find.files) == (("src", "lib"), ("*.c",))
    assert (grep.program, grep.patterns, grep.files) == ("grep", ("main",), ("a.txt",))
    (cut,) = analyse("cut -d , -f2 data.csv")
    assert (cut.delimiter, cut.files) == (",", ("data.csv",))
    (awk,) = analyse("awk -F: '/root/ { print $1 }' n=1 passwd")
    assert (awk.delimiter, awk.files, awk.patterns) == (":", ("passwd",), ("/root/ { print $1 }",))
    (grep,) = analyse("grep -rn foo src")
    assert (grep.folders, grep.files) == (("src",), ())
    assert literals([*analyse("sed -n '/needle/p' a"), *analyse("egrep 'x|y z' a")]) == ["needle", "x", "y z"]


@pytest.mark.parametrize("pattern", ["*.txt", "a?c", "[0-9]*", "file[[:digit:]].c", "./*/cpp/*", "plain", "*a b*"])
def test_an_instance_fits_its_pattern(pattern: str) -> None:
    rng = random.Random(3)
    for _ in range(20):
        path = instance(pattern, rng)
        assert fnmatch.fnmatchcase(path, pattern.removeprefix("./").replace("[[:digit:]]", "[0-9]"))


@pytest.mark.parametrize("pattern", ["", "..", "a\nb", "* ", "§", "/"])
def test_a_pattern_without_a_plain_instance_has_none(pattern: str) -> None:
    assert instance(pattern, random.Random(0)) == ""


def probe(command: str, folders: list[dict[str, list[str]]], tmp_path: Path) -> list[list[dict[str, Any]]]:
    script = tmp_path / "script.sh"
    script.write_text(f"{command}\n")
    return [[command_check.run(script, files, backwards) for backwards in (False, True)] for files in folders]


def folders_for(command: str) -> list[dict[str, list[str]]]:
    return [make_folder(analyse(command), "train", random.Random(seed)) for seed in (1, 2)]


@pytest.mark.parametrize(
    ("command", "ordered"),
    [
        ("find . -name '*.c'", False),
        ("find . -iname 'foo*' | sort", True),
        ("cut -d, -f2 data.csv", True),
        ("grep -rl needle src", False),
        ("cat a.txt | sort | uniq -c", True),
        ("join one two", True),
        ("find . -type d -name test", False),
    ],
)
def test_the_folders_make_a_command_print_something(command: str, ordered: bool, tmp_path: Path) -> None:
    found, outputs = judge(probe(command, folders_for(command), tmp_path))
    assert found == ordered
    assert outputs[0] != outputs[1]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("ls no-such-file", nl2bash.FAILS),
        ("find . -name '*.c' | xargs sed -i s/a/b/", nl2bash.CHANGES),
        ("sort", nl2bash.SILENT),
        ("seq 50", nl2bash.LONG),
        ("printf 'a\\000b'", nl2bash.LONG),
        ("printf '\\377'", nl2bash.LONG),
        ("find . -type f | head -n 1", nl2bash.UNSTEADY),
        ("pwd", nl2bash.UNSTEADY),
        ("echo hello", nl2bash.CONSTANT),
    ],
)
def test_a_command_that_shows_nothing_is_rejected(command: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(Rejected) as error:
        judge(probe(command, folders_for("find . -name '*.c'"), tmp_path))
    assert str(error.value) == reason


def test_a_command_that_never_ends_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_check, "TIME_LIMIT_SEC", 0.5)
    with pytest.raises(Rejected, match="does not end"):
        judge(probe("sleep 60", folders_for("ls")[:1], tmp_path))
    # Endless output ends at the limit, not at the end of the memory.
    (run,) = probe("yes", folders_for("ls")[:1], tmp_path)[0][:1]
    assert run["code"] != 0 and len(run["output"]) <= command_check.OUTPUT_KIB * 1024


def test_a_copy_of_a_file_is_no_task() -> None:
    folders: list[nl2bash.Folder] = [{"a": ["1\n", "644"]}, {"a": ["2\n", "644"], "b": ["3\n", "644"]}]
    assert nl2bash.copies(["1\n", "3\n"], folders)
    assert not nl2bash.copies(["1\n", "4\n"], folders)


@pytest.mark.parametrize(
    ("script", "solved"),
    [
        ("find . -name '*.c'", True),
        ("ls -R1 | true; find -name '*.c' | sort -r", True),
        ("find . -name '*.c' | tee x", False),
        ("find . -name '*.c'; false", False),
        ("find . -name '*.h'", False),
        ("find . -name '*.c' | head -n 1", False),
    ],
)
def test_the_verifier_runs_a_script_in_both_folders(script: str, solved: bool, tmp_path: Path) -> None:
    folders = folders_for("find . -name '*.c'")
    ordered, outputs = judge(probe("find . -name '*.c'", folders, tmp_path))
    cases = [{"files": folder, "output": output} for folder, output in zip(folders, outputs, strict=True)]
    (tmp_path / "expected.json").write_text(json.dumps({"ordered": ordered, "folders": cases}))
    (tmp_path / "command.sh").write_text(script)
    words = ["check", str(tmp_path / "expected.json"), str(tmp_path / "command.sh")]
    assert command_check.main(words) == (0 if solved else 1)
    # What was seen in the first folder does not pass in the second.
    (tmp_path / "command.sh").write_text(f"cat <<'END'\n{outputs[0]}END\n")
    assert command_check.main(words) == 1
    (tmp_path / "command.sh").unlink()
    assert command_check.main(words) == 1


def test_pairs_become_validated_tasks(tmp_path: Path) -> None:
    found = {one.meta["parameters"]["command"]: one for one in everything(data(tmp_path / "data", PAIRS))}
    assert found["find . -name '*.log' -delete"].reason == CHANGING
    assert found["cp $a b"].reason == DIALECT
    assert found["cp $a b"].files["instruction.md"].content == b"Copy it\n"
    one = asyncio.run(settle(found["find . -name '*.c'"], Journal(tmp_path / "journal")))
    assert one.reason is None
    check_task(one.candidate.files, "task")
    shown = one.candidate.files["instruction.md"].content.decode()
    assert "Find all C files" in shown and ".c\n" in shown and "in any order" in shown
    hello = asyncio.run(settle(found["echo hello"], Journal(tmp_path / "journal")))
    assert hello.reason == nl2bash.CONSTANT


def test_the_same_request_in_other_words_is_held_out_too(tmp_path: Path) -> None:
    pairs = [(f"Do {n % 30}", f"cat {n}.txt") for n in range(120)]
    source = data(tmp_path, pairs)
    sides = {
        split: [one for one in source.generate(split, 0, source.families()) if one.reason is None] for split in SPLITS
    }
    rows = {split: [row("nl2bash", one) for one in found] for split, found in sides.items()}
    assert leaks(rows["train"], rows["test"]) == []
    keys = {Pair("", one.meta["parameters"]["command"]).keys[0] for one in sides["test"]}
    assert keys and all(split_of(key) == "test" for key in keys)
    assert any(one.reason == nl2bash.BOTH_SIDES for one in everything(source))


def test_the_order_of_lines_does_not_matter(tmp_path: Path) -> None:
    first, second = data(tmp_path / "a", PAIRS), data(tmp_path / "b", [*PAIRS[::-1], PAIRS[0]])
    assert [task_id(one.files) for one in everything(first)] == [task_id(one.files) for one in everything(second)]
    assert first.digest() != second.digest()


def test_families_are_told_apart(tmp_path: Path) -> None:
    source = data(tmp_path, PAIRS)
    commands = [one.meta["parameters"]["command"] for split in SPLITS for one in source.generate(split, 0, ("find",))]
    assert sorted(commands) == sorted(command for _, command in PAIRS if command.startswith("find"))


def test_data_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file or folder; source nl2bash reads a folder"):
        nl2bash.open_source(tmp_path / "absent")
    with pytest.raises(BadInput, match=r"no all\.nl and all\.cm there or in data/bash"):
        nl2bash.open_source(tmp_path)
    source = data(tmp_path / "data" / "bash", PAIRS)
    assert nl2bash.open_source(tmp_path).digest() == source.digest()
    (source.root / "all.cm").write_text("ls\n")
    with pytest.raises(BadInput, match=r"all\.nl has 8 lines, all\.cm 1"):
        everything(source)
    (source.root / "all.cm").write_bytes(b"\xff\n")
    with pytest.raises(BadInput, match=r"all\.cm: not UTF-8 text"):
        everything(source)


@pytest.mark.full
@real_data
def test_the_real_data_have_hundreds_of_candidates_in_the_smaller_split() -> None:
    source = nl2bash.open_source(REAL)
    found = list(source.generate("test", 0, source.families()))
    reasons = {one.reason for one in found}
    assert reasons == {None, DIALECT, PROGRAM, CHANGING, OUTSIDE, nl2bash.BOTH_SIDES}
    assert sum(one.reason is None for one in found) > 500


@pytest.mark.full
@real_data
def test_a_sample_of_the_real_data_is_validated(tmp_path: Path) -> None:
    source = nl2bash.open_source(REAL)
    todo = [one for one in source.generate("test", 0, ("text",)) if one.reason is None][:6]
    settled = [asyncio.run(settle(one, Journal(tmp_path / "journal"))) for one in todo]
    assert any(one.reason is None for one in settled)
