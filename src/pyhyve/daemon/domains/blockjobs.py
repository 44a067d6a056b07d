"""Jobs on a disk's images while the guest uses them: pulling, committing, copying.

The machine does the work; a :class:`BlockJob` says what the chain of images is when it is done. Jobs are told to wait
for their dismissal, so that how one ended can be asked even by a daemon that was started meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains.definition.chains import ChainImage, chain_of, find_in_chain, with_chain
from pyhyve.daemon.domains.faults import invalid_argument
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.events import DomainEvent
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.xml.devices import Devices
from pyhyve.xml.disk import Disk, DiskSource
from pyhyve.xml.document import Node
from pyhyve.xml.element import replace, to_node

if TYPE_CHECKING:
    from pyhyve.daemon.domains.domain import ManagedDomain

__all__ = [
    "PIVOT",
    "BlockJob",
    "JobKind",
    "abort",
    "disk_named",
    "info",
    "job_event",
    "jobs_of",
    "refresh",
    "start_job",
    "wait",
]

_log = logging.getLogger(__name__)


class JobKind(IntEnum):
    """virDomainBlockJobType."""

    PULL = 1
    COPY = 2
    COMMIT = 3
    ACTIVE_COMMIT = 4


class JobStatus(IntEnum):
    """virConnectDomainEventBlockJobStatus."""

    COMPLETED = 0
    FAILED = 1
    CANCELED = 2
    READY = 3


PIVOT, _ASYNC = 2, 1
_WORDS: Final = {
    JobKind.PULL: "pull",
    JobKind.COPY: "copy",
    JobKind.COMMIT: "commit",
    JobKind.ACTIVE_COMMIT: "active-commit",
}


@dataclass(slots=True)
class BlockJob:
    """A job on one disk. ``top`` and ``base`` are numbers of images: those between (with ``top`` for a commit) go."""

    id: str
    disk: str
    kind: int
    top: int = 0
    base: int = 0
    target: dict[str, Any] | None = None
    """Of a copy: the image it becomes."""
    ready: bool = False
    pivoting: bool = False
    canceled: bool = False
    remove_files: bool = False


def jobs_of(domain: ManagedDomain) -> dict[str, BlockJob]:
    """Return a machine's jobs by id."""
    jobs: dict[str, BlockJob] = domain.parts.setdefault("blockjobs", {})
    return jobs


def _keep(domain: ManagedDomain) -> None:
    if domain.record is not None:
        domain.record.details["blockjobs"] = [asdict(job) for job in jobs_of(domain).values()]
        domain.keep_record()


def disk_named(domain: ManagedDomain, path: str) -> Disk:
    """Return the disk a block job is about. Raises LibvirtError."""
    domain.require_active()
    for disk in domain.devices.disk:
        source = disk.source
        if disk.target.dev == path or (source is not None and path and path in {source.file, source.dev}):
            return disk
    raise invalid_argument(f"disk '{path}' not found in domain")


def job_on(domain: ManagedDomain, disk: Disk) -> BlockJob | None:
    """Return the job on a disk."""
    return next((job for job in jobs_of(domain).values() if job.disk == disk.target.dev), None)


def check_free(domain: ManagedDomain, disk: Disk) -> None:
    """Raise LibvirtError where a disk has a job."""
    if job_on(domain, disk) is not None:
        detail = f"disk '{disk.target.dev}' already in active block job"
        raise LibvirtError(ErrorCode.BLOCK_COPY_ACTIVE, ErrorDomain.QEMU, detail)
    if disk.source is None:
        raise invalid_argument(f"disk {disk.target.dev} has no source file to be used for a block job")


async def start_job(domain: ManagedDomain, job: BlockJob, command: str, arguments: dict[str, Any]) -> None:
    """Start a job. Raises LibvirtError."""
    jobs = jobs_of(domain)
    jobs[job.id] = job
    _keep(domain)
    try:
        await domain.monitor(command, {**arguments, "job-id": job.id, "auto-dismiss": False})
    except BaseException:
        jobs.pop(job.id, None)
        _keep(domain)
        raise
    if job.kind in {JobKind.COPY, JobKind.ACTIVE_COMMIT}:
        _show_mirror(domain, job)


