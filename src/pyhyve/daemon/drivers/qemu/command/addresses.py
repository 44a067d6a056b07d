"""Where a device is, in QEMU's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyhyve.xml.address import Address
    from pyhyve.xml.devices import Devices

__all__ = ["pci_bus", "pci_properties", "usb_properties"]


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
