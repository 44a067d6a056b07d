"""Waiting for a machine that is moving, and noting how far it is."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains.faults import failed, internal
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from pyhyve.daemon.domains.domain import AsyncJob, ManagedDomain

__all__ = ["StatusBell", "note_progress", "wait_incoming", "wait_outgoing"]

_POLL_S: Final = 0.25
_GRACE_S: Final = 30.0
_MEMORY: Final = (
    ("memory_constant", "duplicate"),
    ("memory_normal", "normal"),
    ("memory_normal_bytes", "normal-bytes"),
    ("memory_dirty_rate", "dirty-pages-rate"),
    ("memory_iteration", "dirty-sync-count"),
    ("memory_postcopy_requests", "postcopy-requests"),
    ("memory_page_size", "page-size"),
)


class StatusBell:
    """Rings when a machine says that its migration's status changed."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def __call__(self, status: str) -> None:
        """It did."""
        del status
        self._rung.set()

    async def wait(self) -> None:
        """Wait for that, but not for long: machines may be silent."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_POLL_S):
                await self._rung.wait()
        self._rung.clear()


@contextlib.contextmanager
def _listening(domain: ManagedDomain) -> Iterator[StatusBell]:
    bell = StatusBell()
    domain.parts["migration"] = bell
    try:
        yield bell
    finally:
        if domain.parts.get("migration") is bell:
            del domain.parts["migration"]


def note_progress(job: AsyncJob, answer: dict[str, Any]) -> None:
    """Take the figures of ``query-migrate`` into a job."""
    progress = job.progress
    for name, key in (("downtime", "expected-downtime"), ("downtime", "downtime"), ("setup_time", "setup-time")):
        if key in answer:
            progress[name] = answer[key]
    memory = answer.get("ram")
    if not memory:
        return
    total, done, left = memory["total"], memory["transferred"], memory["remaining"]
    progress |= {"data_total": total, "data_processed": done, "data_remaining": left}
    progress |= {"memory_total": total, "memory_processed": done, "memory_remaining": left}
    if memory.get("mbps"):
        progress["memory_bps"] = int(memory["mbps"] * 1_000_000 / 8)
    progress |= {name: memory[key] for name, key in _MEMORY if key in memory}
    progress |= {"disk_total": 0, "disk_processed": 0, "disk_remaining": 0}


async def wait_outgoing(domain: ManagedDomain, job: AsyncJob, ends: Container[str]) -> str:
    """Wait until the source's migration has one of these statuses, and return it. Raises LibvirtError otherwise."""
    with _listening(domain) as bell:
        while True:
            answer: dict[str, Any] = await domain.monitor("query-migrate")
            status = answer.get("status", "none")
            note_progress(job, answer)
            if status in ends:
                return str(status)
            if status in {"failed", "postcopy-paused"}:
                why = answer.get("error-desc", "the machine does not say why")
                raise failed(f"job 'migration out' unexpectedly failed: {why}")
            if status == "cancelled":
                detail = "job 'migration out' canceled by client"
                raise LibvirtError(ErrorCode.OPERATION_ABORTED, ErrorDomain.QEMU, detail)
            await bell.wait()


async def wait_incoming(domain: ManagedDomain, *, postcopy: bool = True) -> str:
    """Wait until the destination's machine has what it takes to run; return its status. Raises LibvirtError."""
    deadline = asyncio.get_running_loop().time() + _GRACE_S
    with _listening(domain) as bell:
        while True:
            answer = await domain.monitor("query-migrate")
            status = answer.get("status", "none")
            if status == "completed" or (postcopy and status == "postcopy-active"):
                return str(status)
            if status in {"failed", "cancelled", "postcopy-paused"}:
                why = answer.get("error-desc", "the machine does not say why")
                raise failed(f"job 'migration in' unexpectedly failed: {why}")
            if status in {"none", "setup"} and asyncio.get_running_loop().time() > deadline:
                raise internal("the source's machine did not send its state")
            await bell.wait()
