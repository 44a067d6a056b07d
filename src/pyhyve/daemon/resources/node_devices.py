"""Devices of the host, as sysfs shows them. Everything here blocks; the daemon calls it on threads.

Source: Linux, ``Documentation/ABI/testing/sysfs-bus-pci``, ``sysfs-class-net``, ``sysfs-block``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.resources.pci_express import pci_express
from pyhyve.daemon.resources.pci_names import pci_names
from pyhyve.xml.document import Node, format_node

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HostDevice", "MediatedFacts", "device_document", "find_devices", "leaf", "mediated_device"]

_SYSFS: Final = Path("/sys")
_SECTOR_BYTES: Final = 512
_ODD: Final = re.compile(r"[^A-Za-z0-9_]")
_PCI_ADDRESS: Final = re.compile(r"([0-9a-f]+):([0-9a-f]+):([0-9a-f]+)\.([0-7])")


@dataclass(frozen=True, slots=True)
class MediatedFacts:
    """What a mediated device is, there or only defined."""

    uuid: str
    type: str
    parent_address: str
    attributes: tuple[tuple[str, str], ...] = ()


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
    capabilities: tuple[str, ...] = ()
    """Kinds it is beside its capability: a PCI device that has types of mediated devices."""
    pci_address: str | None = None
    """As sysfs names it (0000:00:02.0)."""
    mediated: MediatedFacts | None = None
    active: bool = True


def _read(path: Path, default: str = "") -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return default


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _names(text: str) -> str:
    return _ODD.sub("_", text)


def find_devices(sysfs: Path = _SYSFS) -> dict[str, HostDevice]:
    """Return every device by name, parents in front."""
    found = {"computer": _computer(sysfs)}
    by_path = {}
    for device in _pci(sysfs):
        found[device.name] = device
        by_path[device.path] = device.name
    others = (*_net(sysfs, by_path), *_block(sysfs, by_path), *_scsi_hosts(sysfs, by_path), *_mediated(sysfs, by_path))
    for device in others:
        found[device.name] = device
    return found


def _parent(path: Path, by_path: dict[str | None, str]) -> str:
    for above in path.parents:
        if (name := by_path.get(str(above))) is not None:
            return name
    return "computer"


def leaf(name: str, text: object, *attributes: tuple[str, str]) -> Node:
    """Return an element that holds text."""
    return Node(name, attributes, str(text))


def _computer(sysfs: Path) -> HostDevice:
    dmi = sysfs / "class/dmi/id"

    def given(*pairs: tuple[str, str]) -> tuple[Node, ...]:
        return tuple(leaf(name, text) for name, file in pairs if (text := _read(dmi / file)))

    hardware = given(("vendor", "sys_vendor"), ("version", "product_version"), ("serial", "product_serial"))
    uuid = leaf("uuid", _read(dmi / "product_uuid", "00000000-0000-0000-0000-000000000000").lower())
    product = given(("product", "product_name"))
    firmware = given(("vendor", "bios_vendor"), ("version", "bios_version"), ("release_date", "bios_date"))
    facts = (
        *product,
        Node("hardware", children=(*hardware, uuid)),
        Node("firmware", children=firmware, spread=not firmware),
    )
    return HostDevice("computer", "system", None, facts=facts)


def _address(name: str, element: str = "address") -> Node:
    domain, bus, slot, function = _PCI_ADDRESS.fullmatch(name).groups()  # type: ignore[union-attr] # sysfs names it so
    words = (("domain", domain, 4), ("bus", bus, 2), ("slot", slot, 2), ("function", function, 1))
    return Node(element, tuple((word, f"0x{int(digits, 16):0{width}x}") for word, digits, width in words))


def _functions(path: Path) -> Iterator[Node]:
    """Say what virtual functions a device has, or what device it is a virtual function of (SR-IOV)."""
    physical = path / "physfn"
    if physical.exists():
        yield Node("capability", (("type", "phys_function"),), children=(_address(physical.resolve().name),))
    total = _read(path / "sriov_totalvfs")
    if total.isdigit() and int(total):
        links = sorted(path.glob("virtfn*"), key=lambda link: int(link.name.removeprefix("virtfn")))
        addresses = tuple(_address(link.resolve().name) for link in links)
        yield Node("capability", (("type", "virt_functions"), ("maxCount", total)), children=addresses)


def _mediated_types(path: Path) -> Iterator[Node]:
    """Say what types of mediated devices a device has."""
    directory = path / "mdev_supported_types"
    kinds = []
    for kind in sorted(directory.iterdir()) if directory.is_dir() else ():
        named = leaf("name", text) if (text := _read(kind / "name")) else None
        facts = (
            named,
            leaf("deviceAPI", _read(kind / "device_api")),
            leaf("availableInstances", _read(kind / "available_instances", "0")),
        )
        kinds.append(Node("type", (("id", kind.name),), children=tuple(fact for fact in facts if fact is not None)))
    if kinds:
        yield Node("capability", (("type", "mdev_types"),), children=tuple(kinds))


def _pci(sysfs: Path) -> Iterator[HostDevice]:
    directory = sysfs / "bus/pci/devices"
    known: dict[str | None, str] = {}
    for link in sorted(directory.iterdir()) if directory.is_dir() else ():
        path = link.resolve()
        parts = _PCI_ADDRESS.fullmatch(link.name)
        if parts is None:
            continue
        domain, bus, slot, function = (int(part, 16) for part in parts.groups())
        name = f"pci_{domain:04x}_{bus:02x}_{slot:02x}_{function}"
        driver = path / "driver"
        product, vendor = _read(path / "device"), _read(path / "vendor")
        vendor_name, product_name = pci_names(vendor, product)
        types = tuple(_mediated_types(path))
        facts = [
            leaf("class", _read(path / "class")),
            leaf("domain", domain),
            leaf("bus", bus),
            leaf("slot", slot),
            leaf("function", function),
            leaf("product", product_name, ("id", product)),
            leaf("vendor", vendor_name, ("id", vendor)),
            *_functions(path),
            *types,
        ]
        if (group := path / "iommu_group").exists():
            members = sorted(group.resolve().glob("devices/*")) or [link]
            inside = tuple(_address(member.name) for member in members if _PCI_ADDRESS.fullmatch(member.name))
            facts.append(Node("iommuGroup", (("number", group.resolve().name),), children=inside))
        node = _read(path / "numa_node", "-1")
        if node.isdigit():
            facts.append(Node("numa", (("node", node),)))
        if (express := pci_express(_read_bytes(path / "config"))) is not None:
            facts.append(express)
        device = HostDevice(
            name,
            "pci",
            _parent(path, known),
            str(path),
            driver.resolve().name if driver.exists() else None,
            facts=tuple(facts),
            capabilities=("mdev_types",) if types else (),
            pci_address=link.name,
        )
        known[str(path)] = name
        yield device


def _scsi_hosts(sysfs: Path, by_path: dict[str | None, str]) -> Iterator[HostDevice]:
    directory = sysfs / "class/scsi_host"
    for link in sorted(directory.iterdir()) if directory.is_dir() else ():
        host = link.resolve()
        path = host.parent.parent if host.parent.name == "scsi_host" else host.parent
        facts = [leaf("host", link.name.removeprefix("host"))]
        if unique := _read(host / "unique_id"):
            facts.append(leaf("unique_id", unique))
        kinds = []
        fibre = sysfs / "class/fc_host" / link.name
        if fibre.exists():
            kinds.append("fc_host")
            names = (("wwnn", "node_name"), ("wwpn", "port_name"), ("fabric_wwn", "fabric_name"))
            inside = tuple(leaf(word, _read(fibre / file).removeprefix("0x")) for word, file in names)
            facts.append(Node("capability", (("type", "fc_host"),), children=inside))
        ports = fibre if (fibre / "vport_create").exists() else host
        if (ports / "vport_create").exists():
            kinds.append("vports")
            counts = (
                leaf("max_vports", _read(ports / "max_npiv_vports", "0")),
                leaf("vports", _read(ports / "npiv_vports_inuse", "0")),
            )
            facts.append(Node("capability", (("type", "vport_ops"),), children=counts))
        yield HostDevice(
            f"scsi_{_names(link.name)}",
            "scsi_host",
            _parent(path, by_path),
            str(path),
            facts=tuple(facts),
            capabilities=tuple(kinds),
        )


def mediated_device(
    facts: MediatedFacts, parent: str, *, path: str | None, driver: str | None = None, group: str | None = None
) -> HostDevice:
    """Return a mediated device, there (``path``) or only defined."""
    inside = [
        Node("type", (("id", facts.type),)),
        leaf("uuid", facts.uuid),
        leaf("parent_addr", facts.parent_address),
    ]
    if path is not None:
        inside.append(Node("iommuGroup", (("number", group or "-1"),)))
    inside.extend(Node("attr", (("name", name), ("value", value))) for name, value in facts.attributes)
    return HostDevice(
        f"mdev_{_names(facts.uuid)}_{_names(facts.parent_address)}",
        "mdev",
        parent,
        path,
        driver,
        facts=tuple(inside),
        mediated=facts,
        active=path is not None,
    )


def _mediated(sysfs: Path, by_path: dict[str | None, str]) -> Iterator[HostDevice]:
    directory = sysfs / "bus/mdev/devices"
    for link in sorted(directory.iterdir()) if directory.is_dir() else ():
        path = link.resolve()
        driver, group, kind = path / "driver", path / "iommu_group", path / "mdev_type"
        yield mediated_device(
            MediatedFacts(link.name, kind.resolve().name if kind.exists() else "", path.parent.name),
            _parent(path, by_path),
            path=str(path),
            driver=driver.resolve().name if driver.exists() else None,
            group=group.resolve().name if group.exists() else None,
        )


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
            leaf("interface", link.name),
            leaf("address", address),
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
        facts = [leaf("block", f"/dev/{link.name}")]
        facts.append(leaf("drive_type", "cdrom" if link.name.startswith("sr") else "disk"))
        facts += [
            leaf(word, text)
            for word, file in (("model", "model"), ("vendor", "vendor"))
            if (text := _read(path / "device" / file))
        ]
        removable = _read(path / "removable") == "1"
        sizes = [
            leaf("size" if not removable else "media_size", size),
            leaf("logical_block_size", block),
            leaf("num_blocks", size // int(block) if block.isdigit() and int(block) else 0),
        ]
        if removable:
            facts.append(
                Node("capability", (("type", "removable"),), children=(leaf("media_available", int(size > 0)), *sizes))
            )
        else:
            facts += sizes
        name = f"block_{_names(link.name)}"
        yield HostDevice(
            name, "storage", _parent(path, by_path), str(path), devnode=f"/dev/{link.name}", facts=tuple(facts)
        )


def device_document(device: HostDevice) -> str:
    """Return the ``<device>`` document."""
    children = [leaf("name", device.name)]
    if device.path is not None:
        children.append(leaf("path", device.path))
    if device.devnode is not None:
        children.append(leaf("devnode", device.devnode, ("type", "dev")))
    if device.parent is not None:
        children.append(leaf("parent", device.parent))
    if device.driver is not None:
        children.append(Node("driver", children=(leaf("name", device.driver),)))
    children.append(Node("capability", (("type", device.capability),), children=device.facts))
    return format_node(Node("device", children=tuple(children)))
