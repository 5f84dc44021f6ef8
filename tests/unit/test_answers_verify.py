from __future__ import annotations

import pytest

from answers import verify
from answers.same import Comparer
from answers.verify import Verifier
from sandbox import SandboxError, SandboxKilled
from teacher.store import Store

DOUBLE = "def double(x):\n    return 2 * x\n"


@pytest.fixture(scope="module")
def comparer():
    with Comparer() as one:
        yield one


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("1/2", "0.5"),
        ("\\frac{1}{2}", "\\frac{2}{4}"),
        ("2\\sqrt{3}", "\\sqrt{12}"),
        ("x = 5", "5"),
        ("(x+1)^2", "x^2+2x+1"),
        ("\\{1, 2\\}", "\\{2, 1\\}"),
        ("6e3", "6000"),
        ("5\\text{ metres}", "5"),
        ("\\text{Monday}", "monday"),
    ],
)
def test_equal_answers_are_the_same_both_ways_round(comparer, left, right):
    assert comparer.same(left, right)
    assert comparer.same(right, left)


@pytest.mark.parametrize(
    ("left", "right"),
    [("3", "-3"), ("silent", "listen"), ("no", "on"), ("A", "B"), ("1 2", "12"), ("\\frac{", "5"), ("{" * 20, "5")],
)
def test_other_answers_are_not(comparer, left, right):
    assert not comparer.same(left, right)


@pytest.mark.full
def test_expressions_that_never_end_are_cut_short(comparer):
    assert not comparer.same("9^{9^{9^{9}}}", "9^{9^{9^{8}}} + 1")
    assert comparer.same("1/3", "\\frac{2}{6}")


@pytest.mark.parametrize(
    ("code", "right"),
    [
        (DOUBLE, True),
        (DOUBLE + "if __name__ == '__main__':\n    print(double(int(input())))\n", True),
        ("def double(x):\n    return x + 2\n", False),
        ("import sys\nsys.exit(0)\n", False),
        ("import os\nos._exit(0)\n", False),
        ("def double(x:\n", False),
    ],
)
def test_code_is_right_when_its_tests_go_through(code, right, tmp_path):
    with Verifier(tmp_path, 5) as verifier:
        assert verifier.passes(code, "assert double(2) == 4\nassert double(0) == 0") is right


@pytest.mark.parametrize("code", ["while True:\n    pass\n", "import time\ntime.sleep(60)\n"])
@pytest.mark.full
def test_code_that_does_not_end_is_wrong(code, tmp_path):
    with Verifier(tmp_path, 1) as verifier:
        assert verifier.passes(code, "assert True") is False


def test_a_verdict_is_kept_and_not_passed_again(tmp_path, monkeypatch):
    runs = []

    async def passes(code, tests, cpu_sec):
        runs.append(code)
        return True

    monkeypatch.setattr(verify, "passes", passes)
    for _ in range(2):
        with Verifier(tmp_path, 5) as verifier:
            assert verifier.passes("a", "b")
            assert verifier.is_answer("It is \\boxed{4}", "So 4.\n\nThe answer is 4")
            assert not verifier.is_answer("4", "")
    assert runs == ["a"]


def test_a_sandbox_that_fails_is_tried_again_and_says_nothing_of_the_code(tmp_path, monkeypatch):
    runs = []

    async def passes(code, tests, cpu_sec):
        runs.append(code)
        if code == "mends" and len(runs) == 2:
            return True
        raise SandboxError("no sandbox today")

    monkeypatch.setattr(verify, "passes", passes)
    with Verifier(tmp_path, 5) as verifier:
        assert verifier.passes("mends", "b")
        with pytest.raises(SandboxError):
            verifier.passes("fails", "b")
    assert runs == ["mends"] * 2 + ["fails"] * 3
    with Store(tmp_path) as kept:
        assert len(kept) == 1


def test_code_that_brings_its_sandbox_down_is_wrong(tmp_path, monkeypatch):
    class Greedy:
        @staticmethod
        def start():
            raise SandboxKilled("memory", "too much")

    monkeypatch.setattr("sandbox.Sandbox", Greedy)
    with Verifier(tmp_path, 5) as verifier:
        assert verifier.passes("a", "b") is False
