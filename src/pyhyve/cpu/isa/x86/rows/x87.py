"""Opcode rows: x87 arithmetic, loads and stores (D8-DF), aliases included.

Opcode and ModRM are all the semantics there is: the host executes the same bytes (see `x87`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.cpu.isa.x86 import simd, x87
from pyhyve.cpu.isa.x86.rows import x87_control
from pyhyve.cpu.isa.x86.table import Row, row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.cpu.isa.x86.context import X86Context
    from pyhyve.cpu.isa.x86.simd import Semantics
    from pyhyve.cpu.lang import Value

_ARITHMETIC = ("fadd", "fmul", "fcom", "fcomp", "fsub", "fsubr", "fdiv", "fdivr")
_MEMORY_SIZES = {0xD8: ("", "d"), 0xDA: ("i", "d"), 0xDC: ("", "q"), 0xDE: ("i", "w")}
"""Integer mark and operand size letter of the four groups of arithmetic with memory."""

_LOADS = (
    (0xD9, 0, "flds", "Md", 32), (0xDD, 0, "fldl", "Mq", 64), (0xDB, 5, "fldt", "M", 80), (0xDF, 0, "filds", "Mw", 16),
    (0xDB, 0, "fildl", "Md", 32), (0xDF, 5, "fildq", "Mq", 64), (0xDF, 4, "fbld", "M", 80),
)  # fmt: skip
_WIDE_BITS = 80
_STORES = (
    (0xD9, 2, "fsts", "Md", 32), (0xD9, 3, "fstps", "Md", 32), (0xDD, 2, "fstl", "Mq", 64),
    (0xDD, 3, "fstpl", "Mq", 64), (0xDB, 7, "fstpt", "M", 80), (0xDF, 2, "fists", "Mw", 16),
    (0xDF, 3, "fistps", "Mw", 16), (0xDB, 2, "fistl", "Md", 32), (0xDB, 3, "fistpl", "Md", 32),
    (0xDF, 7, "fistpq", "Mq", 64), (0xDF, 6, "fbstp", "M", 80), (0xDF, 1, "fisttps", "Mw", 16),
    (0xDB, 1, "fisttpl", "Md", 32), (0xDD, 1, "fisttpq", "Mq", 64),
)  # fmt: skip
"""Opcode, ModRM.reg, name, operand, bits."""

_REGISTERS = {
    0xD8: dict(enumerate(_ARITHMETIC)),
    0xD9: {0: "fld", 1: "fxch", 3: "fstp1"},
    0xDC: {
        0: "fadd_to", 1: "fmul_to", 2: "fcom2", 3: "fcomp3", 4: "fsubr_to", 5: "fsub_to", 6: "fdivr_to", 7: "fdiv_to",
    },
    0xDD: {0: "ffree", 1: "fxch4", 2: "fst", 3: "fstp", 4: "fucom", 5: "fucomp"},
    0xDE: {0: "faddp", 1: "fmulp", 2: "fcomp5", 4: "fsubrp", 5: "fsubp", 6: "fdivrp", 7: "fdivp"},
    0xDF: {0: "ffreep", 1: "fxch7", 2: "fstp8", 3: "fstp9"},
}  # fmt: skip
"""Instructions on ST(i), by opcode and ModRM.reg."""

_SINGLE = {
    (0xD9, 0xE0): "fchs", (0xD9, 0xE1): "fabs", (0xD9, 0xE4): "ftst", (0xD9, 0xE5): "fxam", (0xD9, 0xE8): "fld1",
    (0xD9, 0xE9): "fldl2t", (0xD9, 0xEA): "fldl2e", (0xD9, 0xEB): "fldpi", (0xD9, 0xEC): "fldlg2",
    (0xD9, 0xED): "fldln2", (0xD9, 0xEE): "fldz", (0xD9, 0xF0): "f2xm1", (0xD9, 0xF1): "fyl2x",
    (0xD9, 0xF2): "fptan", (0xD9, 0xF3): "fpatan", (0xD9, 0xF4): "fxtract", (0xD9, 0xF5): "fprem1",
    (0xD9, 0xF6): "fdecstp", (0xD9, 0xF7): "fincstp", (0xD9, 0xF8): "fprem", (0xD9, 0xF9): "fyl2xp1",
    (0xD9, 0xFA): "fsqrt", (0xD9, 0xFB): "fsincos", (0xD9, 0xFC): "frndint", (0xD9, 0xFD): "fscale",
    (0xD9, 0xFE): "fsin", (0xD9, 0xFF): "fcos", (0xDA, 0xE9): "fucompp", (0xDE, 0xD9): "fcompp",
}  # fmt: skip
"""Instructions without operand, by opcode and ModRM."""

_CONDITIONS = {0: 2, 1: 4, 2: 6, 3: 10}
"""Condition (as in Jcc) of FCMOVcc by ModRM.reg: B, E, BE, U; opcode DB negates them."""

_COMPARES = {(0xDB, 5): "fucomi", (0xDB, 6): "fcomi", (0xDF, 5): "fucomip", (0xDF, 6): "fcomip"}


def _number(c: X86Context) -> Value:
    """The i of ST(i)."""
    return c.symbol("V0", "u31")


def _register(opcode: int, first: int) -> Semantics:
    def semantics(c: X86Context) -> None:
        c.save_pc()
        x87.register_kernel(opcode, first, x87.STACK_REGISTERS)(c.st, _number(c))

    return semantics


def _single(opcode: int, modrm: int) -> Semantics:
    def semantics(c: X86Context) -> None:
        c.save_pc()
        x87.register_kernel(opcode, modrm, 1)(c.st, 0)

    return semantics


def _load(opcode: int, extension: int, bits: int) -> Semantics:
    def semantics(c: X86Context) -> None:
        host = c.read_pointer(c.address, bits // 8)
        c.save_pc()
        x87.memory_load_kernel(opcode, extension)(c.st, host, c.address)

    return semantics


def _load_wide(opcode: int, extension: int) -> Semantics:
    def semantics(c: X86Context) -> None:
        c.call(x87.wide_load_kernel(opcode, extension), c.address)

    return semantics


def _store(opcode: int, extension: int, bits: int) -> Semantics:
    def semantics(c: X86Context) -> None:
        c.call(x87.memory_store_kernel(opcode, extension, bits // 8), c.address)

    return semantics


def _conditional(code: int) -> Semantics:
    def semantics(c: X86Context) -> None:
        c.save_pc()
        x87.conditional_move(c.st, _number(c), c.condition(code).zext(64))

    return semantics


def _compare(opcode: int, first: int) -> Semantics:
    def semantics(c: X86Context) -> None:
        c.save_pc()
        flags = x87.compare_kernel(opcode, first)(c.st, _number(c))
        simd.set_flags(c, zf=flags.bit(0), pf=flags.bit(1), cf=flags.bit(2))

    return semantics


def _x87(opcode: str, name: str, operands: str, semantics: Semantics, flags: str = "n", **more: object) -> Row:
    return row(opcode, name, operands, semantics, size="", flags=flags, fpu="x87", waits=True, **more)  # type: ignore[arg-type]


def _rows() -> Iterator[Row]:
    for opcode, (mark, letter) in _MEMORY_SIZES.items():
        bits = {"w": 16, "d": 32, "q": 64}[letter]
        for extension, stem in enumerate(_ARITHMETIC):
            name = f"f{mark}{stem[1:]}_m{bits}"
            yield _x87(f"{opcode:02X} /{extension} m", name, f"M{letter}", _load(opcode, extension, bits), stores=False)
    for opcode, extension, name, operand, bits in _LOADS:
        wide = bits == _WIDE_BITS
        semantics = _load_wide(opcode, extension) if wide else _load(opcode, extension, bits)
        yield _x87(f"{opcode:02X} /{extension} m", name, operand, semantics, stores=False, memory_bits=bits, late=wide)
    for opcode, extension, name, operand, bits in _STORES:
        semantics = _store(opcode, extension, bits)
        yield _x87(f"{opcode:02X} /{extension} m", name, operand, semantics, stores=True, late=True)
    for opcode, names in _REGISTERS.items():
        for extension, name in names.items():
            first = 0xC0 + 8 * extension
            if (opcode, first) == (0xDE, 0xD8):
                continue
            yield _x87(f"{opcode:02X} {first:02X}+i", name, "ST", _register(opcode, first))
    for (opcode, modrm), name in _SINGLE.items():
        yield _x87(f"{opcode:02X} {modrm:02X}", name, "", _single(opcode, modrm))
    for extension, code in _CONDITIONS.items():
        first = 0xC0 + 8 * extension
        for opcode, negated in ((0xDA, 0), (0xDB, 1)):
            yield _x87(f"{opcode:02X} {first:02X}+i", f"fcmov{code ^ negated}", "ST", _conditional(code ^ negated), "r")
    for (opcode, extension), name in _COMPARES.items():
        first = 0xC0 + 8 * extension
        yield _x87(f"{opcode:02X} {first:02X}+i", name, "ST", _compare(opcode, first), "w")


ROWS: tuple[Row, ...] = (*_rows(), *x87_control.ROWS)
