"""Interfaces of the host over netlink: bridges, taps, ports and addresses (rtnetlink(7), <linux/if_tun.h>)."""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import os
import secrets
import socket
import struct
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from pyhyve.hostnet.errors import HostNetError, explain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from pyhyve.hostnet.spec import Interface

_IFF_LOOPBACK = 0x8
"""<linux/if.h>"""
_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_CLONE_DEVICE = "/dev/net/tun"
_IFA_F_NODAD = 0x02
"""<linux/if_addr.h>: nobody else is on a bridge that was just made, and its address must be usable at once."""
_RT_TABLE_MAIN = 254
_RTPROT_KERNEL = 2
_RTPROT_STATIC = 4
_RT_SCOPE_LINK = 253
_RTM_NEWROUTE = 24
_PREPEND = 0x0001 | 0x0004 | 0x0400
"""NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE: before other routes to the same destination (netlink(7))."""
_ETH_P_ARP = 0x0806
_RTN_UNICAST = 1
_ROUTE_KEYS = {"dst": "RTA_DST", "gateway": "RTA_GATEWAY", "priority": "RTA_PRIORITY", "prefsrc": "RTA_PREFSRC"}


@dataclass(frozen=True, slots=True)
class Link:
    """One interface. `kind` is the driver's name (`bridge`, `tun`, `veth`) or empty; `master` is an index or 0."""

    index: int
    name: str
    kind: str
    mac: str
    master: int
    mtu: int
    is_loopback: bool = False


@dataclass(frozen=True, slots=True)
class Moved:
    """Addresses and routes that were moved from one interface to another, as netlink wants them back."""

    addresses: tuple[str, ...]
    routes: tuple[dict[str, Any], ...]


def random_mac() -> str:
    """A locally administered unicast address."""
    return ":".join(f"{byte:02x}" for byte in (0x52, 0x54, 0x00, *secrets.token_bytes(3)))


def free_tap_name() -> str:
    """A name that no interface has, except by an accident of one in 2^40."""
    return f"ph{secrets.token_hex(5)}"


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        raise explain(what, error.code, os.strerror(error.code)) from error
    except OSError as error:
        raise explain(what, error.errno or 0, error.strerror or str(error)) from error


