"""Virtual networks."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from pyhyve.daemon.dispatch import procedure
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.networks.definition import host_address
from pyhyve.daemon.networks.registry import NetworkRegistry
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.rpc.values import DhcpLease, NetworkPort
from pyhyve.xml.document import Node, format_node

if TYPE_CHECKING:
    from pyhyve.daemon.dispatch import Call
    from pyhyve.daemon.networks.network import ManagedNetwork, Port
    from pyhyve.rpc.values import Network

_INACTIVE, _ACTIVE, _PERSISTENT, _TRANSIENT, _AUTOSTART, _NO_AUTOSTART = (1 << bit for bit in range(6))
_LIST_FLAGS: Final = 63
_LIVE, _CONFIG = 1, 2


def networks(call: Call) -> NetworkRegistry:
    """The networks of the driver the connection was opened to. Raises LibvirtError where it has none."""
    found = call.driver.offers(NetworkRegistry)
    if found is None:
        raise LibvirtError.no_support(call.function, ErrorDomain.NETWORK)
    return found


def _visible(call: Call, network: ManagedNetwork) -> bool:
    return call.connection.allows("network:getattr", network.name, network.uuid)


@procedure("CONNECT_LIST_ALL_NETWORKS")
def list_all(call: Call, args: Any) -> tuple[list[Network], int]:
    """Networks that pass the filters."""
    call.check_flags(args.flags, _LIST_FLAGS)
    flags = args.flags

    def wanted(network: ManagedNetwork) -> bool:
        groups = (
            (_ACTIVE, network.active, _INACTIVE),
            (_PERSISTENT, network.persistent, _TRANSIENT),
            (_AUTOSTART, network.autostart, _NO_AUTOSTART),
        )
        return all(not flags & (yes | no) or flags & (yes if holds else no) for yes, holds, no in groups)

    found = [network.ref for network in networks(call) if wanted(network) and _visible(call, network)]
    return (found if args.need_results else []), len(found)


def _names(call: Call, most: int, *, active: bool) -> list[str]:
    found = [network.name for network in networks(call) if network.active is active and _visible(call, network)]
    return found[: max(most, 0)]


@procedure("CONNECT_LIST_NETWORKS")
def list_active(call: Call, args: Any) -> list[str]:
    """Names of networks that are up."""
    return _names(call, args.maxnames, active=True)


@procedure("CONNECT_LIST_DEFINED_NETWORKS")
def list_inactive(call: Call, args: Any) -> list[str]:
    """Names of networks that are not."""
    return _names(call, args.maxnames, active=False)


@procedure("CONNECT_NUM_OF_NETWORKS")
def count_active(call: Call, args: Any) -> int:
    """How many are up."""
    return len(_names(call, 1 << 30, active=True))


@procedure("CONNECT_NUM_OF_DEFINED_NETWORKS")
def count_inactive(call: Call, args: Any) -> int:
    """How many are not."""
    return len(_names(call, 1 << 30, active=False))


@procedure("NETWORK_LOOKUP_BY_NAME")
def look_up_name(call: Call, args: Any) -> Network:
    """By name."""
    return networks(call).named(args.name).ref


@procedure("NETWORK_LOOKUP_BY_UUID")
def look_up_uuid(call: Call, args: Any) -> Network:
    """By UUID."""
    return networks(call).with_uuid(args.uuid).ref


async def _define(call: Call, xml: str) -> Network:
    registry = networks(call)
    return (await registry.define(registry.complete(xml))).ref


@procedure("NETWORK_DEFINE_XML")
async def define(call: Call, args: Any) -> Network:
    """Add or change a definition."""
    return await _define(call, args.xml)


@procedure("NETWORK_DEFINE_XML_FLAGS")
async def define_flags(call: Call, args: Any) -> Network:
    """The same, checked."""
    call.check_flags(args.flags, 1)
    return await _define(call, args.xml)


async def _create(call: Call, xml: str) -> Network:
    registry = networks(call)
    return (await registry.create(registry.complete(xml))).ref


@procedure("NETWORK_CREATE_XML")
async def create_xml(call: Call, args: Any) -> Network:
    """Bring up a network that is forgotten when it goes down."""
    return await _create(call, args.xml)


@procedure("NETWORK_CREATE_XML_FLAGS")
async def create_xml_flags(call: Call, args: Any) -> Network:
    """The same, checked."""
    call.check_flags(args.flags, 1)
    return await _create(call, args.xml)


@procedure("NETWORK_CREATE")
async def create(call: Call, args: Any) -> None:
    """Bring up."""
    registry = networks(call)
    await registry.bring_up(registry.find(args.net))


@procedure("NETWORK_DESTROY")
async def destroy(call: Call, args: Any) -> None:
    """Take down."""
    registry = networks(call)
    await registry.take_down(registry.find(args.net))


@procedure("NETWORK_UNDEFINE")
async def undefine(call: Call, args: Any) -> None:
    """Remove a definition."""
    registry = networks(call)
    await registry.undefine(registry.find(args.net))


@procedure("NETWORK_UPDATE")
async def update(call: Call, args: Any) -> None:
    """Change a part."""
    call.check_flags(args.flags, _LIVE | _CONFIG)
    registry = networks(call)
    network = registry.find(args.net)
    live, config = bool(args.flags & _LIVE), bool(args.flags & _CONFIG)
    if not live and not config:
        live, config = network.active, not network.active
    await registry.change(
        network, args.command, args.section, args.parent_index, args.xml, live_too=live, config=config
    )


@procedure("NETWORK_GET_XML_DESC")
def get_xml(call: Call, args: Any) -> str:
    """The document."""
    call.check_flags(args.flags, 1)
    return networks(call).find(args.net).document(inactive=bool(args.flags & 1))


@procedure("NETWORK_GET_BRIDGE_NAME")
def get_bridge(call: Call, args: Any) -> str:
    """The bridge."""
    return networks(call).find(args.net).bridge()


@procedure("NETWORK_IS_ACTIVE")
def is_active(call: Call, args: Any) -> int:
    """Whether it is up."""
    return int(networks(call).find(args.net).active)


@procedure("NETWORK_IS_PERSISTENT")
def is_persistent(call: Call, args: Any) -> int:
    """Whether it is defined."""
    return int(networks(call).find(args.net).persistent)


@procedure("NETWORK_GET_AUTOSTART")
def get_autostart(call: Call, args: Any) -> int:
    """Whether it comes up with the daemon."""
    return int(networks(call).find(args.net).autostart)


@procedure("NETWORK_SET_AUTOSTART")
async def set_autostart(call: Call, args: Any) -> None:
    """Choose whether it comes up with the daemon."""
    registry = networks(call)
    await registry.set_autostart(registry.find(args.net), enabled=bool(args.autostart))


@procedure("NETWORK_GET_DHCP_LEASES")
async def get_leases(call: Call, args: Any) -> tuple[list[DhcpLease], int]:
    """Addresses it gave out."""
    call.check_flags(args.flags, 0)
    registry = networks(call)
    network = registry.find(args.net)
    hosts = [host_address(ip) for ip in network.current.ip]
    found = []
    for lease in await registry.leases(network):
        address = ipaddress.ip_address(lease.address)
        version6 = address.version == 6
        if args.mac is not None and lease.mac.lower() != args.mac.lower():
            continue
        prefix = next((host.network.prefixlen for host in hosts if address in host.network), 128 if version6 else 32)
        found.append(
            DhcpLease(
                iface=network.bridge(),
                expirytime=lease.expires,
                type=int(version6),
                mac=None if version6 else lease.mac,
                iaid=None,
                ipaddr=lease.address,
                prefix=prefix,
                hostname=lease.hostname or None,
                clientid=lease.mac if version6 else None,
            )
        )
    return (found if args.need_results else []), len(found)


# -- ports -------------------------------------------------------------------------------------------------------------


def _port_ref(network: ManagedNetwork, port: Port) -> NetworkPort:
    return NetworkPort(network.ref, port.uuid)


def _find_port(call: Call, ref: NetworkPort) -> tuple[ManagedNetwork, Port]:
    network = networks(call).find(ref.net)
    port = network.ports.get(ref.uuid)
    if port is None:
        detail = f"network port with UUID {UUID(bytes=ref.uuid)} does not exist"
        raise LibvirtError(ErrorCode.NO_NETWORK_PORT, ErrorDomain.NETWORK, detail)
    return network, port


@procedure("NETWORK_LIST_ALL_PORTS")
def list_ports(call: Call, args: Any) -> tuple[list[NetworkPort], int]:
    """Guests' interfaces."""
    call.check_flags(args.flags, 0)
    network = networks(call).find(args.network)
    found = [_port_ref(network, port) for port in network.ports.values()]
    return (found if args.need_results else []), len(found)


@procedure("NETWORK_PORT_LOOKUP_BY_UUID")
def look_up_port(call: Call, args: Any) -> NetworkPort:
    """One of them."""
    return _port_ref(*_find_port(call, NetworkPort(args.network, args.uuid)))


@procedure("NETWORK_PORT_GET_XML_DESC")
def get_port_xml(call: Call, args: Any) -> str:
    """Its document."""
    call.check_flags(args.flags, 0)
    _, port = _find_port(call, args.port)
    owner = (Node("name", text=port.owner_name), Node("uuid", text=str(UUID(bytes=port.owner_uuid))))
    children = (
        Node("uuid", text=str(UUID(bytes=port.uuid))),
        Node("owner", children=owner),
        Node("mac", (("address", port.mac),)),
        Node("plug", (("type", "bridge"), ("bridge", port.bridge))),
    )
    return format_node(Node("networkport", children=children))
