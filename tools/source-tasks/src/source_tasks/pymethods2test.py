"""Source `pymethods2test`: Python methods with the unit tests that developers wrote for them (pyMethods2Test).

`--input` names JSON lines or Parquet with the method (`focal_method` or `focal_function`), its test (`test_method` or
`test_function`), and where they are known `imports`, `instruction` or `task_description`, `repo`, `path`, `licence`.

The agent gets the method's signature and docstring and writes the body; the recorded method is the reference solution
and the recorded test the verifier. Only what runs by itself passes validation: a function that needs its package, or a
test that needs pytest, is rejected. A method belongs to one split, whatever repository it was copied to.
"""

from __future__ import annotations

import ast
import hashlib
import textwrap
import warnings
from importlib.resources import files as package_files
from pathlib import Path
from typing import ClassVar

from recipe_core.tasks import TaskFile
from source_tasks.given import UNKNOWN_LICENCE
from source_tasks.source import Rejected, dockerfile, script, task_toml, text, verifier
from source_tasks.tables import Made, Row, TableSource, text_of, text_or_none

METHOD, TEST = ("focal_method", "focal_function"), ("test_method", "test_function")

NOT_PYTHON = "the method or its test is not Python 3 code"
NO_FUNCTION = "the method is not one function"

_END = "END_OF_SOLUTION"


def parse(code: str) -> ast.Module:
    """Return the syntax tree of code whose indentation was taken away.

    Raises:
        Rejected: it is not Python 3.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Rejected(NOT_PYTHON) from None


def stub(code: str) -> tuple[str, str]:
    """Return the name of the function in some code, and the code with that function's body left to write.

    >>> print(stub('def half(n):\\n    "Half of n."\\n    return n // 2\\n')[1])
    def half(n):
        "Half of n."
        raise NotImplementedError

    Raises:
        Rejected: it is not one function.
    """
    found = [node for node in parse(code).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    if len(found) != 1 or found[0].name.startswith("test"):
        raise Rejected(NO_FUNCTION)
    function = found[0]
    lines = code.splitlines()
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    if first.lineno == function.lineno and documented:
        raise Rejected(NO_FUNCTION)
    if documented:
        head = lines[: first.end_lineno]
    else:
        # Columns count bytes.
        line = lines[first.lineno - 1].encode()[: first.col_offset].decode()
        head = [*lines[: first.lineno - 1], *([line.rstrip()] if line.strip() else [])]
    indent = " " * (first.col_offset if first.lineno > function.lineno else 4)
    return function.name, "\n".join([*head, f"{indent}raise NotImplementedError"])


def task_files(row: Row) -> dict[str, TaskFile]:
    """Return the Harbor task folder of a row.

    Raises:
        Rejected: a cell that it needs is missing, or is no code.
    """
    method, test = (textwrap.dedent(text_of(row, *names)).strip("\n") for names in (METHOD, TEST))
    parse(test)
    imports = (text_or_none(row, "imports") or "").strip()
    parse(imports)
    head = f"{imports}\n\n\n" if imports else ""
    name, beginning = stub(method)
    solution = f"{head}{method}\n"
    if _END in solution:
        raise Rejected(NO_FUNCTION)
    asked = text_or_none(row, "instruction") or text_or_none(row, "task_description")
    checker = package_files("source_tasks").joinpath("files/unit_check.py").read_text(encoding="utf-8")
    return {
        "instruction.md": text(
            (f"{asked.strip()}\n\n" if asked else "")
            + f"Implement the function `{name}` in /app/solution.py so that hidden tests pass. "
            f"The file starts as follows.\n\n```python\n{head}{beginning}\n```\n"
        ),
        "task.toml": task_toml("pymethods2test", "task"),
        "environment/Dockerfile": dockerfile(copies=True),
        "environment/files/solution.py": text(f"{head}{beginning}\n"),
        "solution/solve.sh": script(f"#!/bin/bash\ncat > /app/solution.py <<'{_END}'\n{solution}{_END}\n"),
        "tests/test.sh": verifier("python3 -I /tests/check.py"),
        "tests/check.py": text(checker),
        "tests/unit_tests.py": text(f"{head}{test}\n"),
    }


class PyMethods2Test(TableSource):
    """Pairs of a method and a test."""

    name: ClassVar[str] = "pymethods2test"
    needed = (METHOD, TEST)
    optional = ("imports", "instruction", "task_description", "repo", "path", "licence", "license")
    label = ("path", "repo")

    def key(self, row: Row) -> str | None:
        """Return a digest of the method without its blanks."""
        found = next((value for name in METHOD if (value := text_or_none(row, name))), None)
        return f"method:{hashlib.sha256(''.join(found.split()).encode()).hexdigest()[:32]}" if found else None

    def make(self, row: Row) -> Made:
        """Return the task folder."""
        licence = text_or_none(row, "licence") or text_or_none(row, "license") or UNKNOWN_LICENCE
        return Made(task_files(row), licence=licence, meta={"solution": True})


def open_source(given: Path) -> PyMethods2Test:
    """Return the source; `given` is the file or folder of tables."""
    return PyMethods2Test(given)
