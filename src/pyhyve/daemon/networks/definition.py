"""Making a network's document whole: checked, with what libvirt fills in when it is defined, or when it comes up."""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

from pyhyve.daemon.networks import faults
from pyhyve.daemon.networks.bandwidth import form
from pyhyve.daemon.networks.bandwidth import parse as parse_bandwidth
from pyhyve.hostnet.links import link_exists
from pyhyve.rpc.errors import ErrorCode
from pyhyve.xml.document import Node, XmlError
from pyhyve.xml.element import parse_element
from pyhyve.xml.interface import Mac
from pyhyve.xml.network import Bridge, Ip, Network

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyhyve.daemon.errors import LibvirtError

__all__ = ["MODES", "PASSED_THROUGH", "complete", "host_address", "live", "mode_of", "parse"]

MODES: Final = ("none", "nat", "route", "open", "bridge", "private", "vepa", "passthrough", "hostdev")
"""What a network may forward."""
PASSED_THROUGH: Final = frozenset({"bridge", "private", "vepa", "passthrough", "hostdev"})
"""Modes in which the host makes nothing: guests use what is there."""
_WITH_ADDRESS: Final = frozenset({"nat", "route"})
_BRIDGES_MOST: Final = 1000


def parse(xml: str | bytes) -> Network:
    """Read a document. Raises LibvirtError."""
    try:
        return parse_element(Network, xml)
    except XmlError as error:
        text = str(error)
        if "<name> is missing" in text:
            raise _no_name() from error
        raise faults.xml(text) from error


def mode_of(network: Network) -> str:
    """What it forwards; "none" for an isolated one."""
    if network.forward is None:
        return "none"
    return network.forward.mode or "nat"


def complete(network: Network, bridges: Iterable[tuple[str, bytes]]) -> Network:
    """Return a definition checked and filled in; ``bridges`` are the others' (name, UUID). Raises LibvirtError."""
    _check_name(network.name)
    try:
        uuid = uuid4() if network.uuid is None else UUID(network.uuid.strip())
    except ValueError as error:
        raise faults.xml("malformed uuid element") from error
    network = replace(network, uuid=str(uuid), connections=None)
    mode = mode_of(network)
    if mode not in MODES:
        raise faults.unsupported(f"unknown forwarding type '{mode}'")
    if network.forward is not None and network.forward.mode is None:
        network = replace(network, forward=replace(network.forward, mode=mode))
    if mode in _WITH_ADDRESS and not network.ip:
        raise faults.xml(f"{mode} forwarding requested, but no IP address provided for network '{network.name}'")
    for address in network.ip:
        _check_addresses(network.name, address)
    network = _interfaces(_limits(network))
    if mode in PASSED_THROUGH:
        return network
    taken = {name for name, other in bridges if other != uuid.bytes}
    bridge = network.bridge if network.bridge is not None else Bridge(name=None, zone=None, stp=None, delay=None)
    if bridge.name is not None and bridge.name in taken:
        raise faults.internal(f"bridge name '{bridge.name}' already in use.")
    name = bridge.name or _free_name(taken)
    stp = bridge.stp if bridge.stp is not None else "on"
    delay = bridge.delay if bridge.delay is not None else 0
    network = replace(network, bridge=replace(bridge, name=name, stp=stp, delay=delay))
    if network.mac is None:
        network = replace(network, mac=Mac(address=_random_mac()))
    return network


def _limits(network: Network) -> Network:
    """Write limits in libvirt's order; ``<bandwidth>`` that limits nothing is left out."""
    kept = []
    for place, node in network.other_children:
        shown = form(parse_bandwidth(node, with_floor=False)) if node.name == "bandwidth" else node
        if node.name == "portgroup":
            for child in node.children:
                if child.name == "bandwidth":
                    parse_bandwidth(child, with_floor=False)
        if shown is not None:
            kept.append((place, shown))
    return replace(network, other_children=tuple(kept))


def _check_name(name: str) -> None:
    for letter, shown in (("/", "/"), ("\n", "\\n")):
        if letter in name:
            raise faults.worded(ErrorCode.XML_ERROR, f"invalid char in name: {shown}")
    if not name.strip():
        raise _no_name()


