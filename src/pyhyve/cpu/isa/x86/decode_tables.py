"""Turns the opcode rows into the flat arrays that the compiled decoder reads, and numbers the stencils they need."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from pyhyve.cpu.isa.x86.table import MAPS, PREFIXES, Row, size_bits
from pyhyve.cpu.isa.x86.variant import Variant
from pyhyve.cpu.lang.staging import tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyhyve.cpu.isa.x86.context import X86Context
    from pyhyve.cpu.lang import Module


class Where(IntEnum):
    """Where an operand comes from (low 5 bits of its code; bit 5: an 8-bit register)."""

    NONE = 0
    RM = 1
    REG = 2
    OPCODE = 3
    IMMEDIATE = 4
    SECOND_IMMEDIATE = 5
    RELATIVE = 6
    SEGMENT = 7
    CONTROL = 8
    XMM_REG = 9
    XMM_RM = 10
    MMX_REG = 11
    MMX_RM = 12
    STACK_REG = 13
    ABSOLUTE = 14
    MEMORY = 15
    ADDRESS = 16


BYTE_REGISTER = 32


class Immediate(IntEnum):
    """What follows the addressing bytes."""

    NONE = 0
    BYTE = 1
    BYTE_SIGNED = 2
    WORD = 3
    Z = 4
    FULL = 5
    WORD_BYTE = 6
    FAR = 7
    ABSOLUTE = 8


class Size(IntEnum):
    """Operand-size rules."""

    NONE = 0
    B = 1
    W = 2
    D = 3
    Q = 4
    V = 5
    Z = 6
    Y = 7


# Bits of a row's attribute word.
ATTR_MODRM = 1 << 0
ATTR_IMMEDIATE_SHIFT = 1
ATTR_SIZE_SHIFT = 5
ATTR_DEFAULT64 = 1 << 8
ATTR_FORCE64 = 1 << 9
ATTR_LOCK = 1 << 10
ATTR_ENDS = 1 << 11
ATTR_WRITES_FLAGS = 1 << 12
ATTR_FLAG_NEUTRAL = 1 << 13
"""With `ATTR_WRITES_FLAGS`: it writes only some of them."""
ATTR_RELATIVE = 1 << 14
ATTR_CONDITIONAL = 1 << 15
ATTR_FPU_SHIFT = 16
ATTR_STORES = 1 << 18
ATTR_NO_ACCESS = 1 << 19
"""A memory operand is not touched, nor checked: NOP and its like."""
ATTR_MEMORY_SHIFT = 20
"""Bytes of the memory operand (at most `ATTR_MEMORY_MASK`); 0: the operand size."""
ATTR_MEMORY_MASK = 0x3FF
ATTR_WAITS = 1 << 32
ATTR_LATE = 1 << 33
ATTR_ALIGNED = 1 << 34
"""As `Row.waits`, `Row.late` and `Row.aligned`."""

FPU = {"": 0, "x87": 1, "mmx": 2, "sse": 3}

# Selector strides: byte fields of a 64-bit word, over (prefix, mod, reg, rm, mode).
DIMENSIONS = (("prefix", 4), ("mod", 2), ("reg", 8), ("rm", 8), ("mode", 2))
VARIANT_DIMENSIONS = ("size", "rm", "lock", "address", "stack", "repeat", "code", "no_flags")
STACKS = ("64", "32", "32s", "16s")
REPEATS = ("", "z", "nz")
WIDTHS = (16, 32, 64)


@dataclass(frozen=True, slots=True)
class Match:
    """Where a row applies within its opcode."""

    prefix: int | None
    mod: int | None
    reg: int | None
    rm: int | None
    mode: int | None


@dataclass(slots=True)
class StencilKey:
    """A stencil to build."""

    name: str
    variant: Variant
    semantics: Callable[[X86Context], None]

    def describe(self, module: Module) -> X86Context:
        """The stencil's context, after its semantics has run."""
        from pyhyve.cpu.isa.x86.context import X86Context  # noqa: PLC0415 - the context imports kernels, which import this

        context = X86Context(module, self.variant)
        with tracing(context.builder):
            self.semantics(context)
        return context


