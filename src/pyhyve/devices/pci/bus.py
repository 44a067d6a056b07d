"""PCI buses: devices by slot and function, BAR mapping, interrupt pins to the chipset's four PIRQ lines.

Bus 0 is the chipset's; those behind bridges (`devices.pci.bridge`) hand on to it what leaves them.
"""

from __future__ import annotations

import threading

from pyhyve.devices.bus import AddressConflictError
from pyhyve.devices.pci import spec
from pyhyve.devices.pci.spec import BarKind
from pyhyve.support.logs import late_logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyhyve.accel.routes import MessageRoute
    from pyhyve.devices.bus import AddressMap, Mapping
    from pyhyve.devices.contracts import LineSetter
    from pyhyve.devices.pci.bridge import PciBridge
    from pyhyve.devices.pci.device import Bar, PciDevice

_LOG = late_logger(__name__)
SLOTS = 32
FUNCTIONS = 8


class PciBus:
    """Bus 0. `set_pirq(line, level=)` drives PIRQ line 0 to 3; `send_msi(address, data)` delivers a message."""

    def __init__(
        self,
        ports: AddressMap,
        memory: AddressMap,
        *,
        send_msi: Callable[[int, int], None],
        set_pirq: LineSetter,
        find_route: Callable[[int, int], MessageRoute | None] | None = None,
    ) -> None:
        """The callbacks may be called from any thread; `find_route` tells where a message goes."""
        self._ports = ports
        self._memory = memory
        self._send_msi = send_msi
        self._set_pirq = set_pirq
        self._find_route = find_route
        self._devices: dict[int, PciDevice] = {}
        self.bridge: PciBridge | None = None
        """What leads here; None for bus 0."""
        self.slots = range(SLOTS)
        """Those that there are."""
        self.free_from = 2
        """The first slot of a device that names none."""
        self.reserved: frozenset[int] = frozenset()
        """Slots that only a device takes which names them."""
        self._mapped: dict[Bar, Mapping] = {}
        self._asserted: tuple[set[PciDevice], ...] = (set(), set(), set(), set())
        self._intx_lock = threading.Lock()

    def __iter__(self) -> Iterator[PciDevice]:
        """All functions by slot and function."""
        return iter([self._devices[key] for key in sorted(self._devices)])

    @property
    def is_empty(self) -> bool:
        """Whether no function is on it."""
        return not self._devices

    def attach(
        self, device: PciDevice, slot: int | None = None, function: int = 0, *, multifunction: bool = False
    ) -> None:
        """Plug `device` in, into the first free slot from 2 unless one is named.

        With `multifunction` more functions of its slot may follow. Raises ValueError when the place is taken, does not
        exist, or no slot is free.
        """
        if slot is None:
            open_slots = (n for n in self.slots if n >= self.free_from and n not in self.reserved)
            free = (n for n in open_slots if not any(n << 3 | f in self._devices for f in range(FUNCTIONS)))
            slot = next(free, self.slots[0] if len(self.slots) == 1 else SLOTS)
        devfn = slot << 3 | function
        if slot not in self.slots or not 0 <= function < FUNCTIONS or devfn in self._devices:
            taken = self._devices.get(devfn)
            by = "" if taken is None else f", in use by {taken.name}"
            msg = f"PCI: slot {slot} function {function} not available for {device.name}{by}"
            raise ValueError(msg)
        self._devices[devfn] = device
        device.slot, device.function, device.host = slot, function, self
        functions = [self._devices[slot << 3 | f] for f in range(FUNCTIONS) if slot << 3 | f in self._devices]
        if len(functions) > 1 or multifunction:
            for other in functions:
                other.config[spec.HEADER_TYPE] |= spec.HEADER_MULTIFUNCTION
                other.freeze()
        device.freeze()

    def detach(self, device: PciDevice) -> None:
        """Take `device` out: its memory and ports are gone, its interrupt line is low. Idempotent."""
        devfn = device.slot << 3 | device.function
        if self._devices.get(devfn) is not device:
            return
        device.reset()
        del self._devices[devfn]
        device.host = None

    def find(self, slot: int, function: int) -> PciDevice | None:
        """The device at `slot`.`function`, if any."""
        return self._devices.get(slot << 3 | function)

    def walk(self) -> Iterator[tuple[PciBus, PciDevice]]:
        """All functions of this bus and those below, each bridge before what is behind it."""
        for device in self:
            yield self, device
            if device.secondary is not None:
                yield from device.secondary.walk()

    @property
    def number(self) -> int:
        """The bus's number, as the guest chose it."""
        return 0

    @property
    def is_reachable(self) -> bool:
        """Whether configuration accesses reach the devices: a slot's power may be off."""
        return True

    def _target(self, bus: int, devfn: int) -> PciDevice | None:
        """The function that an access to configuration space is for."""
        if bus == self.number:
            return self._devices.get(devfn) if self.is_reachable else None
        for device in self._devices.values():
            below = device.secondary
            if below is not None and below.number <= bus <= device.config[spec.SUBORDINATE_BUS]:
                return below._target(bus, devfn)  # noqa: SLF001 - another bus
        return None

    # -- configuration accesses ---------------------------------------------------------------------------------------

    def config_read(self, bus: int, devfn: int, offset: int, size: int) -> int:
        """Configuration read; all ones where nothing is."""
        device = self._target(bus, devfn)
        if device is None or offset + size > spec.CONFIG_SIZE_BYTES:
            return (1 << (8 * size)) - 1
        return device.config_read(offset, size)

    def config_write(self, bus: int, devfn: int, offset: int, size: int, value: int) -> None:
        """Configuration write; dropped where nothing is."""
        device = self._target(bus, devfn)
        if device is not None and offset + size <= spec.CONFIG_SIZE_BYTES:
            device.config_write(offset, size, value)

    # -- what a device asks of its bus (PciHost) ----------------------------------------------------------------------

    def send_msi(self, address: int, data: int) -> None:
        """Deliver a message-signalled interrupt."""
        self._send_msi(address, data)

    def message_route(self, address: int, data: int) -> MessageRoute | None:
        """Where a message goes, if that is known and simple."""
        return None if self._find_route is None else self._find_route(address, data)

    def set_intx(self, device: PciDevice, *, level: bool) -> None:
        """Drive a device's pin; a PIRQ line is high while any device on it is."""
        self.drive_line(device, self.pirq_of(device), level=level)

    def drive_line(self, device: PciDevice, line: int, *, level: bool) -> None:
        """Drive PIRQ `line` for `device`, of this bus or of one behind bridges."""
        with self._intx_lock:
            asserted = self._asserted[line]
            before = bool(asserted)
            if level:
                asserted.add(device)
            else:
                asserted.discard(device)
            changed = before != bool(asserted)
        if changed:
            self._set_pirq(line, level=level)

    def pirq_of(self, device: PciDevice) -> int:
        """The PIRQ line (0 to 3) of the device's pin, as slots are wired: each slot shifts the pins by one."""
        return self.line_of(device.slot, device.config[spec.INTERRUPT_PIN] - 1)

    def line_of(self, slot: int, pin: int) -> int:
        """The PIRQ line (0 to 3) of a slot's pin: 0 for INTA."""
        return (slot + pin - 1) & 3

    def forwards(self, kind: BarKind, first: int, last: int) -> bool:
        """Whether accesses to `[first, last]` reach this bus: all do."""
        return kind is not None and first <= last

    def update_bar(self, device: PciDevice, bar: Bar) -> None:
        """Map, move or unmap `bar`. Where it cannot go (overlap, out of range) it stays unmapped."""
        mapping = self._mapped.pop(bar, None)
        space = self._ports if bar.kind is BarKind.IO else self._memory
        if mapping is not None:
            space.remove(mapping)
        target = device.bar_target(bar)
        moved = bar.address is not None
        bar.address = None
        if target is not None:
            try:
                name = f"{device.name} BAR {bar.index}"
                self._mapped[bar] = space.add(target, bar.size_bytes, bar.device, name=name, width=bar.width)
                bar.address = target
                moved = True
            except AddressConflictError as error:
                _LOG.debug("the guest placed a BAR badly: %s", error)
        if moved:
            device.bar_moved(bar)

    def unmap_all(self) -> None:
        """Take every device off the addresses and lines, before their states are loaded."""
        for _, device in self.walk():
            device.unmap()
        with self._intx_lock:
            for asserted in self._asserted:
                asserted.clear()

    def reset(self) -> None:
        """Reset every device."""
        for device in self:
            device.reset()
