"""The client for asyncio: the same classes and methods, awaited.

::

    from pyhyve.client import aio

    async with await aio.connect("qemu:///system") as connection:
        for domain in await connection.list_all_domains():
            print(domain.name, await domain.state())

Calls of several tasks overlap on one connection. Everything but :mod:`pyhyve.client.aio.session` is made from
:mod:`pyhyve.client` by ``scripts/make_async_client.py``.
"""

from __future__ import annotations

from pyhyve.client.aio.connection import Connection, connect
from pyhyve.client.aio.domain import Domain, Snapshot
from pyhyve.client.aio.network import Network
from pyhyve.client.aio.storage import StoragePool, StorageVolume
from pyhyve.client.aio.stream import Stream
from pyhyve.client.errors import LibvirtError

__all__ = [
    "Connection",
    "Domain",
    "LibvirtError",
    "Network",
    "Snapshot",
    "StoragePool",
    "StorageVolume",
    "Stream",
    "connect",
]
