"""Registers of 32 bits, as a region of a bus."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class WordRegisters:
    """A `RegisterDevice` of registers that are read in parts too, and written whole: parts are what no driver writes.

    Offsets that `read` gets are multiples of 4; those of `write` are what the guest wrote to.
    """

    def __init__(self, read: Callable[[int], int], write: Callable[[int, int], None]) -> None:
        self._read = read
        self._write = write

    def read(self, offset: int, size: int) -> int:
        """Read a register, or a part of one."""
        return self._read(offset & ~3) >> 8 * (offset & 3) & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a whole register."""
        if size == 4:
            self._write(offset, value)
