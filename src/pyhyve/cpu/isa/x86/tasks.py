"""Task state segments: inner stacks and hardware task switches (SDM Vol. 3A, chapter 7)."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any

from pyhyve.cpu.isa.x86 import descriptors as desc
from pyhyve.cpu.isa.x86.descriptors import (
    dpl,
    is_code,
    is_data,
    is_null,
    is_writable_data,
    load_cache,
    privilege_index,
    push_at,
    read_descriptor,
    selector_error,
    set_accessed,
    set_null,
    set_segment,
    set_v86,
    stack_mask,
)
from pyhyve.cpu.isa.x86.faults import db, np, raise_exception, ss, ts
from pyhyve.cpu.isa.x86.flags import read_eflags, write_eflags
from pyhyve.cpu.isa.x86.memory import TLB_SUPERVISOR, load_system, mmu, store_system
from pyhyve.cpu.isa.x86.mode import mode_changed
from pyhyve.cpu.isa.x86.spec import LOW32, Attr, Cr0, Dr6, Eflags, SelectorError, System, Vector
from pyhyve.cpu.isa.x86.state import STATE, Gpr, Seg
from pyhyve.cpu.lang import U64, Pointer, current, inline, kernel, u64

if TYPE_CHECKING:
    from pyhyve.cpu.lang import Value

COLD = "nounwind noinline cold"
BUSY = 1 << 41
"""Busy bit of a raw TSS descriptor."""


class Reason(IntEnum):
    """What switches tasks."""

    JUMP = 0
    CALL = 1
    IRET = 2
    GATE = 3
    """An interrupt or exception through a task gate: as CALL."""


class Slot(IntEnum):
    """Registers in the order both TSS formats keep them (SDM Vol. 3A, figures 7-2 and 7-10)."""

    IP = 0
    FLAGS = 1
    GPR = 2
    ES = 10
    CS = 11
    SS = 12
    DS = 13
    FS = 14
    GS = 15
    LDT = 16


@inline
def _is_32(attr_or_type: Value) -> Value:
    return (attr_or_type & 8) != 0


@kernel(Pointer(STATE), U64, U64, result=U64, name="x86.inner_stack")
def inner_stack(st: Any, cpl: Any, ext: Any) -> Any:
    """SS and ESP of privilege `cpl` in the current TSS, as SS << 32 | ESP; #TS beyond its limit."""
    base = st.seg_base[Seg.TR]
    if _is_32(st.seg_attr[Seg.TR]):
        offset = cpl * 8 + 4
        if offset + 7 > st.seg_limit[Seg.TR]:
            ts(st, selector_error(st.seg_sel[Seg.TR]) | ext)
            return 0
        return load_system(st, base + offset, 8) & 0xFFFF_FFFF_FFFF
    offset = cpl * 4 + 2
    if offset + 3 > st.seg_limit[Seg.TR]:
        ts(st, selector_error(st.seg_sel[Seg.TR]) | ext)
        return 0
    word = load_system(st, base + offset, 4)
    return (word & 0xFFFF) | ((word & 0xFFFF_0000) << 16)


@inline
def _slot_address(base: Value, wide: Value, slot: Any) -> Value:
    """Linear address of a `Slot`; `wide` for the 32-bit format."""
    address = base + 0x0E + slot * 2
    if wide:
        address = base + 0x20 + slot * 4
    return (address & LOW32).get()


@inline
def _width(wide: Value) -> Value:
    size = u64(2)
    if wide:
        size = u64(4)
    return size.get()


@kernel(Pointer(STATE), U64, U64, U64, name="x86.save_task", attributes=COLD)
def save_task(st: Any, wide_word: Any, ip: Any, flags: Any) -> None:
    """Write the running task's registers to the current TSS."""
    wide = wide_word != 0
    base = st.seg_base[Seg.TR]
    size = _width(wide)
    index = u64(TLB_SUPERVISOR)
    mmu.store_at(st, _slot_address(base, wide, Slot.IP), size, ip, index)
    if st.stop != 0:
        return
    mmu.store_at(st, _slot_address(base, wide, Slot.FLAGS), size, flags, index)
    if st.stop != 0:
        return
    i: U64 = 0
    while i < 8:
        mmu.store_at(st, _slot_address(base, wide, i + Slot.GPR), size, st.gpr[i], index)
        if st.stop != 0:
            return
        i += 1
    last = u64(4)
    if wide:
        last = u64(6)
    i = 0
    while i < last:
        mmu.store_at(st, _slot_address(base, wide, i + Slot.ES), u64(2), st.seg_sel[i], index)
        if st.stop != 0:
            return
        i += 1


