"""Far jumps, calls and call gates (SDM Vol. 2A, JMP and CALL; Vol. 3A, 5.8), and the fast system calls.

Operand sizes are in bytes. Each kernel completes its instruction or leaves the state as it was.
"""

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
    load_cache,
    merge_sp,
    privilege_index,
    push_at,
    read_descriptor,
    read_descriptor_high,
    selector_error,
    set_accessed,
    set_real,
    set_segment,
    set_v86,
    stack_load,
    stack_mask,
    stack_store,
)
from pyhyve.cpu.isa.x86.faults import COLD, gp, np, ss, ts, ud
from pyhyve.cpu.isa.x86.flags import read_eflags, write_eflags
from pyhyve.cpu.isa.x86.interrupt_return import far_return, iret
from pyhyve.cpu.isa.x86.memory import current_index, load_system, mmu
from pyhyve.cpu.isa.x86.mode import mode_changed
from pyhyve.cpu.isa.x86.spec import LOW32, Attr, Cr0, Efer, Eflags, System, Vector
from pyhyve.cpu.isa.x86.state import STATE, Gpr, Seg
from pyhyve.cpu.lang import U64, Pointer, inline, kernel, u64

if TYPE_CHECKING:
    from pyhyve.cpu.lang import Value

CODE32 = 0xC09B
CODE64 = 0xA09B
DATA32 = 0xC093
RING3 = 3 << 5


@inline
def _mask(size: Value) -> Value:
    mask = u64((1 << 64) - 1)
    if size == 4:
        mask = u64(LOW32)
    elif size == 2:
        mask = u64(0xFFFF)
    return mask.get()


@kernel(Pointer(STATE), U64, U64, U64, U64, name="x86.far_jump", attributes=COLD)
def far_jump(st: Any, selector: Any, offset: Any, opsize: Any, next_pc: Any) -> None:
    """JMP far; `next_pc` is what a task switch saves."""
    far_transfer(st, selector & 0xFFFF, offset & _mask(opsize), opsize, next_pc, 0)


@kernel(Pointer(STATE), U64, U64, U64, U64, name="x86.far_call", attributes=COLD)
def far_call(st: Any, selector: Any, offset: Any, opsize: Any, next_pc: Any) -> None:
    """CALL far."""
    far_transfer(st, selector & 0xFFFF, offset & _mask(opsize), opsize, next_pc, 1)


@kernel(Pointer(STATE), U64, U64, U64, U64, U64, name="x86.far_transfer", attributes=COLD)
def far_transfer(st: Any, selector: Any, offset: Any, opsize: Any, next_pc: Any, is_call: Any) -> None:
    """Both of them."""
    v86 = (st.eflags & Eflags.VM) != 0
    if (st.cr0 & Cr0.PE) == 0 or v86:
        limit: U64 = 0xFFFF
        if not v86:
            limit = st.seg_limit[Seg.CS]
        if offset > limit:
            gp(st, 0)
            return
        if is_call != 0:
            push_return(st, opsize, next_pc)
            if st.stop != 0:
                return
        if v86:
            set_v86(st, Seg.CS, selector)
        else:
            set_real(st, Seg.CS, selector)
        st.pc = offset
        mode_changed(st)
        return
    if is_null(selector):
        gp(st, 0)
        return
    descriptor = read_descriptor(st, selector, Vector.GP, 0)
    if st.stop != 0:
        return
    attr = desc.attributes(descriptor)
    if (attr & Attr.S) != 0:
        check_code(st, selector, attr)
        if st.stop != 0:
            return
        enter_code(st, selector, descriptor, offset, opsize, next_pc, is_call)
        return
    kind = attr & 0xF
    error = selector_error(selector)
    is_gate = kind == System.CALL or kind == System.CALL16
    is_task = kind == System.TASK_GATE or kind == System.TSS or kind == System.TSS16
    if in_long_mode(st):
        is_gate = kind == System.CALL
        is_task = u64(0) != 0
    if not is_gate and not is_task:
        gp(st, error)
        return
    if dpl(attr) < st.cpl or dpl(attr) < (selector & 3):
        gp(st, error)
        return
    if is_gate:
        if (attr & Attr.P) == 0:
            np(st, error)
            return
        through_gate(st, selector, descriptor, next_pc, is_call)
        return
    target = selector
    if kind == System.TASK_GATE:
        if (attr & Attr.P) == 0:
            np(st, error)
            return
        target = (descriptor >> 16) & 0xFFFF
    reason = u64(tasks.Reason.JUMP)
    if is_call != 0:
        reason = u64(tasks.Reason.CALL)
    tasks.switch_task(st, target, reason, next_pc, read_eflags(st), 0)


