"""Storage pools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.dispatch import procedure
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.storage import capabilities
from pyhyve.daemon.storage.pool import pool_document
from pyhyve.daemon.storage.registry import PoolRegistry
from pyhyve.rpc.errors import ErrorDomain

if TYPE_CHECKING:
    from pyhyve.daemon.dispatch import Call
    from pyhyve.daemon.storage.pool import ManagedPool
    from pyhyve.rpc.values import StoragePool, StorageVol

_INACTIVE, _ACTIVE, _PERSISTENT, _TRANSIENT, _AUTOSTART, _NO_AUTOSTART = (1 << bit for bit in range(6))
# virConnectListAllStoragePoolsFlags, from bit 6 on a kind each
_KINDS: Final = (
    *("dir", "fs", "netfs", "logical", "disk", "iscsi", "scsi", "mpath", "rbd", "sheepdog", "gluster", "zfs"),
    *("vstorage", "iscsi-direct"),
)
_LIST_FLAGS: Final = (1 << (6 + len(_KINDS))) - 1
_BUILD, _OVERWRITE, _NO_OVERWRITE = 1, 2, 4
"""virStoragePoolCreateFlags; of a build alone no-overwrite is 4 and overwrite 8 shifted by one bit less."""
_BUILD_NO_OVERWRITE, _BUILD_OVERWRITE = 4, 8
_VALIDATE_DEFINE, _VALIDATE_CREATE = 1, 8


def pools(call: Call) -> PoolRegistry:
    """The pools of the driver the connection was opened to. Raises LibvirtError where it has none."""
    found = call.driver.offers(PoolRegistry)
    if found is None:
        raise LibvirtError.no_support(call.function, ErrorDomain.STORAGE)
    return found


def find(call: Call, ref: StoragePool, permission: str = "") -> ManagedPool:
    """The pool a client means."""
    pool = pools(call).find(ref)
    if permission:
        call.require(permission, pool.name, pool.uuid)
    return pool


@procedure("CONNECT_LIST_ALL_STORAGE_POOLS")
def list_all(call: Call, args: Any) -> tuple[list[StoragePool], int]:
    """Pools that pass the filters."""
    call.check_flags(args.flags, _LIST_FLAGS)
    flags = args.flags

    def wanted(pool: ManagedPool) -> bool:
        groups = (
            (_ACTIVE, pool.active, _INACTIVE),
            (_PERSISTENT, pool.persistent, _TRANSIENT),
            (_AUTOSTART, pool.autostart, _NO_AUTOSTART),
        )
        for yes, holds, no in groups:
            if flags & (yes | no) and not flags & (yes if holds else no):
                return False
        kinds = flags >> 6
        return not kinds or bool(kinds >> _KINDS.index(pool.type) & 1)

    found = [pool.ref for pool in pools(call) if wanted(pool) and _visible(call, pool)]
    return (found if args.need_results else []), len(found)


def _visible(call: Call, pool: ManagedPool) -> bool:
    return call.connection.allows("storage_pool:getattr", pool.name, pool.uuid)


def _names(call: Call, most: int, *, active: bool) -> list[str]:
    return [pool.name for pool in pools(call) if pool.active is active and _visible(call, pool)][: max(most, 0)]


@procedure("CONNECT_LIST_STORAGE_POOLS")
def list_active(call: Call, args: Any) -> list[str]:
    """Names of pools in use."""
    return _names(call, args.maxnames, active=True)


@procedure("CONNECT_LIST_DEFINED_STORAGE_POOLS")
def list_inactive(call: Call, args: Any) -> list[str]:
    """Names of pools not in use."""
    return _names(call, args.maxnames, active=False)


@procedure("CONNECT_NUM_OF_STORAGE_POOLS")
def count_active(call: Call, args: Any) -> int:
    """How many are in use."""
    return len(_names(call, 1 << 30, active=True))


@procedure("CONNECT_NUM_OF_DEFINED_STORAGE_POOLS")
def count_inactive(call: Call, args: Any) -> int:
    """How many are not in use."""
    return len(_names(call, 1 << 30, active=False))


@procedure("STORAGE_POOL_LOOKUP_BY_NAME")
def look_up_name(call: Call, args: Any) -> StoragePool:
    """By name."""
    return pools(call).named(args.name).ref


@procedure("STORAGE_POOL_LOOKUP_BY_UUID")
def look_up_uuid(call: Call, args: Any) -> StoragePool:
    """By UUID."""
    return pools(call).with_uuid(args.uuid).ref


@procedure("STORAGE_POOL_LOOKUP_BY_TARGET_PATH")
def look_up_target(call: Call, args: Any) -> StoragePool:
    """By where it is mounted."""
    from pyhyve.daemon.storage import faults  # noqa: PLC0415 - beside its use

    for pool in pools(call):
        if pool.active and pool.definition.target is not None and pool.definition.target.path == args.path:
            return pool.ref
    by = "target path"
    raise faults.no_pool(by, args.path)


@procedure("STORAGE_POOL_LOOKUP_BY_VOLUME")
def look_up_volume(call: Call, args: Any) -> StoragePool:
    """By a volume in it."""
    return pools(call).named(args.vol.pool).ref


@procedure("STORAGE_POOL_DEFINE_XML")
async def define(call: Call, args: Any) -> StoragePool:
    """Add or change a definition."""
    call.check_flags(args.flags, _VALIDATE_DEFINE)
    registry = pools(call)
    definition = await call.daemon.run_blocking(registry.complete, args.xml)
    return (await registry.define(definition)).ref


@procedure("STORAGE_POOL_CREATE_XML")
async def create_xml(call: Call, args: Any) -> StoragePool:
    """Start a pool that is forgotten when it stops."""
    call.check_flags(args.flags, _BUILD | _OVERWRITE | _NO_OVERWRITE | _VALIDATE_CREATE)
    registry = pools(call)
    definition = await call.daemon.run_blocking(registry.complete, args.xml)
    build = bool(args.flags & (_BUILD | _OVERWRITE | _NO_OVERWRITE))
    overwrite, keep = bool(args.flags & _OVERWRITE), bool(args.flags & _NO_OVERWRITE)
    return (await registry.create(definition, build=build, overwrite=overwrite, keep=keep)).ref


@procedure("STORAGE_POOL_CREATE")
async def create(call: Call, args: Any) -> None:
    """Take a pool into use."""
    call.check_flags(args.flags, _BUILD | _OVERWRITE | _NO_OVERWRITE)
    build = bool(args.flags & (_BUILD | _OVERWRITE | _NO_OVERWRITE))
    overwrite, keep = bool(args.flags & _OVERWRITE), bool(args.flags & _NO_OVERWRITE)
    await pools(call).start_pool(find(call, args.pool), build=build, overwrite=overwrite, keep=keep)


@procedure("STORAGE_POOL_BUILD")
async def build(call: Call, args: Any) -> None:
    """Make what it needs underneath."""
    call.check_flags(args.flags, 1 | 2 | _BUILD_NO_OVERWRITE | _BUILD_OVERWRITE)
    overwrite, keep = bool(args.flags & _BUILD_OVERWRITE), bool(args.flags & _BUILD_NO_OVERWRITE)
    await pools(call).build(find(call, args.pool), overwrite=overwrite, keep=keep)


@procedure("STORAGE_POOL_DESTROY")
async def destroy(call: Call, args: Any) -> None:
    """Take a pool out of use."""
    await pools(call).destroy(find(call, args.pool))


@procedure("STORAGE_POOL_DELETE")
async def delete(call: Call, args: Any) -> None:
    """Remove what is underneath."""
    call.check_flags(args.flags, 1)
    await pools(call).delete(find(call, args.pool))


@procedure("STORAGE_POOL_UNDEFINE")
async def undefine(call: Call, args: Any) -> None:
    """Remove a definition."""
    await pools(call).undefine(find(call, args.pool))


@procedure("STORAGE_POOL_REFRESH")
async def refresh(call: Call, args: Any) -> None:
    """Look at its volumes anew."""
    call.check_flags(args.flags, 0)
    await pools(call).refresh(find(call, args.pool))


@procedure("STORAGE_POOL_GET_INFO")
def get_info(call: Call, args: Any) -> tuple[int, int, int, int]:
    """State and sizes."""
    pool = find(call, args.pool)
    contents = pool.contents
    if not pool.active:
        return int(pool.state), 0, 0, 0
    return int(pool.state), contents.capacity, contents.allocation, contents.available


@procedure("STORAGE_POOL_GET_XML_DESC")
def get_xml(call: Call, args: Any) -> str:
    """The document."""
    call.check_flags(args.flags, 1)
    return pool_document(find(call, args.pool), inactive=bool(args.flags & 1))


@procedure("STORAGE_POOL_IS_ACTIVE")
def is_active(call: Call, args: Any) -> int:
    """Whether it is in use."""
    return int(find(call, args.pool).active)


@procedure("STORAGE_POOL_IS_PERSISTENT")
def is_persistent(call: Call, args: Any) -> int:
    """Whether it is defined."""
    return int(find(call, args.pool).persistent)


@procedure("STORAGE_POOL_GET_AUTOSTART")
def get_autostart(call: Call, args: Any) -> int:
    """Whether it starts with the daemon."""
    return int(find(call, args.pool).autostart)


@procedure("STORAGE_POOL_SET_AUTOSTART")
async def set_autostart(call: Call, args: Any) -> None:
    """Choose whether it starts with the daemon."""
    await pools(call).set_autostart(find(call, args.pool), enabled=bool(args.autostart))


@procedure("STORAGE_POOL_NUM_OF_VOLUMES")
def count_volumes(call: Call, args: Any) -> int:
    """How many volumes it has."""
    pool = find(call, args.pool)
    pool.need_active()
    return len(pool.contents.volumes)


@procedure("STORAGE_POOL_LIST_VOLUMES")
def list_volume_names(call: Call, args: Any) -> list[str]:
    """Names of its volumes."""
    pool = find(call, args.pool)
    pool.need_active()
    return [volume.name for volume in pool.contents.volumes][: max(args.maxnames, 0)]


@procedure("STORAGE_POOL_LIST_ALL_VOLUMES")
def list_volumes(call: Call, args: Any) -> tuple[list[StorageVol], int]:
    """Its volumes."""
    call.check_flags(args.flags, 0)
    pool = find(call, args.pool)
    pool.need_active()
    found = [volume.ref(pool.name) for volume in pool.contents.volumes]
    return (found if args.need_results else []), len(found)


@procedure("CONNECT_GET_STORAGE_POOL_CAPABILITIES")
def get_capabilities(call: Call, args: Any) -> str:
    """What kinds there are."""
    call.check_flags(args.flags, 0)
    pools(call)
    return capabilities.pool_capabilities()


@procedure("CONNECT_FIND_STORAGE_POOL_SOURCES")
async def find_sources(call: Call, args: Any) -> str:
    """What pools could be made of."""
    call.check_flags(args.flags, 0)
    pools(call)
    return await call.daemon.run_blocking(capabilities.find_sources, args.type, args.src_spec)