def _chain(domain: ManagedDomain, job: BlockJob) -> tuple[Disk | None, list[ChainImage]]:
    disk = next((item for item in domain.devices.disk if item.target.dev == job.disk), None)
    return disk, chain_of(disk) if disk is not None else []


def _target(job: BlockJob, chain: list[ChainImage]) -> ChainImage | None:
    if job.target is not None:
        held = job.target
        kind = held["kind"]
        where = (
            DiskSource(dev=held["path"], index=held["index"])
            if kind == "block"
            else DiskSource(file=held["path"], index=held["index"])
        )
        return ChainImage(kind, where, held["format"])
    return next((image for image in chain if image.index == job.base), None)


def _show_mirror(domain: ManagedDomain, job: BlockJob) -> None:
    disk, chain = _chain(domain, job)
    target = _target(job, chain)
    if disk is None or target is None:
        return
    attributes = [("type", target.kind)]
    if target.source.file is not None:
        attributes.append(("file", target.source.file))
    attributes.extend((("format", target.format), ("job", _WORDS[JobKind(job.kind)])))
    if job.ready:
        attributes.append(("ready", "yes"))
    mirror = Node(
        "mirror",
        tuple(attributes),
        children=(Node("format", (("type", target.format),)), to_node(target.source)),
    )
    _swap(domain, disk, replace(disk, mirror=mirror))


def _swap(domain: ManagedDomain, old: Disk, new: Disk) -> None:
    live = domain.live
    if live is None or live.devices is None:
        return
    disks = tuple(new if item is old else item for item in live.devices.disk)
    domain.live = replace(live, devices=replace(live.devices, disk=disks))


def job_event(domain: ManagedDomain, data: dict[str, Any]) -> None:
    """A job's status changed."""
    job = jobs_of(domain).get(str(data.get("id", "")))
    waiting = domain.parts.get("job-waiters", {}).get(str(data.get("id", "")))
    status = data.get("status")
    if waiting is not None and status in {"concluded", "null"} and not waiting.done():
        waiting.set_result(None)
    if job is None:
        return
    if status == "ready" and not job.ready:
        job.ready = True
        _show_mirror(domain, job)
        _keep(domain)
        domain.notify()
        _publish(domain, job, JobStatus.READY)
    elif status == "concluded":
        domain.registry.spawn(conclude(domain, job), f"the end of {job.id} of {domain.name}")


def _publish(domain: ManagedDomain, job: BlockJob, status: JobStatus) -> None:
    disk, _ = _chain(domain, job)
    source = disk.source if disk is not None else None
    path = (source.file or source.dev or "") if source is not None else ""
    kind = int(job.kind)
    domain.publish(DomainEvent.BLOCK_JOB, path, kind, int(status))
    domain.publish(DomainEvent.BLOCK_JOB_2, job.disk, kind, int(status))


async def conclude(domain: ManagedDomain, job: BlockJob) -> None:
    """A job is over: ask how, change the chain, remove what is not used any more, and say so."""
    jobs = jobs_of(domain)
    if jobs.get(job.id) is not job:
        return
    try:
        answer: list[dict[str, Any]] = await domain.monitor("query-jobs")
        found = next((item for item in answer if item["id"] == job.id), {})
        error = found.get("error")
        await domain.monitor("job-dismiss", {"id": job.id})
        if error is not None:
            _log.info("%s of %s: %s", job.id, domain.name, error)
        status = JobStatus.CANCELED if job.canceled else JobStatus.FAILED if error is not None else JobStatus.COMPLETED
        if jobs.get(job.id) is not job:
            return
        unused = _apply(domain, job, status)
        for image in unused:
            for node in (image.node, image.storage):
                with contextlib.suppress(LibvirtError):
                    await domain.monitor("blockdev-del", {"node-name": node})
            if job.remove_files and image.source.file is not None and status is JobStatus.COMPLETED:
                _remove_file(image.source.file)
        jobs.pop(job.id, None)
        _keep(domain)
        await domain.save_record()
        _publish(domain, job, status)
    except LibvirtError as error:
        jobs.pop(job.id, None)
        _log.info("%s of %s: %s", job.id, domain.name, error)
    finally:
        domain.notify()


