"""Ports of USB buses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.xml.address import Address
from pyhyve.xml.element import replace

if TYPE_CHECKING:
    from pyhyve.xml.devices import Devices

__all__ = ["assign_usb", "free_usb_port"]


def assign_usb(devices: Devices) -> Devices:
    """Return the devices with a port for each that hangs on USB and has none yet."""
    users: list[Any] = [
        *devices.disk,
        *devices.input,
        *devices.hostdev,
        *devices.serial,
        *devices.redirdev,
        *devices.sound,
    ]
    taken = {item.address.port for item in users if item.address is not None and item.address.type == "usb"}

    def placed() -> Address:
        port = free_usb_port(taken)
        taken.add(port)
        return Address(type="usb", bus="0", port=port)

    disks = tuple(
        replace(item, address=placed()) if item.target.bus == "usb" and item.address is None else item
        for item in devices.disk
    )
    inputs = tuple(
        replace(item, address=placed()) if item.bus == "usb" and item.address is None else item
        for item in devices.input
    )
    sounds = tuple(
        replace(item, address=placed()) if item.model == "usb" and item.address is None else item
        for item in devices.sound
    )
    hostdevs = tuple(
        replace(item, address=placed()) if item.type == "usb" and item.address is None else item
        for item in devices.hostdev
    )
    serials = tuple(
        replace(item, address=placed())
        if item.target is not None and item.target.type == "usb-serial" and item.address is None
        else item
        for item in devices.serial
    )
    redirs = tuple(replace(item, address=placed()) if item.address is None else item for item in devices.redirdev)
    return replace(devices, disk=disks, input=inputs, sound=sounds, hostdev=hostdevs, serial=serials, redirdev=redirs)


def free_usb_port(taken: set[str | None]) -> str:
    """Return the first free port."""
    number = 1
    while str(number) in taken:
        number += 1
    return str(number)
