"""What PC firmware does to PCI before a kernel starts, for guests booted without firmware.

Places every BAR, turns decoding on and tells each function its interrupt line (PCI BIOS Specification 2.1).
"""

from __future__ import annotations

from pyhyve.devices.pci import spec
from pyhyve.devices.pci.spec import BarKind, Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.devices.pci.bus import PciBus
    from pyhyve.devices.pci.device import PciDevice

FIRST_PORT = 0xC000
LAST_PORT = 0xFEFF
PCI_WINDOW_LAST = 0xFEBF_FFFF
PCI_WINDOW64_BYTES = 1 << 36


class PciResourceError(ValueError):
    """The devices need more addresses than there are."""


def configure_pci(bus: PciBus, *, window_first: int, irq_of: Callable[[int], int | None]) -> None:
    """Assign resources; `irq_of` tells the ISA interrupt of a PIRQ line. Raises PciResourceError when they run out."""
    next_port, next_memory = FIRST_PORT, window_first
    wanted = [(bar, device) for device in bus for bar in device.bars.values()]
    last_memory = min((bar.preferred - 1 for bar, _ in wanted if bar.preferred is not None), default=PCI_WINDOW_LAST)
    wanted.sort(key=lambda pair: -pair[0].size_bytes)
    for bar, device in wanted:
        size, index = bar.size_bytes, bar.index
        is_io = bar.kind is BarKind.IO
        if bar.preferred is not None:
            _program_bar(device, index, bar.preferred)
            continue
        start = next_port if is_io else next_memory
        start = (start + size - 1) & ~(size - 1)
        if start + size - 1 > (LAST_PORT if is_io else last_memory):
            msg = f"{device.name}: no room for BAR {index} of {size} bytes"
            raise PciResourceError(msg)
        if is_io:
            next_port = start + size
        else:
            next_memory = start + size
        _program_bar(device, index, start)
    for device in bus:
        _enable(device)
        if device.config[spec.INTERRUPT_PIN]:
            irq = irq_of(bus.pirq_of(device))
            device.config_write(spec.INTERRUPT_LINE, 1, 0xFF if irq is None else irq)


def _program_bar(device: PciDevice, index: int, address: int) -> None:
    device.config_write(spec.BAR0 + 4 * index, 4, address & 0xFFFF_FFFF)
    if device.bars[index].kind is BarKind.MEM64:
        device.config_write(spec.BAR0 + 4 * index + 4, 4, address >> 32)


def _enable(device: PciDevice) -> None:
    kinds = {bar.kind for bar in device.bars.values()}
    command = 0
    if BarKind.IO in kinds:
        command |= Command.IO
    if kinds - {BarKind.IO}:
        command |= Command.MEMORY
    if command:
        device.config_write(spec.COMMAND, 2, device.command | command)
