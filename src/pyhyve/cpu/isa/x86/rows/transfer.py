"""Data movement, the stack, and near control transfer (SDM Vol. 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.cpu.isa.x86 import faults, flags
from pyhyve.cpu.isa.x86.stack import Stack
from pyhyve.cpu.isa.x86.state import Gpr
from pyhyve.cpu.isa.x86.table import Row, row
from pyhyve.cpu.lang import U64, Int, Pointer
from pyhyve.cpu.lang.builder import UNLIKELY

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.cpu.isa.x86.context import X86Context
    from pyhyve.cpu.lang import Value

    Semantics = Callable[[X86Context], None]


def move(c: X86Context) -> None:
    """MOV."""
    c.write(0, c.read(1))


def move_from_absolute(c: X86Context) -> None:
    """MOV AL/rAX, moffs."""
    c.set_reg(Gpr.RAX, c.load(c.address, c.bits))


def move_to_absolute(c: X86Context) -> None:
    """MOV moffs, AL/rAX."""
    c.store(c.address, c.reg(Gpr.RAX, c.bits))


def load_address(c: X86Context) -> None:
    """LEA."""
    c.write(0, c.address.trunc(c.bits))


def _extend(bits: int, *, signed: bool) -> Semantics:
    def semantics(c: X86Context) -> None:
        if not signed and c.bits >= 32 and c.form(1) == "m":
            c.set_gpr_operand(0, c.load_extended(c.address, bits))
            return
        if c.form(1) == "r" and (signed or bits == 16):
            value = c.in_register(c.read(1, 32 if bits == 16 else 8)).trunc(bits)
        else:
            value = c.read(1, bits)
        if c.bits < bits:
            c.write(0, value.trunc(c.bits))
        else:
            c.write(0, value.sext(c.bits) if signed else value.zext(c.bits))

    return semantics


def sign_extend_double(c: X86Context) -> None:
    """MOVSXD, whose 16-bit form moves (and reads) a word."""
    if c.bits == 16:
        c.write(0, c.read(1, 16))
    else:
        value = c.read(1, 32)
        c.write(0, (c.in_register(value) if c.form(1) == "r" else value).sext(c.bits))


def convert_accumulator(c: X86Context) -> None:
    """CBW, CWDE, CDQE."""
    half = c.bits // 2
    c.set_reg(Gpr.RAX, c.in_register(c.reg(Gpr.RAX, half)).sext(c.bits))


def convert_pair(c: X86Context) -> None:
    """CWD, CDQ, CQO."""
    c.set_reg(Gpr.RDX, c.reg(Gpr.RAX, c.bits).sar(c.bits - 1))


def exchange_accumulator(c: X86Context) -> None:
    """XCHG rAX, r; with rAX itself it is NOP, which leaves the upper half alone."""
    width = 64 if c.bits == 32 else c.bits
    a, b = c.reg(Gpr.RAX, width), c.builder.load(c.slot(0, width))
    mask = (1 << c.bits) - 1
    # Not the ranged form: LLVM takes a symbol's address for non-zero.
    same = c.symbol("V0") == 0
    c.write(0, c.builder.select(same, a, a & mask))
    c.set_reg(Gpr.RAX, c.builder.select(same, a, b & mask))


def nothing(_: X86Context) -> None:
    """NOP and hints."""


def push(c: X86Context) -> None:
    """PUSH r/m or immediate."""
    stack = Stack(c)
    stack.push(c.read(0))
    stack.commit()


def pop(c: X86Context) -> None:
    """POP register: the popped value wins over the new stack pointer."""
    stack = Stack(c)
    value = stack.pop(c.bits)
    stack.commit()
    c.write(0, value)


def pop_memory(c: X86Context) -> None:
    """POP r/m: an address that uses rSP sees it already incremented."""
    if c.form(0) == "r":
        pop(c)
        return
    stack = Stack(c)
    value = stack.pop(c.bits)
    c.store(c.address if c.variant.stack == "64" else c.part(0, c.bits // 8, write=True), value)
    stack.commit()


def push_flags(c: X86Context) -> None:
    """PUSHF: VM and RF read as zero; in virtual-8086 mode with IOPL below 3 it is #GP."""
    _check_vm86_iopl(c)
    stack = Stack(c)
    image = flags.read_eflags(c.st)
    stack.push((image & ~(flags.VM | flags.RF)).trunc(c.bits))
    stack.commit()


