"""What the generator can emit: unprivileged x86-64 instructions up to SSE4.2, POPCNT and CMPXCHG16B.

The table follows the opcode maps of the Intel SDM, volume 2, appendix A. Left out on purpose: system calls and what
depends on the machine rather than on the case (CPUID, RDTSC, XGETBV, RDRAND, descriptor tables, segment loads), VEX,
EVEX and XOP, and encodings newer CPUs gave a meaning (TZCNT, LZCNT, MOVBE, CET, HLE prefixes).

One line is ``map opcodes [prefixes] attributes``:

* map ``1``, ``0f``, ``38`` (0F 38) or ``3a`` (0F 3A)
* opcodes: a list of hexadecimal numbers and ranges
* prefixes: a list of mandatory prefixes: ``np``, ``66``, ``f3``, ``f2``
* ``rm`` ModRM with register or memory, ``mem``, ``reg`` one of them; ``/0-3,5`` the reg field; ``=c0-c7`` whole bytes
* ``ib iw iz iv moffs far rel8 rel32`` what follows
* ``v`` takes 66 as operand-size prefix, ``lock`` may be locked when its operand is memory, ``rep`` takes F3 and F2
* ``U=`` RFLAGS it leaves undefined (letters of O S Z A P C), ``S`` defines or keeps the six others as they were before,
  ``W`` defines all six, ``R`` reads flags
* ``u=`` x87 condition codes it leaves undefined (digits), ``w`` defines all four, ``r`` reads the status word
* ``!kind`` steering: how registers are set up so that the instruction does something
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import capstone

from . import layout as at

if TYPE_CHECKING:
    from collections.abc import Iterable

_ALU: Final = ("add", "or", "adc", "sbb", "and", "sub", "xor", "cmp")


def _alu_lines() -> list[str]:
    lines = []
    for number, name in enumerate(_ALU):
        base = number * 8
        attributes = "W" + (" U=A" if name in ("or", "and", "xor") else "") + (" R" if name in ("adc", "sbb") else "")
        lock = "" if name == "cmp" else " lock"
        lines += [
            f"1 {base:02x} rm{lock} {attributes}",
            f"1 {base + 1:02x} rm v{lock} {attributes}",
            f"1 {base + 2:02x} rm {attributes}",
            f"1 {base + 3:02x} rm v {attributes}",
            f"1 {base + 4:02x} ib {attributes}",
            f"1 {base + 5:02x} iz v {attributes}",
            f"1 80 rm /{number} ib{lock} {attributes}",
            f"1 81 rm /{number} iz v{lock} {attributes}",
            f"1 83 rm /{number} ib v{lock} {attributes}",
        ]
    return lines


def _shift_lines() -> list[str]:
    lines = []
    for digit in (0, 1, 2, 3, 4, 5, 7):
        reads = " R" if digit in (2, 3) else ""
        wide = " W" if digit >= 4 else ""
        for opcode, rest in (("c0", "ib"), ("c1", "ib v"), ("d0", ""), ("d1", "v"), ("d2", ""), ("d3", "v")):
            lines.append(f"1 {opcode} rm /{digit} {rest} !shift{reads}{wide}")
    return lines


_INTEGER: Final = """
1 50-57 v !stack
1 58-5f v !stack
1 63 rm v
1 68 iz v !stack
1 69 rm iz v W U=SZAP
1 6a ib v !stack
1 6b rm ib v W U=SZAP
1 70-7f rel8 R
1 84 rm W U=A
1 85 rm v W U=A
1 86 rm lock !atomic
1 87 rm v lock !atomic
1 88 rm
1 89 rm v
1 8a rm
1 8b rm v
1 8c rm /0-5 v
1 8d mem v
1 8f rm /0 v !stack
1 90-97 v
1 98,99 v
1 9b
1 9c v !stack R
1 9d v !stack W
1 9e
1 9f R
1 a0,a2 moffs
1 a1,a3 moffs v
1 a4 rep !string
1 a5 v rep !string
1 a6 rep !string W
1 a7 v rep !string W
1 a8 ib W U=A
1 a9 iz v W U=A
1 aa rep !string
1 ab v rep !string
1 ac rep !string
1 ad v rep !string
1 ae rep !string W
1 af v rep !string W
1 b0-b7 ib
1 b8-bf iv v
1 c2 iw !stack
1 c3 !stack
1 c6 rm /0 ib
1 c7 rm /0 iz v
1 c8 iw ib v !stack
1 c9 v !stack
1 cc,f1
1 cd ib !int
1 d7 !xlat
1 e0,e1 rel8 R !loop
1 e2,e3 rel8 !loop
1 e8 rel32 !stack
1 e9 rel32
1 eb rel8
1 f4,fa,fb,ec,ee,6c,6e
1 ed,ef,6d,6f v
1 e4,e6 ib
1 e5,e7 ib v
1 f5 R
1 f6 rm /0 ib W U=A
1 f6 rm /2 lock
1 f6 rm /3 lock W
1 f6 rm /4,5 W U=SZAP
1 f6 rm /6,7 W U=OSZAPC !div
1 f7 rm /0 iz v W U=A
1 f7 rm /2 lock v
1 f7 rm /3 lock v W
1 f7 rm /4,5 v W U=SZAP
1 f7 rm /6,7 v W U=OSZAPC !div
1 f8,f9,fc,fd
1 fe rm /0,1 lock
1 ff rm /0,1 lock v
1 ff rm /2 !stack !jump
1 ff rm /4 !jump
1 ff rm /6 v !stack
1 06,07,0e,16,17,1e,1f,27,2f,37,3f,60,61,82,9a,ce,d4,d6,ea
0f 0b
0f 06,08,09,07,30,32,35
0f 20-23 reg
0f 0d mem /1
0f 18 mem /0-3
0f 1f rm v
0f 40-4f rm v R
0f 80-8f rel32 R
0f 90-9f rm /0 R
0f a0,a8 v !stack
0f a3,ab,b3,bb rm v !bits U=OSAP
0f ab,b3,bb mem v lock !bits U=OSAP
0f ba rm /4 ib v U=OSAP
0f ba rm /5-7 ib v lock U=OSAP
0f a4,ac rm ib v !double W
0f a5,ad rm v !double W
0f ae =e8,f0,f8
0f ae mem /7
0f af rm v W U=SZAP
0f b0 rm lock W !cmpxchg
0f b1 rm v lock W !cmpxchg
0f b6,b7,be,bf rm v
0f b8 f3 rm v W
0f bc,bd rm v W U=OSAPC !bitscan
0f c0 rm lock W
0f c1 rm lock v W
0f c3 mem
0f c7 mem /1 lock !cmpxchg
0f c8-cf
38 f0 f2 rm
38 f1 f2 rm v
"""

_X87: Final = """
1 d8 rm /0,1,4-7 u=023
1 d8 rm /2,3 w
1 d9 mem /0,2,3 u=023
1 d9 mem /4 v w !env
1 d9 mem /5
1 d9 mem /6 v r !first
1 d9 mem /7
1 d9 =c0-cf u=023
1 d9 =d0 u=0123
1 d9 =e0,e1 u=023
1 d9 =e4,e5 w
1 d9 =e8-ee,f0-f4,fa,fc,fd u=023
1 d9 =f2,fb,fe,ff u=03
1 d9 =f6,f7,f9,f1,f3 u=023
1 d9 =f5,f8 w
1 da mem /0,1,4-7 u=023
1 da mem /2,3 w
1 da =c0-df R u=023
1 da =e9 w
1 db mem /0-3,5,7 u=023
1 db =c0-df R u=023
1 db =e2
1 db =e3 w
1 db =e8-f7 W
1 dc mem /0,1,4-7 u=023
1 dc mem /2,3 w
1 dc =c0-cf,e0-ff u=023
1 dd mem /0-3 u=023
1 dd mem /4 v w !env
1 dd mem /6 v r w !first
1 dd mem /7 r
1 dd =c0-c7
1 dd =d0-df u=023
1 dd =e0-ef w
1 de mem /0,1,4-7 u=023
1 de mem /2,3 w
1 de =c0-cf,e0-ff u=023
1 de =d9 w
1 df mem /0-3,5,7 u=023
1 df mem /4 u=023 !bcd
1 df mem /6 u=023
1 df =e0 r
1 df =e8-f7 W
0f ae mem /0 r !first
0f ae mem /1 w !fx
0f ae mem /2
0f ae mem /3
0f ae mem /4 r !first !xstate
0f ae mem /5 w !first !xstate
"""

_VECTOR: Final = """
0f 10,11,51,58,59,5a,5c-5f np,66,f3,f2 rm
0f 12 np,f3,f2 rm
0f 16 np,f3 rm
0f 12,13,16,17 66 mem
0f 13,17 np mem
0f 14,15,28,29,54-57 np,66 rm
0f 2a np,66,f3,f2 rm
0f 2b np,66 mem
0f 2c,2d np,66,f3,f2 rm
0f 2e,2f np,66 rm W
0f 50 np,66 reg
0f 52,53 np,f3 rm
0f 5b np,66,f3 rm
0f 60-6b,6e np,66 rm
0f 6c,6d 66 rm
0f 6f,7f np,66,f3 rm
0f 70 np,66,f3,f2 rm ib
0f 71,72 np,66 reg /2,4,6 ib
0f 73 np,66 reg /2,6 ib
0f 73 66 reg /3,7 ib
0f 74-76 np,66 rm
0f 77 np
0f 7c,7d,d0 66,f2 rm
0f 7e np,66,f3 rm
0f c2 np,66,f3,f2 rm ib
0f c4 np,66 rm ib
0f c5 np,66 reg ib
0f c6 np,66 rm ib
0f d1-d5,d8-df,e0-e5,e8-ef,f1-f6,f8-fe np,66 rm
0f d6 66 rm
0f d6 f3,f2 reg
0f d7 np,66 reg
0f e6 66,f3,f2 rm
0f e7 np,66 mem
0f f0 f2 mem
0f f7 np,66 reg !maskmov
38 00-0b,1c-1e np,66 rm
38 10,14,15,20-25,28,29,2b,30-35,37-41 66 rm
38 17 66 rm W
38 2a 66 mem
3a 08-0e,14-17,20-22,40-42 66 rm ib
3a 0f np,66 rm ib
3a 60-63 66 rm ib W !lengths
"""

_ESCAPES: Final = {"1": b"", "0f": b"\x0f", "38": b"\x0f\x38", "3a": b"\x0f\x3a"}
_FLAG_LETTERS: Final = {"O": at.OF, "S": at.SF, "Z": at.ZF, "A": at.AF, "P": at.PF, "C": at.CF}
_CONDITION_CODES: Final = {"0": at.SW_C0, "1": at.SW_C1, "2": at.SW_C2, "3": at.SW_C3}
_PREFIXES: Final = {"np": b"", "66": b"\x66", "f3": b"\xf3", "f2": b"\xf2"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One encodable form.

    Attributes:
        name: capstone's mnemonic of the plain 32-bit form, or "(bad)".
        escape: the opcode map's escape bytes.
        prefix: mandatory prefix or nothing.
        modrm: "" none, "rm", "mem", "reg", or "fixed" (then ``digit`` is the whole byte).
        digit: reg field of ModRM, None: any register.
        immediates: kinds, in order.
        sized: takes 66 and REX.W as operand size.
        undefined, sw_undefined: RFLAGS and x87 status bits it leaves undefined.
        defines, sw_defines: makes all six arithmetic flags (all four condition codes) defined, but for those.
        reads, sw_reads: depends on flags (on the condition codes).
        steering: see `generator`.
    """

    name: str
    escape: bytes
    opcode: int
    prefix: bytes
    modrm: str
    digit: int | None
    immediates: tuple[str, ...]
    sized: bool
    lock: bool
    rep: bool
    undefined: int
    sw_undefined: int
    defines: bool
    sw_defines: bool
    reads: bool
    sw_reads: bool
    steering: frozenset[str]

    @property
    def label(self) -> str:
        """Mnemonic and opcode, e.g. ``add 0f.38.01/3``."""
        parts = [f"{byte:02x}" for byte in (*self.prefix, *self.escape, self.opcode)]
        digit = "" if self.digit is None else (f".{self.digit:02x}" if self.modrm == "fixed" else f"/{self.digit}")
        return f"{self.name} {'.'.join(parts)}{digit}{'m' if self.modrm == 'mem' else ''}"


