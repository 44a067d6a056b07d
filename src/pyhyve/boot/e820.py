"""Where RAM is and how the guest is told (the E820 map of ACPI 6.5, 15.1)."""

from __future__ import annotations

from pyhyve.support.enums import IntEnum
from pyhyve.support.records import dataclass

FOUR_GIB = 1 << 32
LOW_RAM_LIMIT = 0xC000_0000
"""RAM below 4 GiB ends here at most; PCI devices and interrupt controllers follow."""
VGA_WINDOW = 0xA_0000
BIOS_AREA = 0xC_0000
TABLES_BASE = 0xE_0000
"""ACPI and SMBIOS tables live between here and 1 MiB, where operating systems look for them."""
ONE_MIB = 0x10_0000
EBDA = 0x9_FC00
_WINDOW_ALIGN = 1 << 28


class MemoryType(IntEnum):
    """Address range types."""

    RAM = 1
    RESERVED = 2
    ACPI = 3
    NVS = 4


@dataclass(frozen=True, slots=True)
class E820Entry:
    """One range."""

    base: int
    size_bytes: int
    type: MemoryType


@dataclass(frozen=True, slots=True)
class MemoryLayout:
    """How guest RAM is split around the hole below 4 GiB."""

    below_4g: int
    above_4g: int
    reserved: tuple[tuple[int, int], ...] = ()
    """(address, size) of further memory that the guest's operating system must leave alone."""
    ecam_bytes: int = 0
    """Size of the PCI configuration space in memory, which begins where RAM below 4 GiB ends at most."""
    ecam_base: int = 0

    @classmethod
    def of(cls, memory_bytes: int, ecam: tuple[int, int] = (0, 0)) -> MemoryLayout:
        """Split `memory_bytes` around the hole; `ecam`: address and size of PCI's configuration space, if in memory."""
        below = min(memory_bytes, ecam[0] or LOW_RAM_LIMIT)
        return cls(below, memory_bytes - below, ecam_base=ecam[0], ecam_bytes=ecam[1])

    def reserving(self, base: int, size_bytes: int) -> MemoryLayout:
        """The same with another range in `reserved`."""
        reserved = (*self.reserved, (base, size_bytes))
        return MemoryLayout(self.below_4g, self.above_4g, reserved, self.ecam_bytes, self.ecam_base)

    @property
    def ram_ranges(self) -> tuple[tuple[int, int], ...]:
        """(address, size) of what is backed by memory; the VGA window is not."""
        ranges = [(0, VGA_WINDOW), (BIOS_AREA, self.below_4g - BIOS_AREA)]
        if self.above_4g:
            ranges.append((FOUR_GIB, self.above_4g))
        return tuple(ranges)

    @property
    def below_4g_window(self) -> int:
        """Where PCI memory below 4 GiB begins: after RAM and configuration space, on a 256 MiB boundary."""
        end = max(self.below_4g, self.ecam_base + self.ecam_bytes)
        return -(-end // _WINDOW_ALIGN) * _WINDOW_ALIGN

    @property
    def window64(self) -> int:
        """Where 64-bit PCI memory begins: after RAM, on a 1 GiB boundary, above 4 GiB."""
        end = FOUR_GIB + self.above_4g
        return (end + (1 << 30) - 1) & ~((1 << 30) - 1)

    def e820(self) -> tuple[E820Entry, ...]:
        """The map for a guest started without firmware."""
        entries = [
            E820Entry(0, EBDA, MemoryType.RAM),
            E820Entry(EBDA, VGA_WINDOW - EBDA, MemoryType.RESERVED),
            E820Entry(TABLES_BASE, ONE_MIB - TABLES_BASE, MemoryType.RESERVED),
        ]
        if self.below_4g > ONE_MIB:
            entries.append(E820Entry(ONE_MIB, self.below_4g - ONE_MIB, MemoryType.RAM))
        if self.ecam_bytes:
            entries.append(E820Entry(self.ecam_base, self.ecam_bytes, MemoryType.RESERVED))
        if self.above_4g:
            entries.append(E820Entry(FOUR_GIB, self.above_4g, MemoryType.RAM))
        return (*entries, *(E820Entry(base, size, MemoryType.RESERVED) for base, size in self.reserved))
