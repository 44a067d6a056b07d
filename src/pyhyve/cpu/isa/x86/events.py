"""Delivery of exceptions and interrupts (SDM Vol. 3A, chapter 6; Vol. 2A, INT n), and of what other threads ask."""

from __future__ import annotations

from typing import Any

from pyhyve.cpu.engine.state import Request, Stop
from pyhyve.cpu.isa.x86 import apic, faults, tasks
from pyhyve.cpu.isa.x86 import descriptors as desc
from pyhyve.cpu.isa.x86.descriptors import (
    NULL_ATTR,
    dpl,
    in_64_bit_code,
    is_canonical,
    is_code,
    is_null,
    is_writable_data,
    load_cache,
    merge_sp,
    privilege_index,
    push_at,
    read_descriptor,
    selector_error,
    set_accessed,
    set_null,
    set_real,
    set_segment,
    stack_mask,
)
from pyhyve.cpu.isa.x86.flags import read_eflags, write_eflags
from pyhyve.cpu.isa.x86.memory import current_index, load_system, mmu
from pyhyve.cpu.isa.x86.mode import mode_changed
from pyhyve.cpu.isa.x86.spec import (
    DR7_GD,
    LOW32,
    Attr,
    Cr0,
    Efer,
    Eflags,
    EventKind,
    GuestExit,
    SelectorError,
    System,
    Vector,
)
from pyhyve.cpu.isa.x86.state import STATE, Gpr, Seg
from pyhyve.cpu.lang import U64, Pointer, current, kernel, u64

raise_exception = faults.raise_exception
gp, ss, np, ts, ud, nm, de, mf, xm, ac = (
    faults.gp,
    faults.ss,
    faults.np,
    faults.ts,
    faults.ud,
    faults.nm,
    faults.de,
    faults.mf,
    faults.xm,
    faults.ac,
)
pf, db, db_fault = faults.pf, faults.db, faults.db_fault

COLD = faults.COLD
_CONTRIBUTORY = sum(1 << v for v in (Vector.DE, Vector.TS, Vector.NP, Vector.SS, Vector.GP))


@kernel(Pointer(STATE), U64, U64, U64, name="x86.software_interrupt", attributes=COLD)
def software_interrupt(st: Any, vector: Any, next_pc: Any, kind: Any) -> None:
    """INT n, INT3, INTO (taken) or INT1: pending until the dispatcher delivers it."""
    raise_exception(st, vector, 0, 0)
    st.event_kind = kind.trunc(32)
    st.event_length = next_pc - st.pc


@kernel(Pointer(STATE), name="x86.triple_fault", attributes=COLD)
def triple_fault(st: Any) -> None:
    """Shutdown (SDM Vol. 3A, 6.15, #DF)."""
    st.event_pending = 0
    st.exit_kind = GuestExit.SHUTDOWN
    st.stop = Stop.EXIT


@kernel(Pointer(STATE), U64, name="x86.clear_request")
def clear_request(st: Any, bits: Any) -> None:
    """Take `bits` out of `request`, which other threads change too."""
    current().atomic("and", st.ref("request"), ~bits.trunc(32))


@kernel(Pointer(STATE), name="x86.deliver", attributes="nounwind noinline")
def deliver(st: Any) -> None:
    """Deliver the pending event; exceptions met on the way combine by SDM Vol. 3A, table 6-5.

    Afterwards `stop` is 0 (`pc` is that of the handler) or `Stop.EXIT`; then, when a device was met on the stack or in
    a table, or a kick in the midst of exceptions that never end, the event is pending still and `event_waits` is set.
    """
    st.single = 1  # no translated code runs now: writes to its pages need not wait
    st.access_next = 0
    again: U64 = 1
    while again != 0:
        vector = st.event_vector.zext(64)
        kind = st.event_kind.zext(64)
        has_error = st.event_has_error.zext(64)
        error = st.event_error
        length = st.event_length
        st.stop = 0
        st.event_pending = 0
        deliver_event(st, vector, kind, has_error, error, length)
        again = 0
        if st.stop == Stop.EVENT:
            again = combine(st, vector, kind)
            # Another event: what devices answered was for the first.
            st.access_done = 0
            st.access_next = 0
            if again != 0 and (current().load(st.ref("request"), volatile=True) & Request.KICK) != 0:
                # A handler's stack may raise the very exception that it is for, again and again.
                clear_request(st, u64(Request.KICK))
                st.exit_kind = GuestExit.KICKED
                st.stop = Stop.EXIT
                st.event_waits = 1
                return
        elif st.stop == Stop.EXIT:
            st.event_pending = 1
            st.event_waits = 1
        else:
            st.access_done = 0
            st.single = 0
            st.interrupt_shadow = 0
            st.repeat_midst = 0
            st.halted = 0
            if kind == EventKind.NMI:
                st.nmi_blocked = 1


