"""Volumes of pools: made, cloned, changed and removed, one at a time in each pool but for their data."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.storage import faults
from pyhyve.xml.document import XmlError
from pyhyve.xml.element import parse_element
from pyhyve.xml.storage import Capacity, StorageVolume

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pyhyve.daemon.storage.pool import ManagedPool
    from pyhyve.daemon.storage.registry import PoolRegistry
    from pyhyve.daemon.storage.volume import Volume

__all__ = [
    "RESIZE_ALLOCATE",
    "RESIZE_DELTA",
    "RESIZE_SHRINK",
    "busy",
    "create",
    "parse_volume",
    "remove",
    "resize",
    "wipe",
]

RESIZE_ALLOCATE: Final = 1
RESIZE_DELTA: Final = 2
RESIZE_SHRINK: Final = 4
"""virStorageVolResizeFlags."""


def parse_volume(xml: str) -> StorageVolume:
    """Read a document. Raises LibvirtError."""
    try:
        wanted = parse_element(StorageVolume, xml)
        cluster = wanted.target.cluster_size if wanted.target is not None else None
        for size in (wanted.capacity, wanted.allocation, cluster):
            if size is not None:
                size.size_bytes  # noqa: B018 - a unit that is none is an error now
    except XmlError as error:
        raise faults.xml(str(error)) from error
    if not wanted.name:
        raise faults.xml("missing volume name element")
    return wanted


@contextlib.asynccontextmanager
async def busy(pool: ManagedPool, *names: str) -> AsyncIterator[None]:
    """Within, these volumes are nobody else's. Raises LibvirtError where somebody has one."""
    for name in names:
        if name in pool.busy:
            raise faults.invalid(f"volume '{name}' is still being allocated.")
    pool.busy.update(names)
    try:
        yield
    finally:
        pool.busy.difference_update(names)


async def create(
    registry: PoolRegistry,
    pool: ManagedPool,
    xml: str,
    *,
    source: tuple[ManagedPool, Volume] | None = None,
    metadata: bool = False,
    reflink: bool = False,
) -> Volume:
    """Make a volume, with another's content if there is a source. Raises LibvirtError."""
    pool.need_active()
    wanted = parse_volume(xml)
    if pool.find_volume(wanted.name) is not None:
        raise faults.conflict(f"'{wanted.name}'")
    if wanted.capacity is None:
        if source is None and wanted.backing_store is None:
            raise faults.xml("missing capacity element")
        size = source[1].capacity if source is not None else await _backing_size(registry, wanted)
        wanted = replace(wanted, capacity=Capacity(unit="bytes", amount=size))
    pool.backend.path_of(pool.definition, wanted.name)
    async with contextlib.AsyncExitStack() as held:
        await held.enter_async_context(busy(pool, wanted.name))
        if source is not None:
            await held.enter_async_context(busy(source[0], source[1].name))
        original = None if source is None else source[1]
        await registry.daemon.run_blocking(
            lambda: pool.backend.create(pool.definition, wanted, original, metadata=metadata, reflink=reflink)
        )
    async with pool.lock:
        await registry.look(pool)
    return pool.volume(wanted.name)


async def _backing_size(registry: PoolRegistry, wanted: StorageVolume) -> int:
    from pyhyve.daemon.storage import images  # noqa: PLC0415 - beside its use

    path = wanted.backing_store.path if wanted.backing_store is not None else None
    below = None if path is None else await registry.daemon.run_blocking(images.look, path)
    if below is None:
        raise faults.xml("missing capacity element")
    return below.capacity


async def remove(registry: PoolRegistry, pool: ManagedPool, volume: Volume) -> None:
    """Delete a volume. Raises LibvirtError."""
    async with busy(pool, volume.name), pool.lock:
        await registry.daemon.run_blocking(pool.backend.remove, pool.definition, volume)
        await registry.look(pool)


async def resize(registry: PoolRegistry, pool: ManagedPool, volume: Volume, size: int, flags: int) -> None:
    """Change a volume's size. Raises LibvirtError."""
    shrink, delta = bool(flags & RESIZE_SHRINK), bool(flags & RESIZE_DELTA)
    if delta:
        size = volume.capacity - min(size, volume.capacity) if shrink else volume.capacity + size
    if size < volume.allocation and not pool.backend.formats_volumes:
        raise faults.argument("can't shrink capacity below existing allocation")
    if pool.backend.formats_volumes and volume.format in {"raw", "none"} and size < volume.allocation:
        raise faults.argument("can't shrink capacity below existing allocation")
    if size < volume.capacity and not shrink:
        raise faults.argument("Can't shrink capacity below current capacity unless shrink flag explicitly specified")
    if size >= 1 << 63:
        raise faults.argument(f"capacity {size} is too large")
    async with busy(pool, volume.name), pool.lock:
        await registry.daemon.run_blocking(
            lambda: pool.backend.resize(pool.definition, volume, size, allocate=bool(flags & RESIZE_ALLOCATE))
        )
        await registry.look(pool)


async def wipe(registry: PoolRegistry, pool: ManagedPool, volume: Volume, algorithm: int) -> None:
    """Overwrite a volume. Raises LibvirtError."""
    async with busy(pool, volume.name):
        await registry.daemon.run_blocking(pool.backend.wipe, pool.definition, volume, algorithm)
    async with pool.lock:
        await registry.look(pool)
