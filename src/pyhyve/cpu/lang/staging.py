"""Turns an ordinary Python function into one that emits code: control flow on run-time values becomes blocks.

The source is rewritten once: `if`, `while`, `and`, `or`, `not`, conditional expressions, assignments to locals and
`return` call the frame `_f`, which does the plain Python thing for build-time values and emits IR for the others.
So one function mixes both: what is known when it is traced costs nothing at run time.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from typing import TYPE_CHECKING, Any

from pyhyve.cpu.lang.values import StagingError, Value, Variable, as_bool, is_staged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyhyve.cpu.lang.builder import Builder
    from pyhyve.cpu.lang.types import Type

_UNSET: Any = object()
_current: list[Builder] = []


def current() -> Builder:
    """The builder of the function being traced; StagingError outside of one."""
    if not _current:
        msg = "staged code was called outside a kernel"
        raise StagingError(msg)
    return _current[-1]


def constant(kind: Type, number: int) -> Value:
    """`number` as a run-time value of `kind`."""
    return current().value(number, kind)


class tracing:  # noqa: N801 - a context manager used like a keyword
    """Make `builder` the current one."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder

    def __enter__(self) -> Builder:
        _current.append(self._builder)
        return self._builder

    def __exit__(self, *_: object) -> None:
        _current.pop()


class Frame:
    """Run-time support of one call of a rewritten function."""

    def __init__(self, *, inline: bool) -> None:
        self.builder = current()
        self.inline = inline
        self._born: dict[str, int] = {}

    def assign(self, name: str, old: Any, value: Any) -> Any:
        """Bind `name`: run-time values live in a variable, others stay Python's."""
        if isinstance(old, Variable):
            old.set(value)
            return old
        if isinstance(value, Value):
            now = value.get()
            if name in self._born and old is not _UNSET:
                self._check(name)
            self._born[name] = self.builder.depth
            return self.builder.variable(now.kind, now)
        if old is not _UNSET and name in self._born:
            self._check(name)
        self._born.setdefault(name, self.builder.depth)
        return value

    def _check(self, name: str) -> None:
        if self.builder.depth > self._born[name]:
            msg = f"{name} is a build-time value rebound under run-time control flow: annotate it with its type"
            raise StagingError(msg)

    @staticmethod
    def freeze(items: tuple[Any, ...]) -> tuple[Any, ...]:
        """The right side of a tuple assignment as it is now, before any of the left is set."""
        return tuple(item.get() if isinstance(item, Value) else item for item in items)

    def parameter(self, name: str, value: Any) -> Any:
        """A parameter that the body assigns: a run-time one becomes a variable."""
        self._born[name] = self.builder.depth
        return self.builder.variable(value.get().kind, value) if isinstance(value, Value) else value

    def declare(self, name: str, kind: Type, value: Any) -> Variable:
        """`name: kind = value`."""
        self._born[name] = self.builder.depth
        return self.builder.variable(kind, value)

    def branch(self, condition: Any) -> Iterator[bool]:
        """Arms of an `if`."""
        return self.builder.branch(condition)

    def loop(self, condition: Callable[[], Any]) -> Iterator[None]:
        """Body of a `while`."""
        return self.builder.loop(condition)

    def both(self, first: Any, second: Callable[[], Any]) -> Any:
        """`and`, short-circuited."""
        if not is_staged(first):
            return second() if first else first
        return self._circuit(first, second, on=True)

    def either(self, first: Any, second: Callable[[], Any]) -> Any:
        """`or`, short-circuited."""
        if not is_staged(first):
            return first or second()
        return self._circuit(first, second, on=False)

    def _circuit(self, first: Value, second: Callable[[], Any], *, on: bool) -> Value:
        test = as_bool(first)
        slot = self.builder.variable(test.kind, test)
        for arm in self.builder.branch(test):
            if arm is on:
                value = second()
                slot.set(as_bool(value) if is_staged(value) else bool(value))
        return slot.get()

    def negate(self, item: Any) -> Any:
        """`not`."""
        return as_bool(item) ^ 1 if is_staged(item) else not item

    def choose(self, condition: Any, first: Callable[[], Any], second: Callable[[], Any]) -> Any:
        """`first if condition else second`; only the chosen one is evaluated at run time."""
        if not is_staged(condition):
            return first() if condition else second()
        slot: Variable | None = None
        pending: list[Any] = []
        for arm in self.builder.branch(condition):
            value = first() if arm else second()
            if slot is None and is_staged(value):
                slot = self.builder.variable(value.get().kind)
            if slot is None:
                pending.append(value)
                msg = "both arms of a conditional expression are constants, or the first is: give it a type"
                raise StagingError(msg)
            slot.set(value)
        return slot.get() if slot is not None else None

    def ret(self, value: Any = None) -> None:
        """`return` of a kernel."""
        self.builder.ret(value)


