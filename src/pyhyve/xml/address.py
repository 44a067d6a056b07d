"""``<address>``: where a device sits, and ``<alias>``: what it is called.

Source: libvirt's documentation, "Domain XML format", device addresses.
"""

from __future__ import annotations

from pyhyve.xml.document import Node
from pyhyve.xml.element import INTEGER, Converter, Element, attribute, element, node

__all__ = ["Address", "Alias", "pci_address"]


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
    base: str | None = attribute("base")
    iobase: str | None = attribute("iobase")
    irq: str | None = attribute("irq")
    cssid: str | None = attribute("cssid")
    ssid: str | None = attribute("ssid")
    devno: str | None = attribute("devno")
    reg: str | None = attribute("reg")
    zpci: Node | None = node("zpci")

    @property
    def pci(self) -> tuple[int, int, int]:
        """Bus, slot and function of a PCI address."""
        return INTEGER.parse(self.bus or "0"), INTEGER.parse(self.slot or "0"), self.function or 0

    @property
    def pci_text(self) -> str:
        """A PCI address as messages write it: domain, bus, slot and function, hexadecimal."""
        bus, slot, function = self.pci
        return f"{self.domain or 0:04x}:{bus:02x}:{slot:02x}.{function}"


def pci_address(bus: int, slot: int, function: int = 0, multifunction: str | None = None) -> Address:
    """Return a PCI address as libvirt writes it."""
    return Address(
        type="pci",
        domain=0,
        bus=f"0x{bus:02x}",
        slot=f"0x{slot:02x}",
        function=function,
        multifunction=multifunction,
    )


@element("alias")
class Alias(Element):
    """A device's name inside its domain."""

    name: str = attribute("name", required=True)
