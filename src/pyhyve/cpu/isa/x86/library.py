"""The compiled x86 engine, from the cache or built."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from pyhyve.cpu.engine.library import Library, load_or_build

if TYPE_CHECKING:
    from pyhyve.cpu.engine.library import Progress


@functools.cache
def x86_library(progress: Progress | None = None) -> Library:
    """The library; building it imports LLVM, loading it does not."""
    return load_or_build("x86", _build, progress)


def _build(progress: Progress) -> Library:
    from pyhyve.cpu.engine.build import build_library  # noqa: PLC0415 - LLVM is needed only here
    from pyhyve.cpu.isa.x86 import fused, isa, rows, specials  # noqa: PLC0415 - tracing is needed only here

    stencils = [*specials.special_stencils(), *rows.tables().stencils, *fused.fused_stencils()]
    return build_library(stencils, isa.EXPORTS, progress)
