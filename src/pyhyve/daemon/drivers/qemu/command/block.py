"""Disks: block nodes and the devices in front of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains.faults import unsupported
from pyhyve.daemon.drivers.qemu.command.addresses import pci_properties, usb_properties, virtio_properties
from pyhyve.rpc.errors import ErrorDomain
from pyhyve.xml.disk import BackingStore, Disk, DiskSource
from pyhyve.xml.element import from_node

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pyhyve.daemon.drivers.qemu.command.launch import Command
    from pyhyve.xml.devices import Devices

__all__ = ["backing_chain", "disk_device", "disk_nodes", "format_node_name", "source_properties", "write_disks"]

_CACHE: Final[dict[str, tuple[bool, bool, bool]]] = {
    "none": (True, True, False),
    "writeback": (True, False, False),
    "writethrough": (False, False, False),
    "directsync": (False, True, False),
    "unsafe": (True, False, True),
}
"""Of each cache mode: write cache, direct, no flush."""


def format_node_name(index: int) -> str:
    """Return the name of the block node that understands a disk's format."""
    return f"libvirt-{index}-format"


def source_properties(kind: str, source: DiskSource) -> dict[str, Any]:
    """Return the node that reads a disk's data. Raises LibvirtError for what it cannot read."""
    if kind == "network":
        host = source.host[0] if source.host else None
        if source.protocol == "nbd":
            if host is not None and host.transport == "unix":
                server: dict[str, Any] = {"type": "unix", "path": host.socket}
            else:
                server = {
                    "type": "inet",
                    "host": (host.name if host else None) or "localhost",
                    "port": (host.port if host else None) or "10809",
                }
            return {"driver": "nbd", "server": server, **({"export": source.name} if source.name else {})}
        if source.protocol in {"http", "https"} and host is not None:
            port = f":{host.port}" if host.port else ""
            return {"driver": source.protocol, "url": f"{source.protocol}://{host.name}{port}/{source.name}"}
        raise unsupported(f"network disk protocol '{source.protocol}' not supported", ErrorDomain.QEMU)
    if kind in {"volume", "nvme", "vhostuser", "vhostvdpa"}:
        raise unsupported(f"disk type '{kind}' not supported", ErrorDomain.QEMU)
    if kind == "block" or source.dev:
        return {"driver": "host_device", "filename": source.dev}
    if kind == "dir":
        return {"driver": "vvfat", "dir": source.dir, "floppy": False}
    return {"driver": "file", "filename": source.file}


def _cache_property(cache: str | None) -> dict[str, Any]:
    if cache in {None, "default"}:
        return {}
    _, direct, no_flush = _CACHE[str(cache)]
    return {"cache": {"direct": direct, "no-flush": no_flush}}


def backing_chain(disk: Disk) -> Iterator[BackingStore]:
    """Yield the images under a disk's, nearest first, as far as its definition knows them."""
    store = disk.backing_store
    while store is not None and store.source is not None:
        yield store
        store = None if store.backing_store is None else from_node(BackingStore, store.backing_store)


def disk_nodes(disk: Disk, *, explicit: bool = True) -> list[dict[str, Any]]:
    """Return the block nodes of a disk, in the order in which they are made: the lowest image first.

    ``explicit``: with every image below it; otherwise the emulator finds those by itself.
    """
    if disk.source is None or disk.source.index is None:
        return []
    driver = disk.driver
    read_only = disk.readonly or disk.device == "cdrom"
    cache = _cache_property(driver.cache if driver else None)
    chain = list(backing_chain(disk)) if explicit else []
    nodes: list[dict[str, Any]] = []
    below: str | None = None
    for store in reversed(chain):
        if store.source is None or store.index is None:
            continue
        kind = store.format.type if store.format is not None else "raw"
        nodes.extend(_pair(store.type or "file", store.source, store.index, kind, below, cache, read_only=True))
        below = format_node_name(store.index)
    kind = (driver.type if driver else None) or "raw"
    ends = disk.backing_store is not None and disk.backing_store.source is None
    top = _pair(disk.type or "file", disk.source, disk.source.index, kind, below, cache, read_only=read_only)
    if explicit and below is None and ends and kind in {"qcow2", "qed", "vmdk", "qcow"}:
        top[1]["backing"] = None
    if driver is not None:
        storage = top[0]
        if driver.io is not None:
            storage["aio"] = driver.io
        if driver.discard is not None:
            storage["discard"] = top[1]["discard"] = driver.discard
        if driver.detect_zeroes is not None:
            top[1]["detect-zeroes"] = driver.detect_zeroes
    nodes.extend(top)
    return nodes


