"""Shifts, rotates and bit instructions (SDM Vol. 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.cpu.isa.x86 import arithmetic as kernels
from pyhyve.cpu.isa.x86 import flags
from pyhyve.cpu.isa.x86.rows.arithmetic import locked_update
from pyhyve.cpu.isa.x86.state import Gpr
from pyhyve.cpu.isa.x86.table import Row, row
from pyhyve.cpu.lang import BOOL, Int, Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.cpu.isa.x86.context import X86Context

    Semantics = Callable[[X86Context], None]


_HOST_SUFFIXES = {32: "l", 64: "q"}


def _count(c: X86Context, operand: int) -> Value:
    """The masked count of a shift: CL, immediate operand number `operand`, or 1 when there is none."""
    if c.count_from == "cl":
        raw = c.reg(Gpr.RCX, 8).zext(32)
    elif operand < len(c.variant.forms):
        raw = c.read(operand, 8).zext(32)
    else:
        return c.constant(1, 32)
    return raw & (63 if c.bits == 64 else 31)


def _by_patched_count(c: X86Context, name: str) -> bool:
    """The host's own shift by an immediate, when the flags are dead; False where this form has no place for that.

    The count is patched into the instruction, which masks it as the guest's does.
    """
    if not c.variant.no_flags or c.bits not in _HOST_SUFFIXES or c.variant.forms != ("r", "i"):
        return False
    kind = Int(c.bits)
    template = f"{name}{_HOST_SUFFIXES[c.bits]} $$V1, $0"
    result = c.builder.asm(template, "=r,0,~{flags}", kind.ir, [(kind.ir, c.read(0).ir)])
    c.write(0, Value(c.builder, result, kind))
    return True


def _shift(name: str) -> Semantics:
    """SHL, SHR, SAR by an immediate, 1 or CL: nothing changes when the masked count is zero."""

    def semantics(c: X86Context) -> None:
        if c.count_from == "" and _by_patched_count(c, name):
            return
        bits = c.bits
        b = c.builder
        one = c.count_from == "" and len(c.variant.forms) == 1
        count = _count(c, 1)
        value = c.read_for_update(0)
        wide = max(bits, 32)
        amount = count.zext(wide) if wide > 32 else count
        a = value.zext(wide) if name != "sar" else value.sext(wide)
        last = b.let(f"sub i{wide} {amount.ir}, 1", Int(wide)) & (wide - 1)
        if name == "shl":
            # Counts past the width (8 and 16 bits) shift everything out; the 32-bit form does that by itself.
            shifted = a << amount
            carry = ((a << last) >> (bits - 1)).trunc(1)
        elif name == "shr":
            shifted = a >> amount
            carry = (a >> last).trunc(1)
        else:
            shifted = a.sar(amount)
            carry = a.sar(last).trunc(1)
        result = shifted.trunc(bits)
        top = (result >> (bits - 1)).trunc(1)
        if name == "shl":
            overflow = top ^ carry
        elif name == "shr":
            overflow = (value >> (bits - 1)).trunc(1)
        else:
            overflow = b.value(0, BOOL)
        if one:
            c.update(0, result)
            c.set_flags(result, flags.explicit_aux(carry, overflow))
            return
        zero = count == 0
        c.update(0, b.select(zero, value, result))
        old_aux, old_result = c.aux(), c.st.fl_result
        c.set_flags(
            b.select(zero, old_result, result.sext(64)),
            b.select(zero, old_aux, flags.explicit_aux(carry, overflow)),
        )

    return semantics


def _rotate(name: str) -> Semantics:
    """ROL and ROR: CF and OF only; nothing changes when the masked count is zero."""

    def semantics(c: X86Context) -> None:
        if c.count_from == "" and _by_patched_count(c, name):
            return
        bits = c.bits
        b = c.builder
        count = _count(c, 1)
        value = c.read_for_update(0)
        amount = count.to(bits) if bits != 32 else count
        funnel = "fshl" if name == "rol" else "fshr"
        result = b.intrinsic(f"llvm.{funnel}.i{bits}", Int(bits), value, value, amount)
        c.update(0, result)
        top = (result >> (bits - 1)).trunc(1)
        if name == "rol":
            carry = result.trunc(1)
            overflow = carry ^ top
        else:
            carry = top
            overflow = top ^ (result >> (bits - 2)).trunc(1)
        _set_carry_overflow(c, carry, overflow, count == 0)

    return semantics


def _set_carry_overflow(c: X86Context, carry: Value, overflow: Value, unchanged: Value) -> None:
    """Replace CF and OF, unless `unchanged`."""
    if c.variant.no_flags:
        return
    old = c.aux()
    word = (old & 0x3FFFFFFF) | flags.explicit_aux(carry, overflow)
    c.hold("fl_aux", c.builder.select(unchanged, old, word))


def _rotate_carry(name: str) -> Semantics:
    """RCL and RCR, through a kernel: the count is taken modulo the width plus one."""

    def semantics(c: X86Context) -> None:
        count = _count(c, 1).zext(64)
        value = c.read_for_update(0)
        result = kernels.rotate_carry[c.bits, name](c.st, value.zext(64), count)
        c.update(0, result.trunc(c.bits))
        c.hold("fl_aux", c.st.last_error)

    return semantics


def _double_shift(*, left: bool) -> Semantics:
    """SHLD and SHRD."""

    def semantics(c: X86Context) -> None:
        bits = c.bits
        b = c.builder
        count = _count(c, 2)
        value, fill = c.read_for_update(0), c.read(1)
        if bits == 16:
            _double_shift_16(c, value, fill, count, left=left)
            return
        amount = count.to(bits) if bits != 32 else count
        one = amount - 1
        if left:
            result = b.intrinsic(f"llvm.fshl.i{bits}", Int(bits), value, fill, amount)
            before = b.intrinsic(f"llvm.fshl.i{bits}", Int(bits), value, fill, one)
            carry = (before >> (bits - 1)).trunc(1)
        else:
            result = b.intrinsic(f"llvm.fshr.i{bits}", Int(bits), fill, value, amount)
            before = b.intrinsic(f"llvm.fshr.i{bits}", Int(bits), fill, value, one)
            carry = before.trunc(1)
        zero = count == 0
        c.update(0, b.select(zero, value, result))
        overflow = ((result ^ value) >> (bits - 1)).trunc(1)
        c.set_flags(
            b.select(zero, c.st.fl_result, result.sext(64)),
            b.select(zero, c.aux(), flags.explicit_aux(carry, overflow)),
        )

    return semantics


def _double_shift_16(c: X86Context, value: Value, fill: Value, count: Value, *, left: bool) -> None:
    """SHLD and SHRD of 16 bits: a count of 16 takes all of `fill`; beyond, undefined, `value` follows once more."""
    wide = (value.zext(64) << 32) | (fill.zext(64) << 16) | value.zext(64)
    amount = count.zext(64)
    if left:
        result = ((wide << amount) >> 32).trunc(16)
        carry = (wide >> (48 - amount)).trunc(1)
    else:
        result = (wide >> amount).trunc(16)
        carry = ((wide << 1) >> amount).trunc(1)
    zero = count == 0
    c.update(0, result)
    overflow = ((result ^ value) >> 15).trunc(1)
    b = c.builder
    c.set_flags(
        b.select(zero, c.st.fl_result, result.sext(64)),
        b.select(zero, c.aux(), flags.explicit_aux(carry, overflow)),
    )


def _bit_test(name: str) -> Semantics:
    """BT, BTS, BTR, BTC: a register bit offset reaches beyond a memory operand (`specials.bit_offset` sees to that)."""

    def semantics(c: X86Context) -> None:
        bits = c.bits
        index = c.read(1) if c.form(1) == "r" else c.read(1, 8).zext(bits)
        offset = index & (bits - 1)
        mask = c.constant(1, bits) << offset

        def change(a: Value) -> tuple[Value, Callable[[], None]]:
            result = {"bt": a, "bts": a | mask, "btr": a & ~mask, "btc": a ^ mask}[name]
            carry = (a >> offset).trunc(1).zext(32)

            def set_carry() -> None:
                if c.variant.no_flags:
                    return
                old = c.aux()
                was = (old >> flags.AUX_CF) ^ carry
                c.hold("fl_aux", old ^ (was * 0xC0000000))

            return result, set_carry

        if name == "bt":
            change(c.read(0))[1]()
        elif c.variant.lock:
            locked_update(c, change)
        else:
            result, set_carry = change(c.read_for_update(0))
            c.update(0, result)
            set_carry()

    return semantics


def _bit_scan(*, forward: bool) -> Semantics:
    """BSF and BSR: a zero source sets ZF and leaves the destination (64 bits of it) as it is."""

    def semantics(c: X86Context) -> None:
        bits = c.bits
        b = c.builder
        source = c.read(1)
        name = "cttz" if forward else "ctlz"
        b.module.declare(f"declare i{bits} @llvm.{name}.i{bits}(i{bits}, i1)")
        found = b.let(f"call i{bits} @llvm.{name}.i{bits}(i{bits} {source.ir}, i1 false)", Int(bits))
        result = found if forward else (bits - 1) - found
        zero = source == 0
        if bits == 32:
            old = b.load(c.slot(0, 64))
            c.write(0, b.select(zero, old, result.zext(64)))
        else:
            c.write(0, b.select(zero, c.read(0), result))
        # ZF from the source; the rest is undefined, and left as for a logical operation.
        c.flags_logic(source)

    return semantics


def byte_swap(c: X86Context) -> None:
    """BSWAP; of a 16-bit register it is undefined (zero here, as processors do)."""
    if c.bits == 16:
        c.write(0, c.constant(0, 16))
        return
    c.write(0, c.builder.intrinsic(f"llvm.bswap.i{c.bits}", Int(c.bits), c.read(0)))


def population_count(c: X86Context) -> None:
    """POPCNT: ZF from the source, the others cleared."""
    source = c.read(1)
    c.write(0, c.builder.intrinsic(f"llvm.ctpop.i{c.bits}", Int(c.bits), source))
    # SF and PF are clear too: one (odd, positive) or zero with its parity inverted.
    zero = source == 0
    c.set_flags(1 - zero.zext(64), zero.zext(32) << 8)


def _shift_rows() -> list[Row]:
    rows = []
    table: tuple[tuple[int, str, Semantics], ...] = (
        (0, "rol", _rotate("rol")),
        (1, "ror", _rotate("ror")),
        (2, "rcl", _rotate_carry("rcl")),
        (3, "rcr", _rotate_carry("rcr")),
        (4, "shl", _shift("shl")),
        (5, "shr", _shift("shr")),
        (6, "shl", _shift("shl")),
        (7, "sar", _shift("sar")),
    )
    for number, name, semantics in table:
        # Rotation through carry reads CF.
        partial = "r" if name in {"rcl", "rcr"} else "p"
        for size, by_immediate, by_one, by_cl in (("b", "C0", "D0", "D2"), ("v", "C1", "D1", "D3")):
            rows += [
                row(f"{by_immediate} /{number}", name, f"E{size} Ib", semantics, flags=partial),
                row(f"{by_one} /{number}", name, f"E{size}", semantics, flags="w" if number > 3 else "r"),
                row(f"{by_cl} /{number}", f"{name}_cl", f"E{size}", _by_cl(semantics), flags=partial),
            ]
    return rows


def _by_cl(semantics: Semantics) -> Semantics:
    """The form whose count is CL."""

    def wrapped(c: X86Context) -> None:
        c.count_from = "cl"
        semantics(c)

    return wrapped


ROWS: tuple[Row, ...] = (
    *_shift_rows(),
    row("0F A4", "shld", "Ev Gv Ib", _double_shift(left=True), flags="p"),
    row("0F A5", "shld_cl", "Ev Gv", _by_cl(_double_shift(left=True)), flags="p"),
    row("0F AC", "shrd", "Ev Gv Ib", _double_shift(left=False), flags="p"),
    row("0F AD", "shrd_cl", "Ev Gv", _by_cl(_double_shift(left=False)), flags="p"),
    row("0F A3", "bt", "Ev Gv", _bit_test("bt"), flags="p", stores=False),
    row("0F AB", "bts", "Ev Gv", _bit_test("bts"), flags="p", lock=True),
    row("0F B3", "btr", "Ev Gv", _bit_test("btr"), flags="p", lock=True),
    row("0F BB", "btc", "Ev Gv", _bit_test("btc"), flags="p", lock=True),
    row("0F BA /4", "bt", "Ev Ib", _bit_test("bt"), flags="p", stores=False),
    row("0F BA /5", "bts", "Ev Ib", _bit_test("bts"), flags="p", lock=True),
    row("0F BA /6", "btr", "Ev Ib", _bit_test("btr"), flags="p", lock=True),
    row("0F BA /7", "btc", "Ev Ib", _bit_test("btc"), flags="p", lock=True),
    row("0F BC", "bsf", "Gv Ev", _bit_scan(forward=True), flags="w"),
    row("0F BD", "bsr", "Gv Ev", _bit_scan(forward=False), flags="w"),
    row("F3 0F B8", "popcnt", "Gv Ev", population_count, flags="w"),
    row("0F C8 +r", "bswap", "Zv", byte_swap, flags="n"),
)
