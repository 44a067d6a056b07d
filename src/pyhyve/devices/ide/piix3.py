"""The IDE function of the PIIX3 (Intel 82371SB, 290550, 2.4 and 2.7): two channels at the ports of a PC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.devices.ide.channel import Channel, ChannelState
from pyhyve.devices.pci.device import PciDevice
from pyhyve.devices.pci.spec import BarKind
from pyhyve.state.part import SaveablePart
from pyhyve.state.record import record

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Sequence

    from pyhyve.devices.contracts import IrqLine
    from pyhyve.devices.ide.drive import Drive
    from pyhyve.memory.guest import GuestMemory
    from pyhyve.state.contract import Saveable

CHANNEL_PORTS = ((0x1F0, 0x3F6), (0x170, 0x376))
"""First port of the command block, and the port of the control block, of each channel."""
CHANNEL_IRQS = (14, 15)
_TIMING, _TIMING_BYTES = 0x40, 4
_DECODE_ENABLE = 0x80
_BAR, _BAR_BYTES, _CHANNEL_BYTES = 4, 16, 8


@record
class IdeState:
    """Both channels."""

    channels: tuple[ChannelState, ...]


class Piix3Ide(PciDevice):
    """Function 1 of the chip. Its channels answer at their ports whatever the timing registers say."""

    def __init__(self, lines: Sequence[IrqLine], memory: GuestMemory, lock: threading.RLock) -> None:
        """`lines` are the interrupts of the two channels; `lock` is the machine's."""
        super().__init__(
            vendor_id=0x8086,
            device_id=0x7010,
            class_code=0x010180,
            subsystem_vendor_id=0x1AF4,
            subsystem_id=0x1100,
            name="IDE",
        )
        self._lock = lock
        self.channels = tuple(Channel(line, memory, lambda: self.bus_master) for line in lines)
        self.parts = SaveablePart(IdeState, self.save_channels, self.load_channels)
        self.writable[_TIMING : _TIMING + _TIMING_BYTES] = b"\xff" * _TIMING_BYTES
        # Firmware turns decoding on; a kernel that is started without any looks for it.
        self.config[_TIMING + 1] = self.config[_TIMING + 3] = _DECODE_ENABLE
        self.add_bar(_BAR, _BAR_BYTES, BarKind.IO, self)

    @property
    def drives(self) -> list[Drive]:
        """All drives."""
        return [drive for channel in self.channels for drive in channel.drives if drive is not None]

    def units(self, bus: int) -> list[Drive | None]:
        """The drives on a channel, None for places that are free."""
        return self.channels[bus].drives

    def connect(self, bus: int, unit: int, drive: Drive) -> None:
        """Put a drive on a channel."""
        self.channels[bus].add(unit, drive)

    def read(self, offset: int, size: int) -> int:
        """Bus master registers."""
        return self.channels[offset // _CHANNEL_BYTES].read_master(offset % _CHANNEL_BYTES, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Bus master registers."""
        self.channels[offset // _CHANNEL_BYTES].write_master(offset % _CHANNEL_BYTES, size, value)

    def reset(self) -> None:
        """Power on."""
        super().reset()
        for channel in self.channels:
            channel.reset()

    def suspend(self) -> None:
        """Finish what is under way."""
        for drive in self.drives:
            drive.work.settle()

    def resume(self) -> None:
        """Try again what an error policy held."""
        with self._lock:
            for drive in self.drives:
                drive.resume()

    def saveables(self) -> Iterable[tuple[str, Saveable]]:
        """The function, and its channels."""
        yield "", self
        yield ".channels", self.parts

    def save_channels(self) -> IdeState:
        """Both channels."""
        return IdeState(channels=tuple(channel.save() for channel in self.channels))

    def load_channels(self, state: IdeState) -> None:
        """Take over both channels."""
        for channel, saved in zip(self.channels, state.channels, strict=False):
            channel.load(saved)
