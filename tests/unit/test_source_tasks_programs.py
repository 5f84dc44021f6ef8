"""Sources `pymethods2test`, `code-contests` and `nemotron-code` on rows of their columns, written by hand."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from recipe_core.tasks import check_task
from source_tasks import codecontests, nemotroncode, pymethods2test
from source_tasks.build import UNSOLVED, Journal, settle
from source_tasks.codecontests import NEEDS_FILES, NEEDS_PICTURE, NO_CASES, NO_SOLUTION
from source_tasks.files import cases_check
from source_tasks.heldout import SPLITS
from source_tasks.nemotroncode import NO_EXAMPLES, NO_PROGRAM, NOT_CODE, examples
from source_tasks.programs import MAX_CASE_BYTES, MAX_CASES, UNWRITABLE, Case, chosen_cases
from source_tasks.pymethods2test import NO_FUNCTION, NOT_PYTHON, stub
from source_tasks.source import Candidate, Rejected
from source_tasks.tables import NO_TEXT

METHOD = {
    "focal_method": '    def half(n):\n        """Half of n."""\n        return math.floor(n / 2)\n',
    "test_method": "def test_half():\n    assert half(5) == 2\n    assert half(4) == 2\n",
    "imports": "import math",
    "path": "pkg/half.py",
    "licence": "MIT",
}
CONTEST = {
    "name": "1_A. Sum",
    "description": "Read two numbers and print their sum.",
    "public_tests": {"input": ["1 2\n"], "output": ["3\n"]},
    "private_tests": {"input": ["10 20\n", "-1 1\n"], "output": ["30\n", "0 \n"]},
    "generated_tests": {"input": [], "output": []},
    "solutions": {
        "language": [2, 3, 3, 1],
        "solution": [
            "int main(){}",
            "a, b = map(int, input().split())\nprint(a + b)\n",
            "# longer\na, b = map(int, input().split())\nprint(a + b)\n",
            "print sum(map(int, raw_input().split()))",
        ],
    },
}
PROBLEM = """Add two numbers.

-----Input-----

Two integers.

-----Output-----

Their sum.

-----Examples-----
Input
1 2

Output
3

Input
-4 4

Output
0

-----Note-----

