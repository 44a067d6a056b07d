"""Stencils that no opcode row asks for: block heads and ends, effective addresses, checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.cpu.isa.x86 import addressing, faults, legacy, x87_exceptions
from pyhyve.cpu.isa.x86.decode_tables import StencilKey
from pyhyve.cpu.isa.x86.state import Gpr
from pyhyve.cpu.isa.x86.variant import Variant
from pyhyve.cpu.lang.builder import UNLIKELY

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.cpu.isa.x86.context import X86Context
    from pyhyve.cpu.lang import Value


def head(c: X86Context) -> None:
    """Start of every block: leave when something is asked of this vCPU. Dropped blocks jump to its cold part."""
    request = c.builder.load(c.st.ref("request"), volatile=True)
    for asked in c.builder.branch(request != 0, UNLIKELY):
        if asked:
            c.st.left_block = c.symbol("HOT")
            c.save_pc()
            c.builder.ret()


def link(c: X86Context) -> None:
    """End of a block whose successor (V0) stands in the same page: the dispatcher makes it a jump.

    V1 is the place of a jump that leads here, 0 when the block falls through.
    """
    c.st.pc = c.symbol("V0")
    c.st.link_site = c.symbol("V1")
    c.st.link_stub = c.symbol("HOT")
    c.leave()


def goto(c: X86Context) -> None:
    """End of a block whose successor (V0) stands in another page."""
    c.go_to(c.symbol("V0"))


def leave(c: X86Context) -> None:
    """End of a block that must return to the dispatcher; V0 is the address to go on at."""
    c.st.pc = c.symbol("V0")
    c.leave()


def leave_shadowed(c: X86Context) -> None:
    """`leave` behind STI: no interrupt before one more instruction."""
    c.st.interrupt_shadow = 1
    leave(c)


def undefined(c: X86Context) -> None:
    """#UD."""
    c.save_pc()
    faults.ud(c.st)
    c.leave()


def too_long(c: X86Context) -> None:
    """#GP(0): an instruction of more than 15 bytes, or one that leads to where none can be."""
    c.save_pc()
    faults.gp(c.st, 0)
    c.leave()


def call_beyond(c: X86Context) -> None:
    """#GP(0): a CALL (operand size V0 bytes) to beyond its segment or to a non-canonical address.

    As on processors, the return address is stored.
    """
    c.call(legacy.push_without_moving, c.symbol("V0", "u31"), c.next_pc)
    faults.gp(c.st, 0)
    c.leave()


def loop_beyond(bits: int) -> Callable[[X86Context], None]:
    """#GP(0): a LOOP to beyond its segment, or to a non-canonical address, does not count."""

    def semantics(c: X86Context) -> None:
        c.save_pc()
        c.set_reg(Gpr.RCX, c.reg(Gpr.RCX, bits) + 1)
        c.commit()
        faults.gp(c.st, 0)
        c.leave()

    return semantics


def segment_base(c: X86Context) -> None:
    """Add a segment's base (V0: offset of the field) in 64-bit mode."""
    c.carried = c.address + c.slot(0, 64)[0]


def segment_check(c: X86Context) -> None:
    """Limit and rights of segment V0 (its number) for V1 bytes, V2: `ACCESS_*`; then add its base."""
    c.save_pc()
    linear = addressing.check_segment(
        c.st, c.address, c.symbol("V0", "u31"), c.symbol("V1", "u31"), c.symbol("V2", "u31")
    )
    c.check()
    c.carried = linear


def segment_note(c: X86Context) -> None:
    """Leave the number of the operand's segment (V0) for semantics that check it themselves."""
    c.st.ea_segment = c.symbol("V0", "u31")


def fpu_check(bit: int) -> Callable[[X86Context], None]:
    """#UD or #NM when the unit of `bit` cannot be used now."""

    def semantics(c: X86Context) -> None:

        for blocked in c.builder.branch((c.st.fpu_blocked & (1 << bit)) != 0, UNLIKELY):
            if blocked:
                c.save_pc()
                addressing.raise_fpu_blocked(c.st, bit)
                c.builder.ret()

    return semantics


def effective_address(
    bits: int, scale: int, *, base: bool, index: bool, displaced: bool
) -> Callable[[X86Context], None]:
    """V0: base slot, V1: index slot, V2: displacement."""

    def semantics(c: X86Context) -> None:
        def register(operand: int) -> Value:
            return c.builder.load(c.slot(operand, bits)).zext(64)

        if not base and not index:
            c.carried = c.symbol("V2")
            return
        total = register(0) if base else register(1) << scale
        if base and index:
            total = total + (register(1) << scale)
        if displaced:
            total = total + c.symbol("V2", "s32")
        c.carried = total if bits == 64 else total.trunc(bits).zext(64)

    return semantics


def bit_offset(bits: int, address_bits: int) -> Callable[[X86Context], None]:
    """Add what the bit offset in register V0 says beyond one operand of `bits` (BT, BTS, BTR, BTC of memory)."""

    def semantics(c: X86Context) -> None:
        index = c.builder.load(c.slot(0, bits))
        total = c.address + index.sar(bits.bit_length() - 1).sext(64) * (bits // 8)
        c.carried = total if address_bits == 64 else total.trunc(address_bits).zext(64)

    return semantics


def _bit_offsets() -> list[tuple[str, Callable[[X86Context], None]]]:
    return [
        (f"bit_offset{bits}_{address_bits}", bit_offset(bits, address_bits))
        for address_bits in (16, 32, 64)
        for bits in (16, 32, 64)
    ]


def _addresses() -> list[tuple[str, Callable[[X86Context], None]]]:
    return [
        (
            f"ea{bits}_{scale}{'b' if base else ''}{'i' if index else ''}{'d' if displaced else ''}",
            effective_address(bits, scale, base=base, index=index, displaced=displaced),
        )
        for displaced in (True, False)
        for bits in (16, 32, 64)
        for scale in range(4)
        for base in (False, True)
        for index in (False, True)
    ]


_ALL: list[tuple[str, Callable[[X86Context], None]]] = [
    ("head", head),
    ("link", link),
    ("goto", goto),
    ("leave", leave),
    ("leave_shadowed", leave_shadowed),
    ("undefined", undefined),
    ("too_long", too_long),
    ("call_beyond", call_beyond),
    ("loop_beyond16", loop_beyond(16)),
    ("loop_beyond32", loop_beyond(32)),
    ("loop_beyond64", loop_beyond(64)),
    ("segment_base", segment_base),
    ("segment_check", segment_check),
    ("segment_note", segment_note),
    ("fpu_wait", x87_exceptions.check_pending),
    ("fpu_check1", fpu_check(1)),
    ("fpu_check2", fpu_check(2)),
    ("fpu_check3", fpu_check(3)),
    *_addresses(),
    *_bit_offsets(),
]
NUMBERS = {name: i for i, (name, _) in enumerate(_ALL)}
EA_FIRST = NUMBERS["ea16_0d"]
EA_PLAIN = NUMBERS["ea16_0"]
"""The first of those without a displacement."""
BIT_OFFSET_FIRST = NUMBERS["bit_offset16_16"]


def special_stencils() -> list[StencilKey]:
    """Keys, in the order of `NUMBERS`."""
    return [StencilKey(name, Variant(0, ()), semantics) for name, semantics in _ALL]


__all__ = ["BIT_OFFSET_FIRST", "EA_FIRST", "EA_PLAIN", "NUMBERS", "special_stencils"]
