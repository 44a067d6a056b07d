"""``<interface>``: a network interface of a domain.

Source: libvirt's documentation, "Domain XML format", network interfaces.
"""

from __future__ import annotations

import re
from typing import Final

from pyhyve.xml.address import Address, Alias
from pyhyve.xml.disk import BootOrder
from pyhyve.xml.element import NUMBER, Converter, Element, attribute, child, element

__all__ = ["Interface", "InterfaceDriver", "InterfaceModel", "InterfaceSource", "InterfaceTarget", "Link", "Mac"]

_MAC_FORM: Final = re.compile(r"[0-9a-f]{1,2}(:[0-9a-f]{1,2}){5}", re.ASCII)


def _mac(written: str) -> str:
    lower = written.strip().lower()
    if not _MAC_FORM.fullmatch(lower):
        raise ValueError
    return ":".join(part.zfill(2) for part in lower.split(":"))


MAC_ADDRESS: Final = Converter(_mac, str, "a MAC address")


@element("mac")
class Mac(Element):
    """Its hardware address."""

    address: str = attribute("address", MAC_ADDRESS, required=True)


@element("source")
class InterfaceSource(Element):
    """What it is plugged into."""

    network: str | None = attribute("network")
    portgroup: str | None = attribute("portgroup")
    portid: str | None = attribute("portid")
    bridge: str | None = attribute("bridge")
    dev: str | None = attribute("dev")
    mode: str | None = attribute("mode")


@element("target")
class InterfaceTarget(Element):
    """Its end on the host."""

    dev: str | None = attribute("dev")
    managed: str | None = attribute("managed")


@element("model")
class InterfaceModel(Element):
    """The card the guest sees."""

    type: str = attribute("type", required=True)


@element("driver")
class InterfaceDriver(Element):
    """How the hypervisor serves it."""

    name: str | None = attribute("name")
    queues: int | None = attribute("queues", NUMBER)


@element("link")
class Link(Element):
    """Whether the cable is plugged in: up or down."""

    state: str = attribute("state", required=True)


@element("interface")
class Interface(Element):
    """A network interface. ``type`` is network, bridge, user, direct, ethernet, …."""

    type: str = attribute("type", required=True)
    mac: Mac | None = child(Mac)
    source: InterfaceSource | None = child(InterfaceSource)
    target: InterfaceTarget | None = child(InterfaceTarget)
    model: InterfaceModel | None = child(InterfaceModel)
    driver: InterfaceDriver | None = child(InterfaceDriver)
    link: Link | None = child(Link)
    boot: BootOrder | None = child(BootOrder)
    alias: Alias | None = child(Alias)
    address: Address | None = child(Address)
