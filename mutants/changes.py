"""The mutants of a source: each is one small change that a behaviour should not survive.

Left alone is what tests are not meant to notice: annotations, docstrings, assertions, texts of errors, what is logged,
and decorators except those that number frames.
"""

import ast
from collections.abc import Iterable, Iterator, Set
from copy import deepcopy
from difflib import unified_diff
from typing import Final

import attrs

_COMPARISONS: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
}
_UNITS: Final = frozenset({"KIB", "MIB"})
#: Numbers at the top of a module that are at least so large are measures.
_MEASURES_FROM: Final = 100
#: Nothing inside of these is changed.
_LEFT_ALONE: Final = (ast.Assert, ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Slice)
#: Nor what is given to these functions, or as these arguments.
_LEFT_ALONE_CALLS: Final = frozenset({"NewType", "TypeVar", "getLogger", "cast", "assert_never", "debug", "info"})
_LEFT_ALONE_KEYWORDS: Final = frozenset({"strict", "repr", "kw_only", "eq", "maxsize", "factory"})


@attrs.frozen
class Mutant:
    """A change to one place of a module.

    Attributes:
        path: of the module, below the root of the project.
        function: the qualified name of the function or class around it, empty at the top of a module.
        lines: where it is, from 1: the changed expression and the statement that it is a part of.
        is_declaration: whether it runs when the module is imported, and only then.
        kind: what kind of change.
        before, after: the lines that are changed, without what is around them, and what they are changed to.
        source: the whole changed module.
    """

    path: str
    function: str
    lines: frozenset[int]
    is_declaration: bool
    kind: str
    before: str
    after: str
    source: str = attrs.field(repr=False)

    def diff(self, original: str) -> str:
        """Return the change as a diff of the `original` module."""
        lines = unified_diff(
            original.splitlines(), self.source.splitlines(), self.path, self.function, lineterm="", n=1
        )
        return "\n".join(lines)


@attrs.frozen
class _Change:
    """A node, what to put in its place, and what that is."""

    node: ast.expr | ast.stmt
    text: str
    kind: str


@attrs.frozen
class _Found:
    """A change, and what is around it: the name of the function or class, and the line where the statement begins."""

    change: _Change
    function: str
    is_declaration: bool
    statement_line: int


def mutants_of(path: str, source: str, *, limits: Set[str] = frozenset()) -> list[Mutant]:
    """Return all mutants of a module, in the order of their places; `limits` are names of numbers."""
    splicer = _Splicer(path, source)
    visitor = _Visitor(limits)
    visitor.visit(ast.parse(source))
    return [splicer.mutant(found) for found in visitor.found]


def numbers_named_in(source: str) -> frozenset[str]:
    """Return the names of the numbers that a module of limits defines, without units."""
    return frozenset(
        target.id
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant | ast.BinOp | ast.Name)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id not in _UNITS
    )


class _Splicer:
    """Puts changes into the text of a module, whose layout stays."""

    def __init__(self, path: str, source: str) -> None:
        self._path = path
        self._source = source
        self._lines = source.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))

    def mutant(self, found: _Found) -> Mutant:
        change, node = found.change, found.change.node
        assert node.end_lineno is not None  # as the parser sets it
        assert node.end_col_offset is not None
        start, stop = self._place(node.lineno, node.col_offset), self._place(node.end_lineno, node.end_col_offset)
        first, last = self._starts[node.lineno - 1], self._starts[node.end_lineno]
        return Mutant(
            path=self._path,
            function=found.function,
            lines=frozenset((node.lineno, found.statement_line)),
            is_declaration=found.is_declaration,
            kind=change.kind,
            before=_one_line(self._source[first:last]),
            after=_one_line(self._source[first:start] + change.text + self._source[stop:last]),
            source=self._source[:start] + change.text + self._source[stop:],
        )

    def _place(self, line: int, column_bytes: int) -> int:
        text = self._lines[line - 1].encode()[:column_bytes].decode()
        return self._starts[line - 1] + len(text)


class _Visitor(ast.NodeVisitor):
    """Collects the changes of a module, with the names of the functions around them."""

    def __init__(self, limits: Set[str]) -> None:
        self.found: list[_Found] = []
        self._limits = limits
        self._names: list[str] = []
        self._functions = 0
        self._statement_line = 1

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, _LEFT_ALONE) or _is_left_alone_call(node) or _is_list_of_names(node):
            return
        if isinstance(node, ast.stmt):
            self._statement_line = node.lineno
        for change in self._changes_of(node):
            self.found.append(_Found(change, ".".join(self._names), not self._functions, self._statement_line))
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                self._names.append(node.name)
                self._visit_all((*_numbering(node.decorator_list), *_defaults(node)))
                self._functions += isinstance(node, ast.FunctionDef)
                self._visit_all(node.body)
                self._functions -= isinstance(node, ast.FunctionDef)
                self._names.pop()
            case ast.AnnAssign():
                if node.value is not None:
                    self.visit(node.value)
            case ast.keyword() if node.arg in _LEFT_ALONE_KEYWORDS:
                pass
            case ast.match_case():
                self._visit_all([*([node.guard] if node.guard else []), *node.body])
            case _:
                self.generic_visit(node)

    def _changes_of(self, node: ast.AST) -> Iterator[_Change]:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in self._limits:
            yield _expression(node, ast.BinOp(node, ast.Add(), ast.Constant(1)), "limit")
        yield from _changes_of(node, is_setting=not self._names)

    def _visit_all(self, nodes: Iterable[ast.AST]) -> None:
        for node in nodes:
            self.visit(node)


