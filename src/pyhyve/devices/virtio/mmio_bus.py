"""Places for virtio devices over MMIO on a board without PCI: registers and an interrupt for each."""

from __future__ import annotations

from pyhyve.devices.virtio.mmio import REGION_BYTES, VirtioMmio
from pyhyve.devices.virtio.saving import VirtioSaver
from pyhyve.devices.virtio.spec import MmioReg
from pyhyve.state.contract import Saveable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pyhyve.devices.bus import AddressMap
    from pyhyve.devices.contracts import IrqLine
    from pyhyve.devices.virtio.device import VirtioDevice
    from pyhyve.devices.virtio.pci import NotifyRegistrar

BASE_GPA, FIRST_GSI, SLOTS = 0xFEB0_0000, 16, 8
"""As on QEMU's microvm, one I/O APIC."""


class MmioSlot:
    """One device in its place."""

    def __init__(self, number: int, transport: VirtioMmio) -> None:
        self.number = number
        self.transport = transport

    @property
    def gpa(self) -> int:
        """Where its registers are."""
        return BASE_GPA + self.number * REGION_BYTES

    @property
    def gsi(self) -> int:
        """Its interrupt."""
        return FIRST_GSI + self.number

    @property
    def size_bytes(self) -> int:
        """Size of its registers."""
        return REGION_BYTES

    def suspend(self) -> None:
        """Have the device stand still."""
        self.transport.device.suspend()

    def resume(self) -> None:
        """Let the device go on."""
        self.transport.device.resume()

    def saveables(self) -> Iterable[tuple[str, Saveable]]:
        """The registers, what all virtio devices have, and what only this one has."""
        device = self.transport.device
        yield "", self.transport
        yield ".virtio", VirtioSaver(device)
        if isinstance(device, Saveable):
            yield f".{device.device_type.name.lower()}", device


class MmioBus:
    """All places of a machine."""

    def __init__(
        self, memory: AddressMap, line_of: Callable[[int], IrqLine], register_notify: NotifyRegistrar | None = None
    ) -> None:
        """`line_of` gives the interrupt of a GSI; `register_notify` tells the queue that is notified, or is None."""
        self._memory = memory
        self._line_of = line_of
        self._register_notify = register_notify
        self._slots: dict[int, MmioSlot] = {}

    def __iter__(self) -> Iterator[MmioSlot]:
        """All devices, by place."""
        return iter([self._slots[number] for number in sorted(self._slots)])

    def attach(self, device: VirtioDevice, name: str) -> MmioSlot:
        """Put `device` into the first free place. Raises ValueError when there is none."""
        number = next((number for number in range(SLOTS) if number not in self._slots), None)
        if number is None:
            msg = f"all {SLOTS} places for virtio devices are taken"
            raise ValueError(msg)
        slot = MmioSlot(number, VirtioMmio(device, self._line_of(FIRST_GSI + number)))
        self._memory.add(slot.gpa, REGION_BYTES, slot.transport, name=name)
        if self._register_notify is not None:
            self._register_notify(slot.gpa + MmioReg.QUEUE_NOTIFY, 4, device.kick)
        self._slots[number] = slot
        return slot

    def reset(self) -> None:
        """Reset every device."""
        for slot in self:
            slot.transport.reset()
