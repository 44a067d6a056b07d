"""Builds a `Library`: traces stencils and kernels, compiles them, cuts and links the object code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pyhyve.cpu.engine import compiler, elf, image, templates
from pyhyve.cpu.engine.context import PRELUDE
from pyhyve.cpu.engine.library import Library
from pyhyve.cpu.lang import Kernel, Module
from pyhyve.cpu.lang.staging import tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyhyve.cpu.engine.context import StencilContext

_CHUNK = 150
"""Stencils compiled in one LLVM module."""


class Key(Protocol):
    """A stencil to be built."""

    def describe(self, module: Module) -> StencilContext:
        """Trace it; the context is ready to be rendered."""


def trace(key: Key, module: Module, name: str) -> str:
    """IR of one stencil as function `name`."""
    context = key.describe(module)
    with tracing(context.builder):
        return context.render(name)


def build_library(keys: Sequence[Key], exports: Sequence[Kernel], progress: Callable[[int, int], None]) -> Library:
    """Compile everything; `progress(done, total)` is called as stencils are finished."""
    texts: list[tuple[list[str], str]] = []
    used: dict[str, Kernel] = {}
    total = len(keys)
    progress(0, total)
    for at in range(0, total, _CHUNK):
        module = Module()
        module.external = True
        names = []
        for number, key in enumerate(keys[at : at + _CHUNK], at):
            name = f"s{number}"
            module.define(name, trace(key, module, name))
            names.append(name)
        texts.append((names, module.render(extra=PRELUDE)))
        used.update(module.used)
    runtime = Module()
    for item in (*exports, *used.values()):
        item.exported = True
        runtime.need(item)
    linked, offsets = image.link(
        elf.parse(compiler.compile_runtime(runtime.render())), [k.name for k in exports] + list(used)
    )
    numbers = {name: i for i, name in enumerate(used)}
    found: list[templates.Template] = []
    for names, text in texts:
        found += templates.extract(elf.parse(compiler.compile_stencils(text)), names, numbers)
        progress(len(found), total)
    table, code, relocations = templates.pack(found)
    return Library(
        image=linked,
        templates=table,
        code=code,
        relocations=relocations,
        exports={k.name: offsets[k.name] for k in exports},
        helpers=tuple(offsets[name] for name in used),
    )
