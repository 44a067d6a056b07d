"""Page walks: 2-level, PAE and 4-level (SDM Vol. 3A, chapter 5)."""

from __future__ import annotations

from typing import Any

from pyhyve.cpu.isa.x86.state import STATE
from pyhyve.cpu.lang import U64, Pointer, kernel


@kernel(Pointer(STATE), U64, U64, U64, result=U64, name="x86.translate")
def translate(st: Any, address: Any, _access: Any, _index: Any) -> None:
    """Guest physical address of a linear one."""
    return address
