"""Backups that do not begin, and those whose daemon stops."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.daemon.domains import backups, jobs, lifecycle
from pyhyve.daemon.domains.domain import AsyncJob, ManagedDomain
from pyhyve.daemon.domains.faults import invalid, invalid_argument
from pyhyve.daemon.domains.migration import outgoing
from pyhyve.daemon.errors import LibvirtError
from pyhyve.xml.disk import Disk, DiskSource, DiskTarget

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class _Domain:
    """A domain whose backups fail once they are given up."""

    active = True

    def __init__(self) -> None:
        self.async_job: Any = None
        self.registry = SimpleNamespace(daemon=SimpleNamespace(run_blocking=self.fail))

    @contextlib.asynccontextmanager
    async def job(self, _what: str) -> AsyncIterator[None]:
        yield

    def require_active(self) -> None:
        pass

    def check_no_async_job(self) -> None:
        pass

    async def fail(self, *_arguments: object) -> None:
        await self.async_job.aborted.wait()
        msg = "no such disk"
        raise invalid_argument(msg)


def test_who_gives_up_a_backup_that_never_begins_does_not_wait_for_its_end() -> None:
    async def work() -> None:
        domain: Any = _Domain()
        beginning = asyncio.create_task(backups.begin(domain, "<domainbackup/>", None, 0))
        await asyncio.sleep(0)
        job = domain.async_job
        await jobs.abort(domain)
        assert job.over.is_set()
        with pytest.raises(LibvirtError, match="no such disk"):
            await beginning
        assert domain.async_job is None

    asyncio.run(work())


class _Left:
    """A domain whose machine goes on without the daemon."""

    name, active, machine = "d", True, None
    is_left = ManagedDomain.is_left

    def __init__(self) -> None:
        self.registry = SimpleNamespace(stopping=True)
        self.record = SimpleNamespace(details={"backup": ["what to clear up"], outgoing.MOVING: "running"})
        self.parts: dict[str, Any] = {}

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        yield

    async def monitor(self, *_arguments: object) -> None:
        msg = "domain is not running"
        raise invalid(msg)

    async def save_record(self) -> None:
        pass


def test_what_is_under_way_is_left_to_the_next_daemon(tmp_path: Path) -> None:
    path = tmp_path / "full"
    path.touch()
    disk = Disk(type="file", source=DiskSource(file="/d", index=1), target=DiskTarget(dev="vda", bus="virtio"))

    async def work() -> None:
        domain: Any = _Left()
        backup = backups.Backup([backups._Target(disk, str(path), "qcow2", created=True)], [], None)
        backup.job = domain.async_job = AsyncJob(jobs.BACKUP)
        await backups._watch(domain, backup)
        await backups._undo(domain, backup)
        await outgoing._remember(domain, None)
        await lifecycle._give_up(domain)
        assert domain.record.details == {"backup": ["what to clear up"], outgoing.MOVING: "running"}

    asyncio.run(work())
    assert path.exists()
