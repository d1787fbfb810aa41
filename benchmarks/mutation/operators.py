"""The mistakes that can be planted in a source file, found in its syntax tree and written as a change of its text.

Docstrings, annotations, decorators, `__all__`, log calls, f-strings and the texts of errors are left alone, since a
test should not hold them word by word. Of other strings only SQL is changed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

BOUNDS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="), ast.In: ("in", "not in"), ast.NotIn: ("not in", "in"), ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
}  # fmt: skip
"""What a comparison becomes."""
SUMS: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"), ast.FloorDiv: ("//", "/"),
}  # fmt: skip
SQL = re.compile(r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM)\b")
SQL_WORDS = [
    (re.compile(r" AND "), " OR "), (re.compile(r" < "), " <= "), (re.compile(r" > "), " >= "),
    (re.compile(r"\bmin\("), "max("), (re.compile(r" DESC\b"), ""), (re.compile(r" IS NOT NULL"), " IS NULL"),
    (re.compile(r"\bDISTINCT "), ""), (re.compile(r" <> "), " = "),
]  # fmt: skip
TINY = 1e-6
"""A smaller number only guards against a division by zero, or stands for rounding."""
SMALL_COUNT = 10
SYMMETRIC = {"max", "min", "isinstance", "issubclass", "getattr", "hasattr", "setattr", "cast", "print", "TypeVar"}
"""Functions whose first two arguments can be swapped without harm, or only with an error at once."""
LOGS = {"log", "logger", "logging", "warnings"}
SETTINGS = {"__all__", "model_config"}


@dataclass(frozen=True)
class Mutant:
    """One mistake: `text` in place of the bytes from `start` to `end` of the file at `path`."""

    path: str
    line: int
    kind: str
    start: int
    end: int
    text: str
    function: str = ""
    """The innermost function around it whose name is public: tests that reach it probably mention it."""

    def planted(self, source: str) -> str:
        """The source with the mistake."""
        data = source.encode()
        return (data[: self.start] + self.text.encode() + data[self.end :]).decode()


def mutants(path: str, source: str) -> list[Mutant]:
    """Every mistake that can be planted in a file, in the order of the text. Some may mean nothing: see `changes`."""
    return sorted(_Finder(path, source).all(), key=lambda mutant: (mutant.start, mutant.end, mutant.kind))


def changes(mutant: Mutant, source: str) -> bool:
    """Whether the planted file can still be parsed, and means something else than the source."""
    try:
        return ast.dump(ast.parse(mutant.planted(source))) != ast.dump(ast.parse(source))
    except SyntaxError:
        return False


class _Finder:
    def __init__(self, path: str, source: str) -> None:
        self._path, self._source, self._data = path, source, source.encode()
        self._starts, self._function = [0], ""
        for line in self._data.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def all(self) -> Iterator[Mutant]:
        yield from self._below(ast.parse(self._source))

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._starts[node.lineno - 1] + node.col_offset, self._starts[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.expr | ast.stmt) -> str:
        start, end = self._span(node)
        return self._data[start:end].decode()

    def _mutant(self, node: ast.expr | ast.stmt, kind: str, text: str, span: tuple[int, int] | None = None) -> Mutant:
        start, end = span or self._span(node)
        return Mutant(self._path, node.lineno, kind, start, end, text, self._function)

    def _between(self, left: ast.expr, right: ast.expr, kind: str, old: str, new: str) -> Iterator[Mutant]:
        """The operator between two expressions in place of another one."""
        start, end = self._span(left)[1], self._span(right)[0]
        words = re.escape(old).replace(r"\ ", r"\s+")
        pattern = rf"\b{words}\b" if old[0].isalpha() else words
        if place := re.search(pattern, self._data[start:end].decode()):
            first = start + len(self._data[start:end].decode()[: place.start()].encode())
            yield self._mutant(left, kind, new, (first, first + len(place.group().encode())))

    def _below(self, node: ast.AST) -> Iterator[Mutant]:
        for child in ast.iter_child_nodes(node):
            if not _left_alone(node, child):
                around = self._function
                if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) and not child.name.startswith("_"):
                    self._function = child.name
                yield from self._at(child)
                yield from self._below(child)
                self._function = around

    def _at(self, node: ast.AST) -> Iterator[Mutant]:
        match node:
            case ast.Compare(left=left, ops=[operator], comparators=[right]):
                yield from self._between(left, right, "compared", *BOUNDS[type(operator)])
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in SUMS:
                if not isinstance(left, _TEXTS) and not isinstance(right, _TEXTS) and not _is_text(left, right):
                    yield from self._between(left, right, "arithmetic", *SUMS[type(operator)])
            case ast.BoolOp(op=operator, values=[left, right, *_]):
                words = ("and", "or") if isinstance(operator, ast.And) else ("or", "and")
                yield from self._between(left, right, "and/or", *words)
            case ast.Call(func=function, args=[first, second, *_]) if _name(function) not in SYMMETRIC:
                yield from self._swapped(first, second)
            case ast.Constant(value=value):
                yield from self._constant(node, value)
            case ast.If() | ast.While() | ast.IfExp():
                yield self._mutant(node.test, "negated", f"not ({self._text(node.test)})")
            case ast.comprehension(ifs=tests):
                for test in tests:
                    yield self._mutant(test, "negated", f"not ({self._text(test)})")
            case ast.Return(value=ast.expr() as value) if not _is_falsy(value):
                yield self._mutant(value, "returned", "None")
            case _:
                pass
        if isinstance(node, ast.stmt):
            yield from self._removed(node)

    def _swapped(self, first: ast.expr, second: ast.expr) -> Iterator[Mutant]:
        if isinstance(first, ast.Starred) or isinstance(second, ast.Starred) or ast.dump(first) == ast.dump(second):
            return
        start, end = self._span(first)[0], self._span(second)[1]
        between = self._data[self._span(first)[1] : self._span(second)[0]].decode()
        yield self._mutant(first, "swapped", self._text(second) + between + self._text(first), (start, end))

    def _constant(self, node: ast.Constant, value: object) -> Iterator[Mutant]:
        if isinstance(value, bool):
            yield self._mutant(node, "constant", str(not value))
        elif isinstance(value, int):
            yield self._mutant(node, "constant", str(value + 1 if value <= SMALL_COUNT else 2 * value))
        elif isinstance(value, float) and (value == 0 or value > TINY):
            yield self._mutant(node, "constant", repr(2 * value or 1.0))
        elif isinstance(value, str) and SQL.search(value):
            start, end = self._span(node)
            text = self._data[start:end].decode()
            for pattern, new in SQL_WORDS:
                for place in pattern.finditer(text):
                    first = start + len(text[: place.start()].encode())
                    line = node.lineno + text[: place.start()].count("\n")
                    end = first + len(place.group().encode())
                    yield Mutant(self._path, line, "SQL", first, end, new, self._function)

    def _removed(self, node: ast.stmt) -> Iterator[Mutant]:
        match node:
            case ast.Expr(value=ast.Call() | ast.Await()) | ast.AugAssign() | ast.Raise() | ast.Continue():
                yield self._mutant(node, "removed", "pass")
            case ast.Break() | ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
                yield self._mutant(node, "removed", "pass")
            case ast.If(body=[ast.Raise() | ast.Return() | ast.Continue()], orelse=[]):
                yield self._mutant(node.test, "guard removed", "False")
            case _:
                pass


_TEXTS = (ast.JoinedStr, ast.List, ast.Tuple, ast.ListComp)


def _left_alone(parent: ast.AST, child: ast.AST) -> bool:
    """Whether nothing is planted in a part of the tree."""
    match parent:
        case ast.Module() | ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef() if _is_doc(child):
            return True
        case ast.arg() | ast.AnnAssign() if child is parent.annotation:
            return True
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() if child in parent.decorator_list:
            return True
        case ast.FunctionDef() | ast.AsyncFunctionDef() if child is parent.returns:
            return True
        case ast.Raise():
            return True
        case _:
            pass
    match child:
        case ast.Assign(targets=[ast.Name(id=name)]):
            return name in SETTINGS
        case ast.If(test=ast.Name(id="TYPE_CHECKING")) | ast.JoinedStr():
            return True
        case ast.Expr(value=ast.Constant(value=str())):
            return True
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name)))):
            return name in LOGS
        case _:
            return False


def _is_doc(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_falsy(node: ast.expr) -> bool:
    """Whether a caller could hardly tell the value from None."""
    return isinstance(node, ast.Constant) and node.value in (None, False)


def _is_text(*nodes: ast.expr) -> bool:
    return any(isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)) for node in nodes)


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""
