"""Which exception a non-canonical address gives: #SS for a stack access, else #GP.

(SDM Vol. 2, "64-Bit Mode Exceptions" of any instruction.) Compiled code does not say what an access was for, so the
instruction is decoded again.
"""

from __future__ import annotations

from typing import Any

from pyhyve.cpu.engine.state import PAGE_BYTES
from pyhyve.cpu.isa.x86 import faults
from pyhyve.cpu.isa.x86.decode import MAX_LENGTH, NO_SEGMENT, decode, variant_strides
from pyhyve.cpu.isa.x86.decode_tables import ATTR_MODRM, VARIANT_DIMENSIONS
from pyhyve.cpu.isa.x86.memory import mmu
from pyhyve.cpu.isa.x86.spec import EventKind, Vector
from pyhyve.cpu.isa.x86.state import STATE, Gpr
from pyhyve.cpu.isa.x86.translate import fetch_window
from pyhyve.cpu.lang import U8, U64, Pointer, kernel, u64

P = Pointer(STATE)
_STACK_SHIFT = 8 * VARIANT_DIMENSIONS.index("stack")
_ENTER, _RETF_N, _RETF, _IRET = 0xC8, 0xCA, 0xCB, 0xCF
_REGISTER_MODRM = 0xC0


@kernel(P, name="x86.refine_address_fault", attributes="nounwind noinline cold")
def refine_address_fault(st: Any) -> None:
    """Make a pending #GP for a non-canonical address #SS when the access was to the stack."""
    if st.event_vector == Vector.GP and st.event_kind == EventKind.FAULT and uses_stack(st) != 0:
        st.event_vector = Vector.SS
    st.bad_address = 0


@kernel(P, result=U64, name="x86.fetch_again", attributes="nounwind noinline cold")
def fetch_again(st: Any) -> Any:
    """Copy the bytes of the instruction at `pc` (64-bit mode) to `fetch_bytes`; 0 when they have gone."""
    mmu.copy_host(st, st.fetch_bytes.address() + 16, st.zeros.address(), u64(16))
    i: U64 = 0
    window: U64 = 0
    while i <= MAX_LENGTH:
        if window == 0 or ((st.pc + i) & (PAGE_BYTES - 1)) == 0:
            window = fetch_window(st, st.pc + i)
            if st.stop != 0 or window == 0:
                st.stop = 0
                return i != 0
            window = window + ((st.pc + i) & (PAGE_BYTES - 1))
        mmu.copy_host(st, st.fetch_bytes.address() + i, window, u64(1))
        window = window + 1
        i += 1
    return 1


@kernel(P, result=U64, name="x86.uses_stack", attributes="nounwind noinline cold")
def uses_stack(st: Any) -> Any:
    """1 when `bad_address` was met on the stack by the instruction at `pc`: implicitly, or through rSP or rBP."""
    address = st.cr2
    fetched = fetch_again(st)
    st.cr2 = address
    faults.gp(st, 0)
    st.stop = 0
    if fetched == 0:
        return 0
    row = decode(st, st.fetch_bytes.address().cast(U8))
    implicit = (variant_strides()[row] >> _STACK_SHIFT) & 0xFF
    modrm = st.d_modrm
    if (st.d_attributes & ATTR_MODRM) == 0 or modrm >= _REGISTER_MODRM:
        opcode = st.d_opcode
        return implicit != 0 or opcode == _ENTER or opcode == _RETF_N or opcode == _RETF or opcode == _IRET
    if implicit != 0 and st.bad_address - st.gpr[Gpr.RSP] + 16 < 32:
        return 1
    if st.d_segment != NO_SEGMENT or (st.d_rex & 1) != 0:
        return 0
    base = modrm & 7
    if st.d_has_sib != 0:
        base = st.d_sib & 7
    if base == Gpr.RBP:
        return modrm >> 6 != 0
    return base == Gpr.RSP


__all__ = ["refine_address_fault"]
