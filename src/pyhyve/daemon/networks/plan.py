"""What the host has to make for a network."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final
from uuid import UUID

from pyhyve.daemon.networks import faults
from pyhyve.daemon.networks.definition import PASSED_THROUGH, check_range, host_address, mode_of
from pyhyve.hostnet.spec import DhcpRange, DnsHost, DnsText, Mode, NetworkSpec, Reservation, SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.xml.document import Node
    from pyhyve.xml.network import Dhcp, Ip, Network

__all__ = ["name_on_host", "plan"]

_MODES: Final = {"none": Mode.ISOLATED, "nat": Mode.NAT, "route": Mode.ROUTED, "open": Mode.BRIDGE}
_NUMBER: Final = re.compile("[0-9]{1,5}")
_NUMBER_MOST: Final = 0xFFFF
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def name_on_host(network: Network) -> str | None:
    """Return what it is called there, None where guests use what is there already: also for what is not planned now."""
    if mode_of(network) in PASSED_THROUGH:
        return None
    # The name of a host network has a narrower alphabet than a document's.
    return network.name if _PLAIN_NAME.fullmatch(network.name) else f"net-{UUID(network.uuid).hex[:16]}"


def plan(network: Network) -> NetworkSpec | None:
    """Return what to make, None where guests use what is there already. Raises LibvirtError."""
    mode, name = mode_of(network), name_on_host(network)
    if name is None:
        return None
    addresses, ranges, kept = [], [], []
    for ip in network.ip:
        host = host_address(ip)
        addresses.append(host)
        if ip.dhcp is None:
            continue
        ranges += [DhcpRange(*check_range(given.start, given.end, host)) for given in ip.dhcp.range]
        kept += [
            Reservation(entry.mac, ipaddress.ip_address(entry.ip), entry.name or "")
            for entry in ip.dhcp.host
            if entry.mac is not None and entry.ip is not None
        ]
        if ip.dhcp.host and not ip.dhcp.range:
            # Reservations alone: a range that gives nothing out but what is reserved.
            only = ipaddress.ip_address(str(ip.dhcp.host[0].ip))
            ranges.append(DhcpRange(only, only))
    hosts, texts = _dns(network)
    assert network.bridge is not None  # noqa: S101 - complete() saw to it
    try:
        return NetworkSpec(
            name=name,
            bridge=str(network.bridge.name),
            mode=_MODES[mode],
            addresses=tuple(addresses),
            dhcp=tuple(ranges),
            reservations=tuple(kept),
            domain=network.domain.name if network.domain is not None else "",
            mtu=_mtu(network),
            bridge_mac=network.mac.address if network.mac is not None else "",
            dns_hosts=hosts,
            dns_texts=texts,
            served=tuple(_served(network)),
        )
    except SpecError as error:
        raise faults.unsupported(str(error)) from error


def _nodes(network: Network, name: str) -> list[Node]:
    return [node for _, node in network.other_children if node.name == name]


def _mtu(network: Network) -> int | None:
    for node in _nodes(network, "mtu"):
        size = dict(node.attributes).get("size", "")
        if not size.isdigit():
            raise faults.xml("Invalid value for attribute 'size' in element 'mtu'")
        return int(size)
    return None


def _dns(network: Network) -> tuple[tuple[DnsHost, ...], tuple[DnsText, ...]]:
    hosts, texts = [], []
    for dns in _nodes(network, "dns"):
        for node in dns.children:
            given = dict(node.attributes)
            try:
                if node.name == "host":
                    names = tuple(child.text.strip() for child in node.children if child.name == "hostname")
                    hosts.append(DnsHost(ipaddress.ip_address(given.get("ip", "")), names))
                elif node.name == "txt":
                    texts.append(DnsText(given.get("name", ""), given.get("value", "")))
            except (SpecError, ValueError) as error:
                raise faults.xml(f"dns of network '{network.name}': {error}") from error
    return tuple(hosts), tuple(texts)


def _served(network: Network) -> Iterator[tuple[str, str]]:
    """Give what else a network's DHCP and DNS serve, as libvirt tells dnsmasq. Raises LibvirtError."""
    for ip in network.ip:
        for node in _inside(ip, "tftp"):
            if root := _plain(node, "root"):
                yield "enable-tftp", ""
                yield "tftp-root", root
        for node in _inside(ip.dhcp, "bootp") if ip.dhcp is not None else ():
            server = _plain(node, "server")
            yield "dhcp-boot", _plain(node, "file") + (f",,{server}" if server else "")
    for dns in _nodes(network, "dns"):
        if dict(dns.attributes).get("enable") == "no":
            yield "port", "0"
        for node in dns.children:
            if node.name == "forwarder":
                domain, address = _plain(node, "domain"), _plain(node, "addr")
                if address or not domain:
                    address = str(_address(address))
                if not domain:
                    yield "no-resolv", ""
                yield "server", f"/{domain}/{address or '#'}" if domain else address
            elif node.name == "srv":
                yield "srv-host", _service(node)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise faults.xml(f"'{text}' is no address to forward to") from error


def _inside(element: Ip | Dhcp, name: str) -> list[Node]:
    return [node for _, node in element.other_children if node.name == name]


def _plain(node: Node, name: str) -> str:
    """Return an attribute that may be a part of one of dnsmasq's values; empty where it is not there."""
    value = dict(node.attributes).get(name, "").strip()
    if not value.isprintable() or any(sign in value for sign in ',"#'):
        raise faults.xml(f"'{value}' cannot be the {name} of <{node.name}>")
    return value


def _service(node: Node) -> str:
    """Return a record of a service (RFC 2782). One without a target says that it is not available."""
    domain, target = _plain(node, "domain"), _plain(node, "target")
    name = f"_{_plain(node, 'service')}._{_plain(node, 'protocol')}" + (f".{domain}" if domain else "")
    if target in {"", "."}:
        return name
    numbers = [_plain(node, each) for each in ("port", "priority", "weight")]
    for number in filter(None, numbers):
        if not _NUMBER.fullmatch(number) or int(number) > _NUMBER_MOST:
            raise faults.xml(f"'{number}' cannot be a number of <srv>")
    while numbers and not numbers[-1]:
        numbers.pop()
    return ",".join([name, target, *(number or ("0" if place else "1") for place, number in enumerate(numbers))])