def _check_vm86_iopl(c: X86Context) -> None:
    word = c.st.eflags
    bad = ((word & flags.VM) != 0) & ((word & flags.IOPL) != flags.IOPL)
    for refused in c.builder.branch(bad, UNLIKELY):
        if refused:
            c.save_pc()
            faults.gp(c.st, 0)
            c.builder.ret()


def pop_flags(c: X86Context) -> None:
    """POPF: what may change depends on CPL and IOPL; ends the block, since IF, TF or AC may have."""
    _check_vm86_iopl(c)
    stack = Stack(c)
    value = stack.pop(c.bits).zext(64)
    from pyhyve.cpu.isa.x86.flow import write_popped_flags  # noqa: PLC0415 - the kernel needs the mode's

    stack.commit()
    c.commit()
    write_popped_flags(c.st, value, c.constant(c.bits))
    c.st.pc = c.next_pc
    c.go_on()


def load_ah(c: X86Context) -> None:
    """LAHF."""
    c.set_high_byte(Gpr.RAX, flags.read_eflags(c.st).trunc(8))


def store_ah(c: X86Context) -> None:
    """SAHF."""
    value = c.high_byte(Gpr.RAX).zext(64)
    flags.write_eflags(c.st, value, c.constant(flags.CF | flags.PF | flags.AF | flags.ZF | flags.SF))


def leave(c: X86Context) -> None:
    """LEAVE."""
    stack = Stack(c)
    stack.pointer = c.reg(Gpr.RBP, stack.width)
    value = stack.pop(c.bits)
    stack.commit()
    c.set_reg(Gpr.RBP, value)


def _set_carry(change: str) -> Semantics:
    """CLC, STC, CMC: OF stays, so its distance from CF changes with it."""

    def semantics(c: X86Context) -> None:
        aux = c.aux()
        now = aux >> flags.AUX_CF
        flip = {"clc": now, "stc": now ^ 1, "cmc": c.constant(1, 32)}[change]
        c.hold("fl_aux", aux ^ (flip * 0xC0000000))

    return semantics


def _direction(*, down: bool) -> Semantics:
    def semantics(c: X86Context) -> None:
        word = c.st.eflags
        c.hold("eflags", word | flags.DF if down else word & ~c.constant(flags.DF, 32))

    return semantics


def _set_on(code: int) -> Semantics:
    def semantics(c: X86Context) -> None:
        c.write(0, c.condition(code).zext(8))

    return semantics


def _move_on(code: int) -> Semantics:
    def semantics(c: X86Context) -> None:
        source = c.read(1)
        c.write(0, c.builder.select(c.condition(code), source, c.read(0)))

    return semantics


def _jump_on(code: int) -> Semantics:
    def semantics(c: X86Context) -> None:
        take(c, c.condition(code))

    return semantics


def take(c: X86Context, condition: Value) -> None:
    """Go to TAKEN when `condition`, else on."""
    c.commit()
    for taken in c.builder.branch(condition, UNLIKELY):
        if taken:
            c.go_taken()
        else:
            c.go_next()


def _loop(kind: str) -> Semantics:
    """LOOP, LOOPE, LOOPNE, JCXZ by address size."""

    def semantics(c: X86Context) -> None:
        bits = c.variant.address_bits
        count = c.reg(Gpr.RCX, bits)
        if kind == "jcxz":
            take(c, count == 0)
            return
        left = count - 1
        c.set_reg(Gpr.RCX, left)
        again = left != 0
        if kind != "loop":
            again = again & c.condition(4 if kind == "loope" else 5)
        take(c, again)

    return semantics


def jump(c: X86Context) -> None:
    """JMP rel: the block's end does it."""


def jump_indirect(c: X86Context) -> None:
    """JMP r/m."""
    c.go_to(c.read(0).zext(64))


def call(c: X86Context) -> None:
    """CALL rel: the block's end jumps."""
    stack = Stack(c)
    stack.push(c.next_pc.trunc(c.bits))
    stack.commit()


def call_indirect(c: X86Context) -> None:
    """CALL r/m."""
    target = c.read(0)
    stack = Stack(c)
    stack.push(c.next_pc.trunc(c.bits))
    stack.commit()
    c.go_to(target.zext(64))


