"""Opcode rows and semantics, by kind of instruction; each module offers `ROWS`."""

from __future__ import annotations

import functools
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyhyve.cpu.isa.x86.decode_tables import DecodeTables
    from pyhyve.cpu.isa.x86.table import Row

MODULES = (
    "arithmetic",
    "shifts",
    "transfer",
    "system",
    "legacy",
    "fpstate",
    "sse",
    "sse_float",
    "sse_general",
    "sse_integer",
    "mmx",
    "x87",
)


def all_rows() -> list[Row]:
    """Every row."""
    rows: list[Row] = []
    for name in MODULES:
        rows += import_module(f"pyhyve.cpu.isa.x86.rows.{name}").ROWS
    return rows


@functools.cache
def tables() -> DecodeTables:
    """The decoder's tables and the stencils they ask for."""
    from pyhyve.cpu.isa.x86 import decode_tables, specials  # noqa: PLC0415 - they import the kernels, which import this

    return decode_tables.build(all_rows(), len(specials.NUMBERS))
