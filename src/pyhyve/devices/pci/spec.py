"""Numbers of the PCI Local Bus Specification 3.0 (configuration header 6.1, capabilities appendix H, MSI 6.8)."""

from __future__ import annotations

from pyhyve.support.enums import IntEnum, IntFlag

CONFIG_SIZE_BYTES = 256

# Header type 0 (6.1, figure 6-1)
VENDOR_ID = 0x00
DEVICE_ID = 0x02
COMMAND = 0x04
STATUS = 0x06
REVISION_ID = 0x08
CLASS_CODE = 0x09
CACHE_LINE_SIZE = 0x0C
LATENCY_TIMER = 0x0D
HEADER_TYPE = 0x0E
BAR0 = 0x10
BAR_COUNT = 6
SUBSYSTEM_VENDOR_ID = 0x2C
SUBSYSTEM_ID = 0x2E
EXPANSION_ROM = 0x30
ROM_ENABLE = 1 << 0
LEAST_ROM_BYTES = 2048
ROM_BAR = 6
"""Its number among the registers that map something."""
CAPABILITY_POINTER = 0x34
INTERRUPT_LINE = 0x3C
INTERRUPT_PIN = 0x3D
FIRST_CAPABILITY = 0x40

HEADER_MULTIFUNCTION = 0x80
HEADER_BRIDGE = 0x01

# Header type 1 (PCI-to-PCI Bridge Architecture Specification 1.2, 3.2)
BRIDGE_BAR_COUNT = 2
PRIMARY_BUS = 0x18
SECONDARY_BUS = 0x19
SUBORDINATE_BUS = 0x1A
IO_BASE = 0x1C
IO_LIMIT = 0x1D
MEMORY_BASE = 0x20
MEMORY_LIMIT = 0x22
PREFETCH_BASE = 0x24
PREFETCH_LIMIT = 0x26
PREFETCH_BASE_UPPER = 0x28
PREFETCH_LIMIT_UPPER = 0x2C
BRIDGE_CONTROL = 0x3E
PREFETCH_64BIT = 0x01
IO_WINDOW_BYTES = 1 << 12
MEMORY_WINDOW_BYTES = 1 << 20
"""What a bridge's windows are multiples of."""


class BridgeControl(IntFlag):
    """Bridge control register bits (3.2.5.18)."""

    PARITY = 1 << 0
    SERR = 1 << 1
    ISA = 1 << 2
    VGA = 1 << 3
    MASTER_ABORT = 1 << 5
    SECONDARY_RESET = 1 << 6


class Command(IntFlag):
    """Command register bits (6.2.2)."""

    IO = 1 << 0
    MEMORY = 1 << 1
    BUS_MASTER = 1 << 2
    PARITY_ERROR = 1 << 6
    SERR = 1 << 8
    INTX_DISABLE = 1 << 10


COMMAND_WRITABLE = (
    Command.IO | Command.MEMORY | Command.BUS_MASTER | Command.PARITY_ERROR | Command.SERR | Command.INTX_DISABLE
)


class Status(IntFlag):
    """Status register bits (6.2.3)."""

    INTERRUPT = 1 << 3
    CAPABILITIES = 1 << 4


class CapabilityId(IntEnum):
    """Capability identifiers (appendix H)."""

    POWER_MANAGEMENT = 0x01
    MSI = 0x05
    VENDOR = 0x09
    SUBSYSTEM = 0x0D
    EXPRESS = 0x10
    MSIX = 0x11
    SATA = 0x12


class BarKind(IntEnum):
    """What a base address register maps; the value is its read-only low bits (6.2.5.1)."""

    MEM32 = 0x0
    IO = 0x1
    MEM64 = 0x4


BAR_PREFETCHABLE = 0x8

# MSI message control (6.8.1.3)
MSI_ENABLE = 1 << 0
MSI_64BIT = 1 << 7
# MSI-X message control and table (6.8.2)
MSIX_ENABLE = 1 << 15
MSIX_FUNCTION_MASK = 1 << 14
MSIX_ENTRY_SIZE_BYTES = 16
MSIX_MAX_VECTORS = 2048
"""Largest table a function can have."""
MSIX_VECTOR_MASKED = 1 << 0
