"""Makers of MMX semantics: executed in XMM registers, whose high halves are kept zero or dropped.

Host MMX would clobber the host's x87 registers. Every MMX instruction except EMMS sets TOP to 0 and makes all eight
registers valid; a written one gets all ones in bits 64-79 (SDM Vol. 1, 9.5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.cpu.isa.x86 import simd, x87_exceptions
from pyhyve.cpu.isa.x86.simd import apply, low, source, widen
from pyhyve.cpu.isa.x86.simd_exceptions import VECTOR, guarded
from pyhyve.cpu.lang import Int, Value

if TYPE_CHECKING:
    from pyhyve.cpu.isa.x86.context import X86Context
    from pyhyve.cpu.isa.x86.simd import Semantics


def finish(c: X86Context) -> None:
    """The registers are MMX registers from now on.

    After loads that may fault, but before floating-point exceptions; before stores that fault TOP only, as on
    processors.
    """
    c.st.fp_top = 0
    c.st.fp_valid = 0xFF


def read(c: X86Context, operand: int, bits: int = 64) -> Value:
    """64 bits of an MMX register, or `bits` of memory zero-extended."""
    if c.form(operand) == "m":
        return c.load(c.address, bits).zext(64)
    return c.builder.load(c.slot(operand, 64))


def write(c: X86Context, operand: int, value: Value) -> None:
    """Write an MMX register, and `finish`."""
    c.builder.store(c.slot(operand, 64), value)
    c.builder.store(c.slot(operand, 16).offset(8), 0xFFFF)
    finish(c)


def _join(c: X86Context, first: str, second: str) -> str:
    return apply(c, "punpcklqdq $2, $0", first, second)


def binary(name: str, bits: int = 64) -> Semantics:
    """P = P op Q, element by element within 64 bits; `bits` are read from memory."""

    def semantics(c: X86Context) -> None:
        b = widen(c, read(c, 1, bits))
        write(c, 0, low(c, apply(c, f"{name} $2, $0", source(c, 0), b)))

    return semantics


def joined(name: str) -> Semantics:
    """P = P op Q for operations that narrow or add neighbours: both operands side by side in one register."""

    def semantics(c: X86Context) -> None:
        b = widen(c, read(c, 1))
        both = _join(c, source(c, 0), b)
        write(c, 0, low(c, apply(c, f"{name} $0, $0", both)))

    return semantics


def unpack_high(name: str) -> Semantics:
    """PUNPCKH of 64 bits: the upper half of what the 128-bit PUNPCKL makes."""
    template = f"{name.replace('punpckh', 'punpckl')} $2, $0\\0A psrldq $$8, $0"

    def semantics(c: X86Context) -> None:
        b = widen(c, read(c, 1))
        write(c, 0, low(c, apply(c, template, source(c, 0), b)))

    return semantics


def shuffle_bytes(c: X86Context) -> None:
    """PSHUFB: three index bits instead of four."""
    b = widen(c, read(c, 1) & 0x8787_8787_8787_8787)
    write(c, 0, low(c, apply(c, "pshufb $2, $0", source(c, 0), b)))


def align(c: X86Context) -> None:
    """PALIGNR."""
    b = widen(c, read(c, 1))
    write(c, 0, low(c, apply(c, "psrldq $$V2, $0", _join(c, b, source(c, 0)))))


def unary(name: str, *, immediate: bool = False) -> Semantics:
    """P = op Q."""
    template = f"{name} {simd.IMMEDIATE if immediate else ''}$1, $0"

    def semantics(c: X86Context) -> None:
        b = widen(c, read(c, 1))
        write(c, 0, low(c, apply(c, template, b, tied=False)))

    return semantics


def shift_immediate(name: str) -> Semantics:
    """N = N shifted by an immediate."""

    def semantics(c: X86Context) -> None:
        write(c, 0, low(c, apply(c, f"{name} $$V1, $0", source(c, 0))))

    return semantics


def move(c: X86Context) -> None:
    """MOVQ between MMX registers and memory."""
    value = read(c, 1)
    if c.form(0) == "m":
        c.st.fp_top = 0
        c.store(c.part(0, 8, write=True), value)
        finish(c)
    else:
        write(c, 0, value)


def from_register(c: X86Context) -> None:
    """MOVD, MOVQ from a general register or memory."""
    write(c, 0, c.read(1).zext(64))


def to_register(c: X86Context) -> None:
    """MOVD, MOVQ to a general register or memory."""
    c.st.fp_top = 0
    value = c.builder.load(c.slot(1, c.bits))
    if c.form(0) == "m":
        c.store(c.part(0, c.bits // 8, write=True), value)
    else:
        c.write(0, value)
    finish(c)


def _lane(c: X86Context, operand: int) -> Value:
    """Bit position of the word that an immediate selects."""
    return (c.read(operand, 32).zext(64) & 3) << 4


def extract_word(c: X86Context) -> None:
    """PEXTRW."""
    c.write(0, (c.builder.load(c.slot(1, 64)) >> _lane(c, 2)).trunc(16).zext(32))
    finish(c)


def insert_word(c: X86Context) -> None:
    """PINSRW."""
    word = c.read(1, 16).zext(64)
    shift = _lane(c, 2)
    old = c.builder.load(c.slot(0, 64))
    write(c, 0, (old & ~(c.constant(0xFFFF) << shift)) | (word << shift))


def move_mask(c: X86Context) -> None:
    """PMOVMSKB."""
    mask = c.builder.asm("pmovmskb $1, $0", "=r,x", "i32", [(VECTOR, source(c, 1))])
    c.write(0, Value(c.builder, mask, Int(32)))
    finish(c)


def masked_move(c: X86Context) -> None:
    """MASKMOVQ to DS:[rDI]."""
    finish(c)
    simd.masked_move(c, 8)


def to_xmm(c: X86Context) -> None:
    """MOVQ2DQ."""
    c.write_vector(0, widen(c, read(c, 1)))
    finish(c)


def from_xmm(c: X86Context) -> None:
    """MOVDQ2Q."""
    write(c, 0, c.builder.load(c.slot(1, 64)))


def _begin_unless_memory(c: X86Context) -> bool:
    """From memory, CVTPI2PS and CVTPI2PD do not touch the x87 state; else a pending x87 exception comes first."""
    if c.form(1) == "m":
        return False
    x87_exceptions.check_pending(c)
    return True


def integers_to_single(c: X86Context) -> None:
    """CVTPI2PS: the high half of the XMM register stays."""
    registers = _begin_unless_memory(c)
    b = widen(c, read(c, 1))
    if registers:
        finish(c)
    result = guarded(c, lambda: apply(c, "cvtdq2ps $1, $0", b, tied=False))
    c.write_vector(0, apply(c, "movsd $2, $0", source(c, 0), result))


def integers_to_double(c: X86Context) -> None:
    """CVTPI2PD."""
    registers = _begin_unless_memory(c)
    b = widen(c, read(c, 1))
    c.write_vector(0, apply(c, "cvtdq2pd $1, $0", b, tied=False))
    if registers:
        finish(c)


def to_integers(name: str, bits: int) -> Semantics:
    """CVTPS2PI, CVTPD2PI and their truncating forms: the 128-bit conversion with zeros in the unused elements."""

    def semantics(c: X86Context) -> None:
        if bits == 64:
            value = c.load(c.address, 64) if c.form(1) == "m" else c.builder.load(c.slot(1, 64))
            b = widen(c, value)
        else:
            b = source(c, 1, bits)
        finish(c)
        write(c, 0, low(c, guarded(c, lambda: apply(c, f"{name} $1, $0", b, tied=False))))

    return semantics
