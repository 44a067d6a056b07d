"""What `query-pci` tells of a machine's PCI functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.devices.pci import spec
from pyhyve.devices.pci.spec import BarKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyhyve.devices.pci.bridge import PciBridge
    from pyhyve.devices.pci.device import Bar, PciDevice
    from pyhyve.machine.inventory import Inventory

CLASS_NAMES = {
    0x0100: "SCSI controller",
    0x0101: "IDE controller",
    0x0106: "SATA controller",
    0x0180: "Storage controller",
    0x0200: "Ethernet controller",
    0x0300: "VGA controller",
    0x0500: "RAM controller",
    0x0600: "Host bridge",
    0x0601: "ISA bridge",
    0x0604: "PCI bridge",
    0x0680: "Bridge",
    0x0C03: "USB controller",
}
"""Class and subclass codes (PCI Code and ID Assignment Specification), in QEMU's words."""
_UNMAPPED = -1


def describe_bus(inventory: Inventory) -> list[dict[str, Any]]:
    """`PciBusInfo` of bus 0; with the machine lock held."""
    ids = {id(plugged.function): plugged.name for plugged in inventory.hardware.devices if plugged.function is not None}
    return [{"bus": 0, "devices": [_device_info(device, 0, ids) for device in inventory.pci]}]


def _bridge_info(bridge: PciBridge, ids: Mapping[int, str]) -> dict[str, Any]:
    """`PciInfoDevicesPciBridge`: numbers, windows, and what is behind."""
    windows = {"io": bridge.io_window, "memory": bridge.memory_window, "prefetchable": bridge.prefetch_window}
    number = bridge.secondary.number
    info: dict[str, Any] = {
        "bus": {
            "number": bridge.config[spec.PRIMARY_BUS],
            "secondary": number,
            "subordinate": bridge.config[spec.SUBORDINATE_BUS],
            **{f"{name}_range": {"base": base, "limit": limit} for name, (base, limit) in windows.items()},
        }
    }
    if number:
        info["devices"] = [_device_info(device, number, ids) for device in bridge.secondary]
    return info


def _device_info(device: PciDevice, bus: int, ids: Mapping[int, str]) -> dict[str, Any]:
    def field(offset: int, size: int = 2) -> int:
        return int.from_bytes(device.config[offset : offset + size], "little")

    class_code = field(spec.CLASS_CODE, 3) >> 8
    pin = field(spec.INTERRUPT_PIN, 1)
    class_info: dict[str, Any] = {"class": class_code}
    if class_code in CLASS_NAMES:
        class_info["desc"] = CLASS_NAMES[class_code]
    info: dict[str, Any] = {
        "bus": bus,
        "slot": device.slot,
        "function": device.function,
        "class_info": class_info,
        "id": {"vendor": field(spec.VENDOR_ID), "device": field(spec.DEVICE_ID)},
        "irq_pin": pin,
        "qdev_id": ids.get(id(device), ""),
        "regions": [_region(device.bars[index]) for index in sorted(device.bars)],
    }
    if device.secondary is None:
        info["id"] |= {"subsystem-vendor": field(spec.SUBSYSTEM_VENDOR_ID), "subsystem": field(spec.SUBSYSTEM_ID)}
    else:
        info["pci_bridge"] = _bridge_info(device.secondary.leads_here, ids)
    if pin:
        info["irq"] = field(spec.INTERRUPT_LINE, 1)
    return info


def _region(bar: Bar) -> dict[str, Any]:
    region: dict[str, Any] = {
        "bar": bar.index,
        "size": bar.size_bytes,
        "address": _UNMAPPED if bar.address is None else bar.address,
    }
    if bar.kind is BarKind.IO:
        return {**region, "type": "io"}
    return {**region, "type": "memory", "prefetch": bar.prefetchable, "mem_type_64": bar.kind is BarKind.MEM64}
