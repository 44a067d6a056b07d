"""One pool: its definition, whether it is in use, and what was last seen in it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING
from uuid import UUID

from pyhyve.daemon.storage import faults
from pyhyve.daemon.storage.backend import Contents
from pyhyve.rpc.states import PoolState
from pyhyve.rpc.values import StoragePool as PoolRef
from pyhyve.xml.document import Node, format_node
from pyhyve.xml.element import to_node

if TYPE_CHECKING:
    from pyhyve.daemon.storage.backend import Backend
    from pyhyve.daemon.storage.volume import Volume
    from pyhyve.xml.storage import StoragePool

__all__ = ["ManagedPool", "PoolEvent", "PoolState", "pool_document"]


class PoolEvent(IntEnum):
    """What happens to pools (virStoragePoolEventLifecycleType)."""

    DEFINED = 0
    UNDEFINED = 1
    STARTED = 2
    STOPPED = 3
    CREATED = 4
    DELETED = 5


@dataclass(slots=True, eq=False)
class ManagedPool:
    """A pool the daemon knows. Changed on the event loop only, by whoever holds ``lock``."""

    definition: StoragePool
    backend: Backend
    persistent: bool
    autostart: bool = False
    active: bool = False
    contents: Contents = field(default_factory=Contents)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    busy: set[str] = field(default_factory=set)
    """Names of volumes being made, copied, or otherwise not to be touched."""

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.definition.name)

    @property
    def uuid(self) -> bytes:
        """Its UUID."""
        return UUID(self.definition.uuid).bytes

    @property
    def type(self) -> str:
        """Its kind."""
        return self.definition.type

    @property
    def ref(self) -> PoolRef:
        """How clients name it."""
        return PoolRef(self.name, self.uuid)

    @property
    def state(self) -> PoolState:
        """What it does."""
        return PoolState.RUNNING if self.active else PoolState.INACTIVE

    def need_active(self) -> None:
        """Raise LibvirtError where it is not in use."""
        if not self.active:
            raise faults.invalid(f"storage pool '{self.name}' is not active")

    def find_volume(self, name: str) -> Volume | None:
        """The volume of that name."""
        return next((volume for volume in self.contents.volumes if volume.name == name), None)

    def volume(self, name: str) -> Volume:
        """The volume of that name. Raises LibvirtError."""
        found = self.find_volume(name)
        if found is None:
            raise faults.no_volume("name", name)
        return found


def pool_document(pool: ManagedPool, *, inactive: bool = False) -> str:
    """Return the ``<pool>`` document; of a pool in use with its sizes, unless the ``inactive`` one is asked for."""
    contents = Contents() if inactive or not pool.active else pool.contents
    node = to_node(pool.definition)
    sizes = (
        Node(name, (("unit", "bytes"),), str(size))
        for name, size in (
            ("capacity", contents.capacity),
            ("allocation", contents.allocation),
            ("available", contents.available),
        )
    )
    by_name = {
        child.name: child for child in node.children if child.name not in {"capacity", "allocation", "available"}
    }
    source = by_name.pop("source", None) or Node("source", spread=True)
    if not source.children:
        source = Node("source", spread=True)
    first = [by_name.pop(name) for name in ("name", "uuid") if name in by_name]
    target = [_target(pool, by_name.pop("target"))] if "target" in by_name else []
    return format_node(Node("pool", node.attributes, children=(*first, *sizes, source, *target, *by_name.values())))


def _target(pool: ManagedPool, target: Node) -> Node:
    """The target with the permissions its directory has, once somebody could look."""
    import os  # noqa: PLC0415 - beside its use
    import stat  # noqa: PLC0415 - ditto

    if not pool.active or any(child.name == "permissions" for child in target.children):
        return target
    path = next((child.text for child in target.children if child.name == "path"), "")
    try:
        status = os.stat(path)  # noqa: PTH116 - as the document spells it
    except (OSError, ValueError):
        return target
    facts = (("mode", f"0{stat.S_IMODE(status.st_mode):03o}"), ("owner", status.st_uid), ("group", status.st_gid))
    permissions = Node("permissions", children=tuple(Node(name, text=str(value)) for name, value in facts))
    return Node("target", target.attributes, children=(*target.children, permissions))