@kernel(Pointer(STATE), U64, U64, result=U64, name="x86.combine_faults", attributes=COLD)
def combine(st: Any, first: Any, first_kind: Any) -> Any:
    """Turn the exception raised while `first` was delivered into what is delivered next; 0 after a triple fault."""
    second = st.event_vector.zext(64)
    hardware = first_kind == EventKind.FAULT or first_kind == EventKind.TRAP
    contributory = ((u64(_CONTRIBUTORY) >> second) & 1) != 0
    if hardware and (contributory or second == Vector.PF):
        if first == Vector.DF:
            triple_fault(st)
            return 0
        first_contributory = ((u64(_CONTRIBUTORY) >> first) & 1) != 0
        if first == Vector.PF or (first_contributory and contributory):
            raise_exception(st, Vector.DF, 1, 0)
    return 1


@kernel(Pointer(STATE), U64, U64, U64, U64, U64, name="x86.deliver_event")
def deliver_event(st: Any, vector: Any, kind: Any, has_error: Any, error: Any, length: Any) -> None:
    """One attempt at delivery; a fault leaves the state as it was."""
    flags = read_eflags(st)
    software = kind == EventKind.SOFTWARE or kind == EventKind.SOFTWARE_EXCEPTION
    ext: U64 = int(SelectorError.EXT)
    if software:
        ext = 0
    # Every completed instruction clears RF: what remains of it here is that of the last IRET.
    image = flags & ~int(Eflags.RF)
    if kind == EventKind.FAULT and vector != Vector.DB:
        image = flags | Eflags.RF
    elif kind != EventKind.FAULT and st.repeat_midst != 0:
        # Between two elements of a repeated string instruction (SDM Vol. 3B, 17.3.1.1).
        image = flags | Eflags.RF
    return_ip = st.pc + length
    if not in_64_bit_code(st):
        return_ip = return_ip & LOW32
    if (st.cr0 & Cr0.PE) == 0:
        deliver_real(st, vector, image, return_ip)
    elif (st.efer & Efer.LMA) != 0:
        deliver_long(st, vector, software.zext(64), ext, has_error, error, image, return_ip)
    elif (flags & Eflags.VM) != 0 and kind == EventKind.SOFTWARE and (flags & Eflags.IOPL) != Eflags.IOPL:
        gp(st, 0)
    else:
        deliver_protected(st, vector, software.zext(64), ext, has_error, error, image, return_ip)
    if st.stop == Stop.EVENT and st.event_vector == Vector.AC:
        st.event_error = ext
    if st.stop == 0 and vector == Vector.DB and kind != EventKind.SOFTWARE:
        st.dr[7] = st.dr[7] & ~DR7_GD


@kernel(Pointer(STATE), U64, U64, U64, name="x86.deliver_real")
def deliver_real(st: Any, vector: Any, image: Any, return_ip: Any) -> None:
    """Through the interrupt vector table (SDM Vol. 3B, 21.1.4)."""
    if vector * 4 + 3 > st.idt_limit:
        gp(st, 0)
        return
    entry = load_system(st, (st.idt_base + vector * 4) & LOW32, 4)
    if st.stop != 0:
        return
    attr = st.seg_attr[Seg.SS]
    mask = stack_mask(attr)
    sp = st.gpr[Gpr.RSP] & mask
    for item in (image, st.seg_sel[Seg.CS], return_ip):
        sp = (sp - 2) & mask
        push_at(st, st.seg_base[Seg.SS], st.seg_limit[Seg.SS], attr, sp, 2, item, privilege_index(st.cpl), 0)
        if st.stop != 0:
            return
    st.gpr[Gpr.RSP] = merge_sp(st.gpr[Gpr.RSP], sp, mask)
    write_eflags(st, 0, Eflags.IF | Eflags.TF | Eflags.AC | Eflags.RF)
    set_real(st, Seg.CS, entry >> 16)
    st.pc = entry & 0xFFFF
    mode_changed(st)