def _pair(
    kind: str,
    source: DiskSource,
    index: int,
    image_format: str,
    below: str | None,
    cache: Mapping[str, Any],
    *,
    read_only: bool,
) -> list[dict[str, Any]]:
    storage = {**source_properties(kind, source), "node-name": f"libvirt-{index}-storage"}
    if storage["driver"] == "vvfat":
        storage["read-only"] = True
    else:
        storage["auto-read-only"] = True
    storage.update({"discard": "unmap", **cache})
    top = {
        "node-name": format_node_name(index),
        "read-only": read_only,
        **cache,
        "driver": image_format,
        "file": storage["node-name"],
    }
    if below is not None:
        top["backing"] = below
    return [storage, top]


def disk_device(devices: Devices, disk: Disk, boot_index: int | None, *, drive: str | None) -> dict[str, Any]:
    """Return the device the guest sees. Raises LibvirtError for a bus the machine has not."""
    alias = disk.alias.name if disk.alias is not None else None
    bus = disk.target.bus
    place = disk.address
    device: dict[str, Any]
    if bus == "virtio":
        device = {"driver": "virtio-blk-pci", **virtio_properties(disk.driver), **pci_properties(devices, place)}
        if disk.driver is not None and disk.driver.iothread is not None:
            device["iothread"] = f"iothread{disk.driver.iothread}"
        if disk.driver is not None and disk.driver.queues is not None:
            device["num-queues"] = disk.driver.queues
    elif bus in {"ide", "sata"} and place is not None:
        driver = "ide-cd" if disk.device == "cdrom" else "ide-hd"
        controller = place.controller or 0
        if bus == "ide":
            device = {"driver": driver, "bus": f"ide.{place.bus or 0}", "unit": place.unit or 0}
        else:
            name = "ide" if controller == 0 else f"sata{controller}"
            device = {"driver": driver, "bus": f"{name}.{place.unit or 0}"}
    elif bus == "scsi" and place is not None:
        device = _scsi_device(devices, disk)
    elif bus == "fdc" and place is not None:
        device = {"driver": "floppy", "unit": place.unit or 0}
    elif bus == "usb":
        device = {"driver": "usb-storage", **usb_properties(place), "removable": disk.target.removable == "on"}
    else:
        raise unsupported(f"unsupported disk bus '{bus}' with device setup", ErrorDomain.QEMU)
    if disk.shareable:
        device["share-rw"] = True
    device.update({"drive": drive, "id": alias, "bootindex": boot_index})
    if disk.driver is not None and disk.driver.cache not in {None, "default"} and bus != "fdc" and drive is not None:
        device["write-cache"] = "on" if _CACHE[str(disk.driver.cache)][0] else "off"
    if bus != "fdc":
        device.update({"serial": disk.serial, "wwn": f"0x{disk.wwn}" if disk.wwn else None})
        for name, key in (("error_policy", "werror"), ("rerror_policy", "rerror")):
            policy = getattr(disk.driver, name) if disk.driver is not None else None
            if policy is not None:
                device[key] = "report" if policy == "report" else policy
    return {name: value for name, value in device.items() if value is not None}


def _scsi_device(devices: Devices, disk: Disk) -> dict[str, Any]:
    place = disk.address
    if place is None:
        return {}
    index = place.controller or 0
    model = next((item.model for item in devices.controller if item.type == "scsi" and item.index == index), None)
    driver = {"cdrom": "scsi-cd", "lun": "scsi-block"}.get(disk.device or "", "scsi-hd")
    if model == "lsilogic":
        numbers = {"scsi-id": place.unit or 0}
        name = f"drive-scsi{index}-{place.bus or 0}-{place.unit or 0}"
    else:
        numbers = {"channel": int(place.bus or 0), "scsi-id": place.target or 0, "lun": place.unit or 0}
        name = f"drive-scsi{index}-{place.bus or 0}-{place.target or 0}-{place.unit or 0}"
    return {"driver": driver, "bus": f"scsi{index}.0", **numbers, "device_id": name}


def write_disks(command: Command, devices: Devices, boot: Mapping[str, int]) -> None:
    """Write every disk; ``boot`` has the boot order by alias."""
    explicit = not command.emulator.is_ours
    for disk in devices.disk:
        nodes = disk_nodes(disk, explicit=explicit)
        for node in nodes:
            command.add_json("blockdev", node)
        drive = nodes[-1]["node-name"] if nodes else None
        alias = disk.alias.name if disk.alias is not None else ""
        command.device(disk_device(devices, disk, boot.get(alias), drive=drive))
