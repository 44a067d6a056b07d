"""Opcode rows: moves between XMM registers, memory and general registers (SSE to SSE4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.cpu.isa.x86 import simd
from pyhyve.cpu.isa.x86.table import Row, row
from pyhyve.cpu.lang import U8

if TYPE_CHECKING:
    from pyhyve.cpu.isa.x86.context import X86Context
    from pyhyve.cpu.isa.x86.simd import Semantics


def _move(*, aligned: bool) -> Semantics:
    """All 128 bits."""

    def semantics(c: X86Context) -> None:
        if c.form(0) != "m":
            c.write_vector(0, simd.source(c, 1, aligned=aligned))
            return
        if aligned:
            simd.require_alignment(c)
        host, slow = c.write_pointer(c.address, 16)
        # Loaded only now, so that no vector lives across the slow path's call.
        c.store_vector(host.cast(U8), simd.source(c, 1), 128)
        c.write_back(slow)

    return semantics


def _store_part(c: X86Context, bits: int, offset: int = 0) -> None:
    """Memory = `bits` of operand 1 at byte `offset`."""
    c.store(c.address, c.builder.load(c.slot(1, bits).offset(offset)))


def _merge(name: str, bits: int, offset: int = 0) -> Semantics:
    """V merged with W by the register form of `name`; to memory, `bits` of V at byte `offset`.

    Registers are always read and written whole: the host forwards no stores to a wider load.
    """
    register = simd.binary(name, bits)

    def semantics(c: X86Context) -> None:
        if c.form(0) == "m":
            _store_part(c, bits, offset)
        else:
            register(c)

    return semantics


def _scalar(name: str, bits: int) -> Semantics:
    """MOVSS, MOVSD: between registers the rest stays, from memory it is cleared."""
    merge = _merge(name, bits)

    def semantics(c: X86Context) -> None:
        if c.form(1) == "m":
            c.write_vector(0, simd.source(c, 1, bits))
        else:
            merge(c)

    return semantics


def _quadword(c: X86Context) -> None:
    """MOVQ between XMM and memory or XMM: the rest is cleared."""
    if c.form(0) == "m":
        _store_part(c, 64)
    else:
        value = c.load(c.address, 64) if c.form(1) == "m" else c.builder.load(c.slot(1, 64))
        c.write_vector(0, simd.widen(c, value))


def _from_register(c: X86Context) -> None:
    """MOVD, MOVQ from a general register or memory."""
    c.write_vector(0, simd.widen(c, c.read(1)))


def _to_register(c: X86Context) -> None:
    """MOVD, MOVQ to a general register or memory."""
    c.write(0, c.builder.load(c.slot(1, c.bits)))


def _insertps(c: X86Context) -> None:
    """INSERTPS: from memory the element selector is ignored, so every element is the one read."""
    b = simd.source(c, 1, 32)
    if c.form(1) == "m":
        b = simd.apply(c, "pshufd $$0, $1, $0", b, tied=False)
    c.write_vector(0, simd.apply(c, "insertps $$V2, $2, $0", simd.source(c, 0), b))


def _maskmovdqu(c: X86Context) -> None:
    simd.masked_move(c, 16)


def _sse(opcode: str, name: str, operands: str, semantics: Semantics, size: str = "") -> Row:
    aligned = False if semantics is _UNALIGNED else None
    return row(opcode, name, operands, semantics, size=size, flags="n", fpu="sse", aligned=aligned)


_ALIGNED, _UNALIGNED = _move(aligned=True), _move(aligned=False)
_FULL = (
    ("NP 0F 28", "NP 0F 29", "movaps", _ALIGNED),
    ("66 0F 28", "66 0F 29", "movaps", _ALIGNED),
    ("66 0F 6F", "66 0F 7F", "movaps", _ALIGNED),
    ("NP 0F 10", "NP 0F 11", "movups", _UNALIGNED),
    ("66 0F 10", "66 0F 11", "movups", _UNALIGNED),
    ("F3 0F 6F", "F3 0F 7F", "movups", _UNALIGNED),
)

ROWS: tuple[Row, ...] = (
    *(_sse(load, name, "Vx Wx", semantics) for load, _, name, semantics in _FULL),
    *(_sse(store, name, "Wx Vx", semantics) for _, store, name, semantics in _FULL),
    _sse("F2 0F F0 m", "movups", "Vx Mx", _UNALIGNED),
    _sse("66 0F 38 2A m", "movaps", "Vx Mx", _ALIGNED),
    _sse("NP 0F 2B m", "movaps", "Mx Vx", _ALIGNED),
    _sse("66 0F 2B m", "movaps", "Mx Vx", _ALIGNED),
    _sse("66 0F E7 m", "movaps", "Mx Vx", _ALIGNED),
    _sse("F3 0F 10", "movss", "Vx Wd", _scalar("movss", 32)),
    _sse("F3 0F 11", "movss", "Wd Vx", _scalar("movss", 32)),
    _sse("F2 0F 10", "movsd", "Vx Wq", _scalar("movsd", 64)),
    _sse("F2 0F 11", "movsd", "Wq Vx", _scalar("movsd", 64)),
    _sse("F3 0F 7E", "movq", "Vx Wq", _quadword),
    _sse("66 0F D6", "movq", "Wq Vx", _quadword),
    _sse("66 0F 6E", "movd_to_xmm", "Vx Ey", _from_register, "y"),
    _sse("66 0F 7E", "movd_from_xmm", "Ey Vx", _to_register, "y"),
    *(_sse(f"{p} 0F 12 m", "movlps", "Vx Mq", _merge("movsd", 64)) for p in ("NP", "66")),
    *(_sse(f"{p} 0F 13 m", "movlps", "Mq Vx", _merge("movsd", 64)) for p in ("NP", "66")),
    *(_sse(f"{p} 0F 16 m", "movhps", "Vx Mq", _merge("movlhps", 64, 8)) for p in ("NP", "66")),
    *(_sse(f"{p} 0F 17 m", "movhps", "Mq Vx", _merge("movlhps", 64, 8)) for p in ("NP", "66")),
    _sse("NP 0F 12 r", "movhlps", "Vx Ux", simd.binary("movhlps")),
    _sse("NP 0F 16 r", "movlhps", "Vx Ux", simd.binary("movlhps")),
    _sse("F2 0F 12", "movddup", "Vx Wq", simd.unary("movddup", 64)),
    _sse("F3 0F 12", "movsldup", "Vx Wx", simd.unary("movsldup")),
    _sse("F3 0F 16", "movshdup", "Vx Wx", simd.unary("movshdup")),
    _sse("NP 0F 50 r", "movmskps", "Gd Ux", simd.to_general("movmskps"), "d"),
    _sse("66 0F 50 r", "movmskpd", "Gd Ux", simd.to_general("movmskpd"), "d"),
    _sse("66 0F D7 r", "pmovmskb", "Gd Ux", simd.to_general("pmovmskb"), "d"),
    _sse("66 0F C4 r", "pinsrw", "Vx Rd Ib", simd.insert("pinsrw", 16)),
    _sse("66 0F C4 m", "pinsrw", "Vx Mw Ib", simd.insert("pinsrw", 16)),
    _sse("66 0F C5 r", "pextrw", "Gd Ux Ib", simd.extract("pextrw", 16), "d"),
    _sse("66 0F 3A 14 r", "pextrb", "Rd Vx Ib", simd.extract("pextrb", 8), "d"),
    _sse("66 0F 3A 14 m", "pextrb", "Mb Vx Ib", simd.extract("pextrb", 8)),
    _sse("66 0F 3A 15 r", "pextrw", "Rd Vx Ib", simd.extract("pextrw", 16), "d"),
    _sse("66 0F 3A 15 m", "pextrw", "Mw Vx Ib", simd.extract("pextrw", 16)),
    _sse("66 0F 3A 16", "pextrd", "Ey Vx Ib", simd.extract("pextr", 0), "y"),
    _sse("66 0F 3A 17 r", "extractps", "Rd Vx Ib", simd.extract("extractps", 32), "d"),
    _sse("66 0F 3A 17 m", "extractps", "Md Vx Ib", simd.extract("extractps", 32)),
    _sse("66 0F 3A 20 r", "pinsrb", "Vx Rd Ib", simd.insert("pinsrb", 8)),
    _sse("66 0F 3A 20 m", "pinsrb", "Vx Mb Ib", simd.insert("pinsrb", 8)),
    _sse("66 0F 3A 22", "pinsrd", "Vx Ey Ib", simd.insert("pinsr", 0), "y"),
    row("66 0F F7 r", "maskmovdqu", "Vx Ux", _maskmovdqu, size="", flags="n", fpu="sse", address_size=True),
    _sse("66 0F 3A 21", "insertps", "Vx Wd Ib", _insertps),
)
