"""Long work on domains: asking about it, giving it up; what jobs QEMU runs for us are waited for here."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains.faults import failed, invalid
from pyhyve.rpc.values import ParamType, TypedParam

if TYPE_CHECKING:
    from pyhyve.daemon.domains.domain import ManagedDomain

__all__ = ["abort", "info", "run_job", "statistics"]

_NONE, _UNBOUNDED, _COMPLETED = 0, 2, 3
BACKUP: Final = 9
"""VIR_DOMAIN_JOB_OPERATION_BACKUP."""
_POLL_S = 0.05
_ABORT_WAIT_S: Final = 30.0


def info(domain: ManagedDomain) -> tuple[int, ...]:
    """Return a job's type, times in milliseconds and sizes in bytes, in the order of the wire."""
    domain.require_active()
    job = domain.async_job
    if job is None:
        return (_NONE, *(0,) * 11)
    progress = job.progress
    return (
        _UNBOUNDED,
        job.elapsed_ms,
        0,
        *(progress.get(f"data_{what}", 0) for what in ("total", "processed", "remaining")),
        *(progress.get(f"memory_{what}", 0) for what in ("total", "processed", "remaining")),
        *(progress.get(f"disk_{what}", 0) for what in ("total", "processed", "remaining")),
    )


def statistics(domain: ManagedDomain, *, completed: bool) -> tuple[int, list[TypedParam]]:
    """Return a job's type and what is known about it: of the one under way, or (``completed``) of the last."""
    values: dict[str, int | str]
    if completed:
        last = domain.last_job
        if last is None:
            return _NONE, []
        operation, values = last
        domain.last_job = None
        kind = _COMPLETED
    else:
        domain.require_active()
        job = domain.async_job
        if job is None:
            return _NONE, []
        operation, values, kind = job.operation, {"time_elapsed": job.elapsed_ms, **job.progress}, _UNBOUNDED
    params = [TypedParam("operation", ParamType.INT, operation)]
    params.extend(
        TypedParam(name, ParamType.STRING if isinstance(value, str) else ParamType.ULLONG, value)
        for name, value in values.items()
    )
    return kind, params


async def abort(domain: ManagedDomain) -> None:
    """Give up the job under way. Raises LibvirtError."""
    domain.require_active()
    job = domain.async_job
    if job is None:
        raise invalid("no job is active on the domain")
    if job.operation == BACKUP:
        job.aborted.set()  # who waits for it gives it up
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ABORT_WAIT_S):
                await job.over.wait()
        return
    if not job.migrating:
        raise invalid("cannot abort this job")
    job.aborted.set()
    await domain.monitor("migrate_cancel")


async def run_job(domain: ManagedDomain, command: str, arguments: dict[str, Any], name: str) -> None:
    """Start one of QEMU's jobs and wait until it is over. Raises LibvirtError with its error."""
    waiters: dict[str, asyncio.Future[None]] = domain.parts.setdefault("job-waiters", {})
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiters[name] = over
    try:
        await domain.monitor(command, {**arguments, "job-id": name})
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S if not over.done() else None):
                    await asyncio.shield(over)
            found = next((item for item in await domain.monitor("query-jobs") if item["id"] == name), None)
            if found is None:
                return
            if found["status"] == "concluded":
                await domain.monitor("job-dismiss", {"id": name})
                if found.get("error") is not None:
                    raise failed(found["error"])
                return
            over = waiters[name] = asyncio.get_running_loop().create_future()
    finally:
        waiters.pop(name, None)
