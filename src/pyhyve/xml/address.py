"""``<address>``: where a device sits, and ``<alias>``: what it is called.

Source: libvirt's documentation, "Domain XML format", device addresses.
"""

from __future__ import annotations

from pyhyve.xml.element import INTEGER, Converter, Element, attribute, element

__all__ = ["Address", "Alias"]


def _hex(width: int) -> Converter:
    return Converter(INTEGER.parse, lambda value: f"0x{value:0{width}x}", "an integer")


@element("address")
class Address(Element):
    """A device's address; which numbers it has depends on ``type`` ("pci", "drive", "virtio-serial", …)."""

    type: str | None = attribute("type")
    domain: int | None = attribute("domain", _hex(4))
    controller: int | None = attribute("controller", INTEGER)
    bus: str | None = attribute("bus")
    target: int | None = attribute("target", INTEGER)
    unit: int | None = attribute("unit", INTEGER)
    slot: str | None = attribute("slot")
    function: int | None = attribute("function", _hex(1))
    multifunction: str | None = attribute("multifunction")
    port: str | None = attribute("port")


@element("alias")
class Alias(Element):
    """A device's name inside its domain."""

    name: str = attribute("name", required=True)
