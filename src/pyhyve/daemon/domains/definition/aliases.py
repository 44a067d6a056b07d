"""Names of devices inside a machine, as libvirt gives them; QEMU knows the devices by them too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.daemon.domains.definition.names import disk_index
from pyhyve.xml.address import Alias
from pyhyve.xml.element import replace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyhyve.xml.devices import Controller, Devices
    from pyhyve.xml.disk import Disk

__all__ = ["assign_aliases", "controller_alias", "disk_alias", "free_alias"]

_NUMBERED = {
    "filesystem": "fs",
    "interface": "net",
    "serial": "serial",
    "parallel": "parallel",
    "console": "console",
    "channel": "channel",
    "input": "input",
    "tpm": "tpm",
    "sound": "sound",
    "video": "video",
    "hostdev": "hostdev",
    "redirdev": "redir",
    "watchdog": "watchdog",
    "rng": "rng",
    "shmem": "shmem",
    "panic": "panic",
}


def controller_alias(item: Controller, *, pcie: bool) -> str:
    """Return the name of a controller."""
    index = item.index or 0
    if item.type == "pci":
        return ("pcie.0" if pcie else "pci.0") if index == 0 else f"pci.{index}"
    if index == 0:
        if item.type == "usb":
            return "usb"
        if item.type in {"ide", "sata"}:
            return "ide"
    return f"{item.type}{index}"


def disk_alias(disk: Disk, controllers: Iterable[Controller] = ()) -> str:
    """Return the name of a disk."""
    bus = disk.target.bus
    if bus in {"ide", "scsi", "sata", "fdc"} and disk.address is not None and disk.address.type == "drive":
        place = disk.address
        index = place.controller or 0
        lsi = any(item.type == "scsi" and item.index == index and item.model == "lsilogic" for item in controllers)
        numbers = [index, int(place.bus or 0)]
        if bus == "scsi" and not lsi:
            numbers.append(place.target or 0)
        numbers.append(place.unit or 0)
        return f"{bus}{'-'.join(map(str, numbers))}"
    return f"{bus}-disk{max(disk_index(disk.target.dev), 0)}"


def free_alias(prefix: str, items: Iterable[Any]) -> str:
    """Return the first free name with that prefix."""
    taken = {item.alias.name for item in items if item.alias is not None}
    number = 0
    while f"{prefix}{number}" in taken:
        number += 1
    return f"{prefix}{number}"


def _named(item: Any, name: str) -> Any:
    return item if item.alias is not None and item.alias.name else replace(item, alias=Alias(name=name))


def assign_aliases(devices: Devices) -> Devices:
    """Return the devices each with its name; names users gave stay."""
    pcie = any(item.type == "pci" and item.model == "pcie-root" for item in devices.controller)
    changes: dict[str, Any] = {
        "controller": tuple(_named(item, controller_alias(item, pcie=pcie)) for item in devices.controller),
        "disk": tuple(_named(item, disk_alias(item, devices.controller)) for item in devices.disk),
    }
    for name, prefix in _NUMBERED.items():
        items = list(getattr(devices, name))
        for number, item in enumerate(items):
            if item.alias is None:
                items[number] = _named(item, free_alias(prefix, items))
        changes[name] = tuple(items)
    serials = changes["serial"]
    if serials and changes["console"] and changes["console"][0].target.type == "serial":
        first = replace(changes["console"][0], alias=serials[0].alias)
        changes["console"] = (first, *changes["console"][1:])
    if devices.memballoon is not None and devices.memballoon.model != "none":
        changes["memballoon"] = _named(devices.memballoon, "balloon0")
    if devices.vsock is not None:
        changes["vsock"] = _named(devices.vsock, "vsock0")
    return replace(devices, **changes)
