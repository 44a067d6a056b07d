"""What a network is, as frozen values that can be stored as JSON. Checked here, so that nothing else need doubt it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from pyhyve.support.errors import InputError

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_LINK_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")
"""Narrower than what Linux takes (IFNAMSIZ is 16 with the final NUL): safe in rules and file names too."""
_NETWORK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_DOMAIN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
SERVED = frozenset({"dhcp-boot", "enable-tftp", "no-resolv", "port", "server", "srv-host", "tftp-root"})
"""Options of dnsmasq (dnsmasq(8)) that a network may have beside what has fields of its own."""
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
MIN_MTU, MAX_MTU = 68, 65535


class SpecError(InputError):
    """A network that cannot be; the message is one line for the user."""


class Mode(StrEnum):
    """How far packets get."""

    ISOLATED = "isolated"
    """Guests and host only."""
    NAT = "nat"
    """Out with the host's address; in by port forwards only."""
    ROUTED = "routed"
    """In and out with the guests' own addresses."""
    BRIDGE = "bridge"
    """A plain bridge: whatever its ports lead to, no rules at all."""


def link_name(text: str) -> str:
    """`text` if it can name an interface; raises SpecError otherwise."""
    if not _LINK_NAME.fullmatch(text) or text in {"all", "default"}:
        msg = f"{text!r} is not an interface name (1 to 15 letters, digits and _ . -)"
        raise SpecError(msg)
    return text


def mac_address(text: str) -> str:
    """A unicast MAC address in lower case; raises SpecError."""
    mac = text.lower()
    if not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1:
        msg = f"{text!r} is not a MAC address of one machine (write 52:54:00:12:34:56)"
        raise SpecError(msg)
    return mac


def ip_address(text: str) -> Address:
    """An IPv4 or IPv6 address; raises SpecError."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        msg = f"{text!r} is not an IP address"
        raise SpecError(msg) from None


def host_interface(text: str) -> Interface:
    """The host's address with its prefix, as `10.0.0.1/24`; raises SpecError."""
    try:
        found = ipaddress.ip_interface(text)
    except ValueError:
        found = None
    if found is None or "/" not in text:
        msg = f"{text!r} is not an address with a prefix length (write 10.0.0.1/24)"
        raise SpecError(msg)
    network = found.network
    if network.num_addresses > 2 and found.ip in {network.network_address, network.broadcast_address}:
        msg = f"{text}: this address stands for the whole network (the host takes one within, {network[1]})"
        raise SpecError(msg)
    if found.ip.is_multicast or found.ip.is_unspecified or found.ip.is_loopback:
        msg = f"{text}: not an address that a bridge can have"
        raise SpecError(msg)
    return found


@dataclass(frozen=True, slots=True)
class DhcpRange:
    """Addresses given out, first to last."""

    first: Address
    last: Address

    def __post_init__(self) -> None:
        """Raise SpecError on a backward range or mixed families."""
        if self.first.version != self.last.version or int(self.first) > int(self.last):
            msg = f"dhcp: {self.first}–{self.last} is not a range"
            raise SpecError(msg)


@dataclass(frozen=True, slots=True)
class Reservation:
    """An address (and perhaps a name) kept for one MAC address."""

    mac: str
    address: Address
    hostname: str = ""

    def __post_init__(self) -> None:
        """Raise SpecError on a bad MAC address or host name."""
        mac_address(self.mac)
        if self.hostname and not _HOST_NAME.fullmatch(self.hostname):
            msg = f"reserve: {self.hostname!r} is not a host name"
            raise SpecError(msg)


@dataclass(frozen=True, slots=True)
class DnsHost:
    """Names that stand for an address."""

    address: Address
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Raise SpecError without a name or with a bad one."""
        for name in self.names or ("",):
            if not _DOMAIN.fullmatch(name):
                msg = f"dns: {name!r} is not a host name"
                raise SpecError(msg)


@dataclass(frozen=True, slots=True)
class DnsText:
    """A TXT record."""

    name: str
    value: str

    def __post_init__(self) -> None:
        """Raise SpecError for what a configuration line cannot hold."""
        if not _DOMAIN.fullmatch(self.name) or any(ord(c) < 32 or c == '"' for c in self.value):
            msg = f"dns: {self.name!r} cannot have the text {self.value!r}"
            raise SpecError(msg)


@dataclass(frozen=True, slots=True)
class PortForward:
    """A port of the host that leads to one of a guest. Without `host_address`: all of the host's addresses."""

    protocol: str
    host_port: int
    address: Address
    port: int
    host_address: Address | None = None

    def __post_init__(self) -> None:
        """Raise SpecError on an unknown protocol, a bad port, or families that do not match."""
        if self.protocol not in {"tcp", "udp"}:
            msg = f"forward: unknown protocol {self.protocol!r} (use tcp or udp)"
            raise SpecError(msg)
        for port in (self.host_port, self.port):
            if not 0 < port < 0x10000:
                msg = f"forward: port {port} is not in 1..65535"
                raise SpecError(msg)
        if self.host_address is not None and self.host_address.version != self.address.version:
            msg = f"forward: {self.host_address} and {self.address} are of different families"
            raise SpecError(msg)

    def clashes_with(self, other: PortForward) -> bool:
        """Whether some packet to the host would have to go both ways."""
        ours, theirs = self.host_address, other.host_address
        return (
            (self.protocol, self.host_port, self.address.version)
            == (other.protocol, other.host_port, other.address.version)
        ) and (ours is None or theirs is None or ours == theirs)


