"""Kernels (staged functions with a signature) and the module that compiles them to object code."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from pyhyve.cpu.lang.builder import METADATA, Builder
from pyhyve.cpu.lang.staging import current, staged, tracing
from pyhyve.cpu.lang.types import Int, Pointer, Type, scalar_ir
from pyhyve.cpu.lang.values import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

C_CONVENTION = ""
PRESERVE_MOST = "preserve_mostcc"
PRESERVE_NONE = "preserve_nonecc"


class Kernel:
    """A staged function compiled as a function of its own, callable from other staged code."""

    def __init__(
        self,
        function: Callable[..., Any],
        parameters: tuple[Type, ...],
        result: Type | None,
        *,
        name: str,
        convention: str = C_CONVENTION,
        attributes: str = "nounwind",
        exported: bool = False,
    ) -> None:
        self.function = function
        self.parameters = parameters
        self.result = result
        self.name = name
        self.convention = convention
        self.attributes = attributes
        self.exported = exported or convention != C_CONVENTION
        functools.update_wrapper(self, function)

    def __call__(self, *arguments: Any) -> Any:
        """Emit a call, and have this kernel compiled into the same module."""
        builder = current()
        builder.module.need(self)
        return emit_call(builder, f"@{self.name}", self.parameters, self.result, arguments, self.convention)

    def signature(self, keyword: str) -> str:
        """`define` or `declare` line, without body."""
        names = keyword == "define"
        text = ", ".join(f"{scalar_ir(k)}{f' %a{i}' if names else ''}" for i, k in enumerate(self.parameters))
        result = scalar_ir(self.result) if self.result else "void"
        linkage = "" if self.exported or keyword == "declare" else "internal "
        return f'{keyword} {linkage}{self.convention} {result} @{self.name}({text}) {self.attributes} "no-builtins"'


def emit_call(
    builder: Builder,
    target: str,
    parameters: tuple[Type, ...],
    result: Type | None,
    arguments: tuple[Any, ...],
    convention: str,
) -> Any:
    """Emit a call of `target` (an IR operand); raises StagingError on mismatched arguments."""
    values = [builder.value(a, k) for a, k in zip(arguments, parameters, strict=True)]
    text = ", ".join(f"{scalar_ir(k)} {v.ir}" for k, v in zip(parameters, values, strict=True))
    if result is None:
        builder.emit(f"call {convention} void {target}({text})")
        return None
    return builder.let(f"call {convention} {scalar_ir(result)} {target}({text})", result)


def kernel(
    *parameters: Type,
    result: Type | None = None,
    convention: str = C_CONVENTION,
    attributes: str = "nounwind",
    exported: bool = False,
    name: str = "",
) -> Callable[[Callable[..., Any]], Kernel]:
    """Decorator: declare a staged function's types (positional, in order) and how it is called."""

    def wrap(function: Callable[..., Any]) -> Kernel:
        return Kernel(
            function,
            parameters,
            result,
            name=name or f"{function.__module__.rsplit('.', 1)[-1]}.{function.__name__}",
            convention=convention,
            attributes=attributes,
            exported=exported,
        )

    return wrap


class Module:
    """Collects kernels and constants and renders one LLVM module."""

    def __init__(self) -> None:
        self._functions: dict[str, str] = {}
        self._declared: dict[str, None] = {}
        self._globals: dict[str, str] = {}
        self._queue: list[Kernel] = []
        self._seen: dict[str, Kernel] = {}
        self.external = False
        """Kernels are only declared here: another module defines them."""
        self.used: dict[str, Kernel] = {}

    def declare(self, line: str) -> None:
        """Add a top-level declaration once."""
        self._declared[line] = None

    def define(self, name: str, text: str) -> None:
        """Add a function by its text."""
        self._functions[name] = text

    def need(self, item: Kernel) -> None:
        """Have `item` compiled here; two different kernels of one name are refused."""
        other = self._seen.get(item.name)
        if other is None:
            self._seen[item.name] = item
            self._queue.append(item)
        elif other is not item:
            msg = f"two kernels are named {item.name}"
            raise ValueError(msg)

    def constant(self, name: str, kind: Int, items: Iterable[int]) -> Value:
        """A constant array, as a pointer to its first element. Only inside a trace."""
        builder = current()
        if name not in self._globals:
            values = list(items)
            text = ", ".join(f"{kind.ir} {v & kind.mask}" for v in values)
            self._globals[name] = (
                f"@{name} = private unnamed_addr constant [{len(values)} x {kind.ir}] [{text}], align 16"
            )
        return Value(builder, f"@{name}", Pointer(kind))

    def render(self, *, extra: str = "") -> str:
        """IR text of everything needed so far."""
        while self._queue:
            item = self._queue.pop()
            self.used[item.name] = item
            if self.external:
                self.declare(item.signature("declare"))
                continue
            self._functions[item.name] = render_kernel(self, item)
        parts = [*self._globals.values(), *self._declared, *self._functions.values(), METADATA, extra]
        return "\n".join(parts)


def render_kernel(module: Module, item: Kernel) -> str:
    """Trace `item` and return its definition."""
    builder = Builder(module, item.result)
    with tracing(builder):
        values = [Value(builder, f"%a{i}", k) for i, k in enumerate(item.parameters)]
        staged(item.function, inline=False)(*values)
        body = builder.finish()
    return f"{item.signature('define')} {{\n{body}\n}}"


def table(name: str, kind: Int, items: Callable[[], Iterable[int]]) -> Callable[[], Value]:
    """A named constant array whose contents are computed only when a module first uses it."""

    def use() -> Value:
        return current().module.constant(name, kind, items())

    return use
