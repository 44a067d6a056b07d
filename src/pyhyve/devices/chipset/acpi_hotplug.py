"""PCI hotplug through ACPI: the ports that the DSDT's methods use, one bit for each slot of bus 0.

As in QEMU's PIIX4 (docs/specs/acpi_pci_hotplug): which slots have something new, which should be let go, and the port
that lets one go. The guest is told with general-purpose event 1 (`_E01`).
"""

from __future__ import annotations

from pyhyve.state.record import U32, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ClassVar

HOTPLUG_PORTS = 0x14
HOTPLUG_GPE = 1
_UP, _DOWN, _EJECT, _REMOVABLE, _BUS = 0x00, 0x04, 0x08, 0x0C, 0x10


@record
class PciHotplugState:
    """What came, what is to go, and the chosen bus."""

    up: U32
    down: U32
    bus: U32


class PciHotplug:
    """The registers. `raise_event` raises the general-purpose event; `ejected(slot)` is called for each slot let go."""

    state_type: ClassVar = PciHotplugState
    state_version: ClassVar = 1

    def __init__(self, raise_event: Callable[[], None], ejected: Callable[[int], None]) -> None:
        """`ejected` is called on a vCPU's thread, with the machine lock held."""
        self._raise_event = raise_event
        self._ejected = ejected
        self._up = self._down = self._bus = 0
        self.removable = 0
        """Slots whose device can be let go."""

    def plugged(self, slot: int) -> None:
        """A device is in `slot` that the guest does not know yet."""
        self._up |= 1 << slot
        self.removable |= 1 << slot
        self._raise_event()

    def request_eject(self, slot: int) -> None:
        """Ask the guest to let the device in `slot` go."""
        self._down |= 1 << slot
        self._raise_event()

    def gone(self, slot: int) -> None:
        """`slot` is empty."""
        self._up &= ~(1 << slot)
        self._down &= ~(1 << slot)

    def reset(self) -> None:
        """Return to the power-on state; firmware finds what is there by itself."""
        self._up = self._down = self._bus = 0

    def save(self) -> PciHotplugState:
        """All registers."""
        return PciHotplugState(up=self._up, down=self._down, bus=self._bus)

    def load(self, state: PciHotplugState) -> None:
        """Take over all registers."""
        self._up, self._down, self._bus = state.up, state.down, state.bus

    def read(self, offset: int, size: int) -> int:
        """Read a register of 32 bits; what changed is told once."""
        value = 0
        if self._bus == 0:
            if offset == _UP:
                value, self._up = self._up, 0
            elif offset == _DOWN:
                value = self._down
            elif offset == _REMOVABLE:
                value = self.removable
        if offset == _BUS:
            value = self._bus
        return value & ((1 << 8 * size) - 1)

    def write(self, offset: int, _size: int, value: int) -> None:
        """Choose a bus, or let slots go."""
        if offset == _BUS:
            self._bus = value & 0xFFFFFFFF
        elif offset == _EJECT and self._bus == 0:
            for slot in range(32):
                if value >> slot & 1:
                    self._down &= ~(1 << slot)
                    self._ejected(slot)
