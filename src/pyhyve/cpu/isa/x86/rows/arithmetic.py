"""Integer arithmetic, logic, shifts and bit instructions (SDM Vol. 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.cpu.isa.x86 import arithmetic as kernels
from pyhyve.cpu.isa.x86 import flags
from pyhyve.cpu.isa.x86.state import Gpr
from pyhyve.cpu.isa.x86.table import Row, row
from pyhyve.cpu.lang import BOOL, Int, Value
from pyhyve.cpu.lang.builder import UNLIKELY

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.cpu.isa.x86.context import X86Context

    Semantics = Callable[[X86Context], None]

_ATOMIC = {"add": "add", "or": "or", "and": "and", "sub": "sub", "xor": "xor"}


def _read_modify_write(c: X86Context, change: Callable[[Value, Value], tuple[Value, Callable[[], None]]]) -> None:
    """Destination 0 := change(destination, source 1); flags are set after the write."""
    if not c.variant.lock:
        a, b = c.read_for_update(0), c.read(1)
        result, set_flags = change(a, b)
        c.update(0, result)
        set_flags()
        return
    b = c.read(1)
    locked_update(c, lambda a: change(a, b))


def locked_update(c: X86Context, change: Callable[[Value], tuple[Value, Callable[[], None]]]) -> Value:
    """Atomically replace the memory operand by `change` of it; returns the old value."""
    pointer, slow = c.update_pointer()
    b = c.builder
    kind = Int(c.bits)
    old = b.variable(kind, pointer[0])
    done = b.variable(BOOL, 0)
    for _ in b.loop(lambda: done.get() ^ 1):
        expected = old.get()
        result, _ = change(expected)
        pair = b.let(
            f"cmpxchg ptr {pointer.ir}, {kind.ir} {expected.ir}, {kind.ir} {result.get().ir} "
            f"seq_cst seq_cst, align {c.bits // 8}",
            kind,
        )
        seen = b.let(f"extractvalue {{ {kind.ir}, i1 }} {pair.ir}, 0", kind)
        done.set(b.let(f"extractvalue {{ {kind.ir}, i1 }} {pair.ir}, 1", BOOL))
        for failed in b.branch(done.get() ^ 1, UNLIKELY):
            if failed:
                old.set(seen)
    c.write_back(slow)
    final = old.get()
    change(final)[1]()
    return final


def _binary(name: str) -> Semantics:
    def semantics(c: X86Context) -> None:
        carry = c.carry_flag().zext(c.bits) if name in {"adc", "sbb"} else None

        def change(a: Value, b: Value) -> tuple[Value, Callable[[], None]]:
            if name in {"add", "adc"}:
                result = a + b if carry is None else a + b + carry
                return result, lambda: c.flags_add(a, b, result) if carry is None else c.set_flags(
                    result, flags.carry_word(flags.add_carries(a, b, result))
                )
            if name in {"sub", "sbb"}:
                result = a - b if carry is None else a - b - carry
                return result, lambda: c.flags_subtract(a, b, result) if carry is None else c.set_flags(
                    result, flags.carry_word(flags.subtract_borrows(a, b, result))
                )
            result = {"and": a & b, "or": a | b, "xor": a ^ b}[name]
            return result, lambda: c.flags_logic(result)

        _read_modify_write(c, change)

    return semantics


def compare(c: X86Context) -> None:
    """CMP."""
    a, b = c.read(0), c.read(1)
    c.flags_subtract(a, b, a - b)


def test(c: X86Context) -> None:
    """TEST."""
    c.flags_logic(c.read(0) & c.read(1))


def _step(*, up: bool) -> Semantics:
    """INC and DEC: CF stays."""

    def semantics(c: X86Context) -> None:
        carry = c.aux() & (1 << flags.AUX_CF)

        def change(a: Value) -> tuple[Value, Callable[[], None]]:
            one = c.constant(1, c.bits)
            result = a + one if up else a - one

            def set_flags() -> None:
                carries = flags.add_carries(a, one, result) if up else flags.subtract_borrows(a, one, result)
                word = flags.carry_word(carries)
                overflow = (word ^ (word << 1)) & (1 << flags.AUX_CF)
                partial = (carry ^ overflow) >> 1
                c.set_flags(result, (word & (1 << flags.AUX_AF)) | carry | partial)

            return result, set_flags

        _unary(c, change)

    return semantics


def _unary(c: X86Context, change: Callable[[Value], tuple[Value, Callable[[], None]]]) -> None:
    if c.variant.lock:
        locked_update(c, change)
        return
    result, set_flags = change(c.read_for_update(0))
    c.update(0, result)
    set_flags()


def negate(c: X86Context) -> None:
    """NEG."""

    def change(a: Value) -> tuple[Value, Callable[[], None]]:
        zero = c.constant(0, c.bits)
        result = zero - a
        return result, lambda: c.flags_subtract(zero, a, result)

    _unary(c, change)


def invert(c: X86Context) -> None:
    """NOT."""
    _unary(c, lambda a: (~a, lambda: None))


def exchange(c: X86Context) -> None:
    """XCHG; always locked with memory."""
    if c.form(0) == "m":
        new = c.read(1)
        pointer, slow = c.update_pointer()
        kind = Int(c.bits)
        old = c.builder.let(f"atomicrmw xchg ptr {pointer.ir}, {kind.ir} {new.ir} seq_cst, align {c.bits // 8}", kind)
        c.write_back(slow)
        c.write(1, old)
        return
    a, b = c.read(0), c.read(1)
    c.write(0, b)
    c.write(1, a)


def exchange_add(c: X86Context) -> None:
    """XADD."""
    b = c.read(1)

    def change(a: Value) -> tuple[Value, Callable[[], None]]:
        result = a + b
        return result, lambda: c.flags_add(a, b, result)

    if c.variant.lock:
        c.write(1, locked_update(c, change))
        return
    old = c.read_for_update(0)
    result, set_flags = change(old)
    if c.form(0) == "m":
        c.update(0, result)
        c.write(1, old)
    else:
        c.write(1, old)
        c.write(0, result)
    set_flags()


def compare_exchange(c: X86Context) -> None:
    """CMPXCHG: the destination is written in either case, so it must be writable."""
    expected, new = c.reg(Gpr.RAX, c.bits), c.read(1)
    if c.form(0) == "m":
        pointer, slow = c.update_pointer()
        kind = Int(c.bits)
        if c.variant.lock:
            pair = c.builder.let(
                f"cmpxchg ptr {pointer.ir}, {kind.ir} {expected.ir}, {kind.ir} {new.ir} "
                f"seq_cst seq_cst, align {c.bits // 8}",
                kind,
            )
            old = c.builder.let(f"extractvalue {{ {kind.ir}, i1 }} {pair.ir}, 0", kind)
        else:
            old = pointer[0]
            c.builder.store(pointer, c.builder.select(old == expected, new, old))
        c.write_back(slow)
    else:
        old = c.read(0)
        # A destination that does not match is left alone, the upper half of a 32-bit register too.
        width = 64 if c.bits == 32 else c.bits
        kept_destination = c.builder.load(c.slot(0, width))
        c.write(0, c.builder.select(old == expected, new.zext(width), kept_destination))
    same = old == expected
    target = 64 if c.bits == 32 else c.bits
    kept = c.reg(Gpr.RAX, target)
    loaded = old.zext(target)
    if c.form(0) == "r":
        # The destination may be the accumulator itself: then it holds `new` already.
        c.commit()
        kept = c.reg(Gpr.RAX, target)
    c.set_reg(Gpr.RAX, c.builder.select(same, kept, loaded))
    c.flags_subtract(expected, old, expected - old)


def _multiply_wide(*, signed: bool) -> Semantics:
    """MUL and one-operand IMUL."""

    def semantics(c: X86Context) -> None:
        bits = c.bits
        a, b = c.reg(Gpr.RAX, bits), c.read(0)
        product = a.sext(2 * bits) * b.sext(2 * bits) if signed else a.zext(2 * bits) * b.zext(2 * bits)
        low, high = product.trunc(bits), (product >> bits).trunc(bits)
        over = high != low.sar(bits - 1) if signed else high != 0
        if bits == 8:
            c.set_reg(Gpr.RAX, product)
        else:
            c.set_reg(Gpr.RAX, low)
            c.set_reg(Gpr.RDX, high)
        c.set_flags(low, flags.explicit_aux(over, over))

    return semantics


def _multiply(sources: tuple[int, int]) -> Semantics:
    """Two- and three-operand IMUL."""

    def semantics(c: X86Context) -> None:
        bits = c.bits
        a, b = c.read(sources[0]), c.read(sources[1])
        product = a.sext(2 * bits) * b.sext(2 * bits)
        low = product.trunc(bits)
        over = product != low.sext(2 * bits)
        c.write(0, low)
        c.set_flags(low, flags.explicit_aux(over, over))

    return semantics


def _divide(*, signed: bool) -> Semantics:
    """DIV and IDIV: #DE for zero or a quotient too large. Flags are undefined: left alone."""

    def semantics(c: X86Context) -> None:
        divisor = c.read(0)
        helper = kernels.divide[c.bits, signed]
        c.call(helper, divisor)

    return semantics