@kernel(Pointer(STATE), U64, U64, name="x86.check_far_code", attributes=COLD)
def check_code(st: Any, selector: Any, attr: Any) -> None:
    """The privilege checks of a direct far transfer to a code segment."""
    error = selector_error(selector)
    level = dpl(attr)
    both = Attr.L | Attr.DB
    if not is_code(attr) or (in_long_mode(st) and (attr & both) == both):
        gp(st, error)
    elif (attr & Attr.CONFORMING) != 0:
        if level > st.cpl:
            gp(st, error)
    elif (selector & 3) > st.cpl or level != st.cpl:
        gp(st, error)
    if st.stop == 0 and (attr & Attr.P) == 0:
        np(st, error)


@kernel(Pointer(STATE), U64, U64, U64, U64, U64, U64, name="x86.enter_code", attributes=COLD)
def enter_code(st: Any, selector: Any, descriptor: Any, offset: Any, opsize: Any, next_pc: Any, is_call: Any) -> None:
    """Go to a checked code segment without change of privilege."""
    set_accessed(st, selector, descriptor)
    if st.stop != 0:
        return
    sp = st.gpr[Gpr.RSP]
    if is_call != 0:
        # As on processors, the stack is already that of the new code segment's mode.
        to_64 = in_long_mode(st) and (desc.attributes(descriptor) & Attr.L) != 0
        if to_64 and not in_64_bit_code(st):
            push_return_wide(st, opsize, next_pc)
        elif not to_64 and in_64_bit_code(st):
            push_return_narrow(st, opsize, next_pc)
        else:
            push_return(st, opsize, next_pc)
        if st.stop != 0:
            return
    # As on processors, the frame is stored before the target is checked.
    check_target(st, descriptor, offset)
    if st.stop != 0:
        st.gpr[Gpr.RSP] = sp
        return
    load_cache(st, Seg.CS, (selector & ~3) | st.cpl, descriptor)
    st.pc = offset
    mode_changed(st)


@kernel(Pointer(STATE), U64, U64, name="x86.check_target", attributes=COLD)
def check_target(st: Any, descriptor: Any, offset: Any) -> None:
    """#GP(0) when an instruction pointer is outside its code segment."""
    if in_long_mode(st) and (desc.attributes(descriptor) & Attr.L) != 0:
        if not is_canonical(offset):
            gp(st, 0)
    elif offset > desc.limit(descriptor):
        gp(st, 0)


@kernel(Pointer(STATE), U64, U64, name="x86.push_return", attributes=COLD)
def push_return(st: Any, size: Any, next_pc: Any) -> None:
    """Push CS and the return address on the current stack; RSP changes only when both were stored."""
    mask = current_stack_mask(st)
    sp = st.gpr[Gpr.RSP]
    for item in (st.seg_sel[Seg.CS], next_pc):
        sp = sp - size
        stack_store(st, sp & mask, size, item)
        if st.stop != 0:
            return
    st.gpr[Gpr.RSP] = merge_sp(st.gpr[Gpr.RSP], sp, mask)


