"""A local APIC's vectors, for processors that have no place of their own for them."""

from __future__ import annotations


class PlainVectors:
    """As `accel.api.ApicVectors`: everybody who uses it holds the machine lock."""

    __slots__ = ("enabled", "irr", "isr", "tmr", "tpr")

    def __init__(self) -> None:
        self.irr = self.isr = self.tmr = self.tpr = 0
        self.enabled = False

    def post(self, vector: int, *, is_level: bool) -> None:
        """Request a vector."""
        bit = 1 << vector
        self.irr |= bit
        if is_level:
            self.tmr |= bit
        else:
            self.tmr &= ~bit