class _Rewrite(ast.NodeTransformer):
    """Rewrites one function's body."""

    def __init__(self, parameters: set[str], *, inline: bool) -> None:
        self.locals = parameters
        self.inline = inline
        self.depth = 0

    def _call(self, method: str, *arguments: ast.expr) -> ast.Call:
        return ast.Call(ast.Attribute(ast.Name("_f", ast.Load()), method, ast.Load()), list(arguments), [])

    @staticmethod
    def _thunk(body: ast.expr) -> ast.Lambda:
        return ast.Lambda(ast.arguments([], [], None, [], [], None, []), body)

    def _old(self, name: str) -> ast.expr:
        return ast.Name(name, ast.Load())

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return node  # a nested plain function is left alone

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        self.generic_visit(node)
        target = node.targets[0]
        if len(node.targets) == 1 and isinstance(target, ast.Name):
            node.value = self._call("assign", ast.Constant(target.id), self._old(target.id), node.value)
            return node
        if isinstance(target, ast.Tuple) and all(isinstance(e, ast.Name) for e in target.elts):
            temporary = ast.Name("_tuple", ast.Store())
            parts: list[ast.stmt] = [ast.Assign([temporary], self._call("freeze", node.value))]
            for index, element in enumerate(target.elts):
                name = element.id  # type: ignore[attr-defined]
                item = ast.Subscript(ast.Name("_tuple", ast.Load()), ast.Constant(index), ast.Load())
                bound = self._call("assign", ast.Constant(name), self._old(name), item)
                parts.append(ast.Assign([ast.Name(name, ast.Store())], bound))
            return parts  # type: ignore[return-value]
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        if isinstance(node.target, ast.Name):
            load: ast.expr = ast.Name(node.target.id, ast.Load())
        elif isinstance(node.target, ast.Attribute):
            load = ast.Attribute(node.target.value, node.target.attr, ast.Load())
        else:
            load = ast.Subscript(node.target.value, node.target.slice, ast.Load())
        return self.visit_Assign(ast.Assign([node.target], ast.BinOp(load, node.op, node.value)))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.target, ast.Name):
            return node
        value = node.value or ast.Constant(None)
        declared = self._call("declare", ast.Constant(node.target.id), node.annotation, value)
        return ast.Assign([ast.Name(node.target.id, ast.Store())], declared)

    def visit_If(self, node: ast.If) -> ast.AST:
        test = self.visit(node.test)
        self.depth += 1
        body = [self.visit(s) for s in node.body]
        orelse = [self.visit(s) for s in node.orelse]
        self.depth -= 1
        arm = f"_arm{self.depth}"
        inner = ast.If(ast.Name(arm, ast.Load()), _flat(body), _flat(orelse))
        return ast.For(ast.Name(arm, ast.Store()), self._call("branch", test), [inner], [])

    def visit_While(self, node: ast.While) -> ast.AST:
        test = self._thunk(self.visit(node.test))
        self.depth += 1
        body = [self.visit(s) for s in node.body]
        self.depth -= 1
        return ast.For(ast.Name("_", ast.Store()), self._call("loop", test), _flat(body), [])

    def visit_For(self, node: ast.For) -> ast.AST:
        node.iter = self.visit(node.iter)
        self.depth += 1
        node.body = _flat([self.visit(s) for s in node.body])
        self.depth -= 1
        return node

    def visit_Break(self, _: ast.Break) -> ast.AST:
        return ast.Expr(
            ast.Call(
                ast.Attribute(ast.Attribute(ast.Name("_f", ast.Load()), "builder", ast.Load()), "break_", ast.Load()),
                [],
                [],
            )
        )

    def visit_Continue(self, _: ast.Continue) -> ast.AST:
        return ast.Expr(
            ast.Call(
                ast.Attribute(
                    ast.Attribute(ast.Name("_f", ast.Load()), "builder", ast.Load()), "continue_", ast.Load()
                ),
                [],
                [],
            )
        )

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        method = "both" if isinstance(node.op, ast.And) else "either"
        result = node.values[-1]
        for value in reversed(node.values[:-1]):
            result = self._call(method, value, self._thunk(result))
        return result

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        return self._call("negate", node.operand) if isinstance(node.op, ast.Not) else node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        return self._call("choose", node.test, self._thunk(node.body), self._thunk(node.orelse))

    def visit_Return(self, node: ast.Return) -> ast.AST:
        self.generic_visit(node)
        if self.inline:
            if self.depth:
                msg = f"line {node.lineno}: an inline function returns only at its end"
                raise StagingError(msg)
            return node
        return ast.Expr(self._call("ret", *([node.value] if node.value else [])))