def _remove_file(path: str) -> None:
    try:
        os.unlink(path)  # noqa: PTH108 - the path is text of a document
    except OSError as error:
        _log.warning("cannot remove %s: %s", path, error.strerror)


def _place(chain: list[ChainImage], index: int) -> int | None:
    return next((place for place, image in enumerate(chain) if image.index == index), None)


def _apply(domain: ManagedDomain, job: BlockJob, status: JobStatus) -> list[ChainImage]:
    """Change the chain as a job that is over did; return the images nobody uses now."""
    disk, chain = _chain(domain, job)
    if disk is None:
        return []
    plain = replace(disk, mirror=None)
    unused: list[ChainImage] = []
    new = chain
    done = status is JobStatus.COMPLETED
    if job.kind == JobKind.PULL and done:
        base = next((place for place, image in enumerate(chain) if job.base and image.index == job.base), len(chain))
        unused, new = chain[1:base], [chain[0], *chain[base:]]
    elif job.kind == JobKind.COMMIT and done:
        top, last = _place(chain, job.top), _place(chain, job.base)
        if top is not None and last is not None:
            unused, new = chain[top:last], [*chain[:top], *chain[last:]]
    elif job.kind == JobKind.ACTIVE_COMMIT and done and job.pivoting:
        last = _place(chain, job.base)
        if last is not None:
            unused, new = chain[:last], chain[last:]
    elif job.kind == JobKind.COPY:
        target = _target(job, chain)
        if target is not None and done and job.pivoting:
            kept = [image for image in chain[1:] if job.target is not None and job.target.get("shallow")]
            unused = [image for image in chain if image not in kept]
            new = [target, *kept]
        elif target is not None:
            unused = [target]
    _swap(domain, disk, with_chain(plain, new) if new else plain)
    if new and new[0] != chain[0]:
        _follow(domain, plain, new)
    return unused


def _follow(domain: ManagedDomain, disk: Disk, chain: list[ChainImage]) -> None:
    """Have the definition follow a machine whose disk is another image now."""
    definition = domain.definition
    if definition is None:
        return
    devices = definition.devices or Devices()
    disks = tuple(
        replace(
            item,
            type=chain[0].kind,
            source=replace(chain[0].source, index=None),
            driver=replace(item.driver, type=chain[0].format) if item.driver is not None else disk.driver,
            backing_store=None,
        )
        if item.target.dev == disk.target.dev
        else item
        for item in devices.disk
    )
    domain.definition = replace(definition, devices=replace(devices, disk=disks))
    domain.registry.spawn(domain.save_definition(), f"keeping the definition of {domain.name}")


async def refresh(domain: ManagedDomain) -> None:
    """Take up the jobs of a machine found again. Raises LibvirtError."""
    held = domain.record.details.get("blockjobs", []) if domain.record is not None else []
    if not held:
        return
    jobs = jobs_of(domain)
    jobs.update({item["id"]: BlockJob(**item) for item in held})
    running = {item["id"]: item for item in await domain.monitor("query-jobs")}
    for job in list(jobs.values()):
        found = running.get(job.id)
        if found is None:
            jobs.pop(job.id)
        elif found["status"] == "concluded":
            await conclude(domain, job)
        elif found["status"] == "ready":
            job_event(domain, {"id": job.id, "status": "ready"})
    _keep(domain)


