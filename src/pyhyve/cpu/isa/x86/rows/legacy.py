"""Rows of old integer instructions (SDM Vol. 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.cpu.isa.x86 import legacy
from pyhyve.cpu.isa.x86.state import Gpr, Seg
from pyhyve.cpu.isa.x86.strings import string_linear
from pyhyve.cpu.isa.x86.table import Row, row

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.cpu.isa.x86.context import X86Context

    Semantics = Callable[[X86Context], None]


def _with_flag(kernel: Any, subtract: int) -> Semantics:
    def semantics(c: X86Context) -> None:
        c.call(kernel, c.constant(subtract))

    return semantics


def _with_base(kernel: Any) -> Semantics:
    def semantics(c: X86Context) -> None:
        c.call(kernel, c.read(0, 8).zext(64))

    return semantics


def _bound(c: X86Context) -> None:
    index = c.read(0).sext(64)
    # The upper bound is not read when the lower one is broken.
    c.call(legacy.check_lower_bound, index, c.load(c.part(0, c.bits // 8), c.bits).sext(64))
    c.call(legacy.check_upper_bound, index, c.load(c.part(c.bits // 8, c.bits // 8), c.bits).sext(64))


def _enter(c: X86Context) -> None:
    c.call(legacy.enter, c.constant(c.bits // 8), c.symbol("V0", "u31"), c.symbol("V1", "u31"))


def _all(kernel: Any) -> Semantics:
    def semantics(c: X86Context) -> None:
        c.call(kernel, c.constant(c.bits // 8))

    return semantics


def _translate_byte(c: X86Context) -> None:
    """XLAT: AL := [rBX + AL]."""
    bits = c.variant.address_bits
    offset = (c.reg(Gpr.RBX, bits) + c.reg(Gpr.RAX, 8).zext(bits)).zext(64)
    override = c.symbol("V3", "u31")
    segment = c.builder.select(override < 8, override, c.constant(Seg.DS))
    linear = c.call(string_linear, offset, segment, c.constant(1), c.constant(0))
    c.set_reg(Gpr.RAX, c.load(linear, 8))


def _set_al_on_carry(c: X86Context) -> None:
    """SALC (undocumented): AL := CF ? FFh : 0."""
    c.set_reg(Gpr.RAX, c.carry_flag().sext(8))


ROWS: tuple[Row, ...] = (
    row("27", "daa", "", _with_flag(legacy.decimal_adjust, 0), mode="32"),
    row("2F", "das", "", _with_flag(legacy.decimal_adjust, 1), mode="32"),
    row("37", "aaa", "", _with_flag(legacy.ascii_adjust, 0), mode="32"),
    row("3F", "aas", "", _with_flag(legacy.ascii_adjust, 1), mode="32"),
    row("D4", "aam", "Ib", _with_base(legacy.aam), size="b", mode="32"),
    row("D5", "aad", "Ib", _with_base(legacy.aad), size="b", mode="32"),
    row("62 m", "bound", "Gv Mv", _bound, size="v", mode="32", stores=False, late=True),
    row("C8", "enter", "Iw Ib", _enter, size="v", default64=True),
    row("60", "pusha", "", _all(legacy.push_all), size="v", mode="32"),
    row("61", "popa", "", _all(legacy.pop_all), size="v", mode="32"),
    row("D7", "xlat", "", _translate_byte, address_size=True),
    row("D6", "salc", "", _set_al_on_carry, mode="32"),
)
