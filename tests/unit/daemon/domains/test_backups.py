"""Backups that do not begin."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.daemon.domains import backups, jobs
from pyhyve.daemon.domains.faults import invalid_argument
from pyhyve.daemon.errors import LibvirtError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


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
