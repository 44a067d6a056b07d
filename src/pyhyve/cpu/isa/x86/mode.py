"""The mode word: everything that decides how the same bytes translate and how memory is reached.

Bits 0-1 CPL, 2-3 code size (0: 16, 1: 32, 2: 64 bits), 4 SS.B, 5 flat, 6 one-instruction blocks (`SINGLE`),
8-9 translation index. Blocks are kept apart by it.
"""

from __future__ import annotations

from typing import Any

from pyhyve.cpu.engine.state import TLB_ENTRIES, retag
from pyhyve.cpu.isa.x86.memory import jumps
from pyhyve.cpu.isa.x86.spec import Cr0, Cr4, Efer, Eflags
from pyhyve.cpu.isa.x86.state import STATE, Seg
from pyhyve.cpu.lang import U32, U64, Pointer, kernel, u32, u64

MODE_SS_BIG = 1 << 4
MODE_FLAT = 1 << 5
MODE_SINGLE = 1 << 6
MODE_INDEX_SHIFT = 8

_ATTR_L = 1 << 13
_ATTR_DB = 1 << 14
_ATTR_UNUSABLE = 1 << 16
_FULL_LIMIT = 0xFFFFFFFF
_X87, _MMX, _SSE = 1 << 1, 1 << 2, 1 << 3


@kernel(Pointer(STATE), result=U64, name="x86.next_code", attributes="nounwind noinline")
def next_code(st: Any) -> Any:
    """Host code for `pc` in the present mode, 0 when the dispatcher must look first.

    For ends of blocks that have changed more than `pc`: flags, the mode, translations.
    """
    busy = (st.deferred | st.interrupt_shadow | (st.eflags & Eflags.TF)).zext(64) | st.single | st.watch_on | st.step
    if busy != 0:
        return 0
    return jumps.find(st, st.pc)


@kernel(Pointer(STATE), name="x86.mode_changed", attributes="nounwind noinline")
def mode_changed(st: Any) -> None:
    """Recompute `mode`, `tlb`, `lookup_tag` and `fpu_blocked` from the architectural state."""
    code = st.seg_attr[Seg.CS]
    stack = st.seg_attr[Seg.SS]
    size: U64 = 0
    if (st.efer & Efer.LMA) != 0 and (code & _ATTR_L) != 0:
        size = u64(2)
    elif (code & _ATTR_DB) != 0:
        size = u64(1)
    mode = st.cpl | (size << 2)
    if (stack & _ATTR_DB) != 0:
        mode = mode | MODE_SS_BIG
    flat: U64 = 1
    if size != 2:
        for segment in (Seg.ES, Seg.CS, Seg.SS, Seg.DS):
            if st.seg_base[segment] != 0 or st.seg_limit[segment] != _FULL_LIMIT:
                flat = u64(0)
            attributes = st.seg_attr[segment]
            if segment == Seg.CS:
                if (attributes & (_ATTR_UNUSABLE | 2)) != 2:
                    flat = u64(0)
            elif (attributes & (_ATTR_UNUSABLE | 0xE)) != 2:
                flat = u64(0)
    if flat != 0:
        mode = mode | MODE_FLAT
    else:
        # The same offset may now be other code: nothing in the jump cache holds.
        st.generation = st.generation + 1
    index: U64 = 1
    if st.cpl == 3:
        index = u64(0)
        if (st.cr0 & Cr0.AM) != 0 and (st.eflags & Eflags.AC) != 0:
            index = u64(3)
    elif (st.cr4 & Cr4.SMAP) != 0 and (st.eflags & Eflags.AC) != 0:
        index = u64(2)
    mode = mode | (index << MODE_INDEX_SHIFT)
    st.mode = mode
    st.tlb = st.tlb_base[index * TLB_ENTRIES]
    # Only supervisor code is on global pages.
    st.tag_local = u64(0)
    if st.cpl == 3:
        st.tag_local = u64(0xFFFFFFFF)
    retag(st)
    blocked: U32 = 0
    if (st.cr0 & (Cr0.EM | Cr0.TS)) != 0:
        blocked = u32(_X87 | _MMX | _SSE)
    elif (st.cr4 & Cr4.OSFXSR) == 0:
        blocked = u32(_SSE)
    st.fpu_blocked = blocked
