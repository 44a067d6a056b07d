"""Links the runtime's object code into one flat, position-independent image."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pyhyve.cpu.engine.elf import ObjectFile, Relocation

if TYPE_CHECKING:
    from collections.abc import Iterable


def link(file: ObjectFile, exports: Iterable[str]) -> tuple[bytes, dict[str, int]]:
    """The image and the offset of each exported symbol; raises ValueError for a reference that cannot be resolved."""
    image = bytearray()
    places: dict[str, int] = {}
    for section in file.sections.values():
        if section.name.startswith((".eh_frame", ".note")):
            continue
        image += bytes(-len(image) % max(section.alignment, 16))
        places[section.name] = len(image)
        image += section.data or bytes(section.size_bytes)
    for section in file.sections.values():
        if section.name not in places:
            continue
        for fixup in section.fixups:
            _patch(
                image,
                places[section.name] + fixup.offset,
                fixup.kind,
                _resolve(file, places, fixup.symbol) + fixup.addend,
            )
    return bytes(image), {name: _resolve(file, places, name) for name in exports}


def _resolve(file: ObjectFile, places: dict[str, int], symbol: str) -> int:
    if symbol.startswith("section:"):
        return places[symbol.removeprefix("section:")]
    if symbol not in file.symbols:
        msg = f"the runtime refers to {symbol}, which nothing defines"
        raise ValueError(msg)
    section, offset = file.symbols[symbol]
    return places[section] + offset


def _patch(image: bytearray, at: int, kind: int, value: int) -> None:
    if kind in {Relocation.PC32, Relocation.PLT32}:
        struct.pack_into("<i", image, at, value - at)
    elif kind == Relocation.PC64:
        struct.pack_into("<q", image, at, value - at)
    else:
        msg = f"the runtime has a relocation of type {kind}: not position-independent"
        raise ValueError(msg)
