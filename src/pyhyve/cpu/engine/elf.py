"""Reads relocatable ELF64 objects as LLVM writes them (System V ABI, AMD64 supplement)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELA = struct.Struct("<QQq")

_SHT_PROGBITS = 1
_SHT_SYMTAB = 2
_SHT_RELA = 4
_SHT_NOBITS = 8
_SHF_ALLOC = 2


class Relocation(IntEnum):
    """Relocation types of the AMD64 supplement that LLVM emits for us."""

    ABS64 = 1
    PC32 = 2
    PLT32 = 4
    ABS32 = 10
    ABS32S = 11
    ABS16 = 12
    ABS8 = 14
    PC64 = 24


@dataclass(frozen=True, slots=True)
class Fixup:
    """One relocation: the place's offset in its section, the symbol (or `section:NAME`), the addend."""

    offset: int
    kind: int
    symbol: str
    addend: int


@dataclass(frozen=True, slots=True)
class Section:
    """An allocated section."""

    name: str
    data: bytes
    size_bytes: int
    alignment: int
    fixups: tuple[Fixup, ...]


@dataclass(frozen=True, slots=True)
class ObjectFile:
    """Allocated sections by name, and defined symbols as (section name, offset)."""

    sections: dict[str, Section]
    symbols: dict[str, tuple[str, int]]


def _text(table: bytes, offset: int) -> str:
    return table[offset : table.index(b"\0", offset)].decode()


def parse(data: bytes) -> ObjectFile:
    """Parse an object; raises ValueError when it is not a relocatable ELF64."""
    if data[:4] != b"\x7fELF" or len(data) < _HEADER.size:
        msg = "not an ELF object"
        raise ValueError(msg)
    header = _HEADER.unpack_from(data)
    offset, count, names_index = header[6], header[12], header[13]
    raw = [_SECTION.unpack_from(data, offset + i * _SECTION.size) for i in range(count)]
    bodies = [b"" if s[1] == _SHT_NOBITS else data[s[4] : s[4] + s[5]] for s in raw]
    names = [_text(bodies[names_index], s[0]) for s in raw]
    symbols: list[tuple[str, int, int]] = []
    for section, body in zip(raw, bodies, strict=True):
        if section[1] != _SHT_SYMTAB:
            continue
        strings = bodies[section[6]]
        for at in range(0, len(body), _SYMBOL.size):
            name, info, _, shndx, value, _ = _SYMBOL.unpack_from(body, at)
            text = f"section:{names[shndx]}" if info & 15 == 3 else _text(strings, name)
            symbols.append((text, shndx, value))
    fixups: dict[int, list[Fixup]] = {}
    for section, body in zip(raw, bodies, strict=True):
        if section[1] != _SHT_RELA:
            continue
        target = fixups.setdefault(section[7], [])
        for at in range(0, len(body), _RELA.size):
            place, info, addend = _RELA.unpack_from(body, at)
            name_text, shndx, value = symbols[info >> 32]
            if name_text.startswith(".L") and shndx < count:
                name_text, addend = f"section:{names[shndx]}", addend + value
            target.append(Fixup(place, info & 0xFFFFFFFF, name_text, addend))
    sections = {
        names[i]: Section(
            names[i], bodies[i], s[5], max(s[8], 1), tuple(sorted(fixups.get(i, []), key=lambda f: f.offset))
        )
        for i, s in enumerate(raw)
        if s[2] & _SHF_ALLOC and s[1] in {_SHT_PROGBITS, _SHT_NOBITS}
    }
    defined = {n: (names[i], v) for n, i, v in symbols if 0 < i < count and not n.startswith("section:") and n}
    return ObjectFile(sections, defined)