@dataclass(slots=True)
class DecodeTables:
    """The arrays; indexes are map * 256 + opcode for the selectors, row numbers (0: undefined) for the rest."""

    selector_base: list[int] = field(default_factory=lambda: [0] * 1024)
    selector_strides: list[int] = field(default_factory=lambda: [0] * 1024)
    has_modrm: list[int] = field(default_factory=lambda: [0] * 1024)
    leaves: list[int] = field(default_factory=lambda: [0])
    attributes: list[int] = field(default_factory=lambda: [0])
    operands: list[int] = field(default_factory=lambda: [0])
    variant_base: list[int] = field(default_factory=lambda: [0])
    variant_strides: list[int] = field(default_factory=lambda: [0])
    variants: list[int] = field(default_factory=list)
    stencils: list[StencilKey] = field(default_factory=list)
    rows: list[Row | None] = field(default_factory=lambda: [None])


def build(rows: Sequence[Row], first_stencil: int) -> DecodeTables:
    """Tables for `rows`; stencils are numbered from `first_stencil`. Raises ValueError on overlapping rows."""
    tables = DecodeTables()
    places: dict[int, list[tuple[Match, int]]] = {}
    numbers: dict[tuple[str, Variant], int] = {}
    for row in rows:
        number = len(tables.rows)
        tables.rows.append(row)
        _add_row(tables, row, numbers, first_stencil)
        for slot, match in _matches(row):
            places.setdefault(slot, []).append((match, number))
    for slot, entries in places.items():
        _add_selector(tables, slot, entries)
    return tables


def _matches(row: Row) -> list[tuple[int, Match]]:
    tokens = row.opcode.split()
    prefix = None
    if tokens[0] in PREFIXES and len(tokens) > 1:
        prefix = PREFIXES.index(tokens.pop(0))
    map_name = ""
    if tokens[0] == "0F" and len(tokens) > 1:
        map_name = tokens.pop(0)
        if tokens[0] in {"38", "3A"} and len(tokens) > 1 and not tokens[1].startswith("/"):
            map_name += " " + tokens.pop(0)
    opcode = int(tokens.pop(0), 16)
    mod = reg = rm = None
    count = 1
    for token in tokens:
        if token.startswith("/"):
            reg = int(token[1:])
        elif token == "+r":
            count = 8
        elif token in {"m", "r"}:
            mod = 0 if token == "r" else 1
        elif token.endswith("+i"):
            value = int(token[:-2], 16)
            mod, reg = 0, value >> 3 & 7
        else:
            value = int(token, 16)
            mod, reg, rm = 0, value >> 3 & 7, value & 7
    for operand in row.operands:
        if operand[0] == "M":
            mod = 1
        elif operand[0] in "RUN":
            mod = 0
    mode = {"": None, "64": 1, "32": 0}[row.mode]
    base = MAPS[map_name] * 256 + opcode
    return [(base + i, Match(prefix, mod, reg, rm, mode)) for i in range(count)]


def _add_selector(tables: DecodeTables, slot: int, entries: list[tuple[Match, int]]) -> None:
    used = [name for name, _ in DIMENSIONS if any(getattr(m, name) is not None for m, _ in entries)]
    sizes = {name: count if name in used else 1 for name, count in DIMENSIONS}
    strides, total = {}, 1
    for name, _ in DIMENSIONS:
        strides[name] = total if name in used else 0
        total *= sizes[name]
    base = len(tables.leaves)
    leaves = [0] * total
    for match, number in sorted(entries, key=lambda e: _specificity(e[0])):
        ranges = [
            range(sizes[name]) if getattr(match, name) is None else [getattr(match, name)] for name, _ in DIMENSIONS
        ]
        for point in itertools.product(*ranges):
            index = sum(p * strides[name] for p, (name, _) in zip(point, DIMENSIONS, strict=True))
            leaves[index] = number
    tables.leaves += leaves
    tables.selector_base[slot] = base
    word = 0
    for i, (name, _) in enumerate(DIMENSIONS):
        if strides[name] > 0xFFF:
            msg = f"opcode slot {slot:#x} splits too finely"
            raise ValueError(msg)
        word |= strides[name] << (12 * i)
    tables.selector_strides[slot] = word
    needs = any(getattr(m, n) is not None for m, _ in entries for n in ("mod", "reg", "rm")) or any(
        _needs_modrm(tables.rows[n]) for _, n in entries
    )
    tables.has_modrm[slot] = int(needs)