@kernel(Pointer(STATE), U64, U64, U64, U64, U64, name="x86.switch_task", attributes=COLD)
def switch_task(st: Any, selector: Any, reason: Any, ip: Any, flags: Any, ext: Any) -> None:
    """Switch to the task of a TSS selector, saving `ip` and `flags` as the old one's (SDM Vol. 3A, 7.3).

    Faults up to the commit point belong to the old task; later ones to the new (`pc` is then its EIP).
    """
    error = selector_error(selector) | ext
    bad = u64(Vector.GP)
    if reason == Reason.IRET:
        bad = u64(Vector.TS)
    if is_null(selector) or (selector & SelectorError.TI) != 0:
        raise_exception(st, bad, 1, error)
        return
    descriptor = read_descriptor(st, selector, bad, ext)
    if st.stop != 0:
        return
    kind = (descriptor >> 40) & 0x1F
    expected = u64(System.TSS16)
    if reason == Reason.IRET:
        expected = u64(System.TSS16_BUSY)
    if (kind & 0x17) != expected:
        raise_exception(st, bad, 1, error)
        return
    if not descriptor.bit(47):
        np(st, error)
        return
    wide = _is_32(kind)
    lowest = u64(0x2B)
    if wide:
        lowest = u64(0x67)
    if desc.limit(descriptor) < lowest:
        ts(st, error)
        return
    base = desc.base(descriptor)
    values = current().buffer(8 * 17, U64)
    count = u64(15)
    if wide:
        count = u64(17)
    i: U64 = 0
    while i < count:
        values[i] = load_system_sized(st, _slot_address(base, wide, i), _width(wide))
        if st.stop != 0:
            return
        i += 1
    if not wide:
        values[Slot.LDT] = values[Slot.FS]
        values[Slot.FS] = 0
        values[Slot.GS] = 0
    cr3 = st.cr3
    if wide and (st.cr0 & Cr0.PG) != 0:
        cr3 = load_system(st, base + 0x1C, 4)
        if st.stop != 0:
            return
    trap = u64(0)
    if wide:
        trap = load_system(st, base + 0x64, 2) & 1
        if st.stop != 0:
            return
    saved_flags = flags
    if reason == Reason.IRET:
        saved_flags = flags & ~int(Eflags.NT)
    save_task(st, _is_32(st.seg_attr[Seg.TR]).zext(64), ip, saved_flags)
    if st.stop != 0:
        return
    if reason == Reason.CALL or reason == Reason.GATE:
        store_system(st, base, 2, st.seg_sel[Seg.TR])
        if st.stop != 0:
            return
    if reason == Reason.JUMP or reason == Reason.IRET:
        old = desc.descriptor_offset(st, st.seg_sel[Seg.TR], 8)
        if old != 0:
            word = load_system(st, old, 8)
            if st.stop != 0:
                return
            store_system(st, old + 5, 1, ((word & ~BUSY) >> 40) & 0xFF)
            if st.stop != 0:
                return
    if reason != Reason.IRET:
        store_system(st, desc.descriptor_offset(st, selector, 8) + 5, 1, ((descriptor | BUSY) >> 40) & 0xFF)
        if st.stop != 0:
            return
    # The commit point.
    set_segment(st, Seg.TR, selector, base, desc.limit(descriptor), desc.attributes(descriptor) | System.TSS16_BUSY)
    st.cr0 = st.cr0 | Cr0.TS
    if cr3 != st.cr3:
        from pyhyve.cpu.isa.x86.control import load_cr3  # noqa: PLC0415 - control needs this module's callers

        load_cr3(st, cr3)
    new_flags = values[Slot.FLAGS]
    if reason == Reason.CALL or reason == Reason.GATE:
        new_flags = new_flags | Eflags.NT
    allowed = u64(0x003F_7FD5)
    if not wide:
        allowed = u64(0x7FD5)
    write_eflags(st, new_flags & allowed, LOW32)
    i = 0
    while i < 8:
        st.gpr[i] = values[i + Slot.GPR]
        i += 1
    st.pc = values[Slot.IP]
    st.dr[7] = st.dr[7] & ~0x155
    load_task_segments(st, values, ext)
    mode_changed(st)
    if st.stop == 0 and trap != 0:
        db(st, Dr6.BT)


@kernel(Pointer(STATE), U64, U64, result=U64, name="x86.load_system_sized")
def load_system_sized(st: Any, address: Any, size: Any) -> Any:
    """Read a run-time number of bytes of a system structure; may fault."""
    return mmu.load_at(st, address, size, u64(TLB_SUPERVISOR))


