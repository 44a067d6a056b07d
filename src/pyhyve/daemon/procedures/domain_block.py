"""Disks: jobs on their images, numbers, limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.dispatch import procedure
from pyhyve.daemon.domains import blockjobs, blockops, disks
from pyhyve.daemon.procedures.domain_access import domain_of

if TYPE_CHECKING:
    from pyhyve.daemon.dispatch import Call
    from pyhyve.rpc.values import DiskError, TypedParam

_STATS_FLAGS: Final = 4
"""VIR_TYPED_PARAM_STRING_OKAY: the client takes parameters that are text."""


@procedure("DOMAIN_BLOCK_STATS")
async def block_stats(call: Call, args: Any) -> tuple[int, int, int, int, int]:
    """Requests and bytes read and written, and errors."""
    stats = await disks.block_statistics(domain_of(call, args.dom), args.path)
    return stats["rd_operations"], stats["rd_bytes"], stats["wr_operations"], stats["wr_bytes"], -1


@procedure("DOMAIN_BLOCK_STATS_FLAGS")
async def block_stats_flags(call: Call, args: Any) -> tuple[list[TypedParam], int]:
    """Everything that is counted of a disk."""
    call.check_flags(args.flags, _STATS_FLAGS)
    params = disks.statistic_params(await disks.block_statistics(domain_of(call, args.dom), args.path))
    return (params[: args.nparams] if args.nparams else []), len(params)


@procedure("DOMAIN_GET_BLOCK_INFO")
async def get_block_info(call: Call, args: Any) -> tuple[int, int, int]:
    """Allocation, capacity and physical size."""
    call.check_flags(args.flags, 0)
    return await disks.block_info(domain_of(call, args.dom), args.path)


@procedure("DOMAIN_BLOCK_RESIZE")
async def block_resize(call: Call, args: Any) -> None:
    """Grow or shrink a disk."""
    call.check_flags(args.flags, 1)
    domain = domain_of(call, args.dom)
    async with domain.job("resize"):
        await disks.resize(domain, args.disk, args.size, args.flags)


@procedure("DOMAIN_BLOCK_PEEK")
async def block_peek(call: Call, args: Any) -> bytes:
    """Look into a disk's image."""
    call.check_flags(args.flags, 0)
    return await disks.peek(domain_of(call, args.dom), args.path, args.offset, args.size)


@procedure("DOMAIN_GET_DISK_ERRORS")
def get_disk_errors(call: Call, args: Any) -> tuple[list[DiskError], int]:
    """Disks that stopped for an error."""
    call.check_flags(args.flags, 0)
    return disks.errors(domain_of(call, args.dom), args.maxerrors)


@procedure("DOMAIN_GET_BLOCK_IO_TUNE")
async def get_block_io_tune(call: Call, args: Any) -> tuple[list[TypedParam], int]:
    """Limits of a disk."""
    call.check_flags(args.flags, 7)
    return await disks.get_io_tune(domain_of(call, args.dom), args.disk, args.nparams, args.flags)


@procedure("DOMAIN_SET_BLOCK_IO_TUNE")
async def set_block_io_tune(call: Call, args: Any) -> None:
    """Limit a disk."""
    call.check_flags(args.flags, 7)
    domain = domain_of(call, args.dom)
    async with domain.job("io tune"):
        await disks.set_io_tune(domain, args.disk, args.params, args.flags)


@procedure("DOMAIN_SET_BLOCK_THRESHOLD")
async def set_block_threshold(call: Call, args: Any) -> None:
    """Have an event sent when a disk's image grows beyond a place."""
    call.check_flags(args.flags, 0)
    domain = domain_of(call, args.dom)
    async with domain.job("threshold"):
        await disks.set_threshold(domain, args.dev, args.threshold)


@procedure("DOMAIN_BLOCK_PULL")
async def block_pull(call: Call, args: Any) -> None:
    """Copy what is in the images below a disk's into it."""
    call.check_flags(args.flags, 64)
    domain = domain_of(call, args.dom)
    speed = blockjobs.speed_bytes(args.bandwidth, bytes_flag=args.flags & 64)
    async with domain.job("block pull"):
        await blockops.pull(domain, args.path, None, speed)


@procedure("DOMAIN_BLOCK_REBASE")
async def block_rebase(call: Call, args: Any) -> None:
    """Pull down to an image, or copy to a new one."""
    call.check_flags(args.flags, 0x7F)
    domain = domain_of(call, args.dom)
    async with domain.job("block rebase"):
        await blockops.rebase(domain, args.path, args.base, args.bandwidth, args.flags)


@procedure("DOMAIN_BLOCK_COMMIT")
async def block_commit(call: Call, args: Any) -> None:
    """Write what is in images into one below them."""
    call.check_flags(args.flags, 0x1F)
    domain = domain_of(call, args.dom)
    async with domain.job("block commit"):
        await blockops.commit(domain, args.disk, args.base, args.top, args.bandwidth, args.flags)


@procedure("DOMAIN_BLOCK_COPY")
async def block_copy(call: Call, args: Any) -> None:
    """Copy a disk to another image."""
    call.check_flags(args.flags, 0xF)
    domain = domain_of(call, args.dom)
    async with domain.job("block copy"):
        await blockops.copy(domain, args.path, args.destxml, args.params, args.flags)


@procedure("DOMAIN_GET_BLOCK_JOB_INFO")
async def get_block_job_info(call: Call, args: Any) -> tuple[int, int, int, int, int]:
    """How far a disk's job is."""
    call.check_flags(args.flags, 1)
    return await blockjobs.info(domain_of(call, args.dom), args.path, args.flags)


@procedure("DOMAIN_BLOCK_JOB_ABORT")
async def block_job_abort(call: Call, args: Any) -> None:
    """End a disk's job."""
    call.check_flags(args.flags, 3)
    domain = domain_of(call, args.dom)
    async with domain.job("block job abort"):
        await blockjobs.abort(domain, args.path, args.flags)


@procedure("DOMAIN_BLOCK_JOB_SET_SPEED")
async def block_job_set_speed(call: Call, args: Any) -> None:
    """Limit a disk's job."""
    call.check_flags(args.flags, 1)
    domain = domain_of(call, args.dom)
    async with domain.job("block job speed"):
        await blockjobs.set_speed(domain, args.path, args.bandwidth, args.flags)