def link_exists(name: str) -> bool:
    """Whether this network namespace has an interface of that name (/sys may show another's)."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


class Links:
    """A netlink socket in the network namespace of the calling process. Use as a context manager."""

    def __init__(self) -> None:
        """Open it; raises HostNetError."""
        with _explained("netlink"):
            self._ip = IPRoute()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ip.close()

    # -- interfaces ---------------------------------------------------------------------------------------------------

    def all(self) -> list[Link]:
        """Every interface."""
        with _explained("list of interfaces"):
            return [_link(message) for message in self._ip.get_links()]

    def find(self, name: str) -> Link | None:
        """The interface `name`, if it is there."""
        return next((link for link in self.all() if link.name == name), None)

    def need(self, name: str) -> Link:
        """The interface `name`; raises HostNetError when there is none."""
        found = self.find(name)
        if found is None:
            msg = f"interface {name} does not exist (ip link lists them)"
            raise HostNetError(msg)
        return found

    def need_bridge(self, name: str) -> Link:
        """The bridge `name`; raises HostNetError when it does not exist or is something else."""
        found = self.find(name)
        if found is None:
            msg = f"bridge {name} does not exist (make it: pyhyve net create NAME --bridge {name})"
            raise HostNetError(msg)
        if found.kind != "bridge":
            msg = f"{name} is an interface, but not a bridge"
            raise HostNetError(msg)
        return found

    def create_bridge(self, name: str, mac: str, mtu: int | None = None) -> Link:
        """Make the bridge `name` with a fixed MAC address, and take it up. Raises HostNetError when it exists."""
        if self.find(name) is not None:
            msg = f"bridge {name}: an interface of this name exists already (name another with --bridge)"
            raise HostNetError(msg)
        with _explained(f"bridge {name}"):
            self._ip.link("add", ifname=name, kind="bridge", address=mac)
        link = self.need(name)
        with _explained(f"bridge {name}"):
            if mtu is not None:
                self._ip.link("set", index=link.index, mtu=mtu)
            self._ip.link("set", index=link.index, state="up")
        return self.need(name)

    def delete(self, name: str) -> None:
        """Remove an interface; nothing happens when it is gone."""
        link = self.find(name)
        if link is not None:
            with _explained(f"interface {name}"):
                self._ip.link("del", index=link.index)

    def create_tap(self, name: str, bridge: Link, owner: int | None) -> None:
        """Make a tap that stays, on `bridge`, which user id `owner` may open.

        It is made to stay as the last step: an interruption before leaves nothing. Raises HostNetError.
        """
        if self.find(name) is not None:
            msg = f"tap {name}: an interface of this name exists already"
            raise HostNetError(msg)
        with _explained(f"tap {name}"):
            descriptor = os.open(_CLONE_DEVICE, os.O_RDWR | os.O_CLOEXEC)
            try:
                flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
                fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("=16sH22x", name.encode(), flags))
                if owner is not None:
                    fcntl.ioctl(descriptor, _TUNSETOWNER, owner)
                self.attach(name, bridge)
                fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
            finally:
                os.close(descriptor)

    # -- ports --------------------------------------------------------------------------------------------------------

    def attach(self, name: str, bridge: Link) -> None:
        """Make interface `name` a port of `bridge`, and take it up. Raises HostNetError when another has it."""
        link = self.need(name)
        if link.master not in {0, bridge.index}:
            owner = next((other.name for other in self.all() if other.index == link.master), str(link.master))
            msg = f"interface {name} is a port of {owner} already"
            raise HostNetError(msg)
        with _explained(f"interface {name} on bridge {bridge.name}"):
            if link.kind == "tun" and link.mtu > bridge.mtu:
                # The bridge's MTU follows its smallest port; a larger one there would only lose packets.
                self._ip.link("set", index=link.index, mtu=bridge.mtu)
            self._ip.link("set", index=link.index, master=bridge.index)
            self._ip.link("set", index=link.index, state="up")

    def detach(self, name: str, bridge: Link) -> None:
        """Take `name` off `bridge`; nothing happens when it is gone or on another."""
        link = self.find(name)
        if link is not None and link.master == bridge.index:
            with _explained(f"interface {name}"):
                self._ip.link("set", index=link.index, master=0)

    # -- addresses ----------------------------------------------------------------------------------------------------

    def addresses(self, index: int | None = None) -> list[tuple[int, Interface]]:
        """Interface index and address of every address, or those of one interface."""
        with _explained("list of addresses"):
            messages = list(self._ip.get_addr(**({} if index is None else {"index": index})))
        found: list[tuple[int, Interface]] = []
        for message in messages:
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            found.append((message["index"], ipaddress.ip_interface(f"{text}/{message['prefixlen']}")))
        return found

    def overlapping(self, wanted: Interface) -> tuple[str, Interface] | None:
        """An interface of the host and its address whose network overlaps `wanted`'s."""
        names = {link.index: link.name for link in self.all()}
        for index, present in self.addresses():
            if present.version == wanted.version and present.network.overlaps(wanted.network):
                return names.get(index, str(index)), present
        return None

    def add_address(self, link: Link, address: Interface) -> None:
        """Give `link` an address."""
        flags = {"flags": _IFA_F_NODAD} if address.version == 6 else {}
        with _explained(f"address {address} on {link.name}"):
            self._ip.addr("add", index=link.index, address=str(address.ip), mask=address.network.prefixlen, **flags)

    def movable(self, link: Link) -> Moved:
        """The addresses of `link` and the routes through it that the kernel does not make by itself."""
        addresses = tuple(str(address) for _, address in self.addresses(link.index) if not address.ip.is_link_local)
        routes: list[dict[str, Any]] = []
        with _explained("list of routes"):
            for family in (2, 10):
                for message in self._ip.get_routes(oif=link.index, family=family, table=_RT_TABLE_MAIN):
                    if message["proto"] == _RTPROT_KERNEL or message["type"] != _RTN_UNICAST:
                        continue
                    route = {key: message.get_attr(name) for key, name in _ROUTE_KEYS.items()}
                    route = {key: value for key, value in route.items() if value is not None}
                    if "dst" in route:
                        route["dst"] = f"{route['dst']}/{message['dst_len']}"
                    elif family == 10:
                        route["dst"] = "::/0"
                    else:
                        route["dst"] = "0.0.0.0/0"
                    routes.append({**route, "family": family, "proto": message["proto"], "scope": message["scope"]})
        # On-link routes first: a gateway can be used only when its network is reachable.
        routes.sort(key=lambda route: "gateway" in route)
        return Moved(addresses, tuple(routes))

    def move(self, moved: Moved, source: Link, destination: Link) -> None:
        """Move addresses and routes; what is there already, or gone from `source`, is no error."""
        for text in moved.addresses:
            address = ipaddress.ip_interface(text)
            with suppress(NetlinkError):
                self._ip.addr("del", index=source.index, address=str(address.ip), mask=address.network.prefixlen)
            self._unless_there("addr", index=destination.index, address=str(address.ip), mask=address.network.prefixlen)
            if isinstance(address, ipaddress.IPv4Interface):
                announce(destination, address.ip)
        for route in moved.routes:
            with suppress(NetlinkError):
                self._ip.route("del", oif=source.index, dst=route["dst"], family=route["family"])
            self._unless_there("route", oif=destination.index, **route)

    def lead_through(self, port: Link, bridge: Link) -> None:
        """Use the IPv4 networks of `port`, now a port of `bridge`, through the bridge; its addresses stay on it.

        What arrives at a port is seen as arriving on its bridge, so the answers have to leave there too. These routes
        come before the port's own, and vanish with the bridge.
        """
        own = [address for _, address in self.addresses(port.index) if isinstance(address, ipaddress.IPv4Interface)]
        with _explained(f"routes through {bridge.name}"):
            for address in own:
                if address.network.prefixlen < 32:
                    self._prepend(bridge, {"dst": str(address.network), "prefsrc": str(address.ip)}, _RT_SCOPE_LINK)
            for route in self.movable(port).routes:
                if route["family"] == socket.AF_INET:
                    self._prepend(bridge, route, route["scope"])
        for address in own:
            announce(bridge, address.ip)

    def announce_addresses(self, name: str) -> None:
        """Tell the neighbours of interface `name` where its addresses are; nothing happens when it is gone."""
        link = self.find(name)
        if link is not None:
            for _, address in self.addresses(link.index):
                if isinstance(address, ipaddress.IPv4Interface):
                    announce(link, address.ip)

    def _prepend(self, link: Link, route: dict[str, Any], scope: int) -> None:
        destination = ipaddress.ip_network(route["dst"])
        message = rtmsg()
        message["family"], message["dst_len"] = socket.AF_INET, destination.prefixlen
        message["table"], message["type"] = _RT_TABLE_MAIN, _RTN_UNICAST
        message["proto"], message["scope"] = _RTPROT_STATIC, scope
        attributes: list[tuple[str, object]] = [("RTA_OIF", link.index)]
        if destination.prefixlen:
            attributes.append(("RTA_DST", str(destination.network_address)))
        attributes += [(name, route[key]) for key, name in _ROUTE_KEYS.items() if key != "dst" and key in route]
        message["attrs"] = attributes
        message["header"]["type"], message["header"]["flags"] = _RTM_NEWROUTE, _PREPEND
        self._ip.nlm_request_batch([message])

    def _unless_there(self, what: str, **request: Any) -> None:  # noqa: ANN401 - netlink attributes of many types
        try:
            getattr(self._ip, what)("add", **request)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                subject = f"{what} {request.get('address') or request.get('dst')}"
                raise explain(subject, error.code, os.strerror(error.code)) from error


