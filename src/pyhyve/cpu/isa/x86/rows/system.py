"""System instructions, far control transfer, ports and strings: thin rows over kernels (SDM Vol. 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.cpu.isa.x86 import (
    control,
    cpuid,
    debug,
    events,
    faults,
    flags,
    flow,
    interrupt_return,
    msr,
    ports,
    segments,
    transfer,
)
from pyhyve.cpu.isa.x86.spec import Eflags, EventKind
from pyhyve.cpu.isa.x86.state import Gpr, Seg
from pyhyve.cpu.isa.x86.strings import STRINGS
from pyhyve.cpu.isa.x86.table import Row, row
from pyhyve.cpu.lang.builder import LIKELY

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.cpu.isa.x86.context import X86Context
    from pyhyve.cpu.lang import Value

    Semantics = Callable[[X86Context], None]


def _size(c: X86Context) -> Value:
    return c.constant(c.bits // 8)


def _finish(c: X86Context) -> None:
    """The kernel did everything but advance."""
    c.st.pc = c.next_pc
    c.go_on()


def _then_leave(kernel: Any, *arguments: str) -> Semantics:
    """Call a kernel and end the block after this instruction: it may have changed the mode."""

    def semantics(c: X86Context) -> None:
        c.call(kernel, *(_argument(c, a) for a in arguments))
        _finish(c)

    return semantics


def _then_next(kernel: Any, *arguments: str) -> Semantics:
    """Call a kernel that does not change the mode."""

    def semantics(c: X86Context) -> None:
        c.call(kernel, *(_argument(c, a) for a in arguments))

    return semantics


def _transfers(kernel: Any, *arguments: str) -> Semantics:
    """Call a kernel that sets `pc` itself."""

    def semantics(c: X86Context) -> None:
        c.call(kernel, *(_argument(c, a) for a in arguments))
        c.go_on()

    return semantics


def _argument(c: X86Context, what: str) -> Value:
    if what == "address":
        return c.address
    if what == "size":
        return _size(c)
    if what == "next":
        return c.next_pc
    if what.startswith("word"):
        return c.read(int(what[4:]), 16).zext(64)
    return c.read(int(what)).zext(64)


def _read_control(c: X86Context) -> None:
    c.set_gpr_operand(0, c.call(control.read_cr, c.symbol("V1", "u31")))


def _write_control(c: X86Context) -> None:
    c.call(control.write_cr, c.symbol("V0", "u31"), c.wide_register(1))
    _finish(c)


def _read_debug(c: X86Context) -> None:
    c.set_gpr_operand(0, c.call(debug.read_dr, c.symbol("V1", "u31")))


def _write_debug(c: X86Context) -> None:
    c.call(debug.write_dr, c.symbol("V0", "u31"), c.wide_register(1))
    _finish(c)


def _move_from_segment(c: X86Context) -> None:
    """MOV r/m, Sreg: 16 bits to memory; a register is zero-extended to the operand size. CS is 1 to 5 (#UD beyond)."""
    _check_segment_number(c, 1, load=False)
    selector = c.builder.load(c.builder.element(c.st.seg_sel, c.symbol("V1", "u31"), 8, c.st.seg_sel.kind))
    if c.form(0) == "m":
        c.store(c.address, selector.trunc(16))
    else:
        c.write(0, selector.trunc(c.bits))


def _check_segment_number(c: X86Context, operand: int, *, load: bool) -> None:
    number = c.symbol(f"V{operand}", "u31")
    bad = number > Seg.GS
    if load:
        bad = bad | (number == Seg.CS)
    for undefined in c.builder.branch(bad):
        if undefined:
            c.save_pc()
            faults.ud(c.st)
            c.builder.ret()


def _move_to_segment(c: X86Context) -> None:
    _check_segment_number(c, 0, load=True)
    c.call(segments.load_segment, c.symbol("V0", "u31"), c.read(1, 16).zext(64))
    _shadow_after_ss(c, c.symbol("V0", "u31") == Seg.SS)
    _finish(c)


def _shadow_after_ss(c: X86Context, is_ss: Value) -> None:
    """Loading SS holds interrupts off for one instruction (SDM Vol. 3A, 6.8.3)."""
    for loaded in c.builder.branch(is_ss):
        if loaded:
            c.st.interrupt_shadow = 1


def _push_segment(segment: Seg) -> Semantics:
    def semantics(c: X86Context) -> None:
        from pyhyve.cpu.isa.x86.stack import Stack  # noqa: PLC0415 - the stack builds on the context

        stack = Stack(c)
        selector = c.st.seg_sel[segment]
        if c.bits == 32:
            # The upper half of the slot is left as it is, as processors do.
            stack.pointer = stack.pointer - 4
            c.store(stack.linear(stack.pointer, 2, write=True), selector.trunc(16))
        else:
            stack.push(selector.trunc(c.bits))
        stack.commit()

    return semantics


def _pop_segment(segment: Seg) -> Semantics:
    def semantics(c: X86Context) -> None:
        from pyhyve.cpu.isa.x86.stack import Stack  # noqa: PLC0415 - as above

        stack = Stack(c)
        selector = stack.pop(16)
        stack.pointer = stack.pointer + (c.bits // 8 - 2)
        c.call(segments.load_segment, c.constant(segment), selector.zext(64))
        stack.commit()
        c.commit()
        if segment is Seg.SS:
            c.st.interrupt_shadow = 1
        _finish(c)

    return semantics


def _load_far_pointer(segment: Seg) -> Semantics:
    """LDS, LES, LFS, LGS, LSS."""

    def semantics(c: X86Context) -> None:
        offset = c.load(c.part(0, c.bits // 8), c.bits)
        selector = c.load(c.part(c.bits // 8, 2), 16)
        c.call(segments.load_segment, c.constant(segment), selector.zext(64))
        c.write(0, offset)
        c.commit()
        if segment is Seg.SS:
            c.st.interrupt_shadow = 1
        _finish(c)

    return semantics


def _far_memory(kernel: Any) -> Semantics:
    """JMP and CALL m16:16, m16:32, m16:64."""

    def semantics(c: X86Context) -> None:
        offset = c.load(c.part(0, c.bits // 8), c.bits).zext(64)
        selector = c.load(c.part(c.bits // 8, 2), 16).zext(64)
        c.call(kernel, selector, offset, _size(c), c.next_pc)
        c.go_on()

    return semantics


def _far_direct(kernel: Any) -> Semantics:
    def semantics(c: X86Context) -> None:
        c.call(kernel, c.symbol("V1", "u31"), c.symbol("V0", ""), _size(c), c.next_pc)
        c.go_on()

    return semantics


def _far_return(c: X86Context) -> None:
    extra = c.symbol("V0", "u31") if c.variant.forms else c.constant(0)
    c.call(interrupt_return.far_return, _size(c), extra)
    c.go_on()


def _interrupt_number(c: X86Context) -> None:
    """INT n; in virtual-8086 mode it needs IOPL 3, which the kernel checks."""
    c.call(events.software_interrupt, c.read(0, 8).zext(64), c.next_pc, c.constant(EventKind.SOFTWARE))
    c.leave()


def _interrupt_fixed(vector: int, kind: EventKind) -> Semantics:
    def semantics(c: X86Context) -> None:
        c.call(events.software_interrupt, c.constant(vector), c.next_pc, c.constant(kind))
        c.leave()

    return semantics


def _interrupt_on_overflow(c: X86Context) -> None:
    for over in c.builder.branch(flags.overflow(c.st.fl_aux)):
        if over:
            c.call(events.software_interrupt, c.constant(4), c.next_pc, c.constant(EventKind.SOFTWARE_EXCEPTION))
            c.builder.ret()
    _finish(c)


def _undefined(c: X86Context) -> None:
    c.save_pc()
    faults.ud(c.st)
    c.leave()


def _store_word(kernel: Any) -> Semantics:
    """SLDT, STR, SMSW: a register gets the operand size, memory 16 bits."""

    def semantics(c: X86Context) -> None:
        value = c.call(kernel)
        if c.form(0) == "m":
            c.store(c.address, value.trunc(16))
        else:
            c.write(0, value.trunc(c.bits))

    return semantics


def _load_word(kernel: Any) -> Semantics:
    def semantics(c: X86Context) -> None:
        c.call(kernel, c.read(0, 16).zext(64))
        _finish(c)

    return semantics


def _verify(kernel: Any) -> Semantics:
    def semantics(c: X86Context) -> None:
        zero = c.call(kernel, c.read(0, 16).zext(64))
        flags.write_eflags(c.st, (zero != 0).zext(64) << 6, c.constant(flags.ZF))

    return semantics


def _descriptor_part(kernel: Any) -> Semantics:
    """LAR and LSL: nothing but ZF changes when the descriptor is not visible."""

    def semantics(c: X86Context) -> None:
        value = c.call(kernel, c.read(1, 16).zext(64))
        seen = (value & segments.VALID) != 0
        old = c.builder.load(c.slot(0, c.bits))
        if c.bits == 32:
            wide = c.builder.load(c.slot(0, 64))
            c.write(0, c.builder.select(seen, value.trunc(32).zext(64), wide))
        else:
            c.write(0, c.builder.select(seen, value.trunc(c.bits), old))
        c.commit()
        flags.write_eflags(c.st, seen.zext(64) << 6, c.constant(flags.ZF))

    return semantics


def _adjust_rpl(c: X86Context) -> None:
    """ARPL: memory is written, and need be writable, only when it changes."""
    memory = c.form(0) == "m"
    old = c.load(c.part(0, 2), 16) if memory else c.read(0)
    result = c.call(segments.arpl, old.zext(64), c.read(1).zext(64))
    if memory:
        for changed in c.builder.branch((result & segments.VALID) != 0):
            if changed:
                c.store(c.part(0, 2, write=True), result.trunc(16))
    else:
        c.write(0, result.trunc(16))
    c.commit()
    flags.write_eflags(c.st, ((result & segments.VALID) != 0).zext(64) << 6, c.constant(flags.ZF))


def _time_stamp(c: X86Context) -> None:
    value = c.call(msr.rdtsc)
    c.set_reg(Gpr.RAX, value.trunc(32))
    c.set_reg(Gpr.RDX, (value >> 32).trunc(32))


def _in(c: X86Context) -> None:
    port = c.read(0, 8).zext(64) if c.variant.forms else c.reg(Gpr.RDX, 16).zext(64)
    value = c.call(ports.port_in, port, _size(c))
    c.set_reg(Gpr.RAX, value.trunc(c.bits))


def _out(c: X86Context) -> None:
    port = c.read(0, 8).zext(64) if c.variant.forms else c.reg(Gpr.RDX, 16).zext(64)
    c.call(ports.port_out, port, _size(c), c.reg(Gpr.RAX, c.bits).zext(64))


def _access_control(on: int) -> Semantics:
    def semantics(c: X86Context) -> None:
        c.call(flow.set_access_control, c.constant(on))
        _finish(c)

    return semantics


def _disable_interrupts(c: X86Context) -> None:
    """CLI; privileged code needs no look at IOPL."""
    for privileged in c.builder.branch((c.st.mode & 3) == 0, LIKELY):
        if privileged:
            c.st.eflags = c.st.eflags & ~c.constant(Eflags.IF, 32)
        else:
            c.call(flow.disable_interrupts)


def _enable_interrupts(c: X86Context) -> None:
    """STI. Interrupts wait for the instruction after it.

    None is looked for before the next block, so that when none has been set aside there is nothing to hold off; the
    translator does not let a block end here.
    """
    quiet = ((c.st.mode & 3) == 0) & (c.st.deferred == 0) & (c.st.single == 0)
    for nothing_waits in c.builder.branch(quiet, LIKELY):
        if nothing_waits:
            c.st.eflags = c.st.eflags | c.constant(Eflags.IF, 32)
        else:
            c.call(flow.enable_interrupts)
            c.st.pc = c.next_pc
            c.builder.ret()


def _string(name: str) -> Semantics:
    def semantics(c: X86Context) -> None:
        kernel = STRINGS[name, c.bits // 8]
        repeat = {"": 0, "z": 1, "nz": 2}[c.variant.repeat]
        done = c.call(kernel, c.constant(c.variant.address_bits), c.constant(repeat), c.symbol("V3", "u31"))
        for again in c.builder.branch(done == 0):
            if again:
                c.builder.ret()

    return semantics


def _string_rows() -> list[Row]:
    rows = []
    for opcode, name in ((0xA4, "movs"), (0xA6, "cmps"), (0xAA, "stos"), (0xAC, "lods"), (0xAE, "scas")):
        for at, size in ((opcode, "b"), (opcode + 1, "v")):
            rows.append(row(f"{at:02X}", name, "", _string(name), size=size, address_size=True, repeat=True))
    for opcode, name in ((0x6C, "ins"), (0x6E, "outs")):
        for at, size in ((opcode, "b"), (opcode + 1, "z")):
            rows.append(row(f"{at:02X}", name, "", _string(name), size=size, address_size=True, repeat=True))
    return rows


def _segment_rows() -> list[Row]:
    rows = []
    for push, segment in ((0x06, Seg.ES), (0x0E, Seg.CS), (0x16, Seg.SS), (0x1E, Seg.DS)):
        name = segment.name.lower()
        rows.append(row(f"{push:02X}", f"push_{name}", "", _push_segment(segment), size="v", stack=True, mode="32"))
        if segment is not Seg.CS:
            rows.append(
                row(
                    f"{push + 1:02X}",
                    f"pop_{name}",
                    "",
                    _pop_segment(segment),
                    size="v",
                    stack=True,
                    mode="32",
                    ends=True,
                )
            )
    for push, segment in ((0xA0, Seg.FS), (0xA8, Seg.GS)):
        name = segment.name.lower()
        rows.append(
            row(f"0F {push:02X}", f"push_{name}", "", _push_segment(segment), size="v", stack=True, default64=True)
        )
        rows.append(
            row(
                f"0F {push + 1:02X}",
                f"pop_{name}",
                "",
                _pop_segment(segment),
                size="v",
                stack=True,
                default64=True,
                ends=True,
            )
        )
    for opcode, segment, mode in (
        ("C5", Seg.DS, "32"),
        ("C4", Seg.ES, "32"),
        ("0F B2", Seg.SS, ""),
        ("0F B4", Seg.FS, ""),
        ("0F B5", Seg.GS, ""),
    ):
        rows.append(
            row(
                f"{opcode} m",
                f"l{segment.name.lower()}",
                "Gv Mv",
                _load_far_pointer(segment),
                size="v",
                mode=mode,
                ends=True,
                late=True,
            )
        )
    return rows


ROWS: tuple[Row, ...] = (
    *_string_rows(),
    *_segment_rows(),
    row("E4", "in", "Ib", _in, size="b"),
    row("E5", "in", "Ib", _in, size="z"),
    row("EC", "in_dx", "", _in, size="b"),
    row("ED", "in_dx", "", _in, size="z"),
    row("E6", "out", "Ib", _out, size="b"),
    row("E7", "out", "Ib", _out, size="z"),
    row("EE", "out_dx", "", _out, size="b"),
    row("EF", "out_dx", "", _out, size="z"),
    row("8C", "mov_from_seg", "Ev Sw", _move_from_segment, flags="n", memory_bits=16),
    *(row(f"8E /{number}", "gone", "Sw Ev", _undefined, size="v", ends=True) for number in (1, 6, 7)),
    row("8E", "mov_to_seg", "Sw Ev", _move_to_segment, size="v", flags="n", ends=True, memory_bits=16, stores=False),
    row("FA", "cli", "", _disable_interrupts),
    row("FB", "sti", "", _enable_interrupts),
    row("F4", "hlt", "", _transfers(flow.halt, "next"), ends=True),
    row("CC", "int3", "", _interrupt_fixed(3, EventKind.SOFTWARE_EXCEPTION), ends=True),
    row("CD", "int", "Ib", _interrupt_number, ends=True),
    row("CE", "into", "", _interrupt_on_overflow, ends=True, mode="32"),
    row("F1", "int1", "", _interrupt_fixed(1, EventKind.PRIVILEGED), ends=True),
    row("CF", "iret", "", _transfers(interrupt_return.iret, "size"), size="v", ends=True),
    row("CB", "retf", "", _far_return, size="v", ends=True),
    row("CA", "retf_n", "Iw", _far_return, size="v", ends=True),
    row("EA", "jmp_far", "Ap", _far_direct(transfer.far_jump), size="v", ends=True, mode="32"),
    row("9A", "call_far", "Ap", _far_direct(transfer.far_call), size="v", ends=True, mode="32"),
    row("FF /5 m", "jmp_far_m", "Mv", _far_memory(transfer.far_jump), size="v", ends=True, stores=False, late=True),
    row("FF /3 m", "call_far_m", "Mv", _far_memory(transfer.far_call), size="v", ends=True, stores=False, late=True),
    row("0F 05", "syscall", "", _transfers(transfer.syscall, "next"), ends=True),
    row("0F 07", "sysret", "", _transfers(transfer.sysret, "size"), size="v", ends=True),
    row("0F 34", "sysenter", "", _transfers(transfer.sysenter), ends=True),
    row("0F 35", "sysexit", "", _transfers(transfer.sysexit, "size"), size="v", ends=True),
    row("0F 01 F8", "swapgs", "", _then_next(transfer.swapgs), mode="64"),
    row("0F 01 F9", "rdtscp", "", _then_next(msr.rdtscp)),
    row("0F 01 D1", "xsetbv", "", _then_leave(control.xsetbv), ends=True),
    row("NP 0F 01 CA", "clac", "", _access_control(0), ends=True),
    row("NP 0F 01 CB", "stac", "", _access_control(1), ends=True),
    row("0F 20", "mov_from_cr", "Rd Cd", _read_control, size="", ends=False),
    row("0F 22", "mov_to_cr", "Cd Rd", _write_control, size="", ends=True),
    row("0F 21", "mov_from_dr", "Rd Dd", _read_debug, size=""),
    row("0F 23", "mov_to_dr", "Dd Rd", _write_debug, size="", ends=True),
    row("0F 06", "clts", "", _then_leave(control.clts), ends=True),
    row("0F 08", "invd", "", _then_next(control.invd)),
    row("0F 09", "wbinvd", "", _then_next(control.wbinvd)),
    row("0F 01 /7 m", "invlpg", "M", _then_leave(control.invlpg, "address"), ends=True, stores=False, memory_bits=8),
    row("0F 01 /0 m", "sgdt", "M", _then_next(segments.sgdt, "address"), stores=True, memory_bits=64),
    row("0F 01 /1 m", "sidt", "M", _then_next(segments.sidt, "address"), stores=True, memory_bits=64),
    row(
        "0F 01 /2 m",
        "lgdt",
        "M",
        _then_leave(segments.lgdt, "address", "size"),
        size="v",
        ends=True,
        stores=False,
        memory_bits=64,
    ),
    row(
        "0F 01 /3 m",
        "lidt",
        "M",
        _then_leave(segments.lidt, "address", "size"),
        size="v",
        ends=True,
        stores=False,
        memory_bits=64,
    ),
    row("0F 01 /4", "smsw", "Ev", _store_word(control.smsw), memory_bits=16),
    row("0F 01 /6", "lmsw", "Ew", _load_word(control.lmsw), ends=True, stores=False),
    row("0F 00 /0", "sldt", "Ev", _store_word(segments.sldt), memory_bits=16),
    row("0F 00 /1", "str", "Ev", _store_word(segments.str_), memory_bits=16),
    row("0F 00 /2", "lldt", "Ew", _load_word(segments.lldt), ends=True, stores=False),
    row("0F 00 /3", "ltr", "Ew", _load_word(segments.ltr), ends=True, stores=False),
    row("0F 00 /4", "verr", "Ew", _verify(segments.verr), stores=False),
    row("0F 00 /5", "verw", "Ew", _verify(segments.verw), stores=False),
    row("0F 02", "lar", "Gv Ew", _descriptor_part(segments.lar), memory_bits=16),
    row("0F 03", "lsl", "Gv Ew", _descriptor_part(segments.lsl), memory_bits=16),
    row("63", "arpl", "Ew Gw", _adjust_rpl, mode="32", late=True),
    row("0F A2", "cpuid", "", _then_next(cpuid.cpuid)),
    row("0F 30", "wrmsr", "", _then_leave(msr.wrmsr), ends=True),
    row("0F 32", "rdmsr", "", _then_next(msr.rdmsr)),
    row("0F 31", "rdtsc", "", _time_stamp),
    row("0F 33", "rdpmc", "", _then_next(msr.rdpmc)),
    row("0F 0B", "ud2", "", _undefined, ends=True),
    # Gone in 64-bit mode, but fetched whole before that shows.
    *(
        row(opcode, "gone", operands, _undefined, size="v", ends=True, mode="64")
        for opcode, operands in (
            ("9A", "Ap"),
            ("EA", "Ap"),
            ("D4", "Ib"),
            ("D5", "Ib"),
            ("82", "Eb Ib"),
        )
    ),
    row("0F B9", "ud1", "Gv Ev", _undefined, ends=True),
    row("0F FF", "ud0", "Gv Ev", _undefined, ends=True),
)
