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
    from pyhyve.xml.document import Node
    from pyhyve.xml.network import Network

__all__ = ["plan"]

_MODES: Final = {"none": Mode.ISOLATED, "nat": Mode.NAT, "route": Mode.ROUTED, "open": Mode.BRIDGE}
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def plan(network: Network) -> NetworkSpec | None:
    """Return what to make, None where guests use what is there already. Raises LibvirtError."""
    mode = mode_of(network)
    if mode in PASSED_THROUGH:
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
    # The name of a host network has a narrower alphabet than a document's.
    name = network.name if _PLAIN_NAME.fullmatch(network.name) else f"net-{UUID(network.uuid).hex[:16]}"
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
