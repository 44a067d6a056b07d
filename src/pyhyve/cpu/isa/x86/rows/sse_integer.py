"""Opcode rows: packed integers in XMM registers, and text processing (SSE2 to SSE4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.cpu.isa.x86 import simd
from pyhyve.cpu.isa.x86.simd_exceptions import VECTOR
from pyhyve.cpu.isa.x86.simd_tables import PACKED, PACKED_38, SHIFT_GROUPS
from pyhyve.cpu.isa.x86.table import Row, row
from pyhyve.cpu.lang import U64, Value, inline, u64

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.cpu.isa.x86.context import X86Context
    from pyhyve.cpu.isa.x86.simd import Semantics

_ONLY_XMM_38 = {
    0x28: "pmuldq", 0x29: "pcmpeqq", 0x2B: "packusdw", 0x37: "pcmpgtq", 0x38: "pminsb", 0x39: "pminsd",
    0x3A: "pminuw", 0x3B: "pminud", 0x3C: "pmaxsb", 0x3D: "pmaxsd", 0x3E: "pmaxuw", 0x3F: "pmaxud", 0x40: "pmulld",
}  # fmt: skip
_EXTENSIONS = {
    0: ("bw", 64), 1: ("bd", 32), 2: ("bq", 16), 3: ("wd", 64), 4: ("wq", 32), 5: ("dq", 64),
}  # fmt: skip
"""Low opcode digit, letters and source bits of PMOVSX (2x) and PMOVZX (3x)."""
_TOKENS = {16: "Ww", 32: "Wd", 64: "Wq"}


def _ptest(c: X86Context) -> None:
    b = simd.source(c, 1)
    operands = [(VECTOR, simd.source(c, 0)), (VECTOR, b)]
    (zf, cf), _ = simd.flag_outputs(c, "ptest $3, $2", "zc", "x,x", operands)
    simd.set_flags(c, zf=zf, cf=cf)


@inline
def _length(value: Value) -> Value:
    """A 64-bit explicit length, saturated to what fits 32 bits; beyond 16 elements all lengths are alike."""
    low, high = u64((1 << 64) - 16), u64(16)
    if value.slt(low):
        value = low
    if value.sgt(high):
        value = high
    return value


def _compare_strings(name: str, *, explicit: bool, mask: bool) -> Semantics:
    """PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM: memory need not be aligned."""
    output = "={xmm0}" if mask else "={ecx}"

    def semantics(c: X86Context) -> None:
        b = simd.source(c, 1, aligned=False)
        operands = [(VECTOR, simd.source(c, 0)), (VECTOR, b)]
        constraints = "x,x"
        if explicit:
            for number in (0, 2):
                value = c.reg(number, 64)
                value = _length(value).trunc(32) if c.bits == 64 else value.trunc(32)
                operands.append(("i32", value.get().ir))
            constraints = "x,x,{eax},{edx}"
        # The mask is left in xmm0, which the caller of inline assembly names as an output of vector type.
        flags, result = simd.flag_outputs(
            c, f"{name} $$V2, $6, $5", "zcso", constraints, operands, output, VECTOR if mask else "i32"
        )
        zf, cf, sf, of = flags
        if mask:
            c.store_vector(c.st.ref("xmm").cast(U64), result, 128)
        else:
            c.set_reg(1, Value(c.builder, result, c.constant(0, 32).kind))
        simd.set_flags(c, zf=zf, cf=cf, sf=sf, of=of)

    return semantics


def _sse(
    opcode: str, name: str, operands: str, semantics: Semantics, size: str = "", flags: str = "n", *,
    aligned: bool | None = None,
) -> Row:  # fmt: skip
    return row(opcode, name, operands, semantics, size=size, flags=flags, fpu="sse", aligned=aligned)


def _rows() -> Iterator[Row]:
    binary = {f"66 0F {code:02X}": name for code, name in PACKED.items()}
    binary |= {f"66 0F 38 {code:02X}": name for code, name in PACKED_38.items() if not name.startswith("pabs")}
    binary |= {f"66 0F 38 {code:02X}": name for code, name in _ONLY_XMM_38.items()}
    binary |= {"66 0F 6C": "punpcklqdq", "66 0F 6D": "punpckhqdq"}
    for opcode, name in binary.items():
        yield _sse(opcode, name, "Vx Wx", simd.binary(name))
    unary = {f"66 0F 38 {code:02X}": name for code, name in PACKED_38.items() if name.startswith("pabs")}
    for opcode, name in (unary | {"66 0F 38 41": "phminposuw"}).items():
        yield _sse(opcode, name, "Vx Wx", simd.unary(name))
    for first, stem in ((0x20, "pmovsx"), (0x30, "pmovzx")):
        for digit, (letters, bits) in _EXTENSIONS.items():
            name = stem + letters
            yield _sse(f"66 0F 38 {first + digit:02X}", name, f"Vx {_TOKENS[bits]}", simd.unary(name, bits))
    for prefix, name in (("66", "pshufd"), ("F3", "pshufhw"), ("F2", "pshuflw")):
        yield _sse(f"{prefix} 0F 70", name, "Vx Wx Ib", simd.unary(name, immediate=True))
    for code, extension, name in (*SHIFT_GROUPS, (0x73, 3, "psrldq"), (0x73, 7, "pslldq")):
        yield _sse(f"66 0F {code:02X} /{extension} r", name + "_imm", "Ux Ib", simd.shift_immediate(name))
    for code, name in ((0x0E, "pblendw"), (0x0F, "palignr"), (0x42, "mpsadbw")):
        yield _sse(f"66 0F 3A {code:02X}", name, "Vx Wx Ib", simd.binary(name, immediate=True))
    yield _sse("66 0F 38 10", "pblendvb", "Vx Wx", simd.implicit_mask("pblendvb"))
    yield _sse("66 0F 38 17", "ptest", "Vx Wx", _ptest, flags="w")
    for code, name in ((0x60, "pcmpestrm"), (0x61, "pcmpestri"), (0x62, "pcmpistrm"), (0x63, "pcmpistri")):
        semantics = _compare_strings(name, explicit=name[4] == "e", mask=name[-1] == "m")
        yield _sse(f"66 0F 3A {code:02X}", name, "Vx Wx Ib", semantics, "y", "w", aligned=False)


ROWS: tuple[Row, ...] = tuple(_rows())