@kernel(Pointer(STATE), U64, U64, U64, U64, U64, U64, U64, name="x86.deliver_long")
def deliver_long(
    st: Any, vector: Any, software: Any, ext: Any, has_error: Any, error: Any, image: Any, return_ip: Any
) -> None:
    """Through a 64-bit IDT gate (SDM Vol. 3A, 6.14)."""
    gate_error = (vector << 3) | SelectorError.IDT | ext
    if vector * 16 + 15 > st.idt_limit:
        gp(st, gate_error)
        return
    gate = load_system(st, st.idt_base + vector * 16, 8)
    if st.stop != 0:
        return
    gate_high = load_system(st, st.idt_base + vector * 16 + 8, 8)
    if st.stop != 0:
        return
    kind = (gate >> 40) & 0x1F
    if kind != System.INTERRUPT and kind != System.TRAP:
        gp(st, gate_error)
        return
    if software != 0 and ((gate >> 45) & 3) < st.cpl:
        gp(st, gate_error)
        return
    if not gate.bit(47):
        np(st, gate_error)
        return
    selector = (gate >> 16) & 0xFFFF
    if is_null(selector):
        gp(st, ext)
        return
    descriptor = read_descriptor(st, selector, Vector.GP, ext)
    if st.stop != 0:
        return
    attr = desc.attributes(descriptor)
    if not is_code(attr) or (attr & (Attr.L | Attr.DB)) != Attr.L or dpl(attr) > st.cpl:
        gp(st, selector_error(selector) | ext)
        return
    if (attr & Attr.P) == 0:
        np(st, selector_error(selector) | ext)
        return
    cpl = st.cpl
    if (attr & Attr.CONFORMING) == 0:
        cpl = dpl(attr)
    target = (gate & 0xFFFF) | ((gate >> 32) & 0xFFFF_0000) | (gate_high << 32)
    sp = st.gpr[Gpr.RSP]
    slot: U64 = 0
    if ((gate >> 32) & 7) != 0:
        slot = ((gate >> 32) & 7) * 8 + 28
    elif cpl < st.cpl:
        slot = cpl * 8 + 4
    if slot != 0:
        if slot + 7 > st.seg_limit[Seg.TR]:
            ts(st, selector_error(st.seg_sel[Seg.TR]) | ext)
            return
        sp = load_system(st, st.seg_base[Seg.TR] + slot, 8)
        if st.stop != 0:
            return
    sp = sp & ~0xF
    if not is_canonical(target):
        gp(st, ext)
        return
    if not is_canonical(sp - 1) or not is_canonical(sp - 48):
        ss(st, ext)
        return
    set_accessed(st, selector, descriptor)
    if st.stop != 0:
        return
    index = privilege_index(cpl)
    for item in (st.seg_sel[Seg.SS], st.gpr[Gpr.RSP], image, st.seg_sel[Seg.CS], return_ip):
        sp = sp - 8
        mmu.store_at(st, sp, 8, item, index)
        if st.stop != 0:
            return
    if has_error != 0:
        sp = sp - 8
        mmu.store_at(st, sp, 8, error, index)
        if st.stop != 0:
            return
    clear: U64 = int(Eflags.TF | Eflags.NT | Eflags.RF | Eflags.VM)
    if kind == System.INTERRUPT:
        clear = clear | Eflags.IF
    write_eflags(st, 0, clear)
    load_cache(st, Seg.CS, (selector & ~3) | cpl, descriptor)
    if cpl < st.cpl:
        set_segment(st, Seg.SS, cpl, 0, 0, (cpl << 5) | NULL_ATTR)
    st.cpl = cpl
    st.gpr[Gpr.RSP] = sp
    st.pc = target
    mode_changed(st)


