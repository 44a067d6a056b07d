"""Segment checks outside flat modes (SDM Vol. 3A, 5.3-5.5), for compiled code's slow cases."""

from __future__ import annotations

from typing import Any

from pyhyve.cpu.isa.x86 import faults
from pyhyve.cpu.isa.x86.mode import MODE_FLAT
from pyhyve.cpu.isa.x86.spec import Cr0, Cr4
from pyhyve.cpu.isa.x86.state import STATE, Seg
from pyhyve.cpu.lang import U64, Pointer, kernel, u64

_UNUSABLE = 1 << 16
_CODE = 8
_EXPAND_DOWN = 4
_WRITABLE = 2
_READABLE = 2
_BIG = 1 << 14
ACCESS_WRITE, ACCESS_ALIGNED = 1, 2
"""Bits that say how an operand is accessed: written; aligned to 16 bytes."""


@kernel(Pointer(STATE), U64, U64, U64, U64, result=U64, name="x86.check_segment", attributes="nounwind noinline")
def check_segment(st: Any, offset: Any, segment: Any, size: Any, access: Any) -> Any:
    """Linear address of `offset` in `segment`; #GP(0), or #SS(0) for SS, when `size` bytes may not be accessed."""
    code_size = (st.mode >> 2) & 3
    if code_size == 2:
        return offset + st.seg_base[segment]
    write = access & ACCESS_WRITE
    if (access & ACCESS_ALIGNED) != 0 and ((offset + st.seg_base[segment]) & 15) != 0:
        faults.gp(st, 0)
        return 0
    attributes = st.seg_attr[segment]
    limit = st.seg_limit[segment]
    last = offset + size - 1
    bad: U64 = 0
    if (st.cr0 & 1) != 0 and (st.eflags & (1 << 17)) == 0:
        kind = attributes & 15
        if (attributes & _UNUSABLE) != 0:
            bad = u64(1)
        elif (kind & _CODE) != 0:
            if write != 0 or (kind & _READABLE) == 0:
                bad = u64(1)
        elif write != 0 and (kind & _WRITABLE) == 0:
            bad = u64(1)
        if (kind & _CODE) == 0 and (kind & _EXPAND_DOWN) != 0:
            top: U64 = 0xFFFF
            if (attributes & _BIG) != 0:
                top = u64(0xFFFFFFFF)
            if offset <= limit or last > top:
                bad = u64(1)
        elif last > limit:
            bad = u64(1)
    elif last > limit:
        bad = u64(1)
    if bad != 0:
        if segment == Seg.SS:
            faults.ss(st, 0)
        else:
            faults.gp(st, 0)
        return 0
    return (offset + st.seg_base[segment]) & 0xFFFFFFFF


@kernel(Pointer(STATE), U64, U64, U64, result=U64, name="x86.operand_linear", attributes="nounwind noinline")
def operand_linear(st: Any, offset: Any, size: Any, write: Any) -> Any:
    """Linear address of `size` bytes at `offset` of the segment `ea_segment`; in 64-bit mode `offset` is linear."""
    if ((st.mode >> 2) & 3) == 2:
        return offset
    segment = st.ea_segment
    within = offset & 0xFFFFFFFF
    if (st.mode & MODE_FLAT) != 0 and segment < Seg.FS and (segment != Seg.CS or write == 0):
        return within
    return check_segment(st, within, segment, size, write)


@kernel(Pointer(STATE), U64, name="x86.check_near_target", attributes="nounwind noinline cold")
def check_near_target(st: Any, target: Any) -> None:
    """#GP(0) for a near transfer to where no instruction can be."""
    if ((st.mode >> 2) & 3) == 2:
        if (target << 16).sar(16) != target:
            faults.gp(st, 0)
    elif target > st.seg_limit[Seg.CS]:
        faults.gp(st, 0)


@kernel(Pointer(STATE), U64, name="x86.raise_fpu_blocked", attributes="nounwind noinline cold")
def raise_fpu_blocked(st: Any, unit: Any) -> None:
    """#UD when CR0.EM, or CR4.OSFXSR clear for SSE, forbids the unit (1 x87, 2 MMX, 3 SSE); else #NM (CR0.TS)."""
    if unit != 1 and (st.cr0 & Cr0.EM) != 0:
        faults.ud(st)
        return
    if unit == 3 and (st.cr4 & Cr4.OSFXSR) == 0:
        faults.ud(st)
        return
    faults.nm(st)
