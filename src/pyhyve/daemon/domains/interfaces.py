"""Network interfaces of domains: counters, limits, and the addresses guests have."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pyroute2 import IPRoute

from pyhyve.daemon.domains import agent, definitions
from pyhyve.daemon.domains.definition.find import find_interface
from pyhyve.daemon.domains.faults import invalid_argument, not_supported, unsupported
from pyhyve.daemon.domains.states import Affect
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.networks import bandwidth
from pyhyve.rpc.errors import ErrorDomain
from pyhyve.rpc.values import DomainInterface, IpAddr, ParamType, TypedParam
from pyhyve.xml.element import replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.daemon.domains.domain import ManagedDomain
    from pyhyve.xml.domain import Domain
    from pyhyve.xml.interface import Interface

__all__ = [
    "addresses",
    "all_counters",
    "counters",
    "get_limits",
    "leased_name",
    "reapply_limits",
    "set_limits",
    "statistics",
]

_log = logging.getLogger(__name__)
_LIMITED: Final = frozenset({"network", "bridge", "direct", "ethernet"})
_LEASE, _AGENT, _ARP = 0, 1, 2


def all_counters() -> dict[str, tuple[int, ...]]:
    """Return each interface's counters as a guest behind it sees them: what the host sends, the guest receives."""
    found = {}
    for line in Path("/proc/thread-self/net/dev").read_text(encoding="ascii").splitlines()[2:]:
        name, _, rest = line.partition(":")
        numbers = [int(word) for word in rest.split()]
        found[name.strip()] = (*numbers[8:12], *numbers[:4])
    return found


def counters(name: str) -> tuple[int, ...] | None:
    """Return one interface's counters, or None where there is none."""
    return all_counters().get(name)


def _known(held: Domain, device: str) -> Interface:
    found = find_interface(held.devices, device) if held.devices is not None else None
    if found is None:
        raise invalid_argument(f"'{device}' is not a known interface", ErrorDomain.DOMAIN)
    return found


def statistics(domain: ManagedDomain, device: str) -> tuple[int, ...]:
    """Return bytes, packets, errors and drops received, then sent. Raises LibvirtError."""
    domain.require_active()
    found = _known(domain.current, device)
    name = found.target.dev if found.target is not None else None
    held = counters(name) if name is not None else None
    if held is None:
        raise not_supported(f"interface stats not supported for type '{found.type}'")
    return held


def get_limits(domain: ManagedDomain, device: str, nparams: int, flags: int) -> tuple[list[TypedParam], int]:
    """Return how much may come and go, in KB/s and KiB. Raises LibvirtError.

    Numbers are of 32 bits, as clients expect; one that does not fit is of 64, where libvirt cuts it off.
    """
    if not nparams:
        return [], len(bandwidth.NAMES)
    found = _known(domain.looked_at(flags & 3), device)
    held = bandwidth.held(bandwidth.parse(found.bandwidth))
    params = [TypedParam(name, ParamType.UINT if value < 1 << 32 else ParamType.ULLONG, value) for name, value in held]
    return params[:nparams], len(params[:nparams])


async def set_limits(domain: ManagedDomain, device: str, params: Sequence[TypedParam], flags: int) -> None:
    """Limit how much may come and go. Raises LibvirtError."""
    affect = domain.affected(flags & 3)
    known = {f"{way}.{what}" for way, what in bandwidth.NAMES}
    numbers: dict[str, int] = {}
    for param in params:
        if param.field not in known:
            raise invalid_argument(f"parameter '{param.field}' not supported")
        numbers[param.field] = int(param.value)

    def update(held: Domain) -> Domain:
        return _with_limits(held, device, numbers)

    for held in domain.definitions_affected(affect):
        found = _known(held, device)
        if found.type not in _LIMITED:
            raise unsupported(
                f"setting bandwidth on interfaces of type '{found.type}' is not implemented yet", ErrorDomain.QEMU
            )
    if affect & Affect.LIVE and domain.live is not None:
        changed = _known(update(domain.live), device)
        await domain.registry.hypervisor.limit_interface(changed)
    await definitions.change(domain, affect, update)