def _count(c: X86Context, operand: int) -> Value:
    """The masked count of a shift: CL, immediate operand number `operand`, or 1 when there is none."""
    if c.count_from == "cl":
        raw = c.reg(Gpr.RCX, 8).zext(32)
    elif operand < len(c.variant.forms):
        raw = c.read(operand, 8).zext(32)
    else:
        return c.constant(1, 32)
    return raw & (63 if c.bits == 64 else 31)


def _shift(name: str) -> Semantics:
    """SHL, SHR, SAR by an immediate, 1 or CL: nothing changes when the masked count is zero."""

    def semantics(c: X86Context) -> None:
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


def _alu_rows() -> list[Row]:
    rows = []
    for number, name in enumerate(("add", "or", "adc", "sbb", "and", "sub", "xor", "cmp")):
        semantics = compare if name == "cmp" else _binary(name)
        kind = "r" if name in {"adc", "sbb"} else "w"
        base = number * 8
        lock = name != "cmp"
        stores = lock
        for opcode, operands, allowed in (
            (f"{base:02X}", "Eb Gb", lock), (f"{base + 1:02X}", "Ev Gv", lock),
            (f"{base + 2:02X}", "Gb Eb", False), (f"{base + 3:02X}", "Gv Ev", False),
            (f"80 /{number}", "Eb Ib", lock), (f"81 /{number}", "Ev Iz", lock), (f"83 /{number}", "Ev Is", lock),
        ):
            rows.append(row(opcode, name, operands, semantics, flags=kind, lock=allowed,
                            stores=stores and operands[0] == "E"))
        rows.append(row(f"82 /{number}", name, "Eb Ib", semantics, flags=kind, lock=lock, mode="32", stores=stores))
        rows.append(row(f"{base + 4:02X}", f"{name}_al", "Ib", _accumulator(semantics), size="b", flags=kind))
        rows.append(row(f"{base + 5:02X}", f"{name}_ax", "Iz", _accumulator(semantics), size="v", flags=kind))
    return rows


