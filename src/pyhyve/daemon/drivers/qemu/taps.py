"""Taps: the host's end of network interfaces on bridges, and of those somebody else set up."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import socket
import struct
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.domains.faults import failed, not_supported, system_error
from pyhyve.daemon.networks.bandwidth import sent_and_received
from pyhyve.hostnet import shaping
from pyhyve.hostnet.errors import HostNetError
from pyhyve.hostnet.links import Links, link_exists

if TYPE_CHECKING:
    from pyhyve.daemon.errors import LibvirtError
    from pyhyve.daemon.networks.bandwidth import Bandwidth
    from pyhyve.xml.interface import Interface

__all__ = ["BridgeSource", "EthernetSource", "clear_limits", "no_floor", "open_tap", "set_limits"]

_log = logging.getLogger(__name__)

_TUNSETIFF: Final = 0x400454CA
_TUNSETPERSIST: Final = 0x400454CB
_FLAGS: Final = 0x0002 | 0x1000 | 0x4000
"""IFF_TAP, IFF_NO_PI, IFF_VNET_HDR (<linux/if_tun.h>)."""


def open_tap(name: str) -> int:
    """Open a tap, making it where there is none; return its descriptor. It is gone when nobody holds it open."""
    try:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise system_error("Unable to open /dev/net/tun, is tun module loaded?", error) from error
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("=16sH22x", name.encode()[:15], _FLAGS))
    except OSError as error:
        os.close(descriptor)
        raise system_error(f"Unable to create tap device {name}", error) from error
    return descriptor


def _remove(name: str) -> None:
    """Remove a tap that stays; one that is gone is no error."""
    with Links() as links:
        if links.find(name) is not None:
            links.delete(name)


def _no_bridge(bridge: str, error: HostNetError) -> LibvirtError:
    if not link_exists(bridge):
        gone = OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        return system_error(f"Cannot get interface MTU on '{bridge}'", gone)
    return failed(f"cannot connect to bridge '{bridge}': {error}")


async def clear_limits(name: str) -> None:
    """Take every limit of an interface away; what cannot be is logged."""
    try:
        await asyncio.to_thread(shaping.clear, name)
    except HostNetError as error:
        _log.warning("%s", error)


async def set_limits(name: str, bandwidth: Bandwidth) -> None:
    """Limit what passes an interface, both ways. Raises LibvirtError."""
    try:
        await asyncio.to_thread(shaping.limit, name, *sent_and_received(bandwidth))
    except HostNetError as error:
        raise failed(str(error)) from error


def no_floor(interface: Interface) -> LibvirtError:
    """Return the error for an interface that is to be sure of a rate where nobody can promise one."""
    mac = interface.mac.address if interface.mac is not None else ""
    detail = (
        f"Invalid use of 'floor' on interface with MAC address {mac} - 'floor' is only supported for interface"
        " type 'network' with forward type 'nat', 'route', 'open' or none"
    )
    return not_supported(detail)


class LimitedSource:
    """Interfaces whose limits are those of their taps."""

    async def limit(self, interface: Interface, name: str, bandwidth: Bandwidth) -> None:
        """Limit what passes the tap."""
        if bandwidth.inbound.floor:
            raise no_floor(interface)
        await set_limits(name, bandwidth)


class BridgeSource(LimitedSource):
    """Interfaces on a bridge of the host."""

    async def connect(self, interface: Interface, name: str) -> tuple[str, int]:
        """Make a tap on the interface's bridge."""
        bridge = interface.source.bridge if interface.source is not None else None
        return await self.connect_to(bridge or "", name)

    async def connect_to(self, bridge: str, name: str) -> tuple[str, int]:
        """Make a tap on a bridge; return its name and descriptor. Raises LibvirtError."""
        return await asyncio.to_thread(self._connect, bridge, name)

    @staticmethod
    def _connect(bridge: str, name: str) -> tuple[str, int]:
        try:
            with Links() as links:
                where = links.need_bridge(bridge)
                descriptor = open_tap(name)
                try:
                    links.attach(name, where)
                    fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
                except BaseException:
                    os.close(descriptor)
                    raise
        except HostNetError as error:
            raise _no_bridge(bridge, error) from error
        return name, descriptor

    async def disconnect(self, interface: Interface, name: str) -> None:
        """Remove the tap."""
        del interface
        await asyncio.to_thread(_remove, name)


class EthernetSource(LimitedSource):
    """Interfaces whose host end is a tap of their own: made here, or (``managed='no'``) by somebody else."""

    async def connect(self, interface: Interface, name: str) -> tuple[str, int]:
        """Open the tap."""
        managed = interface.target is None or interface.target.managed != "no"
        return await asyncio.to_thread(self._connect, name, managed)

    @staticmethod
    def _connect(name: str, managed: bool) -> tuple[str, int]:  # noqa: FBT001 - to_thread passes by position
        descriptor = open_tap(name)
        if managed:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
                request = struct.pack("16sh22x", name.encode()[:15], 0x1043)  # up, running, broadcast
                try:
                    fcntl.ioctl(control, 0x8914, request)
                except OSError as error:
                    os.close(descriptor)
                    raise system_error(f"cannot take up interface {name}", error) from error
        return name, descriptor

    async def disconnect(self, interface: Interface, name: str) -> None:
        """A tap of its own goes with the machine."""
