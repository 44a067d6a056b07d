"""What the client's calls return: named tuples, with libvirt's numbers as enumerations."""

from __future__ import annotations

from typing import NamedTuple

from pyhyve.rpc.states import DomainState, PoolState
from pyhyve.rpc.values import ParamType, TypedParam

__all__ = [
    "DomainInfo",
    "DomainState",
    "InterfaceStats",
    "NodeInfo",
    "PoolInfo",
    "PoolState",
    "VolumeInfo",
    "params_to_dict",
]


class NodeInfo(NamedTuple):
    """The host."""

    model: str
    memory_kib: int
    cpus: int
    mhz: int
    nodes: int
    sockets: int
    cores: int
    threads: int


class DomainInfo(NamedTuple):
    """A domain at a glance."""

    state: int
    max_memory_kib: int
    memory_kib: int
    vcpus: int
    cpu_time_ns: int


class InterfaceStats(NamedTuple):
    """Counters of a network interface; -1 where there is none."""

    rx_bytes: int
    rx_packets: int
    rx_errs: int
    rx_drop: int
    tx_bytes: int
    tx_packets: int
    tx_errs: int
    tx_drop: int


class PoolInfo(NamedTuple):
    """A storage pool at a glance."""

    state: int
    capacity_bytes: int
    allocation_bytes: int
    available_bytes: int


class VolumeInfo(NamedTuple):
    """A volume at a glance; ``type`` 0 is a file, 1 a block device, 2 a directory."""

    type: int
    capacity_bytes: int
    allocation_bytes: int


def params_to_dict(params: list[TypedParam]) -> dict[str, int | float | str | bool]:
    """Return typed parameters as a dictionary; booleans as such."""
    return {p.field: bool(p.value) if p.type == ParamType.BOOLEAN else p.value for p in params}