def _numbers(text: str, base: int) -> list[int]:
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers += range(int(first, base), int(last or first, base) + 1)
    return numbers


def _parse(line: str, disassembler: capstone.Cs) -> list[Entry]:
    escape, opcodes, *attributes = line.split()
    prefixes, modrm, digits = [b""], "", [None]
    immediates: list[str] = []
    undefined = sw_undefined = 0
    steering: set[str] = set()
    fixed: list[int] = []
    plain: set[str] = set()
    for attribute in attributes:
        if attribute.split(",")[0] in _PREFIXES:
            prefixes = [_PREFIXES[name] for name in attribute.split(",")]
        elif attribute in ("rm", "mem", "reg"):
            modrm = attribute
        elif attribute[0] == "/":
            digits = list(_numbers(attribute[1:], 10))  # type: ignore[arg-type]
        elif attribute[0] == "=":
            fixed += _numbers(attribute[1:], 16)
        elif attribute in ("ib", "iw", "iz", "iv", "moffs", "far", "rel8", "rel32"):
            immediates.append(attribute)
        elif attribute.startswith("U="):
            undefined = sum(_FLAG_LETTERS[letter] for letter in attribute[2:])
        elif attribute.startswith("u="):
            sw_undefined = sum(_CONDITION_CODES[letter] for letter in attribute[2:])
        elif attribute[0] == "!":
            steering.add(attribute[1:])
        else:
            plain.add(attribute)
    unknown = plain - {"v", "lock", "rep", "W", "R", "w", "r"}
    if unknown:
        message = f"{line!r}: unknown {unknown}"
        raise ValueError(message)
    if fixed:
        modrm, digits = "fixed", fixed  # type: ignore[assignment]
    entries = []
    for opcode in _numbers(opcodes, 16):
        for prefix in prefixes:
            for digit in digits:
                entry = Entry(
                    name="",
                    escape=_ESCAPES[escape],
                    opcode=opcode,
                    prefix=prefix,
                    modrm=modrm,
                    digit=digit,
                    immediates=tuple(immediates),
                    sized="v" in plain,
                    lock="lock" in plain,
                    rep="rep" in plain,
                    undefined=undefined,
                    sw_undefined=sw_undefined,
                    defines="W" in plain,
                    sw_defines="w" in plain,
                    reads="R" in plain,
                    sw_reads="r" in plain,
                    steering=frozenset(steering),
                )
                entries.append(_named(entry, disassembler))
    return entries


def _named(entry: Entry, disassembler: capstone.Cs) -> Entry:
    sample = entry.prefix + entry.escape + bytes([entry.opcode])
    if entry.modrm == "fixed":
        sample += bytes([entry.digit or 0])
    elif entry.modrm:
        sample += bytes([(0xC0 if entry.modrm == "reg" else 0) | (entry.digit or 0) << 3])
    found = next(disassembler.disasm_lite(sample + bytes(9), 0), None)
    fields = {name: getattr(entry, name) for name in Entry.__slots__}
    return Entry(**{**fields, "name": found[2] if found else "(bad)"})


def entries(lines: Iterable[str]) -> list[Entry]:
    """Entries of some lines; empty ones count for nothing."""
    disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    return [entry for line in lines if line for entry in _parse(line, disassembler)]


@functools.cache
def table() -> tuple[Entry, ...]:
    """All entries."""
    return tuple(entries([*_alu_lines(), *_shift_lines(), *f"{_INTEGER}{_X87}{_VECTOR}".splitlines()]))