@kernel(Pointer(STATE), Pointer(U64), U64, name="x86.load_task_segments", attributes=COLD)
def load_task_segments(st: Any, values: Any, ext: Any) -> None:
    """Load LDTR, CS, SS and the data segments of the new task; their faults are #TS, #NP and #SS."""
    for seg in (Seg.ES, Seg.CS, Seg.SS, Seg.DS, Seg.FS, Seg.GS):
        set_null(st, seg, values[Slot.ES + seg])
    ldt = values[Slot.LDT] & 0xFFFF
    set_null(st, Seg.LDTR, ldt)
    v86 = (st.eflags & Eflags.VM) != 0
    if v86:
        for seg in (Seg.ES, Seg.CS, Seg.SS, Seg.DS, Seg.FS, Seg.GS):
            set_v86(st, seg, values[Slot.ES + seg])
        st.cpl = 3
    else:
        st.cpl = values[Slot.CS] & 3
    if not is_null(ldt):
        if (ldt & SelectorError.TI) != 0:
            ts(st, selector_error(ldt) | ext)
            return
        descriptor = read_descriptor(st, ldt, Vector.TS, ext)
        if st.stop != 0:
            return
        if ((descriptor >> 40) & 0x9F) != (System.LDT | 0x80):
            ts(st, selector_error(ldt) | ext)
            return
        set_segment(st, Seg.LDTR, ldt, desc.base(descriptor), desc.limit(descriptor), desc.attributes(descriptor))
    if v86:
        return
    for seg in (Seg.CS, Seg.SS, Seg.DS, Seg.ES, Seg.FS, Seg.GS):
        load_task_segment(st, seg, values[Slot.ES + seg] & 0xFFFF, ext)
        if st.stop != 0:
            return


@kernel(Pointer(STATE), U64, U64, U64, name="x86.load_task_segment", attributes=COLD)
def load_task_segment(st: Any, seg: Any, selector: Any, ext: Any) -> None:
    """Check and load one segment register of the new task (SDM Vol. 3A, table 7-1)."""
    error = selector_error(selector) | ext
    if is_null(selector):
        if seg == Seg.CS or seg == Seg.SS:
            ts(st, error)
        return
    descriptor = read_descriptor(st, selector, Vector.TS, ext)
    if st.stop != 0:
        return
    attr = desc.attributes(descriptor)
    level = dpl(attr)
    rpl = selector & 3
    conforming = (attr & Attr.CONFORMING) != 0
    good = is_data(attr) or (is_code(attr) and (attr & Attr.READABLE) != 0)
    if seg == Seg.CS:
        good = is_code(attr) and (level == rpl or (conforming and level <= rpl))
    elif seg == Seg.SS:
        good = is_writable_data(attr) and level == st.cpl and rpl == st.cpl
    elif good and not (is_code(attr) and conforming):
        good = level >= st.cpl and level >= rpl
    if not good:
        ts(st, error)
        return
    if (attr & Attr.P) == 0:
        if seg == Seg.SS:
            ss(st, error)
        else:
            np(st, error)
        return
    set_accessed(st, selector, descriptor)
    if st.stop != 0:
        return
    load_cache(st, seg, selector, descriptor)


@kernel(Pointer(STATE), U64, U64, U64, U64, U64, U64, name="x86.switch_by_gate", attributes=COLD)
def switch_by_gate(st: Any, selector: Any, ip: Any, flags: Any, ext: Any, has_error: Any, error: Any) -> None:
    """An interrupt or exception through a task gate; its error code is pushed on the new task's stack."""
    switch_task(st, selector, Reason.GATE, ip, flags, ext)
    if st.stop != 0 or has_error == 0:
        return
    size = _width(_is_32(st.seg_attr[Seg.TR]))
    ss_attr = st.seg_attr[Seg.SS]
    mask = stack_mask(ss_attr)
    sp = (st.gpr[Gpr.RSP] - size) & mask
    push_at(st, st.seg_base[Seg.SS], st.seg_limit[Seg.SS], ss_attr, sp, size, error, privilege_index(st.cpl), ext)
    if st.stop == 0:
        st.gpr[Gpr.RSP] = desc.merge_sp(st.gpr[Gpr.RSP], sp, mask)


@kernel(Pointer(STATE), U64, name="x86.return_from_task", attributes=COLD)
def return_from_task(st: Any, next_pc: Any) -> None:
    """IRET with EFLAGS.NT: back to the task that the current TSS links to."""
    link = load_system(st, st.seg_base[Seg.TR], 2)
    if st.stop != 0:
        return
    switch_task(st, link, Reason.IRET, next_pc, read_eflags(st), 0)


__all__ = ["Reason", "inner_stack", "return_from_task", "switch_by_gate", "switch_task"]