@kernel(Pointer(STATE), U64, U64, name="x86.push_return_wide", attributes=COLD)
def push_return_wide(st: Any, size: Any, next_pc: Any) -> None:
    """`push_return` on a stack as 64-bit mode addresses it: all of RSP, without a segment."""
    sp = st.gpr[Gpr.RSP]
    for item in (st.seg_sel[Seg.CS], next_pc):
        sp = sp - size
        if not is_canonical(sp):
            ss(st, 0)
            return
        mmu.store_at(st, sp, size, item, current_index(st))
        if st.stop != 0:
            return
    st.gpr[Gpr.RSP] = sp


@kernel(Pointer(STATE), U64, U64, name="x86.push_return_narrow", attributes=COLD)
def push_return_narrow(st: Any, size: Any, next_pc: Any) -> None:
    """`push_return` in the stack segment, as outside 64-bit mode."""
    attr = st.seg_attr[Seg.SS]
    mask = stack_mask(attr)
    sp = st.gpr[Gpr.RSP]
    for item in (st.seg_sel[Seg.CS], next_pc):
        sp = sp - size
        push_at(st, st.seg_base[Seg.SS], st.seg_limit[Seg.SS], attr, sp & mask, size, item, current_index(st), 0)
        if st.stop != 0:
            return
    st.gpr[Gpr.RSP] = merge_sp(st.gpr[Gpr.RSP], sp, mask)


@kernel(Pointer(STATE), U64, U64, U64, U64, name="x86.through_gate", attributes=COLD)
def through_gate(st: Any, gate_selector: Any, gate: Any, next_pc: Any, is_call: Any) -> None:
    """A far transfer through a checked call gate (SDM Vol. 3A, 5.8.3)."""
    long_mode = in_long_mode(st)
    gate_high = u64(0)
    if long_mode:
        gate_high = read_descriptor_high(st, gate_selector, Vector.GP, 0)
        if st.stop != 0:
            return
        if ((gate_high >> 40) & 0x1F) != 0:
            gp(st, selector_error(gate_selector))
            return
    selector = (gate >> 16) & 0xFFFF
    if is_null(selector):
        gp(st, 0)
        return
    descriptor = read_descriptor(st, selector, Vector.GP, 0)
    if st.stop != 0:
        return
    attr = desc.attributes(descriptor)
    error = selector_error(selector)
    conforming = (attr & Attr.CONFORMING) != 0
    if not is_code(attr) or dpl(attr) > st.cpl or (long_mode and (attr & (Attr.L | Attr.DB)) != Attr.L):
        gp(st, error)
        return
    if is_call == 0 and not conforming and dpl(attr) != st.cpl:
        gp(st, error)
        return
    if (attr & Attr.P) == 0:
        np(st, error)
        return
    offset = (gate & 0xFFFF) | ((gate >> 32) & 0xFFFF_0000)
    size = u64(4)
    if long_mode:
        size = u64(8)
        offset = offset | (gate_high << 32)
    elif (gate & (8 << 40)) == 0:
        size = u64(2)
        offset = gate & 0xFFFF
    if conforming or dpl(attr) == st.cpl:
        enter_code(st, selector, descriptor, offset, size, next_pc, is_call)
    elif long_mode:
        inner_call_long(st, selector, descriptor, offset, next_pc)
    else:
        inner_call(st, selector, descriptor, offset, size, next_pc, (gate >> 32) & 0x1F)


@kernel(Pointer(STATE), U64, U64, U64, U64, name="x86.inner_call_long", attributes=COLD)
def inner_call_long(st: Any, selector: Any, descriptor: Any, offset: Any, next_pc: Any) -> None:
    """A 64-bit call gate to an inner privilege."""
    cpl = dpl(desc.attributes(descriptor))
    slot = cpl * 8 + 4
    if slot + 7 > st.seg_limit[Seg.TR]:
        ts(st, selector_error(st.seg_sel[Seg.TR]))
        return
    sp = load_system(st, st.seg_base[Seg.TR] + slot, 8)
    if st.stop != 0:
        return
    if not is_canonical(offset):
        gp(st, 0)
        return
    if not is_canonical(sp - 1) or not is_canonical(sp - 32):
        ss(st, 0)
        return
    set_accessed(st, selector, descriptor)
    if st.stop != 0:
        return
    for item in (st.seg_sel[Seg.SS], st.gpr[Gpr.RSP], st.seg_sel[Seg.CS], next_pc):
        sp = sp - 8
        mmu.store_at(st, sp, 8, item, privilege_index(cpl))
        if st.stop != 0:
            return
    load_cache(st, Seg.CS, (selector & ~3) | cpl, descriptor)
    set_segment(st, Seg.SS, cpl, 0, 0, (cpl << 5) | NULL_ATTR)
    st.cpl = cpl
    st.gpr[Gpr.RSP] = sp
    st.pc = offset
    mode_changed(st)


