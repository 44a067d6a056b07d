"""What PC firmware does to PCI before a kernel starts, for guests booted without firmware.

Numbers the buses, places every BAR and opens the windows of bridges, turns decoding on and tells each function its
interrupt line (PCI BIOS Specification 2.1).
"""

from __future__ import annotations

from pyhyve.devices.pci import spec
from pyhyve.devices.pci.spec import BarKind, Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.devices.pci.bridge import PciBridge
    from pyhyve.devices.pci.bus import PciBus
    from pyhyve.devices.pci.device import PciDevice

FIRST_PORT = 0xC000
LAST_PORT = 0xFEFF
PCI_WINDOW_LAST = 0xFEBF_FFFF
PCI_WINDOW64_BYTES = 1 << 36
_HOTPLUG_BYTES = 2 << 20
"""Memory that each bridge has at least: room for devices that come later."""
_LAST_BUS = 255


class PciResourceError(ValueError):
    """The devices need more addresses, or bus numbers, than there are."""


class _Space:
    """Ports or memory, given away from the bottom."""

    def __init__(self, first: int, last: int) -> None:
        self.next = first
        self._last = last

    def align(self, size: int) -> int:
        """Go on at a multiple of `size`."""
        self.next = (self.next + size - 1) & ~(size - 1)
        return self.next

    def take(self, size: int, what: str) -> int:
        """The next `size` bytes, aligned to their size. Raises PciResourceError."""
        start = self.align(size)
        self.skip_to(start + size, what)
        return start

    def skip_to(self, end: int, what: str) -> None:
        """All up to `end` is given away. Raises PciResourceError."""
        if end - 1 > self._last:
            msg = f"{what}: no room for it"
            raise PciResourceError(msg)
        self.next = max(self.next, end)


def configure_pci(bus: PciBus, *, window_first: int, irq_of: Callable[[int], int | None]) -> None:
    """Assign resources; `irq_of` tells the ISA interrupt of a PIRQ line. Raises PciResourceError when they run out."""
    bars = [bar for _, device in bus.walk() for bar in device.bars.values()]
    last_memory = min((bar.preferred - 1 for bar in bars if bar.preferred is not None), default=PCI_WINDOW_LAST)
    _number(bus, 0)
    _place(bus, _Space(FIRST_PORT, LAST_PORT), _Space(window_first, last_memory))
    for below, device in bus.walk():
        _enable(device)
        if device.config[spec.INTERRUPT_PIN]:
            irq = irq_of(below.pirq_of(device))
            device.config_write(spec.INTERRUPT_LINE, 1, 0xFF if irq is None else irq)


def _number(bus: PciBus, last: int) -> int:
    """Number the buses behind the bridges of `bus`; returns the last number."""
    for bridge in _bridges(bus):
        if last == _LAST_BUS:
            msg = f"{bridge.name}: there are {_LAST_BUS + 1} buses at most"
            raise PciResourceError(msg)
        bridge.config_write(spec.PRIMARY_BUS, 1, bus.number)
        bridge.config_write(spec.SECONDARY_BUS, 1, last + 1)
        last = _number(bridge.secondary, last + 1)
        bridge.config_write(spec.SUBORDINATE_BUS, 1, last)
    return last


def _bridges(bus: PciBus) -> list[PciBridge]:
    return [device.secondary.leads_here for device in bus if device.secondary is not None]


def _place(bus: PciBus, ports: _Space, memory: _Space) -> None:
    """Place what is on `bus`, the largest first, then what is behind its bridges."""
    wanted = [(bar, device) for device in bus for bar in device.bars.values()]
    wanted.sort(key=lambda pair: -pair[0].size_bytes)
    for bar, device in wanted:
        if bar.preferred is not None:
            _program_bar(device, bar.index, bar.preferred)
            continue
        space = ports if bar.kind is BarKind.IO else memory
        what = f"{device.name}: BAR {bar.index} of {bar.size_bytes} bytes"
        _program_bar(device, bar.index, space.take(bar.size_bytes, what))
    for bridge in _bridges(bus):
        behind = [bar for _, device in bridge.secondary.walk() for bar in device.bars.values()]
        needs_ports = any(bar.kind is BarKind.IO for bar in behind)
        first = memory.align(spec.MEMORY_WINDOW_BYTES)
        first_port = ports.align(spec.IO_WINDOW_BYTES) if needs_ports else 0
        _place(bridge.secondary, ports, memory)
        memory.skip_to(first + _HOTPLUG_BYTES, f"{bridge.name}: its memory window")
        _open(bridge, spec.MEMORY_BASE, first >> 16, memory.align(spec.MEMORY_WINDOW_BYTES) - 1 >> 16, 2)
        if needs_ports:
            _open(bridge, spec.IO_BASE, first_port >> 8, ports.align(spec.IO_WINDOW_BYTES) - 1 >> 8, 1)


def _open(bridge: PciBridge, offset: int, first: int, last: int, size: int) -> None:
    bridge.config_write(offset, size, first)
    bridge.config_write(offset + size, size, last)


def _program_bar(device: PciDevice, index: int, address: int) -> None:
    device.config_write(spec.BAR0 + 4 * index, 4, address & 0xFFFF_FFFF)
    if device.bars[index].kind is BarKind.MEM64:
        device.config_write(spec.BAR0 + 4 * index + 4, 4, address >> 32)


def _enable(device: PciDevice) -> None:
    kinds = {bar.kind for bar in device.bars.values()}
    command = Command.IO | Command.MEMORY | Command.BUS_MASTER if device.secondary is not None else Command(0)
    if BarKind.IO in kinds:
        command |= Command.IO
    if kinds - {BarKind.IO}:
        command |= Command.MEMORY
    if command:
        device.config_write(spec.COMMAND, 2, device.command | command)
