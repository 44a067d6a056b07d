"""``<network>``: a virtual network.

Source: libvirt's documentation, "Network XML format".
"""

from __future__ import annotations

from pyhyve.xml.element import NUMBER, Element, attribute, child, child_text, children, element
from pyhyve.xml.interface import MAC_ADDRESS, Mac

__all__ = ["Bridge", "Dhcp", "DhcpHost", "DhcpRange", "Forward", "Ip", "Network", "NetworkDomain"]


@element("forward")
class Forward(Element):
    """How it reaches the world: nat, route, bridge, open, …; without it, not at all."""

    dev: str | None = attribute("dev")
    mode: str | None = attribute("mode")
    managed: str | None = attribute("managed")


@element("bridge")
class Bridge(Element):
    """Its bridge on the host."""

    name: str | None = attribute("name")
    zone: str | None = attribute("zone")
    stp: str | None = attribute("stp")
    delay: int | None = attribute("delay", NUMBER)


@element("domain")
class NetworkDomain(Element):
    """The DNS domain of its guests."""

    name: str = attribute("name", required=True)
    local_only: str | None = attribute("localOnly")


@element("range")
class DhcpRange(Element):
    """Addresses given out."""

    start: str = attribute("start", required=True)
    end: str = attribute("end", required=True)


@element("host")
class DhcpHost(Element):
    """An address kept for one machine."""

    mac: str | None = attribute("mac", MAC_ADDRESS)
    id: str | None = attribute("id")
    name: str | None = attribute("name")
    ip: str | None = attribute("ip")


@element("dhcp")
class Dhcp(Element):
    """The DHCP service."""

    range: tuple[DhcpRange, ...] = children(DhcpRange)
    host: tuple[DhcpHost, ...] = children(DhcpHost)


@element("ip", spread=True)
class Ip(Element):
    """An address of the host in the network."""

    family: str | None = attribute("family")
    address: str = attribute("address", required=True)
    netmask: str | None = attribute("netmask")
    prefix: int | None = attribute("prefix", NUMBER)
    dhcp: Dhcp | None = child(Dhcp)


@element("network")
class Network(Element):
    """A network."""

    connections: int | None = attribute("connections", NUMBER)
    ipv6: str | None = attribute("ipv6")
    name: str = child_text("name", required=True)
    uuid: str | None = child_text("uuid")
    forward: Forward | None = child(Forward)
    bridge: Bridge | None = child(Bridge)
    mac: Mac | None = child(Mac)
    domain: NetworkDomain | None = child(NetworkDomain)
    ip: tuple[Ip, ...] = children(Ip)
