"""How far a job on a disk is said to be."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from pyhyve.daemon.domains.blockjobs import BlockJob, JobKind, info
from pyhyve.xml.devices import Devices
from pyhyve.xml.disk import Disk, DiskSource, DiskTarget


def domain(job: BlockJob | None, answer: dict[str, Any]) -> Any:
    async def monitor(command: str) -> list[dict[str, Any]]:
        assert command == "query-block-jobs"
        return [answer]

    disk = Disk(type="file", source=DiskSource(file="/d"), target=DiskTarget(dev="vda", bus="virtio"))
    return SimpleNamespace(
        parts={"blockjobs": {job.id: job} if job is not None else {}},
        devices=Devices(disk=(disk,)),
        require_active=lambda: None,
        has_command=lambda _: True,
        monitor=monitor,
    )


@pytest.mark.parametrize(
    ("kind", "ready", "offset", "length", "said"),
    [
        (JobKind.COPY, False, 50, 100, (50, 100)),
        (JobKind.COPY, False, 100, 100, (99, 100)),
        (JobKind.ACTIVE_COMMIT, False, 100, 100, (99, 100)),
        (JobKind.ACTIVE_COMMIT, True, 100, 100, (100, 100)),
        (JobKind.COPY, True, 0, 0, (1, 1)),
        (JobKind.COPY, False, 0, 0, (0, 1)),
        (JobKind.PULL, False, 100, 100, (100, 100)),
    ],
)
def test_copy_is_at_its_end_only_when_it_may_be_pivoted(
    kind: JobKind, ready: bool, offset: int, length: int, said: tuple[int, int]
) -> None:
    job = BlockJob("j", "vda", kind, ready=ready)
    answer = {"device": "j", "speed": 3 << 20, "offset": offset, "len": length}
    assert asyncio.run(info(domain(job, answer), "vda", 0)) == (1, kind, 3, *said)


def test_disk_without_a_job_has_none() -> None:
    assert asyncio.run(info(domain(None, {}), "vda", 0)) == (0, 0, 0, 0, 0)
