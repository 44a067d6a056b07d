"""Numbers and names of libvirt's migration: flags, parameters, ports.

Source: libvirt's public header libvirt-domain.h.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Final

__all__ = ["BANDWIDTH_MAX_MIB", "COMPRESSION_METHODS", "OPERATION_IN", "OPERATION_OUT", "PORTS", "MigrateFlags"]


class MigrateFlags(IntFlag):
    """virDomainMigrateFlags."""

    LIVE = 1 << 0
    PEER2PEER = 1 << 1
    TUNNELLED = 1 << 2
    PERSIST_DEST = 1 << 3
    UNDEFINE_SOURCE = 1 << 4
    PAUSED = 1 << 5
    NON_SHARED_DISK = 1 << 6
    NON_SHARED_INC = 1 << 7
    CHANGE_PROTECTION = 1 << 8
    UNSAFE = 1 << 9
    OFFLINE = 1 << 10
    COMPRESSED = 1 << 11
    ABORT_ON_ERROR = 1 << 12
    AUTO_CONVERGE = 1 << 13
    RDMA_PIN_ALL = 1 << 14
    POSTCOPY = 1 << 15
    TLS = 1 << 16
    PARALLEL = 1 << 17
    NON_SHARED_SYNCHRONOUS_WRITES = 1 << 18
    POSTCOPY_RESUME = 1 << 19
    ZEROCOPY = 1 << 20


ALL_FLAGS: Final = (1 << 21) - 1
STORAGE: Final = MigrateFlags.NON_SHARED_DISK | MigrateFlags.NON_SHARED_INC
OPERATION_IN, OPERATION_OUT = 4, 5
"""virDomainJobOperation."""
PORTS: Final = range(49152, 49216)
"""Where a destination listens by default (qemu.conf's migration_port_min and _max)."""
BANDWIDTH_MAX_MIB: Final = ((1 << 63) - 1) >> 20
COMPRESSION_METHODS: Final = ("xbzrle", "mt")