def _changes_of(node: ast.AST, *, is_setting: bool) -> Iterator[_Change]:
    """Yield the changes to this node itself; `is_setting`: it stands at the top of the module."""
    match node:
        case ast.Compare(ops=[operator, *_]):
            changed = deepcopy(node)
            for number, operator in enumerate(node.ops):
                changed.ops[number] = _COMPARISONS[type(operator)]()
                yield _expression(node, changed, "comparison")
                changed.ops[number] = operator
        case ast.BoolOp():
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield _expression(node, ast.BoolOp(other, node.values), "logic")
        case ast.UnaryOp(op=ast.Not()):
            yield _expression(node, node.operand, "negation")
        case ast.BinOp() if not (_is_text(node.left) or _is_text(node.right) or _is_type(node)):
            yield _expression(node, ast.BinOp(node.left, _ARITHMETIC[type(node.op)](), node.right), "arithmetic")
        case ast.Constant(value=value):
            yield from _changed_constant(node, value, is_setting=is_setting)
        case ast.IfExp(test=test) | ast.If(test=test) | ast.While(test=test):
            if not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Constant):
                yield _expression(test, ast.UnaryOp(ast.Not(), test), "condition")
        case ast.stmt():
            yield from _changed_statement(node)


def _changed_constant(node: ast.Constant, value: object, *, is_setting: bool) -> Iterator[_Change]:
    """Yield one more than a number that is counted to, and the double of a measure: of those, one more is as good."""
    if isinstance(value, bool):
        yield _Change(node, repr(not value), "constant")
    elif isinstance(value, int | float):
        is_measure = isinstance(value, float) or (is_setting and value >= _MEASURES_FROM)
        yield _Change(node, repr(2 * value if is_measure and value else value + 1), "constant")
    elif isinstance(value, str | bytes) and value:
        yield _Change(node, repr(value[:-1]), "constant")


def _changed_statement(node: ast.stmt) -> Iterator[_Change]:
    match node:
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield _Change(value, "None", "result")
        case ast.Expr(value=ast.Call()):
            yield _Change(node, "pass", "left out")
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) | ast.Delete():
            yield _Change(node, "pass", "left out")
        case ast.AugAssign():
            changed = ast.AugAssign(node.target, _ARITHMETIC[type(node.op)](), node.value)
            yield _Change(node, ast.unparse(changed), "arithmetic")
        case ast.Continue():
            yield _Change(node, "break", "loop")
        case ast.Break():
            yield _Change(node, "continue", "loop")
        case ast.For():
            yield _Change(node.iter, "()", "loop")


def _expression(node: ast.expr, changed: ast.expr, kind: str) -> _Change:
    return _Change(node, f"({ast.unparse(changed)})", kind)


def _numbering(decorators: Iterable[ast.expr]) -> Iterator[ast.expr]:
    """Yield the decorators that number frames."""
    for each in decorators:
        if isinstance(each, ast.Call) and isinstance(each.func, ast.Name) and each.func.id == "frame":
            yield each


def _defaults(node: ast.FunctionDef | ast.ClassDef) -> list[ast.expr]:
    if isinstance(node, ast.ClassDef):
        return []
    return [each for each in (*node.args.defaults, *node.args.kw_defaults) if each is not None]


def _is_left_alone_call(node: ast.AST) -> bool:
    """Return whether nothing of it is changed: a docstring, or a call that has no effect on what tests see."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) or _is_left_alone_call(node.value)
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in _LEFT_ALONE_CALLS


def _is_type(node: ast.expr) -> bool:
    """Return whether it is a class, or a union of some."""
    match node:
        case ast.BinOp(op=ast.BitOr()):
            return _is_type(node.left) and _is_type(node.right)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.lstrip("_")[:1].isupper() and not name.isupper()
        case ast.Constant(value=value):
            return value is None
        case _:
            return False


def _is_list_of_names(node: ast.AST) -> bool:
    """Return whether it is ``__all__`` or ``__slots__``, without which nothing would run, or all runs the same."""
    return isinstance(node, ast.Assign) and any(
        isinstance(target, ast.Name) and target.id in ("__all__", "__slots__") for target in node.targets
    )


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))


def _one_line(text: str) -> str:
    return " ".join(text.split())
