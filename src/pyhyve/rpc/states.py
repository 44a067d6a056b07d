"""States of objects, as they go over the wire.

Source: libvirt's public headers libvirt-domain.h and libvirt-storage.h (the numbers are part of its stable interface).
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["DomainState", "PoolState"]


class DomainState(IntEnum):
    """What a domain does (virDomainState)."""

    NOSTATE = 0
    RUNNING = 1
    BLOCKED = 2
    PAUSED = 3
    SHUTDOWN = 4
    SHUTOFF = 5
    CRASHED = 6
    PMSUSPENDED = 7


class PoolState(IntEnum):
    """What a storage pool does (virStoragePoolState)."""

    INACTIVE = 0
    BUILDING = 1
    RUNNING = 2
    DEGRADED = 3
    INACCESSIBLE = 4