def _no_name() -> LibvirtError:
    return faults.worded(ErrorCode.NO_NAME, "missing name information")


def _free_name(taken: set[str]) -> str:
    for number in range(_BRIDGES_MOST):
        name = f"virbr{number}"
        if name not in taken and not link_exists(name):
            return name
    raise faults.internal(f"Bridge generation exceeded max id {_BRIDGES_MOST}")


def _random_mac() -> str:
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3))


def host_address(ip: Ip) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    """The host's address in the network, with its prefix. Raises LibvirtError."""
    try:
        address = ipaddress.ip_address(ip.address)
        if ip.prefix is not None:
            length: int | str = ip.prefix
        elif ip.netmask is not None:
            length = ip.netmask
        elif isinstance(address, ipaddress.IPv6Address):
            length = 64
        else:
            first = int(address) >> 24
            length = 8 if first < 128 else 16 if first < 192 else 24  # RFC 791's classes, as libvirt takes them
        return ipaddress.ip_interface(f"{address}/{length}")
    except ValueError as error:
        raise faults.xml(f"Invalid address '{ip.address}' in network: {error}") from error


def _check_addresses(name: str, ip: Ip) -> None:
    host = host_address(ip)
    if ip.family == "ipv6" and host.version != 6:
        raise faults.xml(f"family 'ipv6' specified for non-IPv6 address '{ip.address}' in network '{name}'")
    if ip.family in {None, "", "ipv4"} and host.version != 4:
        given = f"family '{ip.family}' specified" if ip.family else "no family specified"
        raise faults.xml(f"{given} for non-IPv4 address '{ip.address}' in network '{name}'")
    if ip.dhcp is None:
        return
    for offered in ip.dhcp.range:
        check_range(offered.start, offered.end, host)
    for kept in ip.dhcp.host:
        if kept.mac is None and kept.name is None and host.version == 4:
            raise faults.xml(f"Static host definition in IPv4 network '{name}' must have mac or name attribute")
        if kept.ip is None:
            raise faults.xml(f"Missing IP address in static host definition for network '{name}'")
        try:
            inside = ipaddress.ip_address(kept.ip) in host.network
        except ValueError as error:
            raise faults.xml(
                f"Invalid IP address in static host definition '{kept.ip}' for network '{name}'"
            ) from error
        if not inside:
            raise faults.internal(f"{kept.ip} is not within network {host.ip}/{host.network.prefixlen}")


def check_range(
    first: str, last: str, host: ipaddress.IPv4Interface | ipaddress.IPv6Interface
) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Return a range's ends. Raises LibvirtError where it is none, or not within the network."""
    try:
        start, end = ipaddress.ip_address(first), ipaddress.ip_address(last)
    except ValueError as error:
        raise faults.xml(f"Invalid dhcp range address: {error}") from error
    if start not in host.network or end not in host.network:
        network = f"{host.ip}/{host.network.prefixlen}"
        raise faults.internal(f"range {first} - {last} is not entirely within network {network}")
    if int(start) > int(end):
        raise faults.internal(f"range {first} - {last} is reversed ")
    return start, end


def _interfaces(network: Network) -> Network:
    """``<forward dev='x'>`` means ``<interface dev='x'/>`` within: libvirt writes both."""
    forward = network.forward
    if forward is None or forward.dev is None or any(node.name == "interface" for _, node in forward.other_children):
        return network
    kept = (*forward.other_children, ("", Node("interface", (("dev", forward.dev),))))
    return replace(network, forward=replace(forward, other_children=kept))


def live(network: Network) -> Network:
    """What a definition is while it is up: the ports that addresses are translated to are said."""
    forward = network.forward
    if forward is None or mode_of(network) != "nat" or any(node.name == "nat" for _, node in forward.other_children):
        return network
    ports = Node("nat", children=(Node("port", (("start", "1024"), ("end", "65535"))),))
    return replace(network, forward=replace(forward, other_children=(("", ports), *forward.other_children)))
