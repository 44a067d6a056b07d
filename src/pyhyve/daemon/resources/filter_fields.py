"""Reading what rules of network filters say: numbers, addresses of Ethernet and of IP. Each raises LibvirtError."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from pyhyve.daemon.faults import Faults
from pyhyve.rpc.errors import ErrorDomain

__all__ = ["integer", "mac", "mac_number", "network", "ranged", "swapped"]

_FAULTS: Final = Faults(ErrorDomain.NWFILTER)
_MAC: Final = re.compile(r"[0-9a-fA-F]{1,2}(:[0-9a-fA-F]{1,2}){5}")


def integer(text: str | None, otherwise: int) -> int:
    """Read a number of any base, or take another where there is none."""
    try:
        return otherwise if text is None else int(text, 0)
    except ValueError as error:
        raise _FAULTS.xml(f"'{text}' is no number") from error


def mac(text: str) -> str:
    """Read a MAC address; return it with two digits for each byte."""
    if _MAC.fullmatch(text) is None:
        raise _FAULTS.xml(f"'{text}' is no MAC address")
    return ":".join(f"{int(part, 16):02x}" for part in text.split(":"))


def mac_number(text: str) -> str:
    """Read a MAC address; return it as one number."""
    return "0x" + mac(text).replace(":", "")


def ranged(text: str, most: int) -> int:
    """Read a number from 0 to ``most``."""
    number = integer(text, 0)
    if not 0 <= number <= most:
        raise _FAULTS.xml(f"'{text}' is not between 0 and {most}")
    return number


def network(address: str, mask: str | None, version: int) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Read an address of one version of IP, with a mask or the length of a prefix."""
    try:
        found = ipaddress.ip_network(f"{address}/{mask}" if mask else address, strict=False)
    except ValueError as error:
        raise _FAULTS.xml(f"'{address}' is no address: {error}") from error
    if found.version != version:
        raise _FAULTS.xml(f"'{address}' is no address of IPv{version}")
    return found


def swapped(attributes: dict[str, str]) -> dict[str, str]:
    """Return a rule's attributes for the other way: what was the source is the destination."""

    def other(name: str) -> str:
        return name.replace("src", "dst") if "src" in name else name.replace("dst", "src")

    return {other(name): value for name, value in attributes.items()}
