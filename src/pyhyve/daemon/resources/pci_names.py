"""Names of PCI vendors and devices, from the list of them that distributions install (pci.ids). Blocks."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["pci_names"]

_LISTS: Final = (Path("/usr/share/hwdata/pci.ids"), Path("/usr/share/misc/pci.ids"))


@functools.lru_cache(maxsize=512)
def pci_names(vendor: str, device: str) -> tuple[str, str]:
    """Return the names of a vendor and of its device, given as sysfs has them (``0x1af4``); empty where unknown."""
    wanted, product = vendor.removeprefix("0x").lower(), device.removeprefix("0x").lower()
    for path in _LISTS:
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                lines = iter(file)
                for line in lines:
                    if line.startswith(wanted + "  "):
                        return line[len(wanted) :].strip(), _product(lines, product)
        except OSError:
            continue
    return "", ""


def _product(lines: Iterator[str], product: str) -> str:
    for line in lines:
        if line.startswith("\t" + product + "  "):
            return line[len(product) + 1 :].strip()
        if not line.startswith(("\t", "#")):
            break
    return ""
