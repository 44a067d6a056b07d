"""Where a device is, and how it talks to its driver, in QEMU's words."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from pyhyve.xml.document import Node

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.xml.address import Address
    from pyhyve.xml.devices import Devices
    from pyhyve.xml.disk import DiskDriver
    from pyhyve.xml.interface import InterfaceDriver

__all__ = ["pci_bus", "pci_properties", "usb_properties", "virtio_properties"]

_VIRTIO: Final = {
    "iommu": "iommu_platform",
    "ats": "ats",
    "packed": "packed",
    "page_per_vq": "page-per-vq",
    "ioeventfd": "ioeventfd",
    "event_idx": "event_idx",
}


def pci_bus(devices: Devices, index: int) -> str:
    """Return the name of a PCI bus: that of its controller."""
    for item in devices.controller:
        if item.type == "pci" and item.index == index:
            if index == 0:
                return "pcie.0" if item.model == "pcie-root" else "pci.0"
            return item.alias.name if item.alias is not None else f"pci.{index}"
    return "pci.0"


def pci_properties(devices: Devices, address: Address | None) -> dict[str, Any]:
    """Return ``bus``, ``addr`` and ``multifunction`` of a device with a PCI address."""
    if address is None or address.type != "pci":
        return {}
    bus, slot, function = address.pci
    properties: dict[str, Any] = {"bus": pci_bus(devices, bus)}
    if address.multifunction == "on":
        properties["multifunction"] = True
    properties["addr"] = f"0x{slot:x}.0x{function:x}" if function else f"0x{slot:x}"
    return properties


def usb_properties(address: Address | None) -> dict[str, Any]:
    """Return ``bus`` and ``port`` of a device on a USB bus."""
    if address is None or address.type != "usb":
        return {}
    number = int(address.bus or 0)
    return {"bus": "usb.0" if number == 0 else f"usb{number}.0", "port": address.port}


def virtio_properties(driver: DiskDriver | InterfaceDriver | Node | None) -> dict[str, bool]:
    """Return what ``<driver>`` of a virtio device says of its rings and its bus: what is on and what is off."""
    given: Callable[[str], str | None]
    given = dict(driver.attributes).get if isinstance(driver, Node) else functools.partial(_field, driver)
    values = {name: given(attribute) for attribute, name in _VIRTIO.items()}
    return {name: value == "on" for name, value in values.items() if value is not None}


def _field(record: object, name: str) -> str | None:
    value: str | None = getattr(record, name, None)
    return value