@kernel(Pointer(STATE), U64, U64, U64, U64, U64, U64, U64, name="x86.deliver_protected")
def deliver_protected(
    st: Any, vector: Any, software: Any, ext: Any, has_error: Any, error: Any, image: Any, return_ip: Any
) -> None:
    """Through a gate of a 32-bit IDT (SDM Vol. 3A, 6.12; Vol. 2A, INT n)."""
    gate_error = (vector << 3) | SelectorError.IDT | ext
    if vector * 8 + 7 > st.idt_limit:
        gp(st, gate_error)
        return
    gate = load_system(st, (st.idt_base + vector * 8) & LOW32, 8)
    if st.stop != 0:
        return
    kind = (gate >> 40) & 0x1F
    is_task = kind == System.TASK_GATE
    if not is_task and (kind & 0x16) != 6:
        gp(st, gate_error)
        return
    if software != 0 and ((gate >> 45) & 3) < st.cpl:
        gp(st, gate_error)
        return
    if not gate.bit(47):
        np(st, gate_error)
        return
    selector = (gate >> 16) & 0xFFFF
    if is_task:
        tasks.switch_by_gate(st, selector, return_ip, image, ext, has_error, error)
        return
    if is_null(selector):
        gp(st, ext)
        return
    descriptor = read_descriptor(st, selector, Vector.GP, ext)
    if st.stop != 0:
        return
    attr = desc.attributes(descriptor)
    if not is_code(attr) or dpl(attr) > st.cpl:
        gp(st, selector_error(selector) | ext)
        return
    if (attr & Attr.P) == 0:
        np(st, selector_error(selector) | ext)
        return
    cpl = st.cpl
    if (attr & Attr.CONFORMING) == 0:
        cpl = dpl(attr)
    from_v86 = (image & Eflags.VM) != 0
    if from_v86 and cpl != 0:
        gp(st, selector_error(selector) | ext)
        return
    size = u64(4)
    target = (gate & 0xFFFF) | ((gate >> 32) & 0xFFFF_0000)
    if (kind & 8) == 0:
        size = u64(2)
        target = gate & 0xFFFF
    set_accessed(st, selector, descriptor)
    if st.stop != 0:
        return
    # The stack to push on: the current one, or that of the inner privilege in the TSS.
    sp = st.gpr[Gpr.RSP]
    base, limit, ss_attr = st.seg_base[Seg.SS], st.seg_limit[Seg.SS], st.seg_attr[Seg.SS]
    ss_selector = st.seg_sel[Seg.SS]
    ss_error: U64 = 0
    ss_descriptor: U64 = 0
    if cpl < st.cpl:
        sp = tasks.inner_stack(st, cpl, ext)
        if st.stop != 0:
            return
        ss_selector = sp >> 32
        sp = sp & LOW32
        ss_descriptor = check_inner_ss(st, ss_selector, cpl, ext)
        if st.stop != 0:
            return
        base, limit = desc.base(ss_descriptor), desc.limit(ss_descriptor)
        ss_attr = desc.attributes(ss_descriptor) | Attr.ACCESSED
        ss_error = selector_error(ss_selector)
    ss_error = ss_error | ext
    if target > desc.limit(descriptor):
        gp(st, ext)
        return
    mask = stack_mask(ss_attr)
    index = privilege_index(cpl)
    if cpl == 3:
        # Alignment is checked where the handler runs at CPL 3 (SDM Vol. 2A, INT n: #AC(EXT)).
        index = current_index(st)
    if from_v86:
        for seg in (Seg.GS, Seg.FS, Seg.DS, Seg.ES):
            sp = sp - size
            push_at(st, base, limit, ss_attr, sp & mask, size, st.seg_sel[seg], index, ss_error)
            if st.stop != 0:
                return
    if cpl < st.cpl:
        for item in (st.seg_sel[Seg.SS], st.gpr[Gpr.RSP]):
            sp = sp - size
            push_at(st, base, limit, ss_attr, sp & mask, size, item, index, ss_error)
            if st.stop != 0:
                return
    for item in (image, st.seg_sel[Seg.CS], return_ip):
        sp = sp - size
        push_at(st, base, limit, ss_attr, sp & mask, size, item, index, ss_error)
        if st.stop != 0:
            return
    if has_error != 0:
        sp = sp - size
        push_at(st, base, limit, ss_attr, sp & mask, size, error, index, ss_error)
        if st.stop != 0:
            return
    clear: U64 = int(Eflags.TF | Eflags.NT | Eflags.RF | Eflags.VM)
    if (kind & 1) == 0:
        clear = clear | Eflags.IF
    write_eflags(st, 0, clear)
    if cpl < st.cpl:
        load_cache(st, Seg.SS, ss_selector, ss_descriptor)
        st.gpr[Gpr.RSP] = sp & mask
    else:
        st.gpr[Gpr.RSP] = merge_sp(st.gpr[Gpr.RSP], sp, mask)
    if from_v86:
        for seg in (Seg.GS, Seg.FS, Seg.DS, Seg.ES):
            set_null(st, seg, 0)
    load_cache(st, Seg.CS, (selector & ~3) | cpl, descriptor)
    st.cpl = cpl
    st.pc = target
    mode_changed(st)


