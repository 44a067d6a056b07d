"""The structures that travel inside arguments and answers, as named tuples.

Field lists are in the language of :mod:`pyhyve.rpc.xdr_types`; a value's tuple has the same members in the same order,
except :class:`TypedParam`, whose union of values is two members (type, value).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple


class ParamType(IntEnum):
    """What a typed parameter holds (virTypedParameterType)."""

    INT = 1
    UINT = 2
    LLONG = 3
    ULLONG = 4
    DOUBLE = 5
    BOOLEAN = 6
    STRING = 7


class TypedParam(NamedTuple):
    """A named value with its type."""

    field: str
    type: int
    value: int | float | str


class Domain(NamedTuple):
    """A domain; ``id`` is -1 while it does not run."""

    name: str
    uuid: bytes
    id: int


class Network(NamedTuple):
    """A virtual network."""

    name: str
    uuid: bytes


class NetworkPort(NamedTuple):
    """A port of a virtual network."""

    net: Network
    uuid: bytes


class NwFilter(NamedTuple):
    """A network filter."""

    name: str
    uuid: bytes


class NwFilterBinding(NamedTuple):
    """A filter bound to a host interface."""

    portdev: str
    filtername: str


class Interface(NamedTuple):
    """A host network interface."""

    name: str
    mac: str


class StoragePool(NamedTuple):
    """A storage pool."""

    name: str
    uuid: bytes


class StorageVol(NamedTuple):
    """A volume in a pool."""

    pool: str
    name: str
    key: str


class NodeDevice(NamedTuple):
    """A device of the host."""

    name: str


class Secret(NamedTuple):
    """A secret and what it is for."""

    uuid: bytes
    usage_type: int
    usage_id: str


class DomainCheckpoint(NamedTuple):
    """A checkpoint of a domain."""

    name: str
    dom: Domain


class DomainSnapshot(NamedTuple):
    """A snapshot of a domain."""

    name: str
    dom: Domain


class VcpuInfo(NamedTuple):
    """State of one virtual CPU; ``cpu_time`` in nanoseconds."""

    number: int
    state: int
    cpu_time: int
    cpu: int


class NodeStat(NamedTuple):
    """A statistic of the host."""

    field: str
    value: int


class DiskError(NamedTuple):
    """A disk that stopped for an I/O error."""

    disk: str
    error: int


class MemoryStat(NamedTuple):
    """A statistic of a domain's memory, mostly in KiB."""

    tag: int
    val: int


class IoThreadInfo(NamedTuple):
    """An I/O thread and the host CPUs it may run on."""

    iothread_id: int
    cpumap: bytes


class GraphicsAddress(NamedTuple):
    """One end of a display connection."""

    family: int
    node: str
    service: str


class GraphicsIdentity(NamedTuple):
    """Who connected to a display."""

    type: str
    name: str


class DhcpLease(NamedTuple):
    """An address a network gave out; ``expirytime`` in seconds since 1970."""

    iface: str
    expirytime: int
    type: int
    mac: str | None
    iaid: str | None
    ipaddr: str
    prefix: int
    hostname: str | None
    clientid: str | None


class StatsRecord(NamedTuple):
    """Statistics of one domain."""

    dom: Domain
    params: list[TypedParam]


class FsInfo(NamedTuple):
    """A file system mounted in a guest."""

    mountpoint: str
    name: str
    fstype: str
    dev_aliases: list[str]


class IpAddr(NamedTuple):
    """An address of a guest's interface."""

    type: int
    addr: str
    prefix: int


class DomainInterface(NamedTuple):
    """A guest's interface with its addresses."""

    name: str
    hwaddr: str | None
    addrs: list[IpAddr]


class SecurityLabel(NamedTuple):
    """A security label, one integer for each character."""

    label: list[int]
    enforcing: int


STRUCTURES: Final[dict[str, tuple[type[tuple[object, ...]], str]]] = {
    "domain": (Domain, "name str, uuid uuid, id int"),
    "network": (Network, "name str, uuid uuid"),
    "network_port": (NetworkPort, "net network, uuid uuid"),
    "nwfilter": (NwFilter, "name str, uuid uuid"),
    "nwfilter_binding": (NwFilterBinding, "portdev str, filtername str"),
    "interface": (Interface, "name str, mac str"),
    "storage_pool": (StoragePool, "name str, uuid uuid"),
    "storage_vol": (StorageVol, "pool str, name str, key str"),
    "node_device": (NodeDevice, "name str"),
    "secret": (Secret, "uuid uuid, usage_type int, usage_id str"),
    "domain_checkpoint": (DomainCheckpoint, "name str, dom domain"),
    "domain_snapshot": (DomainSnapshot, "name str, dom domain"),
    "vcpu_info": (VcpuInfo, "number uint, state int, cpu_time ulong, cpu int"),
    "typed_param": (TypedParam, "field str, value typed_value"),
    "node_stat": (NodeStat, "field str, value ulong"),
    "disk_error": (DiskError, "disk str, error int"),
    "memory_stat": (MemoryStat, "tag int, val ulong"),
    "iothread_info": (IoThreadInfo, "iothread_id uint, cpumap bytes[2048]"),
    "graphics_address": (GraphicsAddress, "family int, node str, service str"),
    "graphics_identity": (GraphicsIdentity, "type str, name str"),
    "dhcp_lease": (
        DhcpLease,
        (
            "iface str, expirytime long, type int, mac str?, iaid str?, ipaddr str, prefix uint, hostname str?, "
            "clientid str?"
        ),
    ),
    "stats_record": (StatsRecord, "dom domain, params typed_param[262144]"),
    "fsinfo": (FsInfo, "mountpoint str, name str, fstype str, dev_aliases str[256]"),
    "ip_addr": (IpAddr, "type int, addr str, prefix uint"),
    "domain_interface": (DomainInterface, "name str, hwaddr str?, addrs ip_addr[2048]"),
    "security_label": (SecurityLabel, "label int[4097], enforcing int"),
}
"""Each structure's name in the table: its tuple and its members on the wire."""