def _accumulator(semantics: Semantics) -> Semantics:
    """The form whose destination is AL/AX/EAX/RAX and whose operand 0 is the source."""

    def wrapped(c: X86Context) -> None:
        c.accumulator = True
        semantics(c)

    return wrapped


def _shift_rows() -> list[Row]:
    rows = []
    table: tuple[tuple[int, str, Semantics], ...] = (
        (0, "rol", _rotate("rol")), (1, "ror", _rotate("ror")), (2, "rcl", _rotate_carry("rcl")),
        (3, "rcr", _rotate_carry("rcr")), (4, "shl", _shift("shl")), (5, "shr", _shift("shr")),
        (6, "shl", _shift("shl")), (7, "sar", _shift("sar")),
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
    *_alu_rows(),
    *_shift_rows(),
    row("84", "test", "Eb Gb", test, flags="w", stores=False),
    row("85", "test", "Ev Gv", test, flags="w", stores=False),
    row("A8", "test_al", "Ib", _accumulator(test), size="b", flags="w"),
    row("A9", "test_ax", "Iz", _accumulator(test), size="v", flags="w"),
    row("F6 /0", "test", "Eb Ib", test, flags="w", stores=False),
    row("F6 /1", "test", "Eb Ib", test, flags="w", stores=False),
    row("F7 /0", "test", "Ev Iz", test, flags="w", stores=False),
    row("F7 /1", "test", "Ev Iz", test, flags="w", stores=False),
    row("F6 /2", "not", "Eb", invert, flags="n", lock=True),
    row("F7 /2", "not", "Ev", invert, flags="n", lock=True),
    row("F6 /3", "neg", "Eb", negate, flags="w", lock=True),
    row("F7 /3", "neg", "Ev", negate, flags="w", lock=True),
    row("F6 /4", "mul", "Eb", _multiply_wide(signed=False), flags="w", stores=False),
    row("F7 /4", "mul", "Ev", _multiply_wide(signed=False), flags="w", stores=False),
    row("F6 /5", "imul1", "Eb", _multiply_wide(signed=True), flags="w", stores=False),
    row("F7 /5", "imul1", "Ev", _multiply_wide(signed=True), flags="w", stores=False),
    row("F6 /6", "div", "Eb", _divide(signed=False), stores=False),
    row("F7 /6", "div", "Ev", _divide(signed=False), stores=False),
    row("F6 /7", "idiv", "Eb", _divide(signed=True), stores=False),
    row("F7 /7", "idiv", "Ev", _divide(signed=True), stores=False),
    row("0F AF", "imul2", "Gv Ev", _multiply((0, 1)), flags="w"),
    row("69", "imul3", "Gv Ev Iz", _multiply((1, 2)), flags="w"),
    row("6B", "imul3", "Gv Ev Is", _multiply((1, 2)), flags="w"),
    row("FE /0", "inc", "Eb", _step(up=True), flags="p", lock=True),
    row("FF /0", "inc", "Ev", _step(up=True), flags="p", lock=True),
    row("FE /1", "dec", "Eb", _step(up=False), flags="p", lock=True),
    row("FF /1", "dec", "Ev", _step(up=False), flags="p", lock=True),
    row("40 +r", "inc", "Zv", _step(up=True), flags="p", mode="32"),
    row("48 +r", "dec", "Zv", _step(up=False), flags="p", mode="32"),
    row("86", "xchg", "Eb Gb", exchange, flags="n", lock=True),
    row("87", "xchg", "Ev Gv", exchange, flags="n", lock=True),
    row("0F C0", "xadd", "Eb Gb", exchange_add, flags="w", lock=True),
    row("0F C1", "xadd", "Ev Gv", exchange_add, flags="w", lock=True),
    row("0F B0", "cmpxchg", "Eb Gb", compare_exchange, flags="w", lock=True),
    row("0F B1", "cmpxchg", "Ev Gv", compare_exchange, flags="w", lock=True),
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
