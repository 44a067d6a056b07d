"""Integer arithmetic and logic (SDM Vol. 2)."""

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
                return (
                    result,
                    lambda: (
                        c.flags_add(a, b, result)
                        if carry is None
                        else c.set_flags(result, flags.carry_word(flags.add_carries(a, b, result)))
                    ),
                )
            if name in {"sub", "sbb"}:
                result = a - b if carry is None else a - b - carry
                return (
                    result,
                    lambda: (
                        c.flags_subtract(a, b, result)
                        if carry is None
                        else c.set_flags(result, flags.carry_word(flags.subtract_borrows(a, b, result)))
                    ),
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
        a, b = c.in_register(c.reg(Gpr.RAX, bits)), c.in_register(c.read(0))
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


def _alu_rows() -> list[Row]:
    rows = []
    for number, name in enumerate(("add", "or", "adc", "sbb", "and", "sub", "xor", "cmp")):
        semantics = compare if name == "cmp" else _binary(name)
        kind = "r" if name in {"adc", "sbb"} else "w"
        base = number * 8
        lock = name != "cmp"
        stores = lock
        for opcode, operands, allowed in (
            (f"{base:02X}", "Eb Gb", lock),
            (f"{base + 1:02X}", "Ev Gv", lock),
            (f"{base + 2:02X}", "Gb Eb", False),
            (f"{base + 3:02X}", "Gv Ev", False),
            (f"80 /{number}", "Eb Ib", lock),
            (f"81 /{number}", "Ev Iz", lock),
            (f"83 /{number}", "Ev Is", lock),
        ):
            rows.append(
                row(opcode, name, operands, semantics, flags=kind, lock=allowed, stores=stores and operands[0] == "E")
            )
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


ROWS: tuple[Row, ...] = (
    *_alu_rows(),
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
)
