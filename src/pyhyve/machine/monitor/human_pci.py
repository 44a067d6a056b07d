"""PCI functions in the words of `info pci`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def describe_functions(devices: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Lines about each of `devices`, as `query-pci` gives them, and about what is behind bridges."""
    for device in devices:
        ids = device["id"]
        kind = device["class_info"].get("desc", f"Class {device['class_info']['class']:04x}")
        yield f"  Bus {device['bus']:2}, device {device['slot']:3}, function {device['function']}:"
        yield f"    {kind}: PCI device {ids['vendor']:04x}:{ids['device']:04x}"
        if ids.get("subsystem-vendor"):
            yield f"      PCI subsystem {ids['subsystem-vendor']:04x}:{ids['subsystem']:04x}"
        if device["irq_pin"]:
            yield f"      IRQ {device['irq']}, pin {chr(ord('A') + device['irq_pin'] - 1)}"
        bridge = device.get("pci_bridge", {})
        if bridge:
            yield from _describe_bridge(bridge["bus"])
        yield from (f"      {_describe_bar(region)}" for region in device["regions"])
        yield f'      id "{device["qdev_id"]}"'
        yield from describe_functions(bridge.get("devices", ()))


def _describe_bridge(bus: dict[str, Any]) -> Iterator[str]:
    yield f"      BUS {bus['number']}."
    yield f"      secondary bus {bus['secondary']}."
    yield f"      subordinate bus {bus['subordinate']}."
    for name, kind, digits in (("io", "IO", 4), ("memory", "memory", 8), ("prefetchable", "prefetchable memory", 8)):
        window = bus[f"{name}_range"]
        yield f"      {kind} range [0x{window['base']:0{digits}x}, 0x{window['limit']:0{digits}x}]"


def _describe_bar(region: dict[str, Any]) -> str:
    first = region["address"] & 0xFFFF_FFFF_FFFF_FFFF
    last = first + region["size"] - 1 & 0xFFFF_FFFF_FFFF_FFFF
    if region["type"] == "io":
        return f"BAR{region['bar']}: I/O at 0x{first:04x} [0x{last:04x}]."
    width = 64 if region["mem_type_64"] else 32
    prefetch = " prefetchable" if region["prefetch"] else ""
    return f"BAR{region['bar']}: {width} bit{prefetch} memory at 0x{first:08x} [0x{last:08x}]."