@kernel(Pointer(STATE), U64, U64, U64, result=U64, name="x86.check_inner_ss")
def check_inner_ss(st: Any, selector: Any, cpl: Any, ext: Any) -> Any:
    """Descriptor of an inner stack segment from the TSS, checked (#TS, #SS) and marked accessed."""
    if is_null(selector):
        ts(st, ext)
        return 0
    descriptor = read_descriptor(st, selector, Vector.TS, ext)
    if st.stop != 0:
        return 0
    attr = desc.attributes(descriptor)
    if (selector & 3) != cpl or dpl(attr) != cpl or not is_writable_data(attr):
        ts(st, selector_error(selector) | ext)
        return 0
    if (attr & Attr.P) == 0:
        ss(st, selector_error(selector) | ext)
        return 0
    set_accessed(st, selector, descriptor)
    return descriptor


@kernel(Pointer(STATE), U64, U64, name="x86.interrupt")
def interrupt(st: Any, vector: Any, kind: Any) -> None:
    """Deliver an external interrupt or NMI now."""
    raise_exception(st, vector, 0, 0)
    st.event_kind = kind.trunc(32)
    deliver(st)


@kernel(Pointer(STATE), result=U64, name="x86.service", attributes="nounwind noinline")
def service(st: Any) -> Any:
    """Answer `request` between two instructions: 1 when guest mode must be left (`exit_kind`), else 0.

    An interrupt given by the machine (`event_inject`) is delivered whatever `request` says, then those of the local
    APIC; the INTR line stands for the other chips, which the machine must ask.
    """
    request = st.request.zext(64)
    if (request & Request.KICK) != 0:
        clear_request(st, Request.KICK)
        st.exit_kind = GuestExit.KICKED
        st.stop = Stop.EXIT
        return 1
    if st.interrupt_shadow != 0:
        return 0
    if (request & Request.NMI) != 0 and st.nmi_blocked == 0:
        clear_request(st, Request.NMI)
        interrupt(st, Vector.NMI, EventKind.NMI)
        return st.stop != 0
    if (st.eflags & Eflags.IF) == 0:
        return 0
    vector = st.event_inject
    if vector != 0:
        st.event_inject = 0
        interrupt(st, vector & 0xFF, EventKind.INTERRUPT)
        return st.stop != 0
    if (request & Request.INTERRUPT) == 0:
        return 0
    # Cleared before looking: who asks for an interrupt from now on sets it again.
    clear_request(st, Request.INTERRUPT)
    vector = apic.take(st)
    line = current().load(st.ref("interrupt_line"), volatile=True)
    if line != 0:
        apic.look_again(st)
    if vector != 0:
        interrupt(st, vector, EventKind.INTERRUPT)
        return st.stop != 0
    if line != 0:
        st.exit_kind = GuestExit.INTERRUPT_WINDOW
        st.stop = Stop.EXIT
        return 1
    return 0