@kernel(Pointer(STATE), U64, U64, U64, U64, U64, U64, name="x86.inner_call", attributes=COLD)
def inner_call(st: Any, selector: Any, descriptor: Any, offset: Any, size: Any, next_pc: Any, parameters: Any) -> None:
    """A 16/32-bit call gate to an inner privilege, copying `parameters` items from stack to stack."""
    from pyhyve.cpu.isa.x86.events import check_inner_ss  # noqa: PLC0415 - events depends on the task code as this does

    cpl = dpl(desc.attributes(descriptor))
    stack = tasks.inner_stack(st, cpl, 0)
    if st.stop != 0:
        return
    ss_selector = stack >> 32
    sp = stack & LOW32
    ss_descriptor = check_inner_ss(st, ss_selector, cpl, 0)
    if st.stop != 0:
        return
    check_target(st, descriptor, offset)
    if st.stop != 0:
        return
    set_accessed(st, selector, descriptor)
    if st.stop != 0:
        return
    base, limit = desc.base(ss_descriptor), desc.limit(ss_descriptor)
    ss_attr = desc.attributes(ss_descriptor) | Attr.ACCESSED
    mask = stack_mask(ss_attr)
    index = privilege_index(cpl)
    error = selector_error(ss_selector)
    for item in (st.seg_sel[Seg.SS], st.gpr[Gpr.RSP]):
        sp = sp - size
        push_at(st, base, limit, ss_attr, sp & mask, size, item, index, error)
        if st.stop != 0:
            return
    i = parameters
    while i != 0:
        i = i - 1
        word = stack_load(st, st.gpr[Gpr.RSP] + i * size, size)
        if st.stop != 0:
            return
        sp = sp - size
        push_at(st, base, limit, ss_attr, sp & mask, size, word, index, error)
        if st.stop != 0:
            return
    for item in (st.seg_sel[Seg.CS], next_pc):
        sp = sp - size
        push_at(st, base, limit, ss_attr, sp & mask, size, item, index, error)
        if st.stop != 0:
            return
    load_cache(st, Seg.CS, (selector & ~3) | cpl, descriptor)
    load_cache(st, Seg.SS, ss_selector, ss_descriptor)
    st.cpl = cpl
    st.gpr[Gpr.RSP] = sp & mask
    st.pc = offset
    mode_changed(st)


@inline
def _fixed_segments(st: Value, cs: Value, ss_: Value, code: Any, data: Any) -> None:
    """The flat segments that the fast system calls load without reading descriptors."""
    set_segment(st, Seg.CS, cs, 0, LOW32, code)
    set_segment(st, Seg.SS, ss_, 0, LOW32, data)


@kernel(Pointer(STATE), U64, name="x86.syscall", attributes="nounwind noinline")
def syscall(st: Any, next_pc: Any) -> None:
    """SYSCALL: only in 64-bit mode, as on Intel's processors."""
    if (st.efer & Efer.SCE) == 0 or not in_64_bit_code(st):
        ud(st)
        return
    flags = read_eflags(st) & ~int(Eflags.RF)
    st.gpr[Gpr.RCX] = next_pc
    st.gpr[Gpr.R11] = flags
    st.pc = st.lstar
    write_eflags(st, flags & ~st.sfmask, LOW32)
    selector = (st.star >> 32) & 0xFFFC
    _fixed_segments(st, selector, selector + 8, CODE64, DATA32)
    st.cpl = 0
    mode_changed(st)


