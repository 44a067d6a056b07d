"""Stencils as data: code bytes and relocations, cut out of object code and packed for the stitcher."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyhyve.cpu.engine.context import FIRST_HELPER, RELOCATION_SYMBOLS
from pyhyve.cpu.engine.elf import Fixup, ObjectFile, Relocation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TEMPLATE = struct.Struct("<IHHIHH")
"""code offset, hot length, cold length, index of the first relocation, hot and cold relocation counts."""
RELOCATION = struct.Struct("<HHHxxi4x")
"""offset in its part, `Patch`, symbol number, addend."""

PATCH_PC32 = 0
PATCH_32 = 1
PATCH_64 = 2
PATCH_16 = 3
PATCH_8 = 4
_PATCHES = {
    Relocation.PC32: PATCH_PC32,
    Relocation.PLT32: PATCH_PC32,
    Relocation.ABS32: PATCH_32,
    Relocation.ABS32S: PATCH_32,
    Relocation.ABS64: PATCH_64,
    Relocation.ABS16: PATCH_16,
    Relocation.ABS8: PATCH_8,
}
_NEXT = RELOCATION_SYMBOLS["NEXT"]
_JMP = 0xE9


@dataclass(frozen=True, slots=True)
class Template:
    """One stencil: the expected path, the unexpected ones, and what to patch in each."""

    hot: bytes
    cold: bytes
    hot_relocations: tuple[tuple[int, int, int, int], ...]
    cold_relocations: tuple[tuple[int, int, int, int], ...]


def extract(file: ObjectFile, names: Iterable[str], helpers: Mapping[str, int]) -> list[Template]:
    """The templates of stencils `names`; raises ValueError for a reference that cannot be patched."""
    return [_template(file, name, helpers) for name in names]


def _template(file: ObjectFile, name: str, helpers: Mapping[str, int]) -> Template:
    parts: list[tuple[bytes, tuple[tuple[int, int, int, int], ...]]] = []
    for prefix in (".text.", ".cold."):
        section = file.sections.get(prefix + name)
        if section is None:
            parts.append((b"", ()))
        else:
            parts.append((section.data, tuple(_relocation(f, name, helpers) for f in section.fixups)))
    (hot, hot_relocations), (cold, cold_relocations) = parts
    if hot_relocations:
        offset, _, symbol, _ = hot_relocations[-1]
        if symbol == _NEXT and offset == len(hot) - 4 and hot[-5] == _JMP:
            hot, hot_relocations = hot[:-5], hot_relocations[:-1]
    return Template(hot, cold, hot_relocations, cold_relocations)


def _relocation(fixup: Fixup, name: str, helpers: Mapping[str, int]) -> tuple[int, int, int, int]:
    known = RELOCATION_SYMBOLS | {
        f"section:.text.{name}": RELOCATION_SYMBOLS["HOT"],
        f"section:.cold.{name}": RELOCATION_SYMBOLS["COLD"],
    }
    if fixup.symbol in known:
        symbol = known[fixup.symbol]
    elif fixup.symbol in helpers:
        symbol = FIRST_HELPER + helpers[fixup.symbol]
    else:
        msg = f"stencil {name} refers to {fixup.symbol}, which cannot be patched"
        raise ValueError(msg)
    if fixup.kind not in _PATCHES or symbol > 0xFFFF:
        msg = f"stencil {name}: relocation {fixup.kind} against {fixup.symbol}"
        raise ValueError(msg)
    return fixup.offset, _PATCHES[Relocation(fixup.kind)], symbol, fixup.addend


def pack(templates: Iterable[Template]) -> tuple[bytes, bytes, bytes]:
    """Template table, code, relocations. Identical code is stored once."""
    table, code, relocations = bytearray(), bytearray(), bytearray()
    seen: dict[bytes, int] = {}
    count = 0
    for item in templates:
        body = item.hot + item.cold
        offset = seen.setdefault(body, len(code))
        if offset == len(code):
            code += body + bytes(-len(body) % 8)
        table += TEMPLATE.pack(
            offset, len(item.hot), len(item.cold), count, len(item.hot_relocations), len(item.cold_relocations)
        )
        for relocation in item.hot_relocations + item.cold_relocations:
            relocations += RELOCATION.pack(*relocation)
            count += 1
    return bytes(table), bytes(code) + bytes(64), bytes(relocations)
