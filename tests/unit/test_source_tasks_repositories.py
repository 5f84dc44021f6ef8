"""Sources `swe-smith` and `r2egym` on rows of the published columns, written by hand; no container image is run."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from recipe_core.errors import BadInput
from recipe_core.tasks import check_task
from sandbox.dockerfile import parse as parse_dockerfile
from source_tasks import r2egym, swesmith
from source_tasks.build import Journal, settle
from source_tasks.files import tests_check
from source_tasks.heldout import SPLITS
from source_tasks.source import Candidate, Rejected
from source_tasks.swesmith import BAD_IMAGE, NO_TESTS
from source_tasks.tables import NO_TEXT

SMITH = {
    "instance_id": "owner__name.1fd52536.func_basic__abc",
    "repo": "swesmith/owner__name.1fd52536",
    "patch": "--- a/m.py\n+++ b/m.py\n@@ -1 +1 @@\n-X = 1\n+X = 2",
    "problem_statement": "X is wrong.",
    "FAIL_TO_PASS": ["tests/test_m.py::test_x"],
    "PASS_TO_PASS": ["tests/test_m.py::TestY::test_y"],
    "image_name": "jyangballin/swesmith.x86_64.owner_1776_name.1fd52536",
}
R2E = {
    "repo_name": "tornado",
    "docker_image": "namanjain12/tornado_final:" + "a" * 40,
    "commit_hash": "a" * 40,
    "problem_statement": "It hangs.",
    "expected_output_json": json.dumps({"TestA.test_b": "PASSED", "test_c": "FAILED"}),
    "execution_result_content": json.dumps({"test_file_names": ["test_1.py"], "test_file_codes": ["def test_c(): 0"]}),
    "parsed_commit_content": json.dumps(
        {
            "file_diffs": [
                {"header": {"file": {"path": "a b/x.py"}}, "old_file_content": "1\n", "new_file_content": "2\n"},
                {"header": {"file": {"path": "tests/test_x.py"}}, "old_file_content": "", "new_file_content": "3\n"},
                {"header": {"file": {"path": "gone.py"}}, "old_file_content": "1\n", "new_file_content": ""},
            ]
        }
    ),
}


def candidates(module: Any, path: Path, *rows: dict[str, Any]) -> list[Candidate]:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    source = module.open_source(path)
    return [one for split in SPLITS for one in source.generate(split, 0, source.families())]


def environment(candidate: Candidate) -> dict[str, Any]:
    prefix = "environment/"
    return {name.removeprefix(prefix): file for name, file in candidate.files.items() if name.startswith(prefix)}


async def unused() -> None:
    raise AssertionError("the sandbox was asked")


def test_a_row_of_swe_smith_becomes_a_task_in_its_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    (one,) = candidates(swesmith, tmp_path / "a.jsonl", SMITH)
    check_task(one.files, "swe-smith")
    assert parse_dockerfile(environment(one)) is not None
    assert one.files["environment/Dockerfile"].content.decode().startswith(f"FROM {SMITH['image_name']}\n")
    assert (one.meta["validated"], one.meta["image"], one.meta["solution"]) == (False, SMITH["image_name"], True)
    assert one.meta["held_out"] == ["repository:owner__name.1fd52536"]
    expected = json.loads(one.files["tests/expected.json"].content)
    assert expected["expected"] == {"tests/test_m.py::test_x": "PASSED", "tests/test_m.py::TestY::test_y": "PASSED"}
    assert expected["restore"] == ["tests/test_m.py"]
    monkeypatch.setattr("sandbox.validate_task", unused)
    assert asyncio.run(settle(one, Journal(tmp_path / "journal"))).reason is None


def test_the_fault_of_swe_smith_applies_and_its_solution_takes_it_back(tmp_path: Path) -> None:
    (one,) = candidates(swesmith, tmp_path / "a.jsonl", SMITH)
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "m.py").write_text("X = 1\n")
    fault = tmp_path / "fault.patch"
    fault.write_bytes(one.files["environment/fault.patch"].content)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(command: str) -> str:
        done = subprocess.run(["bash", "-ec", command], cwd=repository, env=clean, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    git("git init -q && git add -A && git -c user.name=a -c user.email=a@b commit -q -m right")
    # The line that the Dockerfile runs, with the paths of this test.
    run = one.files["environment/Dockerfile"].content.decode().splitlines()[-1].removeprefix("RUN ")
    git(run.replace("/tmp/fault.patch", str(fault)))
    assert (repository / "m.py").read_text() == "X = 2\n"
    assert git("git log --format=%s") == "start\n"
    fault.write_bytes(one.files["solution/fault.patch"].content)
    solve = one.files["solution/solve.sh"].content.decode()
    git(solve.replace("/solution/fault.patch", str(fault)).replace("cd /testbed", "true"))
    assert (repository / "m.py").read_text() == "X = 1\n"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"problem_statement": ""}, NO_TEXT),
        ({"patch": None}, NO_TEXT),
        ({"FAIL_TO_PASS": []}, NO_TESTS),
        ({"FAIL_TO_PASS": "nothing"}, NO_TESTS),
        ({"PASS_TO_PASS": [3]}, NO_TESTS),
        ({"image_name": "ubuntu\nRUN curl evil"}, BAD_IMAGE),
        ({"image_name": None}, NO_TEXT),
    ],
)
def test_a_row_of_swe_smith_that_lacks_something_is_rejected(tmp_path: Path, changes: dict, reason: str) -> None:
    (one,) = candidates(swesmith, tmp_path / "a.jsonl", {**SMITH, **changes})
    assert (one.reason, one.files) == (reason, {})


def test_test_names_may_be_json_text_and_a_repository_may_be_missing(tmp_path: Path) -> None:
    row = {**SMITH, "FAIL_TO_PASS": json.dumps(SMITH["FAIL_TO_PASS"]), "PASS_TO_PASS": None, "repo": None}
    (one,) = candidates(swesmith, tmp_path / "a.jsonl", row)
    assert one.reason is None
    assert one.meta["held_out"] == ["repository:owner__name.1fd52536"]


@pytest.mark.parametrize(("module", "row"), [(swesmith, SMITH), (r2egym, R2E)])
def test_rows_of_swe_bench_are_refused(tmp_path: Path, module: Any, row: dict) -> None:
    bad = {**row, "instance_id": "sympy__sympy-20590"}
    with pytest.raises(BadInput, match=r"a.jsonl line 2: from a benchmark's test split \(instance_id: sympy__sympy-20"):
        candidates(module, tmp_path / "a.jsonl", {**row, "instance_id": "x"}, bad)


def test_a_repository_is_in_one_split(tmp_path: Path) -> None:
    rows = [{**SMITH, "repo": f"swesmith/owner__name{n % 12}", "problem_statement": f"Issue {n}."} for n in range(48)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    source = swesmith.open_source(path)
    sides = [{one.meta["held_out"][0] for one in source.generate(split, 0, source.families())} for split in SPLITS]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 12


def test_a_row_of_r2egym_becomes_a_task_in_its_image(tmp_path: Path) -> None:
    (one,) = candidates(r2egym, tmp_path / "a.jsonl", R2E)
    check_task(one.files, "r2egym")
    assert (one.meta["validated"], one.meta["image"], one.meta["commit"]) == (False, R2E["docker_image"], "a" * 40)
    assert one.meta["held_out"] == ["repository:tornado"]
    assert one.files["tests/r2e_tests/test_1.py"].content == b"def test_c(): 0"
    expected = json.loads(one.files["tests/expected.json"].content)
    assert (expected["expected"], expected["exact"]) == ({"TestA.test_b": "PASSED", "test_c": "FAILED"}, True)


def test_the_solution_of_r2egym_writes_what_the_commit_made_of_the_sources(tmp_path: Path) -> None:
    (one,) = candidates(r2egym, tmp_path / "a.jsonl", R2E)
    (tmp_path / "gone.py").write_text("1\n")
    for name, (content, _) in one.files.items():
        if name.startswith("solution/"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
    solve = one.files["solution/solve.sh"].content.decode().replace("/solution/", f"{tmp_path}/solution/")
    subprocess.run(["bash", "-c", solve.replace("/testbed", str(tmp_path))], check=True)
    assert (tmp_path / "a b" / "x.py").read_text() == "2\n"
    assert not (tmp_path / "gone.py").exists()
    assert not (tmp_path / "tests").exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"expected_output_json": "{}"}, r2egym.NO_EXPECTED),
        ({"expected_output_json": '{"a": "GOOD"}'}, r2egym.NO_EXPECTED),
        ({"expected_output_json": None}, r2egym.NO_EXPECTED),
        ({"execution_result_content": "[]"}, r2egym.NO_TEST_FILES),
        ({"execution_result_content": '{"test_file_names": ["a"], "test_file_codes": []}'}, r2egym.NO_TEST_FILES),
        (
            {"execution_result_content": '{"test_file_names": ["../../a"], "test_file_codes": ["x"]}'},
            "a path leaves the folder, stands for two things, or cannot be packed",
        ),
    ],
)
def test_a_row_of_r2egym_that_lacks_something_is_rejected(tmp_path: Path, changes: dict, reason: str) -> None:
    (one,) = candidates(r2egym, tmp_path / "a.jsonl", {**R2E, **changes})
    assert (one.reason, one.files) == (reason, {})


@pytest.mark.parametrize("content", [None, "{", '{"file_diffs": [{}]}', '{"file_diffs": 3}'])
def test_without_a_readable_commit_there_is_no_solution(tmp_path: Path, content: str | None) -> None:
    (one,) = candidates(r2egym, tmp_path / "a.jsonl", {**R2E, "parsed_commit_content": content})
    assert (one.reason, one.meta["solution"]) == (None, False)
    assert "solution/solve.sh" not in one.files


OUTPUT = """\
=========================== short test summary info ============================
PASSED tests/test_m.py::test_x
\x1b[32mPASSED\x1b[0m tests/test_m.py::TestY::\x1b[1mtest_y[a b]\x1b[0m
FAILED tests/test_m.py::test_z - AssertionError: a - b
ERROR tests/test_n.py
1 failed, 2 passed
"""


def test_the_checker_reads_pytests_summary() -> None:
    assert tests_check.outcomes(OUTPUT, "path") == {
        "tests/test_m.py::test_x": "PASSED",
        "tests/test_m.py::TestY::test_y[a b]": "PASSED",
        "tests/test_m.py::test_z": "FAILED",
    }
    assert tests_check.outcomes(OUTPUT, "test") == {
        "test_x": "PASSED",
        "TestY.test_y[a b]": "PASSED",
        "test_z": "FAILED",
    }


def test_the_checker_names_what_differs() -> None:
    found = tests_check.outcomes(OUTPUT, "test")
    assert tests_check.problems(found, {"test_x": "PASSED"}, False) == []
    assert len(tests_check.problems(found, {"test_x": "PASSED"}, True)) == 2
    assert tests_check.problems(found, {"gone": "PASSED"}, False) == ["gone: missing, expected PASSED"]
    assert tests_check.problems(found, {"test_z": "PASSED"}, False) == ["test_z: FAILED, expected PASSED"]
    assert tests_check.problems(found, {"\x1b[1mtest_z\x1b[0m - x": "FAILED"}, False) == []


@pytest.mark.parametrize(("wanted", "code"), [("PASSED", 0), ("FAILED", 1)])
def test_the_checker_runs_the_command(tmp_path: Path, wanted: str, code: int) -> None:
    task = {
        "command": "echo PASSED a.py::test_a",
        "restore": [],
        "names": "path",
        "exact": True,
        "expected": {"a.py::test_a": wanted},
    }
    (tmp_path / "expected.json").write_text(json.dumps(task))
    assert tests_check.main(["check", str(tmp_path / "expected.json")]) == code


def test_an_images_name_is_checked() -> None:
    with pytest.raises(Rejected):
        swesmith.image_of({"image_name": "a b"}, "image_name")
