"""Faults injected into Python source by position, so that all other text of the file stays as it is.

An operator looks at one syntax-tree node and proposes edits (a byte range and its replacement). Only code inside
functions is touched, never docstrings, annotations or decorators.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Edit(NamedTuple):
    """Replace the bytes `start:end` of a file."""

    start: int
    end: int
    new: bytes

    def apply(self, source: bytes) -> bytes:
        """Return the changed file."""
        return source[: self.start] + self.new + source[self.end :]


class Mutant(NamedTuple):
    """One fault: where, what kind, and how to make it."""

    operator: str
    function: str
    """Outermost function or `Class.method` that holds the fault."""
    edit: Edit


class Source:
    """A file's bytes with its syntax tree; positions of nodes as byte offsets."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.tree = ast.parse(content)
        starts = [0]
        for line in content.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        self._line_starts = starts

    def start(self, node: ast.expr | ast.stmt) -> int:
        """Return the offset of a node's first byte."""
        return self._line_starts[node.lineno - 1] + node.col_offset

    def end(self, node: ast.expr | ast.stmt) -> int:
        """Return the offset after a node's last byte."""
        assert node.end_lineno is not None and node.end_col_offset is not None  # always set by ast.parse
        return self._line_starts[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.expr | ast.stmt) -> bytes:
        """Return a node's bytes."""
        return self.content[self.start(node) : self.end(node)]

    def replace(self, node: ast.expr | ast.stmt, new: bytes) -> Edit:
        """Replace a whole node."""
        return Edit(self.start(node), self.end(node), new)

    def between(self, left: ast.expr, right: ast.expr, old: str, new: str) -> Iterator[Edit]:
        """Replace an operator that stands between two nodes, if its text is found there exactly once."""
        first, last = self.end(left), self.start(right)
        gap = self.content[first:last]
        if gap.count(old.encode()) == 1 and b"#" not in gap:
            at = first + gap.index(old.encode())
            yield Edit(at, at + len(old), new.encode())


Operator = Callable[[ast.AST, Source], Iterator[Edit]]

_OPPOSITE: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Lt: ("<", ">"),
    ast.Gt: (">", "<"),
    ast.LtE: ("<=", ">="),
    ast.GtE: (">=", "<="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
_BOUNDARY: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
}
_ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "+"),
    ast.FloorDiv: ("//", "*"),
    ast.Div: ("/", "*"),
    ast.Mod: ("%", "//"),
}


def _comparisons(node: ast.AST, source: Source, table: dict[type[ast.cmpop], tuple[str, str]]) -> Iterator[Edit]:
    if isinstance(node, ast.Compare):
        for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            if type(operator) in table:
                yield from source.between(left, right, *table[type(operator)])


def swap_comparison(node: ast.AST, source: Source) -> Iterator[Edit]:
    """`a == b` becomes `a != b`, `a < b` becomes `a > b`, `a in b` becomes `a not in b`, …"""
    yield from _comparisons(node, source, _OPPOSITE)


def shift_boundary(node: ast.AST, source: Source) -> Iterator[Edit]:
    """`a < b` becomes `a <= b` and the like."""
    yield from _comparisons(node, source, _BOUNDARY)


def swap_boolean(node: ast.AST, source: Source) -> Iterator[Edit]:
    """`a and b` becomes `a or b` and the other way round."""
    if isinstance(node, ast.BoolOp) and len(node.values) == 2:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        yield from source.between(node.values[0], node.values[1], old, new)