def ret(c: X86Context) -> None:
    """RET and RET n."""
    stack = Stack(c)
    target = stack.pop(c.bits)
    if c.variant.forms:
        stack.skip(c.read(0, 16))
    stack.commit()
    c.go_to(target.zext(64))


def compare_exchange_pair(c: X86Context) -> None:
    """CMPXCHG8B and CMPXCHG16B: ZF only."""
    half = 64 if c.bits == 64 else 32
    size = half // 4
    if half == 64:
        c.require_alignment(16)
    b = c.builder
    host, slow = c.write_pointer(c.address, size)
    wide = Int(2 * half)
    expected = c.reg(Gpr.RAX, half).zext(2 * half) | (c.reg(Gpr.RDX, half).zext(2 * half) << half)
    new = c.reg(Gpr.RBX, half).zext(2 * half) | (c.reg(Gpr.RCX, half).zext(2 * half) << half)
    pointer = host.cast(wide)
    if half == 64:
        old_low, old_high, same = _cmpxchg16b(c, host)
        pair_low, pair_high = old_low, old_high
    else:
        result = b.let(f"cmpxchg ptr {pointer.ir}, i64 {expected.ir}, i64 {new.ir} seq_cst seq_cst, align 8", wide)
        old = b.let(f"extractvalue {{ i64, i1 }} {result.ir}, 0", wide)
        pair_low, pair_high = old.trunc(32), (old >> 32).trunc(32)
        same = old == expected
    c.write_back(slow)
    for equal in b.branch(same):
        if not equal:
            b.store(b.element(c.st, 8 * Gpr.RAX, 1, Pointer(U64)), pair_low.zext(64))
            b.store(b.element(c.st, 8 * Gpr.RDX, 1, Pointer(U64)), pair_high.zext(64))
    flags.write_eflags(c.st, same.zext(64) << 6, c.constant(flags.ZF))


def _cmpxchg16b(c: X86Context, host: Value) -> tuple[Value, Value, Value]:
    b = c.builder
    result = b.asm(
        "lock cmpxchg16b ($7); sete %sil; movzbl %sil, %esi",
        "={rax},={rdx},={rsi},{rax},{rdx},{rbx},{rcx},r,~{flags},~{memory}",
        "{ i64, i64, i64 }",
        [
            ("i64", c.reg(Gpr.RAX).ir),
            ("i64", c.reg(Gpr.RDX).ir),
            ("i64", c.reg(Gpr.RBX).ir),
            ("i64", c.reg(Gpr.RCX).ir),
            ("i64", host.get().ir),
        ],
    )
    parts = [b.let(f"extractvalue {{ i64, i64, i64 }} {result}, {i}", U64) for i in range(3)]
    return parts[0], parts[1], parts[2] != 0


_CONDITIONS = ("o", "no", "b", "nb", "z", "nz", "be", "nbe", "s", "ns", "p", "np", "l", "nl", "le", "nle")


def _condition_rows() -> list[Row]:
    rows = []
    for code, name in enumerate(_CONDITIONS):
        rows += [
            row(
                f"{0x70 + code:02X}",
                f"j{name}",
                "Jb",
                _jump_on(code),
                size="v",
                force64=True,
                ends=True,
                conditional=True,
            ),
            row(
                f"0F {0x80 + code:02X}",
                f"j{name}",
                "Jz",
                _jump_on(code),
                size="v",
                force64=True,
                ends=True,
                conditional=True,
            ),
            row(f"0F {0x90 + code:02X}", f"set{name}", "Eb", _set_on(code)),
            row(f"0F {0x40 + code:02X}", f"cmov{name}", "Gv Ev", _move_on(code)),
        ]
    return rows


