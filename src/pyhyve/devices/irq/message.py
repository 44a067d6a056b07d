"""Interrupt messages between I/O APIC, MSI writers and local APICs."""

from __future__ import annotations

from pyhyve.devices.irq import spec
from pyhyve.support.records import dataclass


@dataclass(frozen=True, slots=True)
class ApicMessage:
    """One message: `mode` is a `spec.DeliveryMode` number, `destination` an APIC ID or a logical mask."""

    vector: int
    mode: int
    destination: int
    is_logical: bool
    is_level: bool = False
    assert_level: bool = True


def message_from_entry(entry: int) -> ApicMessage:
    """Decode a redirection entry (82093AA, 3.2.4)."""
    return ApicMessage(
        vector=entry & 0xFF,
        mode=entry >> 8 & 7,
        destination=entry >> 56,
        is_logical=bool(entry & spec.ENTRY_LOGICAL),
        is_level=bool(entry & spec.ENTRY_LEVEL),
    )


def message_from_msi(address: int, data: int) -> ApicMessage | None:
    """Decode an MSI write (SDM Vol. 3A, 11.11); None when the address is not the local APICs'."""
    if address & spec.MSI_ADDRESS_MASK != spec.LAPIC_BASE or address >> 32:
        return None
    is_level = bool(data & spec.LVT_LEVEL)
    return ApicMessage(
        vector=data & 0xFF,
        mode=data >> 8 & 7,
        destination=address >> 12 & 0xFF,
        is_logical=bool(address & 1 << 2),
        is_level=is_level,
        assert_level=not is_level or bool(data & 1 << 14),
    )
