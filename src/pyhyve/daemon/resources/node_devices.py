"""Devices of the host, as sysfs shows them. Everything here blocks; the daemon calls it on threads.

Source: Linux, ``Documentation/ABI/testing/sysfs-bus-pci``, ``sysfs-class-net``, ``sysfs-block``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyhyve.xml.document import Node, format_node

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HostDevice", "device_document", "find_devices"]

CAPABILITIES: Final = ("system", "pci", "usb_device", "usb", "net", "scsi_host", "scsi_target", "scsi", "storage")
"""Kinds of device, by the bit of virConnectListAllNodeDeviceFlags."""
_SYSFS: Final = Path("/sys")
_SECTOR_BYTES: Final = 512
_ODD: Final = re.compile(r"[^A-Za-z0-9_]")


@dataclass(frozen=True, slots=True)
class HostDevice:
    """One device. ``facts`` are the children of its capability."""

    name: str
    capability: str
    parent: str | None
    path: str | None = None
    driver: str | None = None
    devnode: str | None = None
    facts: tuple[Node, ...] = field(default=())


def _read(path: Path, default: str = "") -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return default


def _names(text: str) -> str:
    return _ODD.sub("_", text)


def find_devices(sysfs: Path = _SYSFS) -> dict[str, HostDevice]:
    """Return every device by name, parents in front."""
    found = {"computer": _computer(sysfs)}
    by_path = {}
    for device in _pci(sysfs):
        found[device.name] = device
        by_path[device.path] = device.name
    for device in (*_net(sysfs, by_path), *_block(sysfs, by_path)):
        found[device.name] = device
    return found


def _parent(path: Path, by_path: dict[str | None, str]) -> str:
    for above in path.parents:
        if (name := by_path.get(str(above))) is not None:
            return name
    return "computer"


def _leaf(name: str, text: object, *attributes: tuple[str, str]) -> Node:
    return Node(name, attributes, str(text))


def _computer(sysfs: Path) -> HostDevice:
    dmi = sysfs / "class/dmi/id"

    def given(*pairs: tuple[str, str]) -> tuple[Node, ...]:
        return tuple(_leaf(name, text) for name, file in pairs if (text := _read(dmi / file)))

    hardware = given(("vendor", "sys_vendor"), ("version", "product_version"), ("serial", "product_serial"))
    uuid = _leaf("uuid", _read(dmi / "product_uuid", "00000000-0000-0000-0000-000000000000").lower())
    product = given(("product", "product_name"))
    firmware = given(("vendor", "bios_vendor"), ("version", "bios_version"), ("release_date", "bios_date"))
    facts = (
        *product,
        Node("hardware", children=(*hardware, uuid)),
        Node("firmware", children=firmware, spread=not firmware),
    )
    return HostDevice("computer", "system", None, facts=facts)


def _pci(sysfs: Path) -> Iterator[HostDevice]:
    directory = sysfs / "bus/pci/devices"
    known: dict[str | None, str] = {}
    for link in sorted(directory.iterdir()) if directory.is_dir() else ():
        path = link.resolve()
        parts = re.fullmatch(r"([0-9a-f]+):([0-9a-f]+):([0-9a-f]+)\.([0-7])", link.name)
        if parts is None:
            continue
        domain, bus, slot, function = (int(part, 16) for part in parts.groups())
        name = f"pci_{domain:04x}_{bus:02x}_{slot:02x}_{function}"
        driver = path / "driver"
        facts = [
            _leaf("class", _read(path / "class")),
            _leaf("domain", domain),
            _leaf("bus", bus),
            _leaf("slot", slot),
            _leaf("function", function),
            Node("product", (("id", _read(path / "device")),)),
            Node("vendor", (("id", _read(path / "vendor")),)),
        ]
        if (group := path / "iommu_group").exists():
            address = tuple(
                (word, f"0x{number:0{width}x}")
                for word, number, width in (
                    ("domain", domain, 4),
                    ("bus", bus, 2),
                    ("slot", slot, 2),
                    ("function", function, 1),
                )
            )
            number = group.resolve().name
            facts.append(Node("iommuGroup", (("number", number),), children=(Node("address", address),)))
        device = HostDevice(
            name,
            "pci",
            _parent(path, known),
            str(path),
            driver.resolve().name if driver.exists() else None,
            facts=tuple(facts),
        )
        known[str(path)] = name
        yield device


def _net(sysfs: Path, by_path: dict[str | None, str]) -> Iterator[HostDevice]:
    directory = sysfs / "class/net"
    for link in sorted(directory.iterdir()) if directory.is_dir() else ():
        path = link.resolve()
        address = _read(path / "address")
        if not address:
            continue
        state = _read(path / "operstate", "unknown")
        speed = _read(path / "speed")
        attributes = [("state", state)]
        if state == "up" and speed.lstrip("-").isdigit():
            attributes.insert(0, ("speed", str(int(speed) & 0xFFFFFFFF)))
        kind = "80211" if (path / "phy80211").exists() else "80203"
        facts = (
            _leaf("interface", link.name),
            _leaf("address", address),
            Node("link", tuple(attributes)),
            Node("capability", (("type", kind),)),
        )
        name = f"net_{_names(link.name)}_{_names(address)}"
        yield HostDevice(name, "net", _parent(path, by_path), str(path), facts=facts)


def _block(sysfs: Path, by_path: dict[str | None, str]) -> Iterator[HostDevice]:
    directory = sysfs / "block"
    for link in sorted(directory.iterdir()) if directory.is_dir() else ():
        path = link.resolve()
        if not (path / "device").exists():
            continue  # loop devices, device mapper: not hardware
        sectors = _read(path / "size", "0")
        size = int(sectors) * _SECTOR_BYTES if sectors.isdigit() else 0
        block = _read(path / "queue/logical_block_size", str(_SECTOR_BYTES))
        facts = [_leaf("block", f"/dev/{link.name}")]
        facts.append(_leaf("drive_type", "cdrom" if link.name.startswith("sr") else "disk"))
        facts += [
            _leaf(word, text)
            for word, file in (("model", "model"), ("vendor", "vendor"))
            if (text := _read(path / "device" / file))
        ]
        removable = _read(path / "removable") == "1"
        sizes = [
            _leaf("size" if not removable else "media_size", size),
            _leaf("logical_block_size", block),
            _leaf("num_blocks", size // int(block) if block.isdigit() and int(block) else 0),
        ]
        if removable:
            facts.append(
                Node("capability", (("type", "removable"),), children=(_leaf("media_available", int(size > 0)), *sizes))
            )
        else:
            facts += sizes
        name = f"block_{_names(link.name)}"
        yield HostDevice(
            name, "storage", _parent(path, by_path), str(path), devnode=f"/dev/{link.name}", facts=tuple(facts)
        )


def device_document(device: HostDevice) -> str:
    """Return the ``<device>`` document."""
    children = [_leaf("name", device.name)]
    if device.path is not None:
        children.append(_leaf("path", device.path))
    if device.devnode is not None:
        children.append(_leaf("devnode", device.devnode, ("type", "dev")))
    if device.parent is not None:
        children.append(_leaf("parent", device.parent))
    if device.driver is not None:
        children.append(Node("driver", children=(_leaf("name", device.driver),)))
    children.append(Node("capability", (("type", device.capability),), children=device.facts))
    return format_node(Node("device", children=tuple(children)))
