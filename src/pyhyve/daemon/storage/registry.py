"""Every pool of one driver: found by name, UUID and path, kept on disk, brought back when the daemon starts."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.events import EventKind
from pyhyve.daemon.storage import faults
from pyhyve.daemon.storage.backend import Contents
from pyhyve.daemon.storage.directory_backend import DirectoryBackend
from pyhyve.daemon.storage.filesystem_backend import FilesystemBackend, NetworkFilesystemBackend
from pyhyve.daemon.storage.logical_backend import LogicalBackend
from pyhyve.daemon.storage.pool import ManagedPool, PoolEvent
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.xml.document import XmlError
from pyhyve.xml.element import format_element, parse_element
from pyhyve.xml.storage import StoragePool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.daemon.daemon import Daemon
    from pyhyve.daemon.drivers.api import Driver
    from pyhyve.daemon.storage.backend import Backend
    from pyhyve.daemon.storage.volume import Volume
    from pyhyve.rpc.values import StoragePool as PoolRef
    from pyhyve.rpc.values import StorageVol

__all__ = ["BACKENDS", "TYPES", "PoolRegistry"]

_log = logging.getLogger(__name__)

BACKENDS: Final[dict[str, Backend]] = {
    "dir": DirectoryBackend(),
    "fs": FilesystemBackend(),
    "netfs": NetworkFilesystemBackend(),
    "logical": LogicalBackend(),
}
"""Kinds of pool there are."""
TYPES: Final = (
    *("dir", "fs", "netfs", "logical", "disk", "iscsi", "iscsi-direct", "scsi", "mpath", "rbd", "sheepdog", "gluster"),
    *("zfs", "vstorage"),
)
"""Kinds of pool libvirt knows."""
_EVENT_LIFECYCLE, _EVENT_REFRESH = 0, 1


class PoolRegistry:
    """The pools of one driver. Drivers offer it under its class."""

    def __init__(self, daemon: Daemon, driver: Driver, name: str) -> None:
        self.daemon = daemon
        self.driver = driver
        self.by_uuid: dict[bytes, ManagedPool] = {}
        self.by_name: dict[str, ManagedPool] = {}
        self.definitions = daemon.store.collection(
            f"{name}/storage", suffix=".xml", parse=_parse, form=lambda pool: format_element(pool).encode()
        )
        self.autostarts = daemon.store.collection(
            f"{name}/storage-autostart", suffix=".on", parse=bool, form=lambda _: b"yes\n"
        )
        self.running = daemon.store.collection(
            f"{name}/storage",
            suffix=".xml",
            parse=_parse,
            form=lambda pool: format_element(pool).encode(),
            runtime=True,
        )

    # -- finding ------------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[ManagedPool]:
        return iter(sorted(self.by_name.values(), key=lambda pool: pool.name))

    def find(self, ref: PoolRef) -> ManagedPool:
        """The pool a client means. Raises LibvirtError."""
        found = self.by_uuid.get(ref.uuid)
        if found is None:
            detail = f"no storage pool with matching uuid '{UUID(bytes=ref.uuid)}' ({ref.name})"
            raise LibvirtError(ErrorCode.NO_STORAGE_POOL, ErrorDomain.STORAGE, detail)
        return found

    def named(self, name: str) -> ManagedPool:
        """The pool of that name. Raises LibvirtError."""
        found = self.by_name.get(name)
        if found is None:
            raise faults.no_pool("name", name)
        return found

    def with_uuid(self, uuid: bytes) -> ManagedPool:
        """The pool of that UUID. Raises LibvirtError."""
        found = self.by_uuid.get(uuid)
        if found is None:
            raise faults.no_pool("uuid", uuid)
        return found

    def find_volume(self, ref: StorageVol) -> tuple[ManagedPool, Volume]:
        """The volume a client means, and its pool. Raises LibvirtError."""
        pool = self.named(ref.pool)
        pool.need_active()
        return pool, pool.volume(ref.name)

    def volume_at(self, path: str, by: str) -> tuple[ManagedPool, Volume]:
        """The volume with that path or key. Raises LibvirtError."""
        for pool in self:
            if pool.active:
                for volume in pool.contents.volumes:
                    if volume.path == path:
                        return pool, volume
        raise faults.no_volume(by, path)

    # -- definitions --------------------------------------------------------------------------------------------------

    def complete(self, xml: str) -> StoragePool:
        """Read a document and fill in what it leaves open. Raises LibvirtError."""
        try:
            pool = parse_element(StoragePool, xml)
        except XmlError as error:
            raise faults.xml(str(error)) from error
        if pool.type not in TYPES:
            raise faults.xml(f"Invalid value for attribute 'type' in element 'pool': '{pool.type}'.")
        backend = BACKENDS.get(pool.type)
        if backend is None:
            raise faults.internal(f"missing backend for pool type {TYPES.index(pool.type)} ({pool.type})")
        name = pool.name or (pool.source.name if pool.source is not None else None)
        if not name:
            raise faults.xml("missing pool source name element")
        if "/" in name or "\n" in name:
            raise faults.xml(f"name {name} cannot contain '/'" if "/" in name else f"name {name!r} has a line break")
        try:
            uuid = str(uuid4() if pool.uuid is None else UUID(pool.uuid.strip()))
        except ValueError as error:
            raise faults.xml("malformed uuid element") from error
        return backend.complete(replace(pool, name=name, uuid=uuid, capacity=None, allocation=None, available=None))

    def check_unique(self, pool: StoragePool, *, starting: bool) -> ManagedPool | None:
        """Return the pool a definition changes, None where it is new. Raises LibvirtError on a clash."""
        uuid = UUID(pool.uuid).bytes
        same = self.by_uuid.get(uuid)
        if same is not None:
            if same.name != pool.name:
                raise faults.failed(f"pool '{same.name}' is already defined with uuid {UUID(bytes=uuid)}")
            if starting and same.active:
                raise faults.invalid(f"pool is already active as '{same.name}'")
        elif (other := self.by_name.get(str(pool.name))) is not None:
            raise faults.failed(f"pool '{other.name}' already exists with uuid {UUID(bytes=other.uuid)}")
        for other in self:
            if other is not same and other.type == pool.type and _place(other.definition) == _place(pool):
                raise faults.failed(f"Storage source conflict with pool: '{other.name}'")
        return same

    async def define(self, definition: StoragePool) -> ManagedPool:
        """Add or change a definition."""
        pool = self.check_unique(definition, starting=False)
        await self.definitions.save(str(definition.name), definition)
        if pool is None:
            pool = self._add(definition, persistent=True)
        else:
            pool.persistent = True
            if not pool.active:
                pool.definition = definition
        self.publish(pool, PoolEvent.DEFINED)
        return pool

    async def create(self, definition: StoragePool, *, build: bool, overwrite: bool, keep: bool) -> ManagedPool:
        """Start a pool that is forgotten when it stops."""
        pool = self.check_unique(definition, starting=True)
        added = pool is None
        if pool is None:
            pool = self._add(definition, persistent=False)
        before, pool.definition = pool.definition, definition
        try:
            await self.start_pool(pool, build=build, overwrite=overwrite, keep=keep)
        except BaseException:
            pool.definition = before
            if added:
                self._forget(pool)
            raise
        return pool

    async def undefine(self, pool: ManagedPool) -> None:
        """Remove a definition."""
        if pool.active:
            raise faults.invalid(f"storage pool '{pool.name}' is still active")
        async with pool.lock:
            await self.definitions.remove(pool.name)
            await self.autostarts.remove(pool.name)
            self._forget(pool)
            self.publish(pool, PoolEvent.UNDEFINED)

    async def set_autostart(self, pool: ManagedPool, *, enabled: bool) -> None:
        """Choose whether it starts with the daemon."""
        if not pool.persistent:
            raise faults.argument("pool has no config file")
        if enabled:
            await self.autostarts.save(pool.name, pool.persistent)
        else:
            await self.autostarts.remove(pool.name)
        pool.autostart = enabled

    def _add(self, definition: StoragePool, *, persistent: bool) -> ManagedPool:
        pool = ManagedPool(definition, BACKENDS[definition.type], persistent)
        self.by_uuid[pool.uuid] = pool
        self.by_name[pool.name] = pool
        return pool

    def _forget(self, pool: ManagedPool) -> None:
        self.by_uuid.pop(pool.uuid, None)
        self.by_name.pop(pool.name, None)

    # -- life ---------------------------------------------------------------------------------------------------------

    async def start_pool(
        self, pool: ManagedPool, *, build: bool = False, overwrite: bool = False, keep: bool = False
    ) -> None:
        """Take a pool into use."""
        async with pool.lock:
            if pool.active:
                raise faults.invalid(f"storage pool '{pool.name}' is already active")
            if build:
                await self.daemon.run_blocking(
                    lambda: pool.backend.build(pool.definition, overwrite=overwrite, keep=keep)
                )
            await self.daemon.run_blocking(pool.backend.start, pool.definition)
            try:
                pool.contents = await self.daemon.run_blocking(pool.backend.look, pool.definition, pool.contents)
            except BaseException:
                await self.daemon.run_blocking(pool.backend.stop, pool.definition)
                raise
            await self.running.save(pool.name, pool.definition)
            pool.active = True
            self.publish(pool, PoolEvent.STARTED)

    async def build(self, pool: ManagedPool, *, overwrite: bool, keep: bool) -> None:
        """Make what it needs underneath."""
        async with pool.lock:
            if pool.active:
                raise faults.invalid(f"storage pool '{pool.name}' is already active")
            await self.daemon.run_blocking(lambda: pool.backend.build(pool.definition, overwrite=overwrite, keep=keep))
            self.publish(pool, PoolEvent.CREATED)

    async def destroy(self, pool: ManagedPool) -> None:
        """Take a pool out of use."""
        async with pool.lock:
            pool.need_active()
            self.need_idle(pool)
            await self.daemon.run_blocking(pool.backend.stop, pool.definition)
            await self.running.remove(pool.name)
            pool.active, pool.contents = False, Contents()
            self.publish(pool, PoolEvent.STOPPED)
            if not pool.persistent:
                self._forget(pool)

    async def delete(self, pool: ManagedPool) -> None:
        """Remove what is underneath."""
        async with pool.lock:
            if pool.active:
                raise faults.invalid(f"storage pool '{pool.name}' is still active")
            await self.daemon.run_blocking(pool.backend.delete, pool.definition)
            self.publish(pool, PoolEvent.DELETED)

    async def refresh(self, pool: ManagedPool) -> None:
        """Look at its volumes anew."""
        async with pool.lock:
            pool.need_active()
            self.need_idle(pool)
            await self.look(pool)
            kind = EventKind.STORAGE_POOL
            self.daemon.events.publish(self.driver, kind, _EVENT_REFRESH, pool.ref)

    async def look(self, pool: ManagedPool) -> None:
        """See what a pool holds; by whoever has its lock."""
        pool.contents = await self.daemon.run_blocking(pool.backend.look, pool.definition, pool.contents)

    def need_idle(self, pool: ManagedPool) -> None:
        """Raise LibvirtError while volumes are being made or copied."""
        if pool.busy:
            raise faults.internal(f"pool '{pool.name}' has asynchronous jobs running.")

    def publish(self, pool: ManagedPool, event: PoolEvent) -> None:
        """Tell whoever asked."""
        self.daemon.events.publish(self.driver, EventKind.STORAGE_POOL, _EVENT_LIFECYCLE, pool.ref, int(event), 0)

    # -- the daemon's life --------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bring back what is defined and what ran."""
        stored, running, marked = await self.daemon.run_blocking(
            lambda: (self.definitions.load(), self.running.load(), self.autostarts.load())
        )
        for source, persistent in ((stored, True), (running, False)):
            for name, definition in source.items():
                if name in self.by_name or definition.type not in BACKENDS:
                    continue
                self._add(definition, persistent=persistent)
        for pool in self:
            pool.autostart = pool.name in marked
            try:
                await self._bring_back(pool, ran=pool.name in running)
            except (LibvirtError, OSError) as error:
                _log.warning("storage pool %s: %s", pool.name, error)
        for pool in list(self):
            if not pool.persistent and not pool.active:
                await self.running.remove(pool.name)
                self._forget(pool)

    async def _bring_back(self, pool: ManagedPool, *, ran: bool) -> None:
        if ran and await self.daemon.run_blocking(pool.backend.is_up, pool.definition):
            await self.look(pool)
            pool.active = True
        elif pool.autostart:
            await self.start_pool(pool)

    async def stop(self) -> None:
        """Pools stay as they are."""

    def reload(self) -> None:
        """Nothing to read again."""


def _parse(data: bytes) -> StoragePool:
    return parse_element(StoragePool, data)


def _place(pool: StoragePool) -> object:
    if pool.type == "dir" and pool.target is not None:
        return pool.target.path
    if pool.source is None:
        return None
    return pool.source.name, pool.source.other_children