@dataclass(frozen=True, slots=True)
class TapSpec:
    """A tap that stays until the network is deleted; `owner` is the user id that may open it."""

    name: str
    owner: int | None = None

    def __post_init__(self) -> None:
        """Raise SpecError on a bad name."""
        link_name(self.name)


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """One network.

    `ports` are interfaces of the host that join the bridge; they keep their addresses unless `move_addresses`.
    """

    name: str
    bridge: str
    mode: Mode = Mode.NAT
    addresses: tuple[Interface, ...] = ()
    dhcp: tuple[DhcpRange, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    forwards: tuple[PortForward, ...] = ()
    ports: tuple[str, ...] = ()
    taps: tuple[TapSpec, ...] = ()
    move_addresses: bool = False
    domain: str = ""
    mtu: int | None = None
    bridge_mac: str = ""
    """MAC address of the bridge; empty: one is made up."""
    dns_hosts: tuple[DnsHost, ...] = ()
    dns_texts: tuple[DnsText, ...] = ()
    served: tuple[tuple[str, str], ...] = ()
    """What dnsmasq serves beside these: its options (of :data:`SERVED`) and their values."""

    def __post_init__(self) -> None:
        """Raise SpecError where parts do not fit together."""
        if not _NETWORK_NAME.fullmatch(self.name):
            msg = f"{self.name!r} is not a network name (letters, digits and _ . -, at most 64)"
            raise SpecError(msg)
        link_name(self.bridge)
        if self.bridge_mac:
            mac_address(self.bridge_mac)
        for port in self.ports:
            link_name(port)
        self._check_services()
        if self.ports and self.mode is not Mode.BRIDGE:
            msg = f"{self.name}: interfaces of the host join plain bridges only (--mode bridge)"
            raise SpecError(msg)
        if self.mode in {Mode.NAT, Mode.ROUTED} and not self.addresses:
            msg = f"{self.name}: a {self.mode} network needs an address for the host (--address 10.0.0.1/24)"
            raise SpecError(msg)
        if self.move_addresses and not self.ports:
            msg = f"{self.name}: no port to move addresses from (--port eth0)"
            raise SpecError(msg)
        if self.domain and not _DOMAIN.fullmatch(self.domain):
            msg = f"{self.domain!r} is not a domain name"
            raise SpecError(msg)
        if self.mtu is not None and not MIN_MTU <= self.mtu <= MAX_MTU:
            msg = f"mtu: {self.mtu} is not in {MIN_MTU}..{MAX_MTU}"
            raise SpecError(msg)
        names = [self.bridge, *self.ports, *(tap.name for tap in self.taps)]
        if len(set(names)) != len(names):
            msg = f"{self.name}: an interface is named twice"
            raise SpecError(msg)

    def _check_services(self) -> None:
        for option, value in self.served:
            if option not in SERVED or not value.isprintable():
                msg = f"{self.name}: {option}={value!r} cannot be served"
                raise SpecError(msg)
        for given in self.dhcp:
            host = self.network_of(given.first)
            if host is None or given.last not in host.network:
                msg = f"dhcp: {given.first}–{given.last} is in no network of the host's addresses"
                raise SpecError(msg)
            if int(given.first) <= int(host.ip) <= int(given.last):
                msg = f"dhcp: {given.first}–{given.last} holds the host's own address {host.ip}"
                raise SpecError(msg)
        if self.reservations and not self.dhcp:
            msg = f"{self.name}: reservations need DHCP (--dhcp)"
            raise SpecError(msg)
        taken: set[object] = set()
        for kept in self.reservations:
            host = self.network_of(kept.address)
            if host is None or kept.address == host.ip:
                msg = f"reserve: {kept.address} is not an address for a guest of this network"
                raise SpecError(msg)
            if {kept.mac.lower(), kept.address} & taken:
                msg = f"reserve: {kept.mac},{kept.address}: reserved twice"
                raise SpecError(msg)
            taken |= {kept.mac.lower(), kept.address}
        for forward in self.forwards:
            if self.network_of(forward.address) is None:
                msg = f"forward: {forward.address} is not an address of this network"
                raise SpecError(msg)
        if self.forwards and self.mode is Mode.BRIDGE:
            msg = f"{self.name}: a plain bridge has no port forwards"
            raise SpecError(msg)

    def check_forwards(self) -> None:
        """Raise SpecError where a port of the host would lead to two places; records of before may have such."""
        for number, forward in enumerate(self.forwards):
            if any(forward.clashes_with(other) for other in self.forwards[:number]):
                msg = f"forward: {forward.protocol} port {forward.host_port} of the host leads to one place only"
                raise SpecError(msg)

    def network_of(self, address: Address) -> Interface | None:
        """The host's address in the network that `address` belongs to."""
        return next((host for host in self.addresses if address in host.network), None)

    @property
    def has_services(self) -> bool:
        """Whether it needs dnsmasq."""
        return bool(self.dhcp or self.dns_hosts or self.dns_texts or self.served)

    @property
    def needs_rules(self) -> bool:
        """Whether packet filter rules belong to it."""
        return self.mode is not Mode.BRIDGE

    @property
    def forwards_packets(self) -> bool:
        """Whether the host routes for it."""
        return self.mode in {Mode.NAT, Mode.ROUTED} or bool(self.forwards)

    def to_json(self) -> dict[str, Any]:
        """As values that JSON has."""
        fields = asdict(self)
        fields["addresses"] = [str(address) for address in self.addresses]
        fields["dhcp"] = [[str(given.first), str(given.last)] for given in self.dhcp]
        fields["reservations"] = [[kept.mac, str(kept.address), kept.hostname] for kept in self.reservations]
        fields["forwards"] = [
            [f.protocol, f.host_port, str(f.address), f.port, str(f.host_address) if f.host_address else ""]
            for f in self.forwards
        ]
        fields["taps"] = [[tap.name, tap.owner] for tap in self.taps]
        fields["dns_hosts"] = [[str(host.address), *host.names] for host in self.dns_hosts]
        fields["dns_texts"] = [[text.name, text.value] for text in self.dns_texts]
        fields["served"] = [list(each) for each in self.served]
        return fields

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> NetworkSpec:
        """The reverse of `to_json`. Raises SpecError, KeyError, TypeError or ValueError on anything else."""
        return cls(
            name=fields["name"],
            bridge=fields["bridge"],
            mode=Mode(fields["mode"]),
            addresses=tuple(host_interface(text) for text in fields["addresses"]),
            dhcp=tuple(DhcpRange(ip_address(first), ip_address(last)) for first, last in fields["dhcp"]),
            reservations=tuple(Reservation(mac, ip_address(ip), name) for mac, ip, name in fields["reservations"]),
            forwards=tuple(
                PortForward(protocol, host_port, ip_address(ip), port, ip_address(host) if host else None)
                for protocol, host_port, ip, port, host in fields["forwards"]
            ),
            ports=tuple(fields["ports"]),
            taps=tuple(TapSpec(name, owner) for name, owner in fields["taps"]),
            move_addresses=fields["move_addresses"],
            domain=fields["domain"],
            mtu=fields["mtu"],
            bridge_mac=fields.get("bridge_mac", ""),
            dns_hosts=tuple(DnsHost(ip_address(ip), tuple(names)) for ip, *names in fields.get("dns_hosts", ())),
            dns_texts=tuple(DnsText(name, value) for name, value in fields.get("dns_texts", ())),
            served=tuple((option, value) for option, value in fields.get("served", ())),
        )


def default_range(host: Interface) -> DhcpRange:
    """The DHCP range of a network where none was named: up to 253 addresses beside the host's own.

    Raises SpecError when the network is too small.
    """
    network = host.network
    last_index = min(network.num_addresses - (2 if network.version == 4 else 1), 254)
    above = int(host.ip) - int(network.network_address) + 1
    first, last = (above, last_index) if last_index - above >= above - 3 else (2 if above > 3 else 1, above - 2)
    if first > last:
        msg = f"dhcp: no room for guests in {network}"
        raise SpecError(msg)
    return DhcpRange(network[first], network[last])
