"""``<interface>``: a network interface of a domain.

Source: libvirt's documentation, "Domain XML format", network interfaces.
"""

from __future__ import annotations

import re
from typing import Final

from pyhyve.xml.address import Address, Alias
from pyhyve.xml.disk import BootOrder
from pyhyve.xml.document import Node
from pyhyve.xml.element import NUMBER, Converter, Element, attribute, child, element, node, nodes

__all__ = [
    "MAC_ADDRESS",
    "Interface",
    "InterfaceDriver",
    "InterfaceModel",
    "InterfaceSource",
    "InterfaceTarget",
    "Link",
    "Mac",
    "Mtu",
    "Script",
]

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
    type: str | None = attribute("type")
    check: str | None = attribute("check")


@element("source")
class InterfaceSource(Element):
    """What it is plugged into."""

    network: str | None = attribute("network")
    portid: str | None = attribute("portid")
    bridge: str | None = attribute("bridge")
    dev: str | None = attribute("dev")
    name: str | None = attribute("name")
    type: str | None = attribute("type")
    path: str | None = attribute("path")
    mode: str | None = attribute("mode")
    address: str | None = attribute("address")
    port: str | None = attribute("port")
    portgroup: str | None = attribute("portgroup")
    reconnect: Node | None = node("reconnect")
    local: Node | None = node("local")
    pci: Node | None = node("address")


@element("script")
class Script(Element):
    """A program that sets up the host's end."""

    path: str = attribute("path", required=True)


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
    txmode: str | None = attribute("txmode")
    ioeventfd: str | None = attribute("ioeventfd")
    event_idx: str | None = attribute("event_idx")
    queues: int | None = attribute("queues", NUMBER)
    rx_queue_size: int | None = attribute("rx_queue_size", NUMBER)
    tx_queue_size: int | None = attribute("tx_queue_size", NUMBER)
    iommu: str | None = attribute("iommu")
    ats: str | None = attribute("ats")
    packed: str | None = attribute("packed")
    page_per_vq: str | None = attribute("page_per_vq")
    host: Node | None = node("host")
    guest: Node | None = node("guest")


@element("link")
class Link(Element):
    """Whether the cable is plugged in: up or down."""

    state: str = attribute("state", required=True)


@element("mtu")
class Mtu(Element):
    """The largest packet."""

    size: int = attribute("size", NUMBER, required=True)


@element("interface")
class Interface(Element):
    """A network interface. ``type`` is network, bridge, user, direct, ethernet, …."""

    type: str = attribute("type", required=True)
    managed: str | None = attribute("managed")
    trust_guest_rx_filters: str | None = attribute("trustGuestRxFilters")
    mac: Mac | None = child(Mac)
    source: InterfaceSource | None = child(InterfaceSource)
    vlan: Node | None = node("vlan")
    virtualport: Node | None = node("virtualport")
    bandwidth: Node | None = node("bandwidth")
    port: Node | None = node("port")
    ip: tuple[Node, ...] = nodes("ip")
    route: tuple[Node, ...] = nodes("route")
    script: Script | None = child(Script)
    downscript: Node | None = node("downscript")
    backenddomain: Node | None = node("backenddomain")
    target: InterfaceTarget | None = child(InterfaceTarget)
    guest: Node | None = node("guest")
    model: InterfaceModel | None = child(InterfaceModel)
    driver: InterfaceDriver | None = child(InterfaceDriver)
    backend: Node | None = node("backend")
    filterref: Node | None = node("filterref")
    tune: Node | None = node("tune")
    link: Link | None = child(Link)
    mtu: Mtu | None = child(Mtu)
    teaming: Node | None = node("teaming")
    coalesce: Node | None = node("coalesce")
    boot: BootOrder | None = child(BootOrder)
    alias: Alias | None = child(Alias)
    rom: Node | None = node("rom")
    address: Address | None = child(Address)
