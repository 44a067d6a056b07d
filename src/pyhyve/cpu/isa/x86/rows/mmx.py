"""Opcode rows: MMX, and the SSE instructions on MMX registers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.cpu.isa.x86 import simd_mmx
from pyhyve.cpu.isa.x86.simd_tables import PACKED, PACKED_38, SHIFT_GROUPS
from pyhyve.cpu.isa.x86.table import Row, row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.cpu.isa.x86.context import X86Context
    from pyhyve.cpu.isa.x86.simd import Semantics


def _emms(c: X86Context) -> None:
    """EMMS: every register empty."""
    simd_mmx.finish(c)
    c.st.fp_valid = 0


def _maker(name: str) -> Semantics:
    if name.startswith(("pack", "phadd", "phsub")):
        return simd_mmx.joined(name)
    if name.startswith("punpckh"):
        return simd_mmx.unpack_high(name)
    if name.startswith("pabs"):
        return simd_mmx.unary(name)
    if name == "pshufb":
        return simd_mmx.shuffle_bytes
    return simd_mmx.binary(name, 32 if name.startswith("punpckl") else 64)


def _mmx(
    opcode: str, name: str, operands: str, semantics: Semantics, size: str = "", fpu: str = "mmx", *,
    waits: bool = True, late: bool = False,
) -> Row:  # fmt: skip
    return row(opcode, f"mmx_{name}", operands, semantics, size=size, flags="n", fpu=fpu, waits=waits, late=late)


def _rows() -> Iterator[Row]:
    for code, name in PACKED.items():
        token = "Qd" if name.startswith("punpckl") else "Qq"
        yield _mmx(f"NP 0F {code:02X}", name, f"Pq {token}", _maker(name))
    for code, name in PACKED_38.items():
        yield _mmx(f"NP 0F 38 {code:02X}", name, "Pq Qq", _maker(name))
    for code, extension, name in SHIFT_GROUPS:
        yield _mmx(f"NP 0F {code:02X} /{extension} r", name + "_imm", "Nq Ib", simd_mmx.shift_immediate(name))
    yield _mmx("NP 0F 3A 0F", "palignr", "Pq Qq Ib", simd_mmx.align)
    yield _mmx("NP 0F 70", "pshufw", "Pq Qq Ib", simd_mmx.unary("pshuflw", immediate=True))
    yield _mmx("NP 0F 6E", "movd_to", "Pq Ey", simd_mmx.from_register, "y")
    yield _mmx("NP 0F 7E", "movd_from", "Ey Pq", simd_mmx.to_register, "y", late=True)
    yield _mmx("NP 0F 6F", "movq", "Pq Qq", simd_mmx.move)
    yield _mmx("NP 0F 7F", "movq", "Qq Pq", simd_mmx.move, late=True)
    yield _mmx("NP 0F E7 m", "movq", "Mq Pq", simd_mmx.move, late=True)
    yield _mmx("NP 0F C4 r", "pinsrw", "Pq Rd Ib", simd_mmx.insert_word)
    yield _mmx("NP 0F C4 m", "pinsrw", "Pq Mw Ib", simd_mmx.insert_word)
    yield _mmx("NP 0F C5 r", "pextrw", "Gd Nq Ib", simd_mmx.extract_word, "d")
    yield _mmx("NP 0F D7 r", "pmovmskb", "Gd Nq", simd_mmx.move_mask, "d")
    yield row(
        "NP 0F F7 r",
        "maskmovq",
        "Pq Nq",
        simd_mmx.masked_move,
        size="",
        flags="n",
        fpu="mmx",
        waits=True,
        address_size=True,
    )
    yield _mmx("0F 77", "emms", "", _emms)
    yield _mmx("F3 0F D6 r", "movq2dq", "Vx Nq", simd_mmx.to_xmm, fpu="sse")
    yield _mmx("F2 0F D6 r", "movdq2q", "Pq Ux", simd_mmx.from_xmm, fpu="sse")
    yield _mmx("NP 0F 2A", "cvtpi2ps", "Vx Qq", simd_mmx.integers_to_single, fpu="sse", waits=False)
    yield _mmx("66 0F 2A", "cvtpi2pd", "Vx Qq", simd_mmx.integers_to_double, fpu="sse", waits=False)
    for prefix, letters, token, bits in (("NP", "ps2", "Wq", 64), ("66", "pd2", "Wx", 128)):
        for digits, stem in (("2C", "cvtt"), ("2D", "cvt")):
            name = stem + letters
            semantics = simd_mmx.to_integers(name + "dq", bits)
            yield _mmx(f"{prefix} 0F {digits}", name + "pi", f"Pq {token}", semantics, fpu="sse")


ROWS: tuple[Row, ...] = tuple(_rows())
