"""One form of an instruction: what distinguishes a stencil from its siblings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Variant:
    """Sizes and operand forms fixed when a stencil is built."""

    bits: int
    """Operand size: 8, 16, 32, 64; 0 when the instruction has none."""
    forms: tuple[str, ...]
    no_flags: bool = False
    """The flags it sets are dead."""
    lock: bool = False
    address_bits: int = 0
    """Address size, for instructions that use it other than through the effective address."""
    stack: str = ""
    """Stack access: `64`, `32` (flat), `32s`, `16s` (segmented); for instructions that use the stack."""
    repeat: str = ""
    """`` none, `z` REP/REPE, `nz` REPNE; for string instructions."""
    wide: bool = False
    """The immediate has 64 bits."""
    code_bits: int = 0
    """Code size 16, 32 or 64, for instructions that depend on it."""