async def info(domain: ManagedDomain, path: str, flags: int) -> tuple[int, int, int, int, int]:
    """Return whether there is a job, its kind, bandwidth (MiB/s, or bytes/s by flags), how far it is, and its end."""
    disk = disk_named(domain, path)
    job = job_on(domain, disk)
    if job is None or not domain.has_command("query-block-jobs"):
        return 0, 0, 0, 0, 0
    found = next((item for item in await domain.monitor("query-block-jobs") if item["device"] == job.id), None)
    if found is None:
        return 0, 0, 0, 0, 0
    speed, done, end = found["speed"], found["offset"], found["len"]
    if not end and not job.ready:
        end, done = 1, 0  # it has not looked yet
    elif job.ready and done == end == 0:
        done = end = 1
    elif done == end and not job.ready and job.kind in {JobKind.COPY, JobKind.ACTIVE_COMMIT}:
        done = end - 1  # clients take the end for leave to pivot
    return 1, int(job.kind), speed if flags & 1 else -(-speed >> 20), done, end


async def abort(domain: ManagedDomain, path: str, flags: int) -> None:
    """End a job: give it up, or (pivot) make its target the disk's image. Raises LibvirtError."""
    disk = disk_named(domain, path)
    job = job_on(domain, disk)
    if job is None:
        raise invalid_argument(f"disk {disk.target.dev} does not have an active block job")
    if flags & PIVOT:
        if job.kind not in {JobKind.COPY, JobKind.ACTIVE_COMMIT}:
            detail = f"job type of disk '{disk.target.dev}' does not support pivot"
            raise LibvirtError(ErrorCode.OPERATION_INVALID, ErrorDomain.QEMU, detail)
        if not job.ready:
            detail = f"disk '{disk.target.dev}' not ready for pivot yet"
            raise LibvirtError(ErrorCode.BLOCK_COPY_ACTIVE, ErrorDomain.QEMU, detail)
        job.pivoting = True
        try:
            await domain.monitor("job-complete", {"id": job.id})
        except BaseException:
            job.pivoting = False
            raise
    else:
        job.canceled = True
        await domain.monitor("block-job-cancel", {"device": job.id, "force": not job.ready})
    if not flags & _ASYNC:
        await wait(domain, job)


async def wait(domain: ManagedDomain, job: BlockJob, *, until_ready: bool = False) -> None:
    """Wait until a job is over, or (``until_ready``) its target has everything."""
    while jobs_of(domain).get(job.id) is job and domain.active and not (until_ready and job.ready):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await domain.changed.wait()


async def set_speed(domain: ManagedDomain, path: str, bandwidth: int, flags: int) -> None:
    """Limit a job: MiB (or bytes, as flags say) in a second. Raises LibvirtError."""
    disk = disk_named(domain, path)
    job = job_on(domain, disk)
    if job is None:
        raise invalid_argument(f"disk {disk.target.dev} does not have an active block job")
    await domain.monitor(
        "block-job-set-speed", {"device": job.id, "speed": speed_bytes(bandwidth, bytes_flag=flags & 1)}
    )


def speed_bytes(bandwidth: int, *, bytes_flag: int) -> int:
    """Return a limit in bytes in a second. Raises LibvirtError where that is too much."""
    speed = bandwidth if bytes_flag else bandwidth << 20
    if speed >= 1 << 63:
        raise LibvirtError(ErrorCode.OVERFLOW, ErrorDomain.QEMU, f"bandwidth must be less than {(1 << 63) >> 20}")
    return speed


def image_in_chain(disk: Disk, wanted: str) -> ChainImage:
    """Return an image of a disk. Raises LibvirtError."""
    chain = chain_of(disk)
    place = find_in_chain(chain, disk.target.dev, wanted)
    if place is None:
        top = chain[0].path if chain else ""
        raise invalid_argument(f"could not find image '{wanted}' in chain for '{top}'", ErrorDomain.STORAGE)
    return chain[place]
