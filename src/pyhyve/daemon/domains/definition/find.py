"""Finding devices of a domain: by name, path, alias or address."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains.faults import invalid_argument
from pyhyve.xml.element import replace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.xml.devices import Devices
    from pyhyve.xml.disk import Disk
    from pyhyve.xml.interface import Interface

__all__ = [
    "COLLECTIONS",
    "device_of_qom_path",
    "disk_of_device",
    "drop_device",
    "each_device",
    "find_disk",
    "find_interface",
    "required_disk",
    "with_collection",
]

COLLECTIONS: Final = (
    "disk",
    "controller",
    "filesystem",
    "interface",
    "serial",
    "parallel",
    "console",
    "channel",
    "input",
    "tpm",
    "sound",
    "video",
    "hostdev",
    "redirdev",
    "watchdog",
    "memballoon",
    "rng",
    "panic",
    "shmem",
    "vsock",
)
"""Devices with aliases, by the field they are in."""
_QOM: Final = re.compile(r"/machine/peripheral/([^/]+)")


def each_device(devices: Devices) -> Iterator[tuple[str, Any]]:
    """Yield every device with the field it is in."""
    for name in COLLECTIONS:
        held = getattr(devices, name)
        if held is None:
            continue
        for item in held if isinstance(held, tuple) else (held,):
            yield name, item


def with_collection(devices: Devices, name: str, held: Any) -> Devices:
    """Return the devices with others in a field."""
    changes: dict[str, Any] = {name: held}
    return replace(devices, **changes)


def drop_device(devices: Devices, alias: str) -> tuple[Devices, Any]:
    """Return the devices without the one of an alias, and that one or None."""
    for name, item in each_device(devices):
        if item.alias is None or item.alias.name != alias:
            continue
        held = getattr(devices, name)
        kept = tuple(other for other in held if other is not item) if isinstance(held, tuple) else None
        return with_collection(devices, name, kept), item
    return devices, None


def device_of_qom_path(path: str) -> str:
    """Return the alias in a path of QEMU's object tree, or nothing."""
    found = _QOM.match(path)
    return found[1] if found is not None else ""


def find_disk(devices: Devices, path: str) -> Disk | None:
    """Return the disk of a target name or a source path."""
    for disk in devices.disk:
        if disk.target.dev == path:
            return disk
    for disk in devices.disk:
        source = disk.source
        if source is not None and path and path in {source.file, source.dev}:
            return disk
    return None


def required_disk(devices: Devices, path: str, *, wording: str = "invalid path: {}") -> Disk:
    """Return the disk of a target name or a source path. Raises LibvirtError."""
    found = find_disk(devices, path)
    if found is None:
        raise invalid_argument(wording.format(path))
    return found


def disk_of_device(devices: Devices, *names: str) -> Disk | None:
    """Return the disk a machine speaks of: by alias, by its path in the object tree, or by ``drive-`` and alias."""
    for name in names:
        wanted = device_of_qom_path(name) or name.removeprefix("drive-")
        for disk in devices.disk:
            if wanted and disk.alias is not None and disk.alias.name == wanted:
                return disk
    return None


def find_interface(devices: Devices, name: str) -> Interface | None:
    """Return the network interface of a name on the host, a MAC address or an alias."""
    wanted = name.lower()
    for item in devices.interface:
        if item.target is not None and item.target.dev == name:
            return item
    for item in devices.interface:
        if item.mac is not None and item.mac.address == wanted:
            return item
    for item in devices.interface:
        if item.alias is not None and item.alias.name == name:
            return item
    return None
