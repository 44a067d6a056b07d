"""Kernels of flag writes that may change the mode, and of instructions that wait."""

from __future__ import annotations

from typing import Any

from pyhyve.cpu.engine.state import Stop
from pyhyve.cpu.isa.x86 import faults, flags
from pyhyve.cpu.isa.x86.flags import write_eflags
from pyhyve.cpu.isa.x86.mode import mode_changed
from pyhyve.cpu.isa.x86.spec import GuestExit
from pyhyve.cpu.isa.x86.state import STATE
from pyhyve.cpu.lang import U64, Pointer, kernel, u64

P = Pointer(STATE)


@kernel(P, U64, U64, name="x86.write_popped_flags", attributes="nounwind noinline")
def write_popped_flags(st: Any, value: Any, bits: Any) -> None:
    """POPF of `bits`: IOPL changes only at CPL 0, IF only at CPL <= IOPL (real mode counts as 0)."""
    mask: U64 = flags.ARITHMETIC | flags.TF | flags.DF | flags.NT
    if bits != 16:
        mask = mask | (flags.AC | flags.ID)
    level = st.cpl
    if level == 0:
        mask = mask | flags.IOPL
    if level <= ((st.eflags >> 12) & 3).zext(64):
        mask = mask | flags.IF
    before = st.eflags
    write_eflags(st, value, mask)
    if bits != 16:
        st.eflags = st.eflags & ~u64(flags.RF).trunc(32)
    if ((before ^ st.eflags) & (flags.AC | flags.TF)) != 0:
        mode_changed(st)


@kernel(P, name="x86.enable_interrupts", attributes="nounwind noinline")
def enable_interrupts(st: Any) -> None:
    """STI: interrupts are taken only after the next instruction, when IF was clear."""
    if _io_allowed(st) == 0:
        faults.gp(st, 0)
        return
    if (st.eflags & flags.IF) == 0:
        st.eflags = st.eflags | flags.IF
        st.interrupt_shadow = 1


@kernel(P, name="x86.disable_interrupts", attributes="nounwind noinline")
def disable_interrupts(st: Any) -> None:
    """CLI."""
    if _io_allowed(st) == 0:
        faults.gp(st, 0)
        return
    st.eflags = st.eflags & ~u64(flags.IF).trunc(32)


@kernel(P, result=U64, name="x86.io_allowed")
def _io_allowed(st: Any) -> Any:
    """1 when CPL <= IOPL (always in real mode)."""
    if (st.cr0 & 1) == 0:
        return 1
    return st.cpl <= ((st.eflags >> 12) & 3).zext(64)


@kernel(P, U64, name="x86.set_access_control", attributes="nounwind noinline")
def set_access_control(st: Any, on: Any) -> None:
    """CLAC (0) and STAC (1): #UD unless CPL is 0."""
    if st.cpl != 0:
        faults.ud(st)
        return
    bit = u64(flags.AC).trunc(32)
    st.eflags = st.eflags & ~bit
    if on != 0:
        st.eflags = st.eflags | bit
    mode_changed(st)


@kernel(P, U64, name="x86.halt", attributes="nounwind noinline")
def halt(st: Any, next_pc: Any) -> None:
    """HLT: leaves guest mode with the next instruction's address; #GP(0) unless CPL is 0."""
    if st.cpl != 0:
        faults.gp(st, 0)
        return
    st.pc = next_pc
    st.single = 0
    st.access_done = 0
    st.interrupt_shadow = 0
    st.idle = 1
    st.exit_kind = GuestExit.HALT
    st.stop = Stop.EXIT
