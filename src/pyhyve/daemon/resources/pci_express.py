"""What a PCI device's configuration says of its PCI Express link.

Source: PCI Local Bus Specification 3.0, 6.7 (capabilities list); PCI Express Base Specification 3.0, 7.8 (PCI Express
capability structure: flags at 2, link capabilities at 0Ch, link status at 12h).
"""

from __future__ import annotations

from typing import Final

from pyhyve.xml.document import Node

__all__ = ["pci_express"]

_STATUS, _HAS_CAPABILITIES, _FIRST = 0x06, 0x10, 0x34
_EXPRESS: Final = 0x10
_WITHOUT_LINK: Final = frozenset({9, 10})
"""Root complex integrated endpoint and event collector."""
_SPEEDS: Final = {1: "2.5", 2: "5", 3: "8", 4: "16", 5: "32", 6: "64"}
_HEADER_SIZE: Final = 64


def _find(configuration: bytes) -> int | None:
    if len(configuration) < _HEADER_SIZE or not configuration[_STATUS] & _HAS_CAPABILITIES:
        return None
    at = configuration[_FIRST] & ~3
    for _ in range(48):  # a list that is a ring ends too
        if not _HEADER_SIZE <= at <= len(configuration) - 0x14:
            return None
        if configuration[at] == _EXPRESS:
            return at
        at = configuration[at + 1] & ~3
    return None


def pci_express(configuration: bytes) -> Node | None:
    """Return the ``<pci-express>`` element of a device with this configuration space, or None where it is not one."""
    at = _find(configuration)
    if at is None:
        return None
    links = []
    if configuration[at + 2] >> 4 not in _WITHOUT_LINK:
        can = int.from_bytes(configuration[at + 0xC : at + 0x10], "little")
        does = int.from_bytes(configuration[at + 0x12 : at + 0x14], "little")
        for validity, word, port in (("cap", can, (("port", str(can >> 24)),)), ("sta", does, ())):
            speed = _SPEEDS.get(word & 0xF)
            attributes = (("validity", validity), *port, *((("speed", speed),) if speed else ()))
            links.append(Node("link", (*attributes, ("width", str(word >> 4 & 0x3F)))))
    return Node("pci-express", children=tuple(links))
