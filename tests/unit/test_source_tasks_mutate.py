"""Faults by syntax tree: what each operator does to the text, and that nothing else changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from source_tasks import mutate
from source_tasks.pybugs import function_key, in_turn, repair

CASES = [
    ("swap-comparison", "if a == b: pass", "if a != b: pass"),
    ("swap-comparison", "x = a in b", "x = a not in b"),
    ("swap-comparison", "x = a is not b", "x = a is b"),
    ("shift-boundary", "x = a < b", "x = a <= b"),
    ("swap-boolean", "x = a and b", "x = a or b"),
    ("drop-not", "x = not a", "x = a"),
    ("negate-condition", "if a: pass", "if not a: pass"),
    ("swap-arithmetic", "x = a + b", "x = a - b"),
    ("off-by-one", "x = a[3]", "x = a[4]"),
    ("flip-constant", "x = True", "x = False"),
    ("remove-early-exit", "if a: return b", "if a: pass"),
    ("swap-arguments", "x = f(a, b, c)", "x = f(b, a, c)"),
    ("shift-slice", "x = a[:n]", "x = a[:n - 1]"),
    ("shift-slice", "x = a[n:]", "x = a[n + 1:]"),
]


def function(line: str) -> bytes:
    return f"import os\n\n\ndef f(a, b):  # é stays\n    {line}\n".encode()


def faults(content: bytes) -> dict[bytes, str]:
    found = {}
    for mutant in mutate.mutants(content):
        if mutated := mutate.inject(content, mutant):
            found[mutated] = mutant.operator
    return found


@pytest.mark.parametrize(("operator", "before", "after"), CASES)
def test_an_operator_changes_its_own_text_only(operator: str, before: str, after: str) -> None:
    assert faults(function(before))[function(after)] == operator


def test_every_operator_is_covered() -> None:
    assert {case[0] for case in CASES} == set(mutate.OPERATORS)


@pytest.mark.parametrize(
    "line",
    [
        '"""a docstring with 1 and not 2"""',
        "x = 'a' + b",
        "x = f'{a + 1}'",
        "x: list[1] = a",
    ],
)
def test_text_and_annotations_are_left_alone(line: str) -> None:
    assert faults(function(line)) == {}


def test_code_outside_functions_is_left_alone() -> None:
    assert mutate.mutants(b"x = 1 + 2\n\n\nclass A:\n    y = not x\n") == []


def test_nested_functions_belong_to_the_outermost() -> None:
    source = (
        b"class A:\n    def m(self, flag=True):\n        def inner():\n            return 1\n        return inner\n"
    )
    assert {mutant.function for mutant in mutate.mutants(source)} == {"A.m"}


def test_what_would_not_compile_is_no_fault() -> None:
    source = function("x = not (a or b)")
    dropped = next(mutant for mutant in mutate.mutants(source) if mutant.operator == "drop-not")
    assert mutate.inject(source, dropped) is None


lines = st.lists(st.text("ab\r\t'\"\\é", max_size=6), min_size=1, max_size=8)


@given(before=lines, after=lines)
def test_a_repair_restores_every_byte(
    before: list[str], after: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    broken, fixed = "\n".join(before).encode(), "\n".join(after).encode()
    script = repair("broken.py", broken, fixed)
    program = script.split("\n", 2)[2].rpartition("\nEND_OF_FIX")[0]
    path = tmp_path_factory.getbasetemp() / "broken.py"
    path.write_bytes(broken)
    exec(program.replace("'broken.py'", repr(str(path))), {})
    assert path.read_bytes() == fixed


@given(st.lists(st.lists(st.integers(), max_size=5), max_size=5))
def test_taking_turns_loses_nothing(streams: list[list[int]]) -> None:
    taken = list(in_turn(iter(stream) for stream in streams))
    assert sorted(taken) == sorted(item for stream in streams for item in stream)
    assert taken[: sum(map(bool, streams))] == [stream[0] for stream in streams if stream]


def test_function_keys_tell_files_apart() -> None:
    assert function_key("p", "a.py", "f") != function_key("p", "b.py", "f")