def drop_not(node: ast.AST, source: Source) -> Iterator[Edit]:
    """`not a` becomes `a`."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield Edit(source.start(node), source.start(node.operand), b"")


def negate_condition(node: ast.AST, source: Source) -> Iterator[Edit]:
    """`if a:` becomes `if not a:`; conditions that other operators already change are left to them."""
    if isinstance(node, ast.If | ast.IfExp) and isinstance(node.test, ast.Name | ast.Attribute | ast.Call):
        yield source.replace(node.test, b"not " + source.text(node.test))


def swap_arithmetic(node: ast.AST, source: Source) -> Iterator[Edit]:
    """`a + b` becomes `a - b`, `a * b` becomes `a + b`, …; joining of literal strings and lists is left alone."""
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        for part in ast.walk(node):
            if isinstance(part, ast.JoinedStr | ast.List | ast.Tuple):
                return
            if isinstance(part, ast.Constant) and isinstance(part.value, str | bytes):
                return
        yield from source.between(node.left, node.right, *_ARITHMETIC[type(node.op)])


def off_by_one(node: ast.AST, source: Source) -> Iterator[Edit]:
    """An integer literal grows by one."""
    if isinstance(node, ast.Constant) and type(node.value) is int and source.text(node).isdigit():
        yield source.replace(node, str(node.value + 1).encode())


def flip_constant(node: ast.AST, source: Source) -> Iterator[Edit]:
    """`True` becomes `False` and the other way round, in code and in default values."""
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield source.replace(node, str(not node.value).encode())


def remove_early_exit(node: ast.AST, source: Source) -> Iterator[Edit]:
    """The only statement of an `if`, when it returns, raises, continues or breaks, becomes `pass`."""
    if isinstance(node, ast.If) and len(node.body) == 1 and not node.orelse:
        only = node.body[0]
        if isinstance(only, ast.Return | ast.Raise | ast.Continue | ast.Break):
            yield source.replace(only, b"pass")


def swap_arguments(node: ast.AST, source: Source) -> Iterator[Edit]:
    """The first two positional arguments of a call change places."""
    if isinstance(node, ast.Call) and len(node.args) >= 2:
        first, second = node.args[:2]
        if not isinstance(first, ast.Starred) and not isinstance(second, ast.Starred):
            gap = source.content[source.end(first) : source.start(second)]
            swapped = source.text(second) + gap + source.text(first)
            yield Edit(source.start(first), source.end(second), swapped)


def shift_slice(node: ast.AST, source: Source) -> Iterator[Edit]:
    """A slice ends one element earlier, or starts one element later when it has no end."""
    if isinstance(node, ast.Slice):
        bound = node.upper or node.lower
        if bound is not None and not isinstance(bound, ast.Tuple):
            shift = b" - 1" if node.upper else b" + 1"
            yield source.replace(bound, source.text(bound) + shift)


OPERATORS: dict[str, Operator] = {
    function.__name__.replace("_", "-"): function
    for function in (
        swap_comparison,
        shift_boundary,
        swap_boolean,
        drop_not,
        negate_condition,
        swap_arithmetic,
        off_by_one,
        flip_constant,
        remove_early_exit,
        swap_arguments,
        shift_slice,
    )
}

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.Module) -> Iterator[tuple[str, _Function]]:
    """Yield the functions of a module and the methods of its classes by qualified name; nested ones belong to these."""

    def walk(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, _Function]]:
        for node in body:
            if isinstance(node, _Function):
                yield prefix + node.name, node
            elif isinstance(node, ast.ClassDef):
                yield from walk(node.body, f"{prefix}{node.name}.")

    yield from walk(tree.body, "")


def _code_nodes(function: _Function) -> Iterator[ast.AST]:
    # Body and default values, without annotations and decorators; docstrings hold no node an operator matches.
    pending: list[ast.AST] = [*function.body]
    pending += [default for default in (*function.args.defaults, *function.args.kw_defaults) if default is not None]
    while pending:
        node = pending.pop(0)
        if isinstance(node, ast.JoinedStr):
            continue  # Python 3.11 gives no usable positions inside f-strings; the same faults on every version
        yield node
        skipped = {"annotation", "returns", "decorator_list"}
        for name, value in ast.iter_fields(node):
            if name not in skipped:
                children = value if isinstance(value, list) else [value]
                pending += [child for child in children if isinstance(child, ast.AST)]


def mutants(content: bytes) -> list[Mutant]:
    """Return the faults that can be injected into a file, function by function in the order of the text.

    Raises:
        SyntaxError: the file is not valid Python.
    """
    source = Source(content)
    found: dict[Edit, Mutant] = {}
    for name, function in functions(source.tree):
        for node in _code_nodes(function):
            for operator, propose in OPERATORS.items():
                for edit in propose(node, source):
                    found.setdefault(edit, Mutant(operator, name, edit))
    return list(found.values())


def inject(content: bytes, mutant: Mutant) -> bytes | None:
    """Return the file with the fault in it, or None where that is no longer valid Python or says the same as before."""
    mutated = mutant.edit.apply(content)
    try:
        same = ast.dump(ast.parse(mutated)) == ast.dump(ast.parse(content))
    except SyntaxError:
        return None
    return None if same else mutated
