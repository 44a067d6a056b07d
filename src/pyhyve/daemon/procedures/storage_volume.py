"""Storage volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.daemon.dispatch import procedure
from pyhyve.daemon.procedures.storage_pool import find, pools
from pyhyve.daemon.storage import transfer, volumes
from pyhyve.daemon.storage.volume import volume_document

if TYPE_CHECKING:
    from pyhyve.daemon.dispatch import Call
    from pyhyve.daemon.storage.pool import ManagedPool
    from pyhyve.daemon.storage.volume import Volume
    from pyhyve.daemon.streams import Stream
    from pyhyve.rpc.values import StorageVol

_METADATA, _REFLINK, _VALIDATE = 1, 2, 4
_SPARSE, _PHYSICAL, _WITH_SNAPSHOTS = 1, 1, 2


def _find(call: Call, ref: StorageVol) -> tuple[ManagedPool, Volume]:
    return pools(call).find_volume(ref)


@procedure("STORAGE_VOL_LOOKUP_BY_NAME")
def look_up_name(call: Call, args: Any) -> StorageVol:
    """By name in a pool."""
    pool = find(call, args.pool)
    pool.need_active()
    return pool.volume(args.name).ref(pool.name)


@procedure("STORAGE_VOL_LOOKUP_BY_KEY")
def look_up_key(call: Call, args: Any) -> StorageVol:
    """By key."""
    pool, volume = pools(call).volume_at(args.key, "key")
    return volume.ref(pool.name)


@procedure("STORAGE_VOL_LOOKUP_BY_PATH")
def look_up_path(call: Call, args: Any) -> StorageVol:
    """By path."""
    pool, volume = pools(call).volume_at(args.path, "path")
    return volume.ref(pool.name)


@procedure("STORAGE_VOL_CREATE_XML")
async def create(call: Call, args: Any) -> StorageVol:
    """Make a volume."""
    call.check_flags(args.flags, _METADATA | _VALIDATE)
    pool = find(call, args.pool)
    made = await volumes.create(pools(call), pool, args.xml, metadata=bool(args.flags & _METADATA))
    return made.ref(pool.name)


@procedure("STORAGE_VOL_CREATE_XML_FROM")
async def create_from(call: Call, args: Any) -> StorageVol:
    """Make a volume with another's content."""
    call.check_flags(args.flags, _METADATA | _REFLINK | _VALIDATE)
    pool = find(call, args.pool)
    made = await volumes.create(
        pools(call),
        pool,
        args.xml,
        source=_find(call, args.clonevol),
        metadata=bool(args.flags & _METADATA),
        reflink=bool(args.flags & _REFLINK),
    )
    return made.ref(pool.name)


@procedure("STORAGE_VOL_DELETE")
async def delete(call: Call, args: Any) -> None:
    """Delete a volume."""
    call.check_flags(args.flags, 1 | _WITH_SNAPSHOTS)
    await volumes.remove(pools(call), *_find(call, args.vol))


@procedure("STORAGE_VOL_RESIZE")
async def resize(call: Call, args: Any) -> None:
    """Change a volume's size."""
    call.check_flags(args.flags, volumes.RESIZE_ALLOCATE | volumes.RESIZE_DELTA | volumes.RESIZE_SHRINK)
    await volumes.resize(pools(call), *_find(call, args.vol), args.capacity, args.flags)


@procedure("STORAGE_VOL_WIPE")
async def wipe(call: Call, args: Any) -> None:
    """Overwrite a volume with zeros."""
    call.check_flags(args.flags, 0)
    await volumes.wipe(pools(call), *_find(call, args.vol), 0)


@procedure("STORAGE_VOL_WIPE_PATTERN")
async def wipe_pattern(call: Call, args: Any) -> None:
    """Overwrite a volume as an algorithm says."""
    call.check_flags(args.flags, 0)
    await volumes.wipe(pools(call), *_find(call, args.vol), args.algorithm)


@procedure("STORAGE_VOL_GET_INFO")
def get_info(call: Call, args: Any) -> tuple[int, int, int]:
    """Type and sizes."""
    _, volume = _find(call, args.vol)
    return int(volume.type), volume.capacity, volume.allocation


@procedure("STORAGE_VOL_GET_INFO_FLAGS")
def get_info_flags(call: Call, args: Any) -> tuple[int, int, int]:
    """Type and sizes, the file's length for its allocation if asked."""
    call.check_flags(args.flags, _PHYSICAL)
    _, volume = _find(call, args.vol)
    return int(volume.type), volume.capacity, volume.physical if args.flags & _PHYSICAL else volume.allocation


@procedure("STORAGE_VOL_GET_PATH")
def get_path(call: Call, args: Any) -> str:
    """The path."""
    return _find(call, args.vol)[1].path


@procedure("STORAGE_VOL_GET_XML_DESC")
async def get_xml(call: Call, args: Any) -> str:
    """The document."""
    call.check_flags(args.flags, 0)
    pool, volume = _find(call, args.vol)
    return await call.daemon.run_blocking(lambda: volume_document(volume, with_format=pool.backend.formats_volumes))


@procedure("STORAGE_VOL_DOWNLOAD")
async def download(call: Call, args: Any) -> None:
    """Send a volume's content."""
    call.check_flags(args.flags, _SPARSE)
    pool, volume = _find(call, args.vol)
    daemon, offset, length, sparse = call.daemon, args.offset, args.length, bool(args.flags & _SPARSE)
    descriptor = await daemon.run_blocking(lambda: transfer.open_volume(volume.path, offset, writable=False))

    async def body(stream: Stream) -> None:
        async with volumes.busy(pool, f"download of {volume.name} {id(stream)}"):
            await transfer.download(daemon, stream, descriptor, offset, length, sparse=sparse)

    call.stream(body)


@procedure("STORAGE_VOL_UPLOAD")
async def upload(call: Call, args: Any) -> None:
    """Take in a volume's content."""
    call.check_flags(args.flags, _SPARSE)
    pool, volume = _find(call, args.vol)
    daemon, offset, length, registry = call.daemon, args.offset, args.length, pools(call)
    descriptor = await daemon.run_blocking(lambda: transfer.open_volume(volume.path, offset, writable=True))

    async def body(stream: Stream) -> None:
        async with volumes.busy(pool, volume.name):
            await transfer.upload(daemon, stream, descriptor, offset, length)
        async with pool.lock:
            await registry.look(pool)

    call.stream(body)
