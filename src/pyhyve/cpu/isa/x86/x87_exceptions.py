"""Pending x87 exceptions: recorded by one instruction, raised as #MF before the next that waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.cpu.isa.x86 import faults
from pyhyve.cpu.lang.builder import UNLIKELY

if TYPE_CHECKING:
    from pyhyve.cpu.isa.x86.context import X86Context


def check_pending(c: X86Context) -> None:
    """#MF when the status word has a flag that the control word does not mask (SDM Vol. 1, 8.7)."""
    st = c.st
    for pending in c.builder.branch((st.fp_status & ~st.fp_control & 0x3F) != 0, UNLIKELY):
        if pending:
            c.save_pc()
            faults.mf(st)
            c.builder.ret()
