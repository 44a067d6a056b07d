"""Opcode rows: single and double precision arithmetic, comparison, conversion and shuffling (SSE to SSE4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.cpu.isa.x86 import simd
from pyhyve.cpu.isa.x86.table import Row, row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.cpu.isa.x86.simd import Semantics

_SUFFIXES = (("NP", "ps", 128), ("66", "pd", 128), ("F3", "ss", 32), ("F2", "sd", 64))
"""Mandatory prefix, mnemonic suffix and bits read from memory."""
_TOKENS = {16: "Ww", 32: "Wd", 64: "Wq", 128: "Wx"}

_ARITHMETIC = {0x51: "sqrt", 0x58: "add", 0x59: "mul", 0x5C: "sub", 0x5D: "min", 0x5E: "div", 0x5F: "max"}
_SINGLE = {0x52: "rsqrt", 0x53: "rcp"}
_LOGIC = {0x14: "unpckl", 0x15: "unpckh", 0x54: "and", 0x55: "andn", 0x56: "or", 0x57: "xor"}
_HORIZONTAL = {0x7C: "hadd", 0x7D: "hsub", 0xD0: "addsub"}

_CONVERSIONS = (
    ("NP 0F 5A", "cvtps2pd", 64, True),
    ("66 0F 5A", "cvtpd2ps", 128, True),
    ("NP 0F 5B", "cvtdq2ps", 128, True),
    ("66 0F 5B", "cvtps2dq", 128, True),
    ("F3 0F 5B", "cvttps2dq", 128, True),
    ("66 0F E6", "cvttpd2dq", 128, True),
    ("F2 0F E6", "cvtpd2dq", 128, True),
    ("F3 0F E6", "cvtdq2pd", 64, False),
)
"""Opcode, mnemonic, bits read, may raise floating-point exceptions."""
_TO_INTEGER = (
    ("F3 0F 2C", "cvttss2si", 32),
    ("F3 0F 2D", "cvtss2si", 32),
    ("F2 0F 2C", "cvttsd2si", 64),
    ("F2 0F 2D", "cvtsd2si", 64),
)


def _sse(opcode: str, name: str, operands: str, semantics: Semantics, size: str = "", flags: str = "n") -> Row:
    return row(opcode, name, operands, semantics, size=size, flags=flags, fpu="sse")


def _rows() -> Iterator[Row]:
    for prefix, suffix, bits in _SUFFIXES:
        source = f"Vx {_TOKENS[bits]}"
        for opcode, stem in _ARITHMETIC.items():
            name = stem + suffix
            yield _sse(f"{prefix} 0F {opcode:02X}", name, source, simd.binary(name, bits, floating=True))
        name = "cmp" + suffix
        yield _sse(f"{prefix} 0F C2", name, source + " Ib", simd.binary(name, bits, immediate=True, floating=True))
    for prefix, suffix, bits in (_SUFFIXES[0], _SUFFIXES[2]):
        for opcode, stem in _SINGLE.items():
            name = stem + suffix
            yield _sse(f"{prefix} 0F {opcode:02X}", name, f"Vx {_TOKENS[bits]}", simd.binary(name, bits))
    for prefix, suffix, bits in _SUFFIXES[:2]:
        for opcode, stem in _LOGIC.items():
            name = stem + suffix
            yield _sse(f"{prefix} 0F {opcode:02X}", name, "Vx Wx", simd.binary(name))
        yield _sse(f"{prefix} 0F C6", "shuf" + suffix, "Vx Wx Ib", simd.binary("shuf" + suffix, immediate=True))
        scalar = 32 if suffix == "ps" else 64
        for opcode, stem in ((0x2E, "ucomis"), (0x2F, "comis")):
            name = stem + suffix[1]
            yield _sse(
                f"{prefix} 0F {opcode:02X}", name, f"Vx {_TOKENS[scalar]}", simd.compare(name, scalar), flags="w"
            )
        del bits
    for prefix, suffix in (("F2", "ps"), ("66", "pd")):
        for opcode, stem in _HORIZONTAL.items():
            name = stem + suffix
            yield _sse(f"{prefix} 0F {opcode:02X}", name, "Vx Wx", simd.binary(name, floating=True))
    for opcode_text, name, bits, floating in _CONVERSIONS:
        yield _sse(opcode_text, name, f"Vx {_TOKENS[bits]}", simd.unary(name, bits, floating=floating))
    yield _sse("F3 0F 5A", "cvtss2sd", "Vx Wd", simd.binary("cvtss2sd", 32, floating=True))
    yield _sse("F2 0F 5A", "cvtsd2ss", "Vx Wq", simd.binary("cvtsd2ss", 64, floating=True))
    yield _sse("F3 0F 2A", "cvtsi2ss", "Vx Ey", simd.from_general("cvtsi2ss"), "y")
    yield _sse("F2 0F 2A", "cvtsi2sd", "Vx Ey", simd.from_general("cvtsi2sd"), "y")
    for opcode_text, name, bits in _TO_INTEGER:
        yield _sse(opcode_text, name, f"Gy {_TOKENS[bits]}", simd.to_general(name, bits, floating=True), "y")
    for opcode, suffix, bits in ((0x08, "ps", 128), (0x09, "pd", 128), (0x0A, "ss", 32), (0x0B, "sd", 64)):
        name = "round" + suffix
        semantics = simd.binary(name, bits, immediate=True, floating=True)
        yield _sse(f"66 0F 3A {opcode:02X}", name, f"Vx {_TOKENS[bits]} Ib", semantics)
    for opcode, name in ((0x0C, "blendps"), (0x0D, "blendpd")):
        yield _sse(f"66 0F 3A {opcode:02X}", name, "Vx Wx Ib", simd.binary(name, immediate=True))
    for opcode, name in ((0x40, "dpps"), (0x41, "dppd")):
        yield _sse(f"66 0F 3A {opcode:02X}", name, "Vx Wx Ib", simd.binary(name, immediate=True, floating=True))
    for opcode, name in ((0x14, "blendvps"), (0x15, "blendvpd")):
        yield _sse(f"66 0F 38 {opcode:02X}", name, "Vx Wx", simd.implicit_mask(name))


ROWS: tuple[Row, ...] = tuple(_rows())