Input is small.
"""
NEMOTRON = {
    "input": [{"role": "user", "content": PROBLEM}],
    "output": "Draft:\n```python\nprint(1)\n```\nBetter:\n```python\nprint(sum(map(int, input().split())))\n```",
    "category": "code",
    "license": "cc-by-4.0",
}


def candidates(module: Any, path: Path, *rows: dict[str, Any]) -> list[Candidate]:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    source = module.open_source(path)
    return [one for split in SPLITS for one in source.generate(split, 0, source.families())]


@pytest.mark.full
@pytest.mark.parametrize(
    ("module", "row", "changes"),
    [
        (pymethods2test, METHOD, {"test_method": "def test_half():\n    assert half(5) == 3\n"}),
        (codecontests, CONTEST, {"private_tests": {"input": ["1 1\n"], "output": ["3\n"]}}),
        (nemotroncode, NEMOTRON, {"output": "```python\nprint(1)\n```"}),
    ],
)
def test_a_row_becomes_a_task_that_the_sandbox_accepts_and_a_wrong_one_does_not(
    tmp_path: Path, module: Any, row: dict, changes: dict
) -> None:
    (good,) = candidates(module, tmp_path / "a.jsonl", row)
    (bad,) = candidates(module, tmp_path / "b.jsonl", {**row, **changes})
    check_task(good.files, "row")
    journal = Journal(tmp_path / "journal")
    assert asyncio.run(settle(good, journal)).reason is None
    assert asyncio.run(settle(bad, journal)).reason == UNSOLVED


def test_a_unittest_class_counts_and_a_file_without_tests_does_not(tmp_path: Path) -> None:
    inside = "class TestHalf(unittest.TestCase):\n    def test_five(self):\n        self.assertEqual(half(5), 2)\n"
    imports = "import math\nimport unittest"
    (good,) = candidates(pymethods2test, tmp_path / "a.jsonl", {**METHOD, "imports": imports, "test_method": inside})
    (none,) = candidates(pymethods2test, tmp_path / "b.jsonl", {**METHOD, "test_method": "half(2)\n"})
    journal = Journal(tmp_path / "journal")
    assert asyncio.run(settle(good, journal)).reason is None
    assert asyncio.run(settle(none, journal)).reason == UNSOLVED


def test_the_agent_gets_the_signature_and_the_docstring_alone(tmp_path: Path) -> None:
    (one,) = candidates(pymethods2test, tmp_path / "a.jsonl", {**METHOD, "instruction": "Halve."})
    start = one.files["environment/files/solution.py"].content.decode()
    assert start == 'import math\n\n\ndef half(n):\n    """Half of n."""\n    raise NotImplementedError\n'
    instruction = one.files["instruction.md"].content.decode()
    assert instruction.startswith("Halve.\n\nImplement the function `half`")
    assert "floor" not in instruction
    assert (one.licence, one.meta["parameters"]) == ("MIT", {"row": "pkg/half.py"})


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("def f(x): return x", "def f(x):\n    raise NotImplementedError"),
        (
            "@cache\ndef f(\n    x,\n):\n  # why\n  return x",
            "@cache\ndef f(\n    x,\n):\n  # why\n  raise NotImplementedError",
        ),
        (
            "async def f():\n    '''Doc\n    on.'''\n    pass",
            "async def f():\n    '''Doc\n    on.'''\n    raise NotImplementedError",
        ),
        ("def f(ä='ü'): return 'ö'", "def f(ä='ü'):\n    raise NotImplementedError"),
    ],
)
def test_a_stub_keeps_everything_before_the_body(code: str, wanted: str) -> None:
    assert stub(code) == ("f", wanted)
    compile(wanted, "stub", "exec")


@pytest.mark.parametrize(
    "code", ["x = 1", "class A:\n    def f(self): pass", "def f(): 'doc'", "def test_f():\n    pass"]
)
def test_what_is_not_one_function_has_no_stub(code: str) -> None:
    with pytest.raises(Rejected, match=NO_FUNCTION):
        stub(code)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"focal_method": "print 'a'"}, NOT_PYTHON),
        ({"test_method": "def test("}, NOT_PYTHON),
        ({"imports": "import"}, NOT_PYTHON),
        ({"focal_method": "def f():\n    return '\0'"}, NOT_PYTHON),
        ({"focal_method": "(" * 10_000}, NOT_PYTHON),
        ({"focal_method": None}, NO_TEXT),
        ({"test_method": ["a"]}, NO_TEXT),
        ({"focal_method": "def f():\n    x = '''\nEND_OF_SOLUTION\n'''\n    return x"}, NO_FUNCTION),
    ],
)
def test_a_pair_that_is_no_code_is_rejected(tmp_path: Path, changes: dict, reason: str) -> None:
    (one,) = candidates(pymethods2test, tmp_path / "a.jsonl", {**METHOD, **changes})
    assert (one.reason, one.files) == (reason, {})


def test_a_copied_method_is_in_one_split(tmp_path: Path) -> None:
    rows = [{**METHOD, "path": f"repo{n}/half.py", "imports": f"import math  # {n}"} for n in range(12)]
    assert len({one.meta["held_out"][0] for one in candidates(pymethods2test, tmp_path / "a.jsonl", *rows)}) == 1


def test_hidden_tests_come_first_and_the_shortest_solution_is_taken(tmp_path: Path) -> None:
    (one,) = candidates(codecontests, tmp_path / "a.jsonl", CONTEST)
    cases = json.loads(one.files["tests/cases.json"].content)
    assert [case["input"] for case in cases] == ["10 20\n", "-1 1\n", "1 2\n"]
    assert one.meta["cases"] == 3
    assert b"longer" not in one.files["solution/solve.sh"].content
    assert "private" not in one.files["instruction.md"].content.decode()
    assert one.origin == "code-contests: 1_A. Sum"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"description": None}, NO_TEXT),
        ({"description": "See <image>."}, NEEDS_PICTURE),
        ({"input_file": "a.txt"}, NEEDS_FILES),
        ({"solutions": {"language": [2], "solution": ["int main(){}"]}}, NO_SOLUTION),
        ({"solutions": {"language": [3], "solution": [None]}}, NO_SOLUTION),
        ({"solutions": "x"}, NO_SOLUTION),
        ({"private_tests": None, "public_tests": {"input": ["1"], "output": []}}, NO_CASES),
        ({"private_tests": None, "public_tests": {"input": ["1"], "output": [" "]}}, NO_CASES),
        ({"solutions": {"language": [3], "solution": ["'''\nEND_OF_PROGRAM\n'''"]}}, UNWRITABLE),
    ],
)
def test_a_problem_that_lacks_something_is_rejected(tmp_path: Path, changes: dict, reason: str) -> None:
    (one,) = candidates(codecontests, tmp_path / "a.jsonl", {**CONTEST, **changes})
    assert (one.reason, one.files) == (reason, {})


def test_cases_are_bounded() -> None:
    cases = [Case(f"{n}", "1") for n in range(50)]
    assert chosen_cases([Case("x" * MAX_CASE_BYTES, "1"), cases[0], *cases]) == cases[:MAX_CASES]


def test_examples_are_read_from_the_statement() -> None:
    assert examples(PROBLEM) == [Case("1 2\n", "3\n"), Case("-4 4\n", "0\n")]
    fenced = "Do.\n\n**Sample Input 1**\n```\n5\n```\n**Sample Output 1**\n```\n6\n```\n\nExplanation\n\nOne more.\n"
    assert examples(fenced) == [Case("5\n", "6\n")]
    assert examples("Input\n\nA number.\n\nOutput\n\nAnother.\n") == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"category": "math"}, NOT_CODE),
        ({"input": "Add two numbers."}, NO_EXAMPLES),
        ({"input": []}, NO_TEXT),
        ({"input": None}, NO_TEXT),
        ({"output": "It is easy."}, NO_PROGRAM),
        ({"output": None}, NO_PROGRAM),
    ],
)
def test_a_row_of_nemotron_without_examples_or_program_is_rejected(tmp_path: Path, changes: dict, reason: str) -> None:
    (one,) = candidates(nemotroncode, tmp_path / "a.jsonl", {**NEMOTRON, **changes})
    assert (one.reason, one.files) == (reason, {})


def test_messages_and_a_plain_input_are_the_same_task(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": PROBLEM}, {"role": "assistant", "content": NEMOTRON["output"]}]
    (a,) = candidates(nemotroncode, tmp_path / "a.jsonl", NEMOTRON)
    (b,) = candidates(nemotroncode, tmp_path / "b.jsonl", {**NEMOTRON, "input": PROBLEM})
    (c,) = candidates(nemotroncode, tmp_path / "c.jsonl", {"messages": messages})
    assert a.files == b.files == c.files
    assert (a.licence, c.licence) == ("cc-by-4.0", "unknown")
    assert a.meta["verifier"] == nemotroncode.VERIFIER


def test_the_checker_compares_words(tmp_path: Path) -> None:
    program = tmp_path / "solution.py"
    program.write_text("n = int(input())\nprint(n * 2 if n else 1 / 0)\nprint()")
    assert cases_check.problem(1, {"input": "2", "output": " 4"}, str(program)) is None
    assert cases_check.problem(1, {"input": "2", "output": "5"}, str(program)) == "case 1: another output than expected"
    assert "exit code 1: ZeroDivisionError" in (
        cases_check.problem(2, {"input": "0", "output": ""}, str(program)) or ""
    )