def _specificity(match: Match) -> int:
    return sum(getattr(match, name) is not None for name, _ in DIMENSIONS)


def _needs_modrm(row: Row | None) -> bool:
    return row is not None and (
        any(o[0] in "EGRMSCDVWUPQN" or o == "ST" for o in row.operands)
        or any(t.startswith("/") for t in row.opcode.split())
    )


_IMMEDIATES = {
    "Ib": Immediate.BYTE,
    "Is": Immediate.BYTE_SIGNED,
    "Iw": Immediate.WORD,
    "Iz": Immediate.Z,
    "Iv": Immediate.FULL,
    "Jb": Immediate.BYTE_SIGNED,
    "Jz": Immediate.Z,
    "Ap": Immediate.FAR,
}
_WHERE = {
    "E": Where.RM,
    "R": Where.RM,
    "G": Where.REG,
    "Z": Where.OPCODE,
    "I": Where.IMMEDIATE,
    "J": Where.RELATIVE,
    "S": Where.SEGMENT,
    "C": Where.CONTROL,
    "D": Where.CONTROL,
    "V": Where.XMM_REG,
    "W": Where.XMM_RM,
    "U": Where.XMM_RM,
    "P": Where.MMX_REG,
    "Q": Where.MMX_RM,
    "N": Where.MMX_RM,
    "O": Where.ABSOLUTE,
    "M": Where.MEMORY,
    "A": Where.IMMEDIATE,
}
_SIZES = {"": Size.NONE, "b": Size.B, "w": Size.W, "d": Size.D, "q": Size.Q, "v": Size.V, "z": Size.Z, "y": Size.Y}
_LETTER_BITS = {"b": 8, "w": 16, "d": 32, "q": 64, "x": 128}


def _operand_codes(row: Row) -> tuple[int, Immediate]:
    word, immediate, position = 0, Immediate.NONE, 0
    for token in row.operands:
        if token == "ST":
            where, byte = Where.STACK_REG, 0
        elif token == "Ma":
            where, byte = Where.ADDRESS, 0
        else:
            where = _WHERE[token[0]]
            byte = BYTE_REGISTER if token[0] in "EGRZ" and token[-1] == "b" else 0
        if token in _IMMEDIATES:
            if immediate is Immediate.WORD and token == "Ib":
                where, immediate = Where.SECOND_IMMEDIATE, Immediate.WORD_BYTE
            else:
                immediate = _IMMEDIATES[token]
        if token[0] == "O":
            immediate = Immediate.ABSOLUTE
        word |= (where | byte) << (8 * position)
        position += 1
        if token == "Ap":
            word |= Where.SECOND_IMMEDIATE << (8 * position)
            position += 1
    return word, immediate


_NO_ACCESS = frozenset({"nop", "prefetch", "gone", "ud0", "ud1"})


def _memory_bytes(row: Row) -> int:
    bits = row.memory_bits
    if not bits:
        for token in row.operands:
            if token[0] in "EMWQO" and token[-1] in _LETTER_BITS:
                bits = _LETTER_BITS[token[-1]]
    return bits // 8


