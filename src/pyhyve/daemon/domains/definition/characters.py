"""Serial ports, consoles and channels: which is the console, ports and addresses."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from pyhyve.xml.address import Address
from pyhyve.xml.character import (
    Channel,
    CharSource,
    CharTarget,
    CharTargetModel,
    Console,
    Serial,
)
from pyhyve.xml.element import replace

if TYPE_CHECKING:
    from pyhyve.xml.character import Parallel
    from pyhyve.xml.devices import Devices

__all__ = ["complete_channel", "complete_characters", "complete_serial", "virtio_serial_port", "was_chosen"]

_DEFAULT_SERIAL: Final = "isa-serial"
RUNTIME_DIRECTORY: Final = "qemu"
"""Name of the directory that has the machines' own ones with their sockets."""
_OWN: Final = re.compile(rf"/{RUNTIME_DIRECTORY}/(-?[0-9]+-[^/]+|[0-9a-f]{{16}})/$")
"""What stands in front of the name of a channel whose socket was chosen here: the directory of a machine by number and
name, or by a digest of both where they are long (`QemuHypervisor.runtime_directory`)."""
_LIBVIRTD: Final = re.compile(r"/qemu/channel/(target/)?([^/]+\.|domain-[^/]+/)?$")
"""And where libvirtd chose it."""


def complete_characters(devices: Devices) -> Devices:
    """Return the devices with serial ports, consoles and channels filled in."""
    consoles = list(devices.console)
    serials: list[Serial] = []
    for serial in devices.serial:
        serials.append(complete_serial(serial, (*devices.serial, *serials)))
    first = consoles[0] if consoles else None
    is_serial = first is not None and (first.target is None or first.target.type in {None, "serial"})
    if first is not None and is_serial and not serials:
        made = Serial(type=first.type, source=first.source, protocol=first.protocol, log=first.log)
        serials = [complete_serial(made, ())]
    if serials and (is_serial or first is None):
        mirror = _mirror(serials[0])
        consoles = [mirror, *consoles[1:]] if first is not None else [mirror]
    elif serials and first is not None:
        consoles = [_mirror(serials[0]), *consoles]
    finished = []
    for number, console in enumerate(consoles):
        target = console.target or CharTarget()
        kind = target.type or "serial"
        port = target.port if target.port is not None else number
        finished.append(
            replace(
                console,
                tty=None,
                source=_clean_source(console.type, console.source),
                target=CharTarget(type=kind, port=port),
            )
        )
    channels: list[Channel] = []
    for channel in devices.channel:
        channels.append(complete_channel(channel, (*devices.channel, *channels)))
    parallels = tuple(
        replace(
            item,
            source=_clean_source(item.type, item.source),
            target=CharTarget(type=None, port=number if item.target is None else (item.target.port or number)),
        )
        for number, item in enumerate(devices.parallel)
    )
    return replace(devices, serial=tuple(serials), console=tuple(finished), channel=tuple(channels), parallel=parallels)


def _mirror(serial: Serial) -> Console:
    port = serial.target.port if serial.target else 0
    return Console(
        type=serial.type,
        source=serial.source,
        protocol=serial.protocol,
        log=serial.log,
        target=CharTarget(type="serial", port=port),
    )


def _clean_source(kind: str, source: CharSource | None) -> CharSource | None:
    """Return a source without what only a running machine has."""
    if source is None or kind in {"pty", "null", "vc", "stdio", "spicevmc"}:
        return None
    if kind == "unix" and source.path is None:
        return None
    return source


def complete_serial(serial: Serial, others: tuple[Serial, ...]) -> Serial:
    """Return a serial port with what it leaves open filled in; ``others`` are those beside it."""
    target = serial.target or CharTarget()
    kind = target.type or _DEFAULT_SERIAL
    port = target.port
    if port is None or port < 0:
        taken = [item.target.port for item in others if item.target is not None and item.target.port is not None]
        port = max(taken, default=-1) + 1
    model = target.model or CharTargetModel(name=kind)
    return replace(
        serial,
        source=_clean_source(serial.type, serial.source),
        target=CharTarget(type=kind, port=port, model=model),
    )


def virtio_serial_port(channels: tuple[Channel, ...], controller: int = 0) -> int:
    """Return the first free port of a virtio serial controller; port 0 is a console's."""
    taken = {
        int(item.address.port or 0)
        for item in channels
        if item.address is not None and (item.address.controller or 0) == controller
    }
    return next(port for port in range(1, len(taken) + 2) if port not in taken)


def was_chosen(item: Channel | Console | Serial | Parallel) -> bool:
    """Whether a socket was chosen when a machine started, by this daemon or by libvirtd: its name is the channel's.

    Here it is in the machine's own directory, there in one for all channels (or one of the machine's below that).
    """
    if item.source is None or item.source.path is None or item.target is None:
        return False
    name = item.target.name or (item.alias.name if item.alias is not None else "")
    if not name or not item.source.path.endswith(name):
        return False
    head = item.source.path.removesuffix(name)
    return (_OWN.search(head) or _LIBVIRTD.search(head)) is not None


def complete_channel(channel: Channel, others: tuple[Channel, ...]) -> Channel:
    """Return a channel with what it leaves open filled in; ``others`` are those beside it."""
    target = channel.target or CharTarget()
    source = None if channel.type == "unix" and was_chosen(channel) else _clean_source(channel.type, channel.source)
    channel = replace(channel, source=source, target=replace(target, state=None))
    if target.type != "virtio" or channel.address is not None:
        return channel
    address = Address(type="virtio-serial", controller=0, bus="0", port=str(virtio_serial_port(others)))
    return replace(channel, address=address)