@kernel(Pointer(STATE), U64, name="x86.sysret", attributes="nounwind noinline")
def sysret(st: Any, opsize: Any) -> None:
    """SYSRET to 64-bit (`opsize` 8) or compatibility mode."""
    if (st.efer & Efer.SCE) == 0 or not in_64_bit_code(st):
        ud(st)
        return
    if st.cpl != 0:
        gp(st, 0)
        return
    target = st.gpr[Gpr.RCX]
    selector = (st.star >> 48) & 0xFFFF
    if opsize == 8:
        if not is_canonical(target):
            gp(st, 0)
            return
        _fixed_segments(st, (selector + 16) | 3, (selector + 8) | 3, CODE64 | RING3, DATA32 | RING3)
    else:
        target = target & LOW32
        _fixed_segments(st, selector | 3, (selector + 8) | 3, CODE32 | RING3, DATA32 | RING3)
    write_eflags(st, st.gpr[Gpr.R11] & 0x3C7FD7, 0x3F7FD7)
    st.pc = target
    st.cpl = 3
    mode_changed(st)


@kernel(Pointer(STATE), name="x86.sysenter", attributes="nounwind noinline")
def sysenter(st: Any) -> None:
    """SYSENTER."""
    if (st.cr0 & Cr0.PE) == 0 or is_null(st.sysenter_cs):
        gp(st, 0)
        return
    selector = st.sysenter_cs & 0xFFFC
    write_eflags(st, 0, Eflags.IF | Eflags.VM | Eflags.RF)
    if in_long_mode(st):
        _fixed_segments(st, selector, selector + 8, CODE64, DATA32)
        st.gpr[Gpr.RSP] = st.sysenter_esp
        st.pc = st.sysenter_eip
    else:
        _fixed_segments(st, selector, selector + 8, CODE32, DATA32)
        st.gpr[Gpr.RSP] = st.sysenter_esp & LOW32
        st.pc = st.sysenter_eip & LOW32
    st.cpl = 0
    mode_changed(st)


@kernel(Pointer(STATE), U64, name="x86.sysexit", attributes="nounwind noinline")
def sysexit(st: Any, opsize: Any) -> None:
    """SYSEXIT to 64-bit (`opsize` 8) or 32-bit code."""
    if (st.cr0 & Cr0.PE) == 0 or is_null(st.sysenter_cs) or st.cpl != 0:
        gp(st, 0)
        return
    selector = st.sysenter_cs & 0xFFFC
    if opsize == 8:
        if not is_canonical(st.gpr[Gpr.RCX]) or not is_canonical(st.gpr[Gpr.RDX]):
            gp(st, 0)
            return
        _fixed_segments(st, (selector + 32) | 3, (selector + 40) | 3, CODE64 | RING3, DATA32 | RING3)
        st.gpr[Gpr.RSP] = st.gpr[Gpr.RCX]
        st.pc = st.gpr[Gpr.RDX]
    else:
        _fixed_segments(st, (selector + 16) | 3, (selector + 24) | 3, CODE32 | RING3, DATA32 | RING3)
        st.gpr[Gpr.RSP] = st.gpr[Gpr.RCX] & LOW32
        st.pc = st.gpr[Gpr.RDX] & LOW32
    st.cpl = 3
    mode_changed(st)


@kernel(Pointer(STATE), name="x86.swapgs")
def swapgs(st: Any) -> None:
    """SWAPGS."""
    if st.cpl != 0:
        gp(st, 0)
        return
    inner = st.kernel_gs_base
    st.kernel_gs_base = st.seg_base[Seg.GS]
    st.seg_base[Seg.GS] = inner


__all__ = [
    "far_call",
    "far_jump",
    "far_return",
    "iret",
    "swapgs",
    "syscall",
    "sysenter",
    "sysexit",
    "sysret",
]
