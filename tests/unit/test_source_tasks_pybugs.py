"""Source `pybugs`: the lock, source distributions, the judgement of a test report, and the split by function."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from recipe_core import packages
from recipe_core.errors import BadInput
from recipe_core.packages import cached_path
from recipe_core.tasks import check_task, task_id
from source_tasks import pybugs, sdist
from source_tasks.files.suite_run import UNFINISHED, run_suite, solved
from source_tasks.heldout import leaks
from source_tasks.source import Candidate, Rejected

CODE = b"""def clamp(value, low, high):
    if value < low:
        return low
    if value > high:
        return high
    return value


def middle(items):
    return items[len(items) // 2 : len(items) // 2 + 1]


def both(a, b):
    return a and b


def any_of(a, b):
    return a or b


def count_up(n):
    while not n > 3:
        n = n + 1
    return n
"""
TESTS = b"""import unittest

from tiny import clamp


class ClampTest(unittest.TestCase):
    def test_low(self):
        self.assertEqual(clamp(-1, 0, 9), 0)

    def test_inside(self):
        self.assertEqual(clamp(4, 0, 9), 4)
"""


def archive(members: dict[str, bytes], link: str | None = None) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info)
    return stream.getvalue()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache with one small package, which the lock then names."""
    files = {"tiny-1.0/tiny.py": CODE, "tiny-1.0/tests.py": TESTS, "tiny-1.0/LICENSE": b"MIT\n"}
    content = archive(files)
    package = sdist.Package(
        name="tiny",
        version="1.0",
        sha256=hashlib.sha256(content).hexdigest(),
        licence="MIT",
        licence_file="LICENSE",
        import_root=".",
        code=["tiny.py"],
        tests=["tests.py"],
        discover={"start": ".", "top": ".", "pattern": "tests.py"},
    )
    path = cached_path(tmp_path, package)
    path.parent.mkdir()
    path.write_bytes(content)
    monkeypatch.setattr(sdist, "load_lock", lambda: [package])
    return tmp_path


def generate(cache: Path, split: str, seed: int = 0) -> list[Candidate]:
    source = pybugs.open_source(cache)
    return list(source.generate(split, seed, source.families()))


def rows(candidates: list[Candidate]) -> list[dict[str, object]]:
    return [
        {"task_id": task_id(one.files), "source": "pybugs", "instruction": task_id(one.files), "meta": one.meta}
        for one in candidates
    ]


def test_the_lock_pins_three_packages_or_more() -> None:
    locked = sdist.load_lock()
    assert len(locked) >= 3
    for package in locked:
        assert len(package.sha256) == 64
        assert package.code and package.tests and package.licence


def test_tasks_are_whole_and_distinct_and_the_order_follows_the_seed(cache: Path) -> None:
    tasks = generate(cache, "train")
    for task in tasks:
        check_task(task.files, "tiny")
        assert task.files["environment/files/tiny.py"].content != CODE
        assert task.files["tests/suite/tests.py"].content == TESTS
        assert task.files["solution/fix.patch"].content.count(b"\n@@ ") == 1
    names = [task_id(task.files) for task in tasks]
    assert len(set(names)) == len(names) > 5
    assert names == [task_id(task.files) for task in generate(cache, "train")]
    assert set(names) == {task_id(task.files) for task in generate(cache, "train", seed=1)}


def test_no_function_is_broken_in_both_splits(cache: Path) -> None:
    train, test = generate(cache, "train"), generate(cache, "test")
    assert train and test
    assert leaks(rows(train), rows(test)) == []
    functions = [{task.meta["parameters"]["function"] for task in tasks} for tasks in (train, test)]
    assert functions[0].isdisjoint(functions[1])


def test_operators_come_in_turn(cache: Path) -> None:
    families = [task.family for task in itertools.islice(generate(cache, "train"), 4)]
    assert len(set(families)) == 4


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        ({"error": UNFINISHED}, f"{UNFINISHED} with the fault"),
        ({"ran": 3, "passed": ["a"], "failed": {}}, pybugs.SURVIVES),
        (
            {"ran": 1, "passed": [], "failed": {"unittest.loader._FailedTest.tests": "ImportError: x"}},
            pybugs.BREAKS_IMPORT,
        ),
    ],
)
def test_reports_that_make_no_task(outcome: dict[str, object], reason: str) -> None:
    with pytest.raises(Rejected) as caught:
        pybugs.judge(outcome)
    assert str(caught.value) == reason


