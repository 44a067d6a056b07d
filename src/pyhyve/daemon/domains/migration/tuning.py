"""What may be set while a machine moves: how long it may stand still, how fast it sends, switching to post-copy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyhyve.daemon.domains.faults import invalid
from pyhyve.daemon.domains.migration.spec import BANDWIDTH_MAX_MIB, OPERATION_OUT
from pyhyve.daemon.domains.migration.wish import unsupported_argument
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain

if TYPE_CHECKING:
    from pyhyve.daemon.domains.domain import ManagedDomain

__all__ = [
    "compression_cache",
    "max_downtime_ms",
    "set_compression_cache",
    "set_max_downtime",
    "set_max_speed",
    "start_postcopy",
]

_POSTCOPY: Final = 1
"""VIR_DOMAIN_MIGRATE_MAX_SPEED_POSTCOPY."""


async def _parameter(domain: ManagedDomain, name: str, detail: str) -> int:
    domain.require_active()
    if not domain.has_command("query-migrate-parameters"):
        raise unsupported_argument(detail)
    held = (await domain.monitor("query-migrate-parameters")).get(name)
    if held is None:
        raise unsupported_argument(detail)
    return int(held)


async def max_downtime_ms(domain: ManagedDomain) -> int:
    """Return how long a machine may stand still at the end. Raises LibvirtError."""
    return await _parameter(domain, "downtime-limit", "querying migration downtime is not supported by QEMU binary")


async def set_max_downtime(domain: ManagedDomain, milliseconds: int) -> None:
    """Say how long a machine may stand still. Raises LibvirtError."""
    await max_downtime_ms(domain)
    await domain.monitor("migrate-set-parameters", {"downtime-limit": milliseconds})


async def compression_cache(domain: ManagedDomain) -> int:
    """Return the bytes of the cache that differences of pages are made with. Raises LibvirtError."""
    detail = "Compressed migration is not supported by QEMU binary"
    return await _parameter(domain, "xbzrle-cache-size", detail)


async def set_compression_cache(domain: ManagedDomain, size_bytes: int) -> None:
    """Give that cache a size. Raises LibvirtError."""
    await compression_cache(domain)
    await domain.monitor("migrate-set-parameters", {"xbzrle-cache-size": size_bytes})


async def set_max_speed(domain: ManagedDomain, mib: int, flags: int) -> None:
    """Say how many MiB a second a machine may send, now and the next times. Raises LibvirtError."""
    if mib > BANDWIDTH_MAX_MIB:
        detail = f"bandwidth must be less than {BANDWIDTH_MAX_MIB + 1}"
        raise LibvirtError(ErrorCode.OVERFLOW, ErrorDomain.QEMU, detail)
    if flags & _POSTCOPY:
        detail = "querying maximum post-copy migration speed is not supported by QEMU binary"
        await _parameter(domain, "max-postcopy-bandwidth", detail)
        await domain.monitor("migrate-set-parameters", {"max-postcopy-bandwidth": mib << 20})
        return
    job = domain.async_job
    if job is not None and job.operation == OPERATION_OUT and domain.active:
        limit = mib << 20 if mib < BANDWIDTH_MAX_MIB else (1 << 63) - 1
        await domain.monitor("migrate-set-parameters", {"max-bandwidth": limit})
    domain.migration_speed_mib = mib


async def max_speed(domain: ManagedDomain, flags: int) -> int:
    """Return how many MiB a second that is. Raises LibvirtError."""
    if not flags & _POSTCOPY:
        return domain.migration_speed_mib
    detail = "querying maximum post-copy migration speed is not supported by QEMU binary"
    return await _parameter(domain, "max-postcopy-bandwidth", detail) >> 20


async def start_postcopy(domain: ManagedDomain) -> None:
    """Have a machine that moves run at its destination from now on. Raises LibvirtError."""
    domain.require_active()
    job = domain.async_job
    if job is None or job.operation != OPERATION_OUT or not job.migrating:
        raise invalid("post-copy can only be started while outgoing migration is in progress")
    capabilities = await domain.monitor("query-migrate-capabilities")
    if not any(item["capability"] == "postcopy-ram" and item["state"] for item in capabilities):
        detail = "switching to post-copy requires migration to be started with VIR_MIGRATE_POSTCOPY flag"
        raise invalid(detail)
    await domain.monitor("migrate-start-postcopy")