def _add_row(tables: DecodeTables, row: Row, numbers: dict[tuple[str, Variant], int], first: int) -> None:
    codes, immediate = _operand_codes(row)
    attributes = int(immediate) << ATTR_IMMEDIATE_SHIFT | int(_SIZES[row.size]) << ATTR_SIZE_SHIFT
    for condition, bit in (
        (_needs_modrm(row), ATTR_MODRM),
        (row.default64, ATTR_DEFAULT64),
        (row.force64, ATTR_FORCE64),
        (row.lock, ATTR_LOCK),
        (row.ends, ATTR_ENDS),
        (row.flags in {"w", "p"}, ATTR_WRITES_FLAGS),
        (row.flags == "p" or (row.flags == "n" and not row.stack), ATTR_FLAG_NEUTRAL),
        (any(o[0] == "J" for o in row.operands), ATTR_RELATIVE),
        (row.conditional, ATTR_CONDITIONAL),
        (row.stores, ATTR_STORES),
        (row.name in _NO_ACCESS, ATTR_NO_ACCESS),
        (row.waits, ATTR_WAITS),
        (row.late, ATTR_LATE),
        (row.aligned, ATTR_ALIGNED),
    ):
        attributes |= bit if condition else 0
    attributes |= FPU[row.fpu] << ATTR_FPU_SHIFT | _memory_bytes(row) << ATTR_MEMORY_SHIFT
    tables.attributes.append(attributes)
    tables.operands.append(codes)
    _add_variants(tables, row, numbers, first)


def _dimension_values(row: Row) -> dict[str, tuple[object, ...]]:
    modrm = any(o[0] in "EWQ" for o in row.operands)
    tokens = row.opcode.split()
    both = modrm and "m" not in tokens and "r" not in tokens
    fixed = {"m": (1,), "r": (0,)}.get("m" if "m" in tokens else "r" if "r" in tokens else "", (0,))
    return {
        "size": size_bits(row.size),
        "rm": (0, 1) if both else (fixed if modrm else (0,)),
        "lock": (False, True) if row.lock else (False,),
        "address": WIDTHS if row.address_size else (0,),
        "stack": STACKS if row.stack else ("",),
        "repeat": REPEATS if row.repeat else ("",),
        "code": WIDTHS if row.code_size else (0,),
        "no_flags": (False, True) if row.flags in {"w", "p"} else (False,),
    }


def _forms(row: Row, memory: int) -> tuple[str, ...]:
    forms = []
    for token in row.operands:
        letter = token[0]
        if token == "ST" or letter in "IJSCDA":
            forms.append("i")
        elif letter in "GZR":
            forms.append("r")
        elif letter == "E":
            forms.append("m" if memory else "r")
        elif letter in "VU":
            forms.append("x")
        elif letter == "W":
            forms.append("m" if memory else "x")
        elif letter in "PN":
            forms.append("f")
        elif letter == "Q":
            forms.append("m" if memory else "f")
        else:
            forms.append("m")
        if token == "Ap":
            forms.append("i")
    return tuple(forms)


def _add_variants(tables: DecodeTables, row: Row, numbers: dict[tuple[str, Variant], int], first: int) -> None:
    values = _dimension_values(row)
    strides, total = {}, 1
    for name in VARIANT_DIMENSIONS:
        strides[name] = total if len(values[name]) > 1 else 0
        total *= len(values[name])
    base = len(tables.variants)
    slots = [0] * total
    for point in itertools.product(*(range(len(values[n])) for n in VARIANT_DIMENSIONS)):
        at = dict(zip(VARIANT_DIMENSIONS, point, strict=True))
        chosen = {name: values[name][at[name]] for name in VARIANT_DIMENSIONS}
        bits = int(chosen["size"])  # type: ignore[call-overload]
        memory = int(chosen["rm"])  # type: ignore[call-overload]
        variant = Variant(
            bits=bits,
            forms=_forms(row, memory),
            no_flags=bool(chosen["no_flags"]),
            lock=bool(chosen["lock"]) and bool(memory),
            address_bits=int(chosen["address"]),  # type: ignore[call-overload]
            stack=str(chosen["stack"]),
            repeat=str(chosen["repeat"]),
            wide="Iv" in row.operands and bits == 64,
            code_bits=int(chosen["code"]),  # type: ignore[call-overload]
        )
        key = (row.name, variant)
        if key not in numbers:
            numbers[key] = first + len(tables.stencils)
            tables.stencils.append(StencilKey(row.name, variant, row.semantics))
        slots[sum(at[n] * strides[n] for n in VARIANT_DIMENSIONS)] = numbers[key]
    word = 0
    for i, name in enumerate(VARIANT_DIMENSIONS):
        word |= strides[name] << (8 * i)
    tables.variants += slots
    tables.variant_base.append(base)
    tables.variant_strides.append(word)
