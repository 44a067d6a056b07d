"""A libvirt client in pure Python: no C library, usable against any libvirt daemon.

::

    from pyhyve.client import connect

    with connect("qemu:///system") as connection:
        for domain in connection.list_all_domains():
            print(domain.name, domain.state())

Layer 8: imports :mod:`pyhyve.rpc`. A connection may be used from several threads; their calls take turns.
"""

from __future__ import annotations

from pyhyve.client.connection import Connection, connect
from pyhyve.client.domain import Domain, Snapshot
from pyhyve.client.errors import LibvirtError
from pyhyve.client.network import Network
from pyhyve.client.storage import StoragePool, StorageVolume
from pyhyve.client.stream import Stream
from pyhyve.client.values import DomainInfo, DomainState, NodeInfo, PoolInfo, VolumeInfo

__all__ = [
    "Connection",
    "Domain",
    "DomainInfo",
    "DomainState",
    "LibvirtError",
    "Network",
    "NodeInfo",
    "PoolInfo",
    "Snapshot",
    "StoragePool",
    "StorageVolume",
    "Stream",
    "VolumeInfo",
    "connect",
]
