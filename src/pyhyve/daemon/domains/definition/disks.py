"""Disks: their order, buses and addresses on drives' controllers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyhyve.daemon.domains.definition.names import disk_index, disk_prefix
from pyhyve.daemon.domains.faults import internal, xml_error
from pyhyve.rpc.errors import ErrorDomain
from pyhyve.xml.address import Address
from pyhyve.xml.disk import Disk, DiskDriver, DiskSource
from pyhyve.xml.document import Node
from pyhyve.xml.element import replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.xml.devices import Devices

__all__ = ["complete_disk", "complete_disks", "disk_source_name", "drive_address", "insert_disk"]

_BUS_OF_PREFIX: Final = {"fd": "fdc", "hd": "ide", "sd": "scsi", "vd": "virtio", "xvd": "xen", "ubd": "uml"}
_SCSI_UNITS: Final = 7
"""Drives on a SCSI controller: the eighth place is the controller's own."""


def complete_disks(devices: Devices) -> Devices:
    """Return the devices with their disks in libvirt's order, filled in and addressed. Raises LibvirtError."""
    ordered: list[Disk] = []
    for disk in devices.disk:
        insert_disk(ordered, disk)
    completed: list[Disk] = []
    for disk in ordered:
        completed.append(complete_disk(disk, completed))
    return replace(devices, disk=tuple(completed))


def insert_disk(disks: list[Disk], disk: Disk) -> None:
    """Insert a disk where libvirt does: sorted by name among those with the same bus, else at the end."""
    place = -1
    bus = disk.target.bus
    for index in range(len(disks) - 1, -1, -1):
        if disks[index].target.bus != bus:
            continue
        if disk_index(disks[index].target.dev) > disk_index(disk.target.dev):
            place = index
        elif place == -1:
            place = index + 1
    disks.insert(len(disks) if place == -1 else place, disk)


def disk_source_name(disk: Disk) -> str | None:
    """Return what a disk's data is called: a path, or the name at its server."""
    source = disk.source
    if source is None:
        return None
    return source.file or source.dev or source.dir or source.name or source.volume


def complete_disk(disk: Disk, others: Sequence[Disk]) -> Disk:
    """Return a disk with what it leaves open filled in. Raises LibvirtError."""
    device = disk.device or "disk"
    kind = disk.type or "file"
    bus = disk.target.bus
    if bus is None:
        bus = "fdc" if device == "floppy" else _BUS_OF_PREFIX.get(disk_prefix(disk.target.dev))
    if bus is None or (disk_index(disk.target.dev) < 0 and disk.address is None):
        raise xml_error(f"Unknown disk name '{disk.target.dev}' and no address specified")
    for other in others:
        if other.target.dev == disk.target.dev:
            names = f"'{disk_source_name(other)}' and '{disk_source_name(disk)}'"
            raise xml_error(f"target '{disk.target.dev}' duplicated for disk sources {names}")
    driver = disk.driver or DiskDriver()
    driver = replace(driver, name=driver.name or "qemu")
    if driver.type is None and kind != "volume":
        driver = replace(driver, type="raw")
    source = disk.source
    if source is not None:
        source = replace(source, index=None)
        if source == DiskSource() and kind != "network":
            source = None
    tray = disk.target.tray if device in {"cdrom", "floppy"} and disk.target.tray == "open" else None
    removable = disk.target.removable if bus == "usb" else None
    disk = replace(
        disk,
        type=kind,
        device=device,
        driver=driver,
        source=source,
        target=replace(disk.target, bus=bus, tray=tray, removable=removable),
        readonly=disk.readonly or device == "cdrom",
        mirror=None,
        transient=disk.transient and Node("transient", disk.transient.attributes),
    )
    if disk.address is None and bus in {"ide", "scsi", "sata", "fdc"}:
        disk = replace(disk, address=drive_address(disk.target.dev, bus, others))
    return disk


def drive_address(name: str, bus: str, others: Sequence[Disk]) -> Address:
    """Return where a disk of that name is on the controllers of its bus. Raises LibvirtError where it is taken."""
    index = disk_index(name)
    if bus == "ide":
        place = (index // 4, index // 2 % 2, 0, index % 2)
    elif bus == "scsi":
        place = (index // _SCSI_UNITS, 0, 0, index % _SCSI_UNITS)
    elif bus == "sata":
        place = (index // 6, 0, 0, index % 6)
    else:
        place = (index // 2, 0, 0, index % 2)
    for other in others:
        held = other.address
        if (
            other.target.bus == bus
            and held is not None
            and held.type == "drive"
            and (held.controller or 0, int(held.bus or 0), held.target or 0, held.unit or 0) == place
        ):
            where = f"controller={place[0]} bus={place[1]} target={place[2]} unit={place[3]}"
            raise internal(f"unable to assign drive address {where}: used by {other.target.dev}", ErrorDomain.DOMAIN)
    controller, channel, target, unit = place
    return Address(type="drive", controller=controller, bus=str(channel), target=target, unit=unit)
