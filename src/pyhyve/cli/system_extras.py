"""Entropy, balloon, channels and virtual sockets on QEMU's command line."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pyhyve.cli.options import existing_file
from pyhyve.cli.run import parse_number
from pyhyve.machine.config import (
    BalloonConfig,
    ConfigError,
    ExtraConfig,
    PortConfig,
    RngConfig,
    SerialBusConfig,
    VsockConfig,
)
from pyhyve.support.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.cli.system_options import Properties
    from pyhyve.machine.config import ConsoleConfig

ConfigT = TypeVar("ConfigT")
RNG_DEVICES = ("virtio-rng-pci", "virtio-rng")
BALLOON_DEVICES = ("virtio-balloon-pci", "virtio-balloon")
BUS_DEVICES = ("virtio-serial-pci", "virtio-serial")
PORT_DEVICES = ("virtserialport", "virtconsole")
VSOCK_DEVICE = "virtio-vsock-pci"
EXTRA_DEVICES = (*RNG_DEVICES, *BALLOON_DEVICES, *BUS_DEVICES, *PORT_DEVICES, VSOCK_DEVICE)
EXTRA_HELP = """Input devices:
name "virtconsole", bus virtio-serial-bus
name "virtio-serial-pci", bus PCI, alias "virtio-serial"
name "virtserialport", bus virtio-serial-bus

Misc devices:
name "virtio-balloon-pci", bus PCI, alias "virtio-balloon"
name "virtio-rng-pci", bus PCI, alias "virtio-rng"
name "virtio-vsock-pci", bus PCI, desc "guest-cid=N,path=SOCKET: connections become Unix sockets"
"""


@dataclass(slots=True)
class ExtraSet:
    """What the options said so far; `find_chardev` gives the character device of that name. Raises InputError."""

    find_chardev: Callable[[str], ConsoleConfig] | None = None
    devices: list[ExtraConfig] = field(default_factory=list)
    _sources: dict[str, Path | None] = field(default_factory=dict)
    _buses: list[int] = field(default_factory=list)
    """Places of the virtio-serial devices in `devices`."""

    def add_object(self, given: Properties) -> None:
        """`-object`: a source of entropy."""
        kind, name = given.need("qom-type"), given.need("id")
        if name in self._sources:
            msg = f"-object: duplicate id {name}"
            raise InputError(msg)
        if kind == "rng-random":
            self._sources[name] = existing_file("-object", given.take("filename") or "/dev/urandom")
        elif kind == "rng-builtin":
            self._sources[name] = None
        else:
            msg = f"-object: {kind} is not supported (use rng-random or rng-builtin)"
            raise InputError(msg)
        given.finish()

    def connect_device(self, driver: str, given: Properties, name: str) -> None:
        """`-device` for one of `EXTRA_DEVICES`. Raises InputError."""
        if driver in PORT_DEVICES:
            self._add_port(driver, given, name)
            return
        given.only("bus", "pci.0")
        if driver in RNG_DEVICES:
            self.devices.append(RngConfig(self._source(driver, given.take("rng")), name))
        elif driver in BALLOON_DEVICES:
            self.devices.append(
                BalloonConfig(
                    given.switch("deflate-on-oom", default=False),
                    given.switch("free-page-reporting", default=False),
                    name,
                )
            )
        elif driver in BUS_DEVICES:
            given.only("max_ports", "31")
            self._buses.append(len(self.devices))
            self.devices.append(SerialBusConfig(device_id=name))
        else:
            cid = parse_number(f"-device {driver}: guest-cid", given.need("guest-cid"), int)
            self.devices.append(self._checked(lambda: VsockConfig(cid, Path(given.need("path")), name)))

    def _source(self, driver: str, wanted: str | None) -> Path | None:
        if wanted is None:
            return None
        if wanted not in self._sources:
            msg = f"-device {driver}: there is no object {wanted}"
            raise InputError(msg)
        return self._sources[wanted]

    def _add_port(self, driver: str, given: Properties, name: str) -> None:
        place = self._find_bus(driver, given.take("bus"))
        bus = self.devices[place]
        if not isinstance(bus, SerialBusConfig) or self.find_chardev is None:
            return
        is_console = driver == "virtconsole"
        number = given.take("nr")
        taken = {port.number for port in bus.ports}
        # Number 0 is for consoles: a driver without several ports has this one only.
        free = next(index for index in range(0 if is_console else 1, len(taken) + 2) if index not in taken)
        chosen = free if number is None else parse_number(f"-device {driver}: nr", number, int)
        if chosen == 0 and not is_console:
            msg = f"-device {driver}: port number 0 is for virtconsole devices"
            raise InputError(msg)
        chardev = self.find_chardev(given.need("chardev"))
        label = given.take("name") or ""
        port = self._checked(lambda: PortConfig(chosen, chardev, label, is_console, name))
        self.devices[place] = self._checked(lambda: replace(bus, ports=(*bus.ports, port)))

    def _find_bus(self, driver: str, wanted: str | None) -> int:
        for number, place in enumerate(self._buses):
            name = self.devices[place].device_id
            if wanted in {None, f"{name}.0" if name else "", f"virtio-serial-bus.{number}"}:
                return place
        bus = "bus" if wanted is None else f"bus {wanted}"
        msg = f"-device {driver}: there is no virtio-serial {bus} (add -device virtio-serial-pci before it)"
        raise InputError(msg)

    @staticmethod
    def _checked(make: Callable[[], ConfigT]) -> ConfigT:
        try:
            return make()
        except ConfigError as error:
            msg = f"-device: {error}"
            raise InputError(msg) from error