ROWS: tuple[Row, ...] = (
    *_condition_rows(),
    row("88", "mov", "Eb Gb", move, flags="n"),
    row("89", "mov", "Ev Gv", move, flags="n"),
    row("8A", "mov", "Gb Eb", move, flags="n"),
    row("8B", "mov", "Gv Ev", move, flags="n"),
    row("C6 /0", "mov", "Eb Ib", move, flags="n"),
    row("C7 /0", "mov", "Ev Iz", move, flags="n"),
    row("B0 +r", "mov", "Zb Ib", move, flags="n"),
    row("B8 +r", "mov", "Zv Iv", move, flags="n"),
    row("A0", "mov_load_abs", "Ob", move_from_absolute, flags="n"),
    row("A1", "mov_load_abs", "Ov", move_from_absolute, flags="n"),
    row("A2", "mov_store_abs", "Ob", move_to_absolute, flags="n", stores=True),
    row("A3", "mov_store_abs", "Ov", move_to_absolute, flags="n", stores=True),
    row("8D m", "lea", "Gv Ma", load_address, flags="n"),
    row("0F B6", "movzx8", "Gv Eb", _extend(8, signed=False), flags="n", memory_bits=8),
    row("0F B7", "movzx16", "Gv Ew", _extend(16, signed=False), flags="n", memory_bits=16),
    row("0F BE", "movsx8", "Gv Eb", _extend(8, signed=True), flags="n", memory_bits=8),
    row("0F BF", "movsx16", "Gv Ew", _extend(16, signed=True), flags="n", memory_bits=16),
    row("63", "movsxd", "Gv Ed", sign_extend_double, flags="n", mode="64", memory_bits=32),
    row("98", "cbw", "", convert_accumulator, size="v", flags="n"),
    row("99", "cwd", "", convert_pair, size="v", flags="n"),
    row("90 +r", "xchg_acc", "Zv", exchange_accumulator, flags="n"),
    row("0F 1F", "nop", "Ev", nothing, flags="n", stores=False),
    row("0F 18", "nop", "Ev", nothing, flags="n", stores=False),
    row("0F 19", "nop", "Ev", nothing, flags="n", stores=False),
    row("0F 1A", "nop", "Ev", nothing, flags="n", stores=False),
    row("0F 1B", "nop", "Ev", nothing, flags="n", stores=False),
    row("0F 1C", "nop", "Ev", nothing, flags="n", stores=False),
    row("0F 1D", "nop", "Ev", nothing, flags="n", stores=False),
    row("0F 1E", "nop", "Ev", nothing, flags="n", stores=False),
    row("0F 0D", "nop", "Ev", nothing, flags="n", stores=False),
    row("50 +r", "push", "Zv", push, flags="n", stack=True, default64=True),
    row("58 +r", "pop", "Zv", pop, flags="n", stack=True, default64=True),
    row("FF /6", "push", "Ev", push, flags="n", stack=True, default64=True, stores=False),
    row("8F /0", "pop_rm", "Ev", pop_memory, flags="n", stack=True, default64=True, late=True),
    row("68", "push", "Iz", push, size="v", stack=True, default64=True),
    row("6A", "push", "Is", push, size="v", stack=True, default64=True),
    row("9C", "pushf", "", push_flags, size="v", stack=True, default64=True),
    row("9D", "popf", "", pop_flags, size="v", stack=True, default64=True, ends=True),
    row("9F", "lahf", "", load_ah),
    row("9E", "sahf", "", store_ah),
    row("C9", "leave", "", leave, size="v", stack=True, default64=True),
    row("F8", "clc", "", _set_carry("clc")),
    row("F9", "stc", "", _set_carry("stc")),
    row("F5", "cmc", "", _set_carry("cmc")),
    row("FC", "cld", "", _direction(down=False), flags="n"),
    row("FD", "std", "", _direction(down=True), flags="n"),
    row("E0", "loopne", "Jb", _loop("loopne"), size="v", force64=True, address_size=True, ends=True, conditional=True),
    row("E1", "loope", "Jb", _loop("loope"), size="v", force64=True, address_size=True, ends=True, conditional=True),
    row("E2", "loop", "Jb", _loop("loop"), size="v", force64=True, address_size=True, ends=True, conditional=True),
    row("E3", "jcxz", "Jb", _loop("jcxz"), size="v", force64=True, address_size=True, ends=True, conditional=True),
    row("EB", "jmp", "Jb", jump, size="v", force64=True, ends=True),
    row("E9", "jmp", "Jz", jump, size="v", force64=True, ends=True),
    row("E8", "call", "Jz", call, size="v", force64=True, stack=True, ends=True),
    row("FF /2", "call_rm", "Ev", call_indirect, force64=True, stack=True, ends=True, stores=False),
    row("FF /4", "jmp_rm", "Ev", jump_indirect, force64=True, ends=True, stores=False),
    row("C3", "ret", "", ret, size="v", force64=True, stack=True, ends=True),
    row("C2", "ret_n", "Iw", ret, size="v", force64=True, stack=True, ends=True),
    row("0F C7 /1 m", "cmpxchg8b", "Ey", compare_exchange_pair, lock=True, memory_bits=64),
)