def test_the_instruction_names_failing_tests_and_not_the_place() -> None:
    package = sdist.load_lock()[0]
    failed = {f"tests.T.test_{n}": f"AssertionError: {n} != 0" for n in range(7)}
    said = pybugs.instruction(package, failed)
    assert "7 of its tests fail" in said
    assert said.count("AssertionError") == 5
    assert "unittest discover" in said
    assert ".py" not in said.replace("test*.py", "")


@pytest.fixture
def run(tmp_path: Path) -> Callable[[bytes], dict[str, object]]:
    def run(code: bytes) -> dict[str, object]:
        (tmp_path / "code").mkdir()
        (tmp_path / "code/tiny.py").write_bytes(code)
        (tmp_path / "suite").mkdir()
        (tmp_path / "suite/tests.py").write_bytes(TESTS)
        where = {"code": str(tmp_path / "code"), "tests": str(tmp_path / "suite")}
        return run_suite({**where, "start": ".", "top": ".", "pattern": "tests.py"})

    return run


def test_the_tests_pass_on_the_original(run: Callable[[bytes], dict[str, object]]) -> None:
    outcome = run(CODE)
    assert outcome == {"ran": 2, "passed": ["tests.ClampTest.test_inside", "tests.ClampTest.test_low"], "failed": {}}
    assert solved(outcome, {"ran": 2, "failed": ["tests.ClampTest.test_low"]})
    assert not solved(outcome, {"ran": 3, "failed": []})


def test_a_fault_shows_as_failing_tests(run: Callable[[bytes], dict[str, object]]) -> None:
    outcome = run(CODE.replace(b"value < low", b"value > low"))
    assert outcome["failed"] == {
        "tests.ClampTest.test_inside": "AssertionError: 0 != 4",
        "tests.ClampTest.test_low": "AssertionError: -1 != 0",
    }
    assert not solved(outcome, {"ran": 2, "failed": []})


def test_code_that_ends_the_process_does_not_pass(run: Callable[[bytes], dict[str, object]]) -> None:
    outcome = run(b"import os\nprint('{}', flush=True)\nos._exit(0)\n")
    assert outcome == {"error": UNFINISHED}
    assert not solved(outcome, {"ran": 0, "failed": []})


@pytest.mark.parametrize("name", ["/etc/x", "a/../../x"])
def test_an_archive_that_leaves_its_folder_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match=r"leaves the archive's folder"):
        sdist.unpack_sdist(archive({name: b""}), "x.tar.gz")


def test_links_are_left_out() -> None:
    assert sdist.unpack_sdist(archive({"a/b.py": b"1"}, link="a/c.py"), "x.tar.gz") == {"b.py": b"1"}


def test_a_truncated_archive_is_refused() -> None:
    with pytest.raises(BadInput, match="not a readable source distribution"):
        sdist.unpack_sdist(archive({"a/b.py": bytes(5000)})[:60], "x.tar.gz")


def test_a_package_that_is_missing_or_changed_is_named(cache: Path) -> None:
    package = sdist.load_lock()[0]
    path = cached_path(cache, package)
    path.write_bytes(b"something else")
    with pytest.raises(BadInput, match="not the pinned tiny"):
        sdist.read_sdist(cache, package)
    path.unlink()
    with pytest.raises(BadInput, match="source-tasks fetch"):
        sdist.read_sdist(cache, package)


def test_nothing_is_downloaded_when_the_cache_is_whole(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.subprocess, "run", lambda *_, **__: pytest.fail("pip was started"))
    assert sdist.fetch(sdist.load_lock(), cache) == []


def test_the_instruction_is_finished_text() -> None:
    package = sdist.load_lock()[0]
    assert pybugs.instruction(package, {"tests.T.a": "E: x"}).startswith(
        f"The Python package {package.name} {package.version} in /app has a bug: 1 of its tests fails."
    )
    assert json.loads(json.dumps(pybugs.suite(package)))["tests"] == "/tests/suite"