def _flat(body: list[Any]) -> list[ast.stmt]:
    flat: list[ast.stmt] = []
    for item in body:
        flat.extend(item) if isinstance(item, list) else flat.append(item)
    return flat


def _assigned(tree: ast.FunctionDef) -> list[str]:
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return sorted(names)


@functools.cache
def staged(function: Callable[..., Any], *, inline: bool) -> Callable[..., Any]:
    """`function` rewritten; an inline one may return a value at its end, a kernel's `return` emits IR."""
    source = textwrap.dedent(inspect.getsource(function))
    tree = ast.parse(source).body[0]
    if not isinstance(tree, ast.FunctionDef):
        msg = f"{function} is not a plain function"
        raise StagingError(msg)
    arguments = tree.args.posonlyargs + tree.args.args + tree.args.kwonlyargs
    parameters = {a.arg for a in arguments}
    for argument in arguments:
        argument.annotation = None
    tree.returns = None
    stores = _assigned(tree)
    rewrite = _Rewrite(parameters, inline=inline)
    body = _flat([rewrite.visit(s) for s in tree.body])
    head: list[ast.stmt] = [
        ast.parse(f"_f = _Frame(inline={inline})").body[0],
        *(
            ast.parse(f"{name} = _f.parameter({name!r}, {name})" if name in parameters else f"{name} = _unset").body[0]
            for name in stores
        ),
    ]
    tree.body = head + body
    tree.decorator_list = []
    tree.name = "_staged_" + tree.name  # so that recursion reaches the kernel, not this body
    free = function.__code__.co_freevars
    outer = ast.FunctionDef(
        "_outer",
        ast.arguments([], [ast.arg(n) for n in free], None, [], [], None, []),
        [tree, ast.Return(ast.Name(tree.name, ast.Load()))],
        [],
    )
    code = ast.Module([outer], [])
    ast.fix_missing_locations(code)
    ast.increment_lineno(code, function.__code__.co_firstlineno - 1)
    scope = function.__globals__
    local: dict[str, Any] = {}
    scope.setdefault("_Frame", Frame)
    scope.setdefault("_unset", _UNSET)
    exec(compile(code, inspect.getsourcefile(function) or "<staged>", "exec"), scope, local)  # noqa: S102 - our own source, rewritten
    cells = [c.cell_contents for c in function.__closure__ or ()]
    result: Callable[..., Any] = local["_outer"](*cells)
    return functools.wraps(function)(result)


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """A staged function that is expanded where it is called; rewritten at its first call."""

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        return staged(function, inline=True)(*arguments, **named)

    return call
