"""Far returns and IRET in every mode (SDM Vol. 2A, RET and IRET)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.cpu.isa.x86 import descriptors as desc
from pyhyve.cpu.isa.x86 import tasks
from pyhyve.cpu.isa.x86.descriptors import (
    NULL_ATTR,
    current_stack_mask,
    dpl,
    in_64_bit_code,
    in_long_mode,
    is_canonical,
    is_code,
    is_null,
    is_writable_data,
    load_cache,
    merge_sp,
    read_descriptor,
    selector_error,
    set_accessed,
    set_null,
    set_real,
    set_segment,
    set_v86,
    stack_load,
    stack_mask,
)
from pyhyve.cpu.isa.x86.faults import COLD, gp, np, ss
from pyhyve.cpu.isa.x86.flags import write_eflags
from pyhyve.cpu.isa.x86.memory import load_system
from pyhyve.cpu.isa.x86.mode import mode_changed
from pyhyve.cpu.isa.x86.spec import ARITHMETIC, LOW32, Attr, Cr0, Eflags, Vector
from pyhyve.cpu.isa.x86.state import STATE, Gpr, Seg
from pyhyve.cpu.lang import U64, Pointer, inline, kernel, u64

if TYPE_CHECKING:
    from pyhyve.cpu.lang import Value

POPPED = int(ARITHMETIC | Eflags.TF | Eflags.DF | Eflags.NT)
"""EFLAGS bits that IRET loads at any privilege, in any operand size."""


@inline
def pop_mask(st: Value, opsize: Value) -> Value:
    """EFLAGS bits that IRET may change at the current privilege."""
    mask = u64(POPPED)
    if opsize != 2:
        mask = mask | int(Eflags.RF | Eflags.AC | Eflags.ID)
    iopl = (st.eflags.zext(64) >> 12) & 3
    if st.cpl <= iopl:
        mask = mask | int(Eflags.IF)
    if st.cpl == 0:
        mask = mask | int(Eflags.IOPL)
        if opsize != 2:
            mask = mask | int(Eflags.VIF | Eflags.VIP)
    return mask.get()


@kernel(Pointer(STATE), U64, U64, name="x86.far_return", attributes="nounwind noinline")
def far_return(st: Any, opsize: Any, extra_bytes: Any) -> None:
    """RET far, releasing `extra_bytes` of parameters."""
    if (st.cr0 & Cr0.PE) == 0 or (st.eflags & Eflags.VM) != 0:
        return_real(st, opsize, 0, extra_bytes)
    else:
        return_protected(st, opsize, 0, extra_bytes)


@kernel(Pointer(STATE), U64, name="x86.iret", attributes="nounwind noinline")
def iret(st: Any, opsize: Any) -> None:
    """IRET, IRETD, IRETQ."""
    if (st.cr0 & Cr0.PE) == 0:
        return_real(st, opsize, 1, 0)
    elif (st.eflags & Eflags.VM) != 0:
        if (st.eflags & Eflags.IOPL) != Eflags.IOPL:
            gp(st, 0)
            return
        return_real(st, opsize, 1, 0)
    elif (st.eflags & Eflags.NT) != 0:
        if in_long_mode(st):
            gp(st, 0)
            return
        tasks.return_from_task(st, st.pc + iret_length(st))
    else:
        return_protected(st, opsize, 1, 0)
    if st.stop == 0:
        st.nmi_blocked = 0


@kernel(Pointer(STATE), result=U64, name="x86.iret_length", attributes=COLD)
def iret_length(st: Any) -> Any:
    """Bytes of the IRET at `pc`: its prefixes and the opcode CF."""
    length: U64 = 1
    while length < 15:
        byte = load_system(st, (st.seg_base[Seg.CS] + st.pc + length - 1) & LOW32, 1)
        if st.stop != 0 or byte == 0xCF:
            return length
        length += 1
    return length


@kernel(Pointer(STATE), U64, U64, U64, name="x86.return_real", attributes=COLD)
def return_real(st: Any, opsize: Any, is_iret: Any, extra: Any) -> None:
    """Real-address and virtual-8086 mode."""
    sp = st.gpr[Gpr.RSP]
    ip = stack_load(st, sp, opsize)
    if st.stop != 0:
        return
    selector = stack_load(st, sp + opsize, opsize) & 0xFFFF
    if st.stop != 0:
        return
    v86 = (st.eflags & Eflags.VM) != 0
    limit = u64(0xFFFF)
    if not v86:
        limit = st.seg_limit[Seg.CS]
    if ip > limit:
        gp(st, 0)
        return
    used = opsize * 2 + extra
    if is_iret != 0:
        flags = stack_load(st, sp + opsize * 2, opsize)
        if st.stop != 0:
            return
        mask = pop_mask(st, opsize) & ~int(Eflags.VIF | Eflags.VIP)
        if v86:
            mask = mask & ~int(Eflags.IOPL)
        write_eflags(st, flags, mask)
        used = used + opsize
    st.gpr[Gpr.RSP] = merge_sp(sp, sp + used, stack_mask(st.seg_attr[Seg.SS]))
    if v86:
        set_v86(st, Seg.CS, selector)
    else:
        set_real(st, Seg.CS, selector)
    st.pc = ip
    mode_changed(st)


@kernel(Pointer(STATE), U64, U64, U64, name="x86.return_protected", attributes="nounwind noinline")
def return_protected(st: Any, opsize: Any, is_iret: Any, extra: Any) -> None:
    """Protected and long mode: to the same or an outer privilege, or to virtual-8086 mode."""
    sp = st.gpr[Gpr.RSP]
    # The selector first and no more of it than it has, as processors do.
    selector = stack_load(st, sp + opsize, 2)
    if st.stop != 0:
        return
    ip = stack_load(st, sp, opsize)
    if st.stop != 0:
        return
    used = opsize * 2 + extra
    flags: U64 = 0
    if is_iret != 0:
        flags = stack_load(st, sp + opsize * 2, opsize)
        if st.stop != 0:
            return
        used = used + opsize
        if (flags & Eflags.VM) != 0 and st.cpl == 0 and opsize == 4 and not in_long_mode(st):
            return_to_v86(st, ip, selector, flags)
            return
    if is_null(selector):
        gp(st, 0)
        return
    descriptor = read_descriptor(st, selector, Vector.GP, 0)
    if st.stop != 0:
        return
    attr = desc.attributes(descriptor)
    error = selector_error(selector)
    rpl = selector & 3
    level = dpl(attr)
    both = Attr.L | Attr.DB
    bad = not is_code(attr) or rpl < st.cpl or (in_long_mode(st) and (attr & both) == both)
    if (attr & Attr.CONFORMING) != 0:
        bad = bad or level > rpl
    else:
        bad = bad or level != rpl
    if bad:
        gp(st, error)
        return
    if (attr & Attr.P) == 0:
        np(st, error)
        return
    to_64 = in_long_mode(st) and (attr & Attr.L) != 0
    outer = rpl > st.cpl
    pops_stack = outer or (is_iret != 0 and in_64_bit_code(st))
    new_sp: U64 = 0
    ss_selector: U64 = 0
    ss_descriptor: U64 = 0
    if pops_stack:
        new_sp = stack_load(st, sp + used, opsize)
        if st.stop != 0:
            return
        ss_selector = stack_load(st, sp + used + opsize, opsize) & 0xFFFF
        if st.stop != 0:
            return
        ss_descriptor = check_outer_ss(st, ss_selector, rpl, to_64.zext(64))
        if st.stop != 0:
            return
    if to_64:
        if not is_canonical(ip):
            gp(st, 0)
            return
    else:
        ip = ip & LOW32
        if ip > desc.limit(descriptor):
            gp(st, 0)
            return
    set_accessed(st, selector, descriptor)
    if st.stop != 0:
        return
    if is_iret != 0:
        write_eflags(st, flags, pop_mask(st, opsize))
    if pops_stack:
        if is_null(ss_selector):
            set_segment(st, Seg.SS, ss_selector, 0, 0, (rpl << 5) | NULL_ATTR)
        else:
            load_cache(st, Seg.SS, ss_selector, ss_descriptor)
        new_mask = stack_mask(st.seg_attr[Seg.SS])
        if to_64:
            new_mask = u64((1 << 64) - 1)
        st.gpr[Gpr.RSP] = merge_sp(sp, new_sp + extra, new_mask)
    else:
        st.gpr[Gpr.RSP] = merge_sp(sp, sp + used, current_stack_mask(st))
    load_cache(st, Seg.CS, selector, descriptor)
    st.cpl = rpl
    if outer:
        drop_data_segments(st)
    st.pc = ip
    mode_changed(st)


@kernel(Pointer(STATE), U64, U64, U64, result=U64, name="x86.check_outer_ss")
def check_outer_ss(st: Any, selector: Any, rpl: Any, to_64: Any) -> Any:
    """Descriptor of the stack segment that a return pops, checked and marked accessed; 0 for an allowed null one."""
    if is_null(selector):
        if to_64 == 0 or rpl == 3:
            gp(st, 0)
        return 0
    error = selector_error(selector)
    descriptor = read_descriptor(st, selector, Vector.GP, 0)
    if st.stop != 0:
        return 0
    attr = desc.attributes(descriptor)
    if (selector & 3) != rpl or dpl(attr) != rpl or not is_writable_data(attr):
        gp(st, error)
        return 0
    if (attr & Attr.P) == 0:
        ss(st, error)
        return 0
    set_accessed(st, selector, descriptor)
    return descriptor


@kernel(Pointer(STATE), name="x86.drop_data_segments")
def drop_data_segments(st: Any) -> None:
    """Null the data segments that the new, outer privilege may not use."""
    for seg in (Seg.ES, Seg.FS, Seg.GS, Seg.DS):
        attr = st.seg_attr[seg]
        conforming = is_code(attr) and (attr & Attr.CONFORMING) != 0
        if (attr & Attr.UNUSABLE) == 0 and not conforming and dpl(attr) < st.cpl:
            set_null(st, seg, 0)


@kernel(Pointer(STATE), U64, U64, U64, name="x86.return_to_v86", attributes=COLD)
def return_to_v86(st: Any, ip: Any, selector: Any, flags: Any) -> None:
    """IRETD at privilege 0 with VM set in the popped EFLAGS."""
    values = []
    sp = st.gpr[Gpr.RSP]
    for slot in range(6):
        word = stack_load(st, sp + 12 + slot * 4, 4)
        values.append(word.get())
        if st.stop != 0:
            return
    if ip > 0xFFFF:
        gp(st, 0)
        return
    write_eflags(st, flags, 0x003F_7FD5)
    st.gpr[Gpr.RSP] = values[0]
    set_v86(st, Seg.CS, selector)
    for position, seg in enumerate((Seg.SS, Seg.ES, Seg.DS, Seg.FS, Seg.GS)):
        set_v86(st, seg, values[position + 1])
    st.cpl = 3
    st.pc = ip
    mode_changed(st)


__all__ = ["far_return", "iret"]
