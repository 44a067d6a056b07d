"""The devices of one machine: plugged in from the command line or while it runs, and taken out again."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyhyve.backends.block import BlockError
from pyhyve.image.contract import ImageError
from pyhyve.machine.block.errors import ChangeError, ChangeKind
from pyhyve.machine.config import SATA_PORTS
from pyhyve.machine.hardware import realize
from pyhyve.machine.hardware.models import check_properties, find_model
from pyhyve.machine.identifiers import is_identifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pyhyve.devices.pci.device import PciDevice
    from pyhyve.machine.block.attach import Attachment
    from pyhyve.machine.hardware.hardware import Hardware
    from pyhyve.machine.hardware.models import Model

_LOG = logging.getLogger(__name__)
PERIPHERAL = "/machine/peripheral"
PERIPHERAL_ANON = "/machine/peripheral-anon"


@dataclass(slots=True, eq=False)
class PluggedDevice:
    """A device in its place. `undo` are the steps that take it out again, the last first."""

    model: Model
    name: str
    path: str
    bus: str
    values: dict[str, Any]
    function: PciDevice | None = None
    device: Any = None
    attachment: Attachment | None = None
    undo: list[Callable[[], None]] = field(default_factory=list)
    hotplugged: bool = False
    is_requested: bool = False
    """Whether a `-device` or a `device_add` asked for it, not another option."""
    origin: tuple[str, int] | None = None
    """The entry of the configuration that it was made for: a field's name and an index."""
    unplug_requested: bool = False
    unplug_patience_ns: float = 0
    """Until when the guest is not asked once more."""

    @property
    def slot(self) -> int | None:
        """Its slot on bus 0, if it is there."""
        function = self.function
        if function is None or function.host is None or function.host.bridge is not None:
            return None
        return function.slot

    @property
    def provided_buses(self) -> tuple[str, ...]:
        """Names of the buses it brings along."""
        name = self.name or self.model.alias or self.model.name
        match self.model.provides:
            case "":
                return ()
            case "PCI" if self.name:
                return (name,)  # bridges name their bus as themselves
            case "IDE":
                return tuple(f"{name}.{number}" for number in range(SATA_PORTS))
            case _:
                return (f"{name}.0",)

    def take_out(self) -> None:
        """Undo everything; idempotent."""
        while self.undo:
            self.undo.pop()()


