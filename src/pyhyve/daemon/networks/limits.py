"""How much networks carry: limits of their bridges, and what single guests on them are sure of."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pyhyve.daemon.networks import faults
from pyhyve.daemon.networks.bandwidth import sent_and_received
from pyhyve.hostnet import shaping
from pyhyve.hostnet.errors import HostNetError

if TYPE_CHECKING:
    from pyhyve.daemon.networks.bandwidth import Bandwidth
    from pyhyve.daemon.networks.network import ManagedNetwork, Port

__all__ = ["begin", "check_promise", "end", "keep", "with_promise"]


def begin(bridge: str, limits: Bandwidth) -> None:
    """Limit a bridge that just came up. Raises LibvirtError. Blocks."""
    try:
        shaping.limit_bridge(bridge, *sent_and_received(limits))
    except HostNetError as error:
        raise faults.internal(str(error)) from error


def end(bridge: str) -> None:
    """Take a bridge's limits away. Raises LibvirtError. Blocks."""
    try:
        shaping.clear(bridge)
    except HostNetError as error:
        raise faults.internal(str(error)) from error


def check_promise(network: ManagedNetwork, port: Port, floor: int) -> None:
    """Raise LibvirtError where a network cannot promise a port so many KB/s."""
    inbound = network.limits().inbound
    if not inbound.average:
        detail = (
            f"Invalid use of 'floor' on interface with MAC address {port.mac} -"
            f" network '{network.name}' has no inbound QoS set"
        )
        raise faults.not_supported(detail)
    total = floor + sum(other.floor for other in network.ports.values() if other.uuid != port.uuid)
    kind = "peak" if inbound.peak else "average"
    most = inbound.peak or inbound.average
    if total > most:
        detail = (
            f"Cannot plug '{port.mac}' interface into '{port.bridge}' because new combined inbound floor={total}"
            f" would overcommit {kind}={most} on network '{network.name}'"
        )
        raise faults.invalid(detail)


def with_promise(network: ManagedNetwork, port: Port, floor: int) -> dict[bytes, Port]:
    """Return a network's ports with what one is promised changed; 0 takes it away."""
    number = 0
    if floor:
        number = port.number or shaping.first_free(other.number for other in network.ports.values())
    return {**network.ports, port.uuid: replace(port, floor=floor, number=number)}


def keep(bridge: str, limits: Bandwidth, ports: dict[bytes, Port]) -> None:
    """Have a bridge keep its promises to these ports. Raises LibvirtError. Blocks."""
    promises = [shaping.Promise(port.number, port.mac, port.floor * 1000) for port in ports.values() if port.floor]
    sent, received = sent_and_received(limits)
    if sent is None:
        return
    try:
        shaping.keep_promises(bridge, sent, received, promises)
    except HostNetError as error:
        raise faults.internal(str(error)) from error