def _link(message: Any) -> Link:  # noqa: ANN401 - a netlink message: pyroute2 has no types
    info = message.get_attr("IFLA_LINKINFO")
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        kind=(info.get_attr("IFLA_INFO_KIND") or "") if info is not None else "",
        mac=message.get_attr("IFLA_ADDRESS") or "",
        master=message.get_attr("IFLA_MASTER") or 0,
        mtu=message.get_attr("IFLA_MTU") or 0,
        is_loopback=bool(message["flags"] & _IFF_LOOPBACK),
    )


def announce(link: Link, address: ipaddress.IPv4Address) -> None:
    """Tell neighbours that `address` is now found at the MAC address of `link` (RFC 5227, section 3).

    Without it they would look in the old place until what they know expires.
    """
    try:
        mac = bytes.fromhex(link.mac.replace(":", ""))
        ethernet = b"\xff" * 6 + mac + struct.pack(">H", _ETH_P_ARP)
        request = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + mac + address.packed + bytes(6) + address.packed
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind((link.name, _ETH_P_ARP))
            wire.send(ethernet + request)
    except (OSError, ValueError):
        # A courtesy: an interface without Ethernet addresses, or that is down, has nobody to tell.
        return


def plug_into_bridge(tap: str, bridge: str) -> None:
    """Make the open tap `tap` a port of `bridge`. Raises HostNetError."""
    with Links() as links:
        links.attach(tap, links.need_bridge(bridge))


def check_bridge(bridge: str) -> None:
    """Raise HostNetError unless `bridge` is one."""
    with Links() as links:
        links.need_bridge(bridge)
