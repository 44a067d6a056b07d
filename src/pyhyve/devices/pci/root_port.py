"""A root port of a PCI Express machine, as QEMU's `pcie-root-port`: one link, one slot, and its hotplug controller.

PCI Express Base Specification 3.0, 6.7 (hotplug) and 7.8. The guest hears of a device that came, and is asked to let
one go by the slot's attention button; a device is out once power controller and power indicator are off.
"""

from __future__ import annotations

from pyhyve.devices.pci import express_spec as spec
from pyhyve.devices.pci.bridge import PciBridge
from pyhyve.devices.pci.express import express_capability
from pyhyve.devices.pci.express_spec import Indicator, PortType, SlotCapability, SlotControl, SlotStatus
from pyhyve.devices.pci.msi import Msix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_DEVICE_ID = 0x000C
_PIN = 1
_ATTENTION, _POWER = 3 << spec.ATTENTION_SHIFT, 3 << spec.POWER_SHIFT
_SLOT_WRITABLE = (
    _ATTENTION | _POWER | SlotControl.BUTTON | SlotControl.PRESENCE | SlotControl.COMMAND | SlotControl.INTERRUPT
)


def _no_one() -> None:
    pass


class PcieRootPort(PciBridge):
    """The port. `on_let_go` is called when the guest let the devices behind it go, with the machine lock held."""

    def __init__(self, *, port: int = 0, slot: int = 0, name: str = "root port", hotplug: bool = True) -> None:
        """`port` and `slot` are numbers that the guest sees: 8 and 13 bits. `hotplug`: devices come and go."""
        super().__init__(device_id=_DEVICE_ID, interrupt_pin=_PIN, name=name, slots=range(1))
        self.on_let_go: Callable[[], None] = _no_one
        self.has_hotplug = hotplug
        Msix(self, 0, 1)
        self.add_subsystem()
        self._express = express_capability(self, PortType.ROOT_PORT, port=port, has_slot=True)
        capabilities = SlotCapability(0)
        if hotplug:
            capabilities = (
                SlotCapability.ATTENTION_BUTTON | SlotCapability.POWER_CONTROLLER | SlotCapability.ATTENTION_INDICATOR
                | SlotCapability.POWER_INDICATOR | SlotCapability.SURPRISE | SlotCapability.HOT_PLUG
            )  # fmt: skip
        self._put(spec.SLOT_CAPABILITIES, int(capabilities) | (slot & 0x1FFF) << spec.SLOT_NUMBER_SHIFT, 4)
        if hotplug:
            at = self._express + spec.SLOT_CONTROL
            self.writable[at : at + 2] = int(_SLOT_WRITABLE | SlotControl.POWER_OFF).to_bytes(2, "little")
        self._was_notified = False
        self._settle()

    def _get(self, offset: int, size: int = 2) -> int:
        return self.config_read(self._express + offset, size)

    def _put(self, offset: int, value: int, size: int = 2) -> None:
        self._set(self._express + offset, size, value)

    # -- the slot -----------------------------------------------------------------------------------------------------

    @property
    def is_occupied(self) -> bool:
        """Whether a device is in the slot, for the guest to see."""
        return bool(self._get(spec.SLOT_STATUS) & SlotStatus.OCCUPIED)

    @property
    def is_powered(self) -> bool:
        """Whether the power controller is on."""
        return not self._get(spec.SLOT_CONTROL) & SlotControl.POWER_OFF

    @property
    def is_off(self) -> bool:
        """Whether controller and indicator say that nothing in the slot is used."""
        return _is_off(self._get(spec.SLOT_CONTROL))

    @property
    def is_blinking(self) -> bool:
        """Whether the guest is busy with what was asked of it before."""
        return self._get(spec.SLOT_CONTROL) >> spec.POWER_SHIFT & 3 == Indicator.BLINK

    def inserted(self, *, announce: bool) -> None:
        """A device was put into the slot; `announce`: while the guest runs."""
        if announce and self.has_hotplug:
            self._show_occupied(occupied=True)
            self._event(SlotStatus.PRESENCE | SlotStatus.BUTTON)
        else:
            self._settle()

    def press_button(self) -> None:
        """Ask the guest to let go what is in the slot."""
        self._event(SlotStatus.BUTTON)

    def emptied(self) -> None:
        """The slot is empty."""
        was_occupied = self.is_occupied
        self._show_occupied(occupied=False)
        if was_occupied:
            self._event(SlotStatus.PRESENCE)

    def _show_occupied(self, *, occupied: bool) -> None:
        status = self._get(spec.SLOT_STATUS) & ~int(SlotStatus.OCCUPIED)
        self._put(spec.SLOT_STATUS, status | (SlotStatus.OCCUPIED if occupied else 0))
        self._put(spec.LINK_STATUS, spec.LINK_GEN1_X1 | (spec.LINK_ACTIVE if occupied else 0))

    def _settle(self) -> None:
        """Power on: power is where a device is; no events."""
        occupied = not self.secondary.is_empty
        self._put(spec.SLOT_STATUS, 0)
        self._show_occupied(occupied=occupied)
        control = Indicator.OFF << spec.ATTENTION_SHIFT
        control |= (Indicator.ON if occupied else Indicator.OFF) << spec.POWER_SHIFT
        if not occupied:
            control |= SlotControl.POWER_OFF
        self._put(spec.SLOT_CONTROL, control if self.has_hotplug else 0)
        self._notify()

    def _event(self, events: SlotStatus) -> None:
        self._put(spec.SLOT_STATUS, self._get(spec.SLOT_STATUS) | events)
        self._notify()

    def _wants_attention(self) -> bool:
        control = self._get(spec.SLOT_CONTROL)
        return bool(control & SlotControl.INTERRUPT and self._get(spec.SLOT_STATUS) & control & spec.EVENTS)

    def _notify(self) -> None:
        """Messages are sent when the first event appears; the pin is high while there is one (6.7.3.4)."""
        wanted = self._wants_attention()
        if wanted == self._was_notified:
            return
        self._was_notified = wanted
        if self.msix is not None and self.msix.enabled:
            if wanted:
                self.msix.notify(0)
        else:
            self.set_intx(level=wanted)

    # -- accesses -----------------------------------------------------------------------------------------------------

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Write configuration space; slot control acts at once."""
        before = self._get(spec.SLOT_CONTROL)
        super().config_write(offset, size, value)
        control_at, status_at = self._express + spec.SLOT_CONTROL, self._express + spec.SLOT_STATUS
        if not self.has_hotplug or offset + size <= control_at or offset >= status_at + 2:
            return
        if offset <= status_at < offset + size:
            cleared = value >> 8 * (status_at - offset) & spec.EVENTS
            self._put(spec.SLOT_STATUS, self._get(spec.SLOT_STATUS) & ~cleared)
        if offset < control_at + 2:
            self._controlled(before)
        self._notify()

    def _controlled(self, before: int) -> None:
        """Slot control was written."""
        now = self._get(spec.SLOT_CONTROL)
        if now & SlotControl.POWER_OFF and not before & SlotControl.POWER_OFF:
            self.secondary.reset()
        if self.is_occupied and _is_off(now) and not _is_off(before):
            self.on_let_go()
        self._put(spec.SLOT_STATUS, self._get(spec.SLOT_STATUS) | SlotStatus.COMMAND)

    def reset(self) -> None:
        """Power on."""
        super().reset()
        self._was_notified = False
        self._settle()

    def identity(self, config: bytes | bytearray) -> bytes:
        """Slot and link status change by themselves."""
        fixed = bytearray(super().identity(config))
        for offset in (spec.SLOT_STATUS, spec.LINK_STATUS):
            at = self._express + offset
            fixed[at : at + 2] = bytes(2)
        return bytes(fixed)

    def load(self, state: Any) -> None:  # noqa: ANN401 - as in `PciDevice`
        """Take over the registers; what was told once is not told again."""
        super().load(state)
        occupied = not self.secondary.is_empty
        if occupied != self.is_occupied:
            self._show_occupied(occupied=occupied)
        self._was_notified = self._wants_attention()


def _is_off(control: int) -> bool:
    return bool(control & SlotControl.POWER_OFF) and control >> spec.POWER_SHIFT & 3 == Indicator.OFF