async def reapply_limits(domain: ManagedDomain) -> None:
    """Have the limits of a machine that was found again hold, whatever the daemon was in the middle of."""
    for interface in domain.devices.interface:
        if interface.bandwidth is not None and interface.type in domain.registry.hypervisor.sources:
            try:
                await domain.registry.hypervisor.limit_interface(interface)
            except LibvirtError as error:
                _log.warning("%s: %s", domain.name, error)


def _with_limits(held: Domain, device: str, numbers: dict[str, int]) -> Domain:
    found = _known(held, device)
    changed = replace(found, bandwidth=bandwidth.form(bandwidth.given(bandwidth.parse(found.bandwidth), numbers)))
    if held.devices is None:
        return held
    interfaces = tuple(changed if item is found else item for item in held.devices.interface)
    return replace(held, devices=replace(held.devices, interface=interfaces))


# -- addresses --------------------------------------------------------------------------------------------------------


async def addresses(domain: ManagedDomain, source: int) -> list[DomainInterface]:
    """Return the guest's interfaces with their addresses: as leased, as the agent says, or as the host saw them."""
    domain.require_active()
    if source == _AGENT:
        return _from_agent(await agent.execute(domain, "guest-network-get-interfaces"))
    if source == _ARP:
        return await domain.registry.daemon.run_blocking(_from_neighbours, list(domain.devices.interface))
    if source == _LEASE:
        return await _from_leases(domain)
    raise invalid_argument(f"Unknown IP address data source {source}")


def _from_agent(answer: Any) -> list[DomainInterface]:
    found: dict[str, DomainInterface] = {}
    for item in answer if isinstance(answer, list) else ():
        name = str(item.get("name", "")).partition(":")[0]
        addrs = [
            IpAddr(1 if entry.get("ip-address-type") == "ipv6" else 0, entry["ip-address"], int(entry.get("prefix", 0)))
            for entry in item.get("ip-addresses", ())
            if "ip-address" in entry
        ]
        known = found.get(name)
        if known is None:
            found[name] = DomainInterface(name, item.get("hardware-address"), addrs)
        else:
            known.addrs.extend(addrs)
    return list(found.values())


def _from_neighbours(interfaces: list[Interface]) -> list[DomainInterface]:
    """Return what the host's table of neighbours knows of the guest's hardware addresses. Blocks."""
    seen: dict[str, list[str]] = {}
    with IPRoute() as route:
        for message in route.get_neighbours():
            attributes = dict(message["attrs"])
            mac, address = attributes.get("NDA_LLADDR"), attributes.get("NDA_DST")
            if mac and address:
                seen.setdefault(mac.lower(), []).append(address)
    found = []
    for item in interfaces:
        mac = item.mac.address if item.mac is not None else ""
        if item.target is None or item.target.dev is None or mac not in seen:
            continue
        addrs = [IpAddr(1 if ":" in address else 0, address, 0) for address in seen[mac]]
        found.append(DomainInterface(item.target.dev, mac, addrs))
    return found


async def _from_leases(domain: ManagedDomain) -> list[DomainInterface]:
    found = []
    leases = domain.registry.leases
    for item in domain.devices.interface:
        if item.type != "network" or item.mac is None or item.source is None or leases is None:
            continue
        held = await leases(item.source.network or "", item.mac.address)
        if held:
            name = item.target.dev if item.target is not None else None
            addrs = [IpAddr(lease.type, lease.ipaddr, lease.prefix) for lease in held]
            found.append(DomainInterface(name or "", item.mac.address, addrs))
    return found


async def leased_name(domain: ManagedDomain) -> str | None:
    """Return the name a guest gave when it asked for an address, or None."""
    leases = domain.registry.leases
    for item in domain.devices.interface:
        if item.type != "network" or item.mac is None or item.source is None or leases is None:
            continue
        for lease in await leases(item.source.network or "", item.mac.address):
            if lease.hostname:
                return str(lease.hostname)
    return None