class DeviceTree:
    """All devices, in the order in which they were plugged in."""

    def __init__(self, hardware: Hardware) -> None:
        self._hardware = hardware
        self._devices: list[PluggedDevice] = []
        self._anonymous = 0
        self.origin: tuple[str, int] | None = None
        """What devices are made for at present; see `PluggedDevice.origin`."""
        self.withdrawn: list[tuple[tuple[str, int], int]] = []
        """Origins of devices that were taken out, and the slot each had; -1 for none."""
        self.on_deleted: Callable[[PluggedDevice], None] | None = None
        """Called when a device is gone; any thread."""

    def __iter__(self) -> Iterator[PluggedDevice]:
        return iter(list(self._devices))

    def find(self, name: str) -> PluggedDevice | None:
        """The device with this id, or at this place in the QOM tree."""
        for plugged in self._devices:
            if name and name in {plugged.name, plugged.path}:
                return plugged
        return None

    def add_all(self, requests: Sequence[Mapping[str, Any]]) -> None:
        """Plug in what the command line asks for. Raises ChangeError.

        Ports of a serial bus come with the bus itself: a driver learns of both together.
        """
        for request in requests:
            self.add(request).is_requested = True

    def add(self, request: Mapping[str, Any], *, hotplugged: bool = False) -> PluggedDevice:
        """Plug in one device. Raises ChangeError; then nothing changed."""
        driver = request.get("driver")
        if not isinstance(driver, str):
            msg = "Parameter 'driver' is missing"
            raise ChangeError(msg)
        model = find_model(driver)
        name = str(request.get("id") or "")
        if name and not is_identifier(name):
            msg = "Parameter 'id' expects an identifier"
            raise ChangeError(msg)
        if name and self.find(name) is not None:
            msg = f"Duplicate device ID '{name}'"
            raise ChangeError(msg)
        bus = self._choose_bus(model, request)
        if hotplugged and not model.hotpluggable:
            msg = "Parameter 'driver' expects a pluggable device type"
            raise ChangeError(msg)
        values = check_properties(model, request)
        path = f"{PERIPHERAL}/{name}"
        if not name:
            path = f"{PERIPHERAL_ANON}/device[{self._anonymous}]"
        plugged = PluggedDevice(
            model, name, path, bus, values, hotplugged=hotplugged, origin=None if hotplugged else self.origin
        )
        try:
            realize.REALIZERS[model.name](self._hardware, plugged)
        except BaseException:
            plugged.take_out()
            raise
        if not name:
            self._anonymous += 1
        plugged.is_requested = hotplugged
        self._devices.append(plugged)
        return plugged

    def _choose_bus(self, model: Model, request: Mapping[str, Any]) -> str:
        wanted = request.get("bus")
        if wanted is None and not model.bus:
            return ""
        if wanted is None:
            for bus, kind in self.buses():
                if kind == model.bus and not (kind == "IDE" and self._hardware.is_ide_full(bus)):
                    return bus
            msg = f"No '{model.bus}' bus found for device '{model.name}'"
            raise ChangeError(msg)
        for bus, kind in self.buses():
            if bus == wanted:
                if kind == model.bus:
                    return bus
                msg = f"Device '{model.name}' can't go on {kind} bus"
                raise ChangeError(msg)
        msg = f"Bus '{wanted}' not found"
        raise ChangeError(msg)

    def buses(self) -> Iterator[tuple[str, str]]:
        """Name and kind of every bus."""
        if self._hardware.mmio is None:
            yield self._hardware.pci_bus_name, "PCI"
        else:
            yield "virtio-mmio-bus.0", "virtio-bus"
        yield "isa.0", "ISA"
        if self._hardware.make_ide is not None:
            for number in range(self._hardware.ide_buses):
                yield f"ide.{number}", "IDE"
        for plugged in self._devices:
            for bus in plugged.provided_buses:
                yield bus, plugged.model.provides

    def owner_of(self, bus: str) -> PluggedDevice:
        """The device that brought `bus` along. Raises ChangeError."""
        for plugged in self._devices:
            if bus in plugged.provided_buses:
                return plugged
        msg = f"Bus '{bus}' not found"
        raise ChangeError(msg)

    def need(self, name: str) -> PluggedDevice:
        """As `find`. Raises ChangeError when there is none."""
        plugged = self.find(name)
        if plugged is None:
            msg = f"Device '{name}' not found"
            raise ChangeError(msg, ChangeKind.NOT_FOUND)
        return plugged

    def request_unplug(self, name: str) -> None:
        """`device_del`: the guest is asked to let a PCI device go; others go at once. Raises ChangeError."""
        plugged = self.need(name)
        if not plugged.model.hotpluggable:
            msg = f"Device '{plugged.model.name}' does not support hotplugging"
            raise ChangeError(msg)
        if plugged.function is not None:
            if plugged.function.function or self._siblings(plugged):
                msg = f"Device {name} shares its slot with others and cannot be unplugged"
                raise ChangeError(msg)
            if plugged.unplug_requested and self._hardware.clock.now_ns() < plugged.unplug_patience_ns:
                msg = f"Device {name} is already in the process of unplug"
                raise ChangeError(msg)
            plugged.unplug_patience_ns = self._hardware.ask_guest_to_eject(plugged)
            plugged.unplug_requested = True
        else:
            self.remove(plugged)

    def _siblings(self, plugged: PluggedDevice) -> bool:
        function = plugged.function
        return function is not None and any(
            other is not plugged
            and other.function is not None
            and (other.function.host, other.function.slot) == (function.host, function.slot)
            for other in self._devices
        )

    def remove(self, plugged: PluggedDevice) -> None:
        """Take a device out, and those on its bus."""
        if plugged not in self._devices:
            return
        if plugged.model.provides:
            for child in [other for other in self._devices if other.bus in plugged.provided_buses]:
                self.remove(child)
        self._devices.remove(plugged)
        if plugged.origin is not None:
            slot = plugged.slot
            self.withdrawn.append((plugged.origin, -1 if slot is None else slot))
        plugged.take_out()
        if self.on_deleted is not None:
            self.on_deleted(plugged)

    def close(self) -> None:
        """Take everything out, for the machine's end."""
        self.on_deleted = None
        for plugged in reversed(self._devices):
            while plugged.undo:
                try:
                    plugged.take_out()
                except (OSError, BlockError, ImageError) as error:  # a full disk: the rest is taken out all the same
                    _LOG.warning("%s: %s", plugged.path, error)
        self._devices.clear()
