"""Pushing and popping for semantics, by the stack's width and whether it is segmented."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.cpu.isa.x86.addressing import check_segment
from pyhyve.cpu.isa.x86.state import STATE, Gpr, Seg
from pyhyve.cpu.lang import U64, Pointer, Value, kernel, u64

if TYPE_CHECKING:
    from pyhyve.cpu.isa.x86.context import X86Context

P = Pointer(STATE)
_WIDTH = {"64": 64, "32": 32, "32s": 32, "16s": 16}


class Stack:
    """A sequence of pushes or pops of one instruction; `commit` writes the stack pointer."""

    def __init__(self, c: X86Context) -> None:
        self.c = c
        self.width = _WIDTH[c.variant.stack]
        self.segmented = c.variant.stack.endswith("s")
        self.pointer: Value = c.reg(Gpr.RSP, self.width)

    def linear(self, offset: Value, size: int, *, write: bool) -> Value:
        """Linear address of a stack offset, checked."""
        wide = offset.zext(64)
        if not self.segmented:
            return wide
        return self.c.call(check_segment, wide, u64(Seg.SS), u64(size), u64(int(write)))

    def push(self, value: Value) -> None:
        """Store below the stack pointer; the register itself changes only at `commit`."""
        size = value.get().bits // 8
        self.pointer = self.pointer - size
        self.c.store(self.linear(self.pointer, size, write=True), value)

    def pop(self, bits: int) -> Value:
        """Load from the stack pointer."""
        value = self.c.load(self.linear(self.pointer, bits // 8, write=False), bits)
        self.pointer = self.pointer + bits // 8
        return value

    def skip(self, amount: Value) -> None:
        """Drop bytes."""
        self.pointer = self.pointer + amount.to(self.width)

    def commit(self) -> None:
        """Write the stack pointer (with the instruction's other results)."""
        self.c.set_reg(Gpr.RSP, self.pointer)


@kernel(P, U64, U64, U64, result=U64, name="x86.stack_linear", attributes="nounwind noinline")
def stack_linear(st: Any, offset: Any, size: Any, write: Any) -> Any:
    """Linear address of a stack offset for kernels: width and checks by the current mode; may fault."""
    if ((st.mode >> 2) & 3) == 2:
        return offset
    if (st.mode & 16) != 0:
        return check_segment(st, offset & 0xFFFFFFFF, u64(Seg.SS), size, write)
    return check_segment(st, offset & 0xFFFF, u64(Seg.SS), size, write)


__all__ = ["Stack", "stack_linear"]
