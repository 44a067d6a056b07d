"""Backups of a running domain's disks, of all or of what changed: into images beside them, or for clients to pull.

Source: libvirt's documentation, "Backup XML format".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains import backup_server, checkpoints
from pyhyve.daemon.domains.backup_server import parse_server
from pyhyve.daemon.domains.blockops import add_image, create_overlay, remove_image
from pyhyve.daemon.domains.definition.chains import ChainImage, chain_of
from pyhyve.daemon.domains.definition.parse import parse_root, validate_document
from pyhyve.daemon.domains.domain import AsyncJob
from pyhyve.daemon.domains.faults import failed, invalid_argument, not_supported, unsupported
from pyhyve.daemon.domains.hotplug_live import next_node
from pyhyve.daemon.domains.images import image_sizes
from pyhyve.daemon.domains.jobs import BACKUP
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.events import DomainEvent
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.rpc.values import ParamType, TypedParam
from pyhyve.xml.disk import DiskSource
from pyhyve.xml.document import Node, format_node

if TYPE_CHECKING:
    from pyhyve.daemon.domains.backup_server import BackupServer
    from pyhyve.daemon.domains.checkpoints import Checkpoint
    from pyhyve.daemon.domains.domain import ManagedDomain
    from pyhyve.xml.disk import Disk

__all__ = ["Backup", "begin", "document"]

_log = logging.getLogger(__name__)
_REUSE: Final = 1
"""VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL."""
_POLL_S: Final = 0.1
_CANCEL_POLL_S: Final = 0.02
_RECOVER_TRIES: Final = 100
_KEY: Final = "backup"


@dataclass(slots=True)
class _Target:
    """What becomes of one disk."""

    disk: Disk
    path: str
    format: str
    kind: str = "file"
    since: str | None = None
    """The checkpoint from which on changes count; None: everything."""
    image: ChainImage | None = None
    created: bool = False
    bitmap: str = ""
    """Name of the bitmap that says what changed."""
    export: str | None = None
    """What clients call it who pull it."""

    @property
    def job(self) -> str:
        """Name of the machine's job."""
        return f"backup-{self.disk.target.dev}-{chain_of(self.disk)[0].node}"


@dataclass(slots=True)
class Backup:
    """A backup under way."""

    targets: list[_Target]
    skipped: list[str]
    incremental: str | None
    server: BackupServer | None = None
    """Where clients pull it from; None for one that is pushed."""
    job: AsyncJob | None = None


def document(domain: ManagedDomain) -> str:
    """Return the document of the backup under way. Raises LibvirtError where there is none."""
    backup = domain.parts.get(_KEY)
    if not isinstance(backup, Backup):
        raise LibvirtError(ErrorCode.NO_DOMAIN_BACKUP, ErrorDomain.QEMU, "no domain backup job present")
    children = [Node("incremental", text=backup.incremental)] if backup.incremental is not None else []
    disks = []
    for target in backup.targets:
        role = "target" if backup.server is None else "scratch"
        where = Node(role, (("dev" if target.kind == "block" else "file", target.path),))
        mode = [("name", target.disk.target.dev), ("backup", "yes")]
        mode += [("state", "running")] if backup.server is None else []
        mode.append(("type", target.kind))
        mode.append(("backupmode", "incremental" if target.since is not None else "full"))
        if target.since is not None:
            mode.append(("incremental", target.since))
        if target.export is not None:
            mode.append(("exportname", target.export))
            mode += [("exportbitmap", target.bitmap)] if target.since is not None else []
        index = target.image.index if target.image is not None else 0
        mode.append(("index", str(index)))
        disks.append(Node("disk", tuple(mode), children=(Node("driver", (("type", target.format),)), where)))
    disks.extend(Node("disk", (("name", name), ("backup", "no"))) for name in backup.skipped)
    if backup.server is not None:
        children.append(backup.server.node())
    children.append(Node("disks", children=tuple(disks)))
    mode_name = "push" if backup.server is None else "pull"
    return format_node(Node("domainbackup", (("mode", mode_name),), children=tuple(children)))


def _parse(domain: ManagedDomain, text: str, suffix: str) -> Backup:
    """Return what a document asks for; files it does not name end in ``suffix``. Raises LibvirtError. Blocks."""
    root = parse_root(text, "domainbackup", "domain_backup")
    validate_document(text, "domainbackup.rng")
    held = {child.name: child for child in root.children}
    pulled = dict(root.attributes).get("mode", "push") == "pull"
    server = parse_server(held.get("server")) if pulled else None
    since = held["incremental"].text.strip() if "incremental" in held else None
    asked = {
        dict(node.attributes).get("name", ""): node for node in (held["disks"].children if "disks" in held else ())
    }
    known = {disk.target.dev for disk in domain.devices.disk}
    for name in asked:
        if name not in known:
            raise unsupported(f"no disk named '{name}'")
    targets, skipped = [], []
    for disk in domain.devices.disk:
        node = asked.get(disk.target.dev)
        wanted = _wanted(disk, node, some="disks" in held)
        if not wanted:
            skipped.append(disk.target.dev)
            continue
        targets.append(_target(disk, node, since, suffix, pulled=pulled))
    if not targets:
        raise invalid_argument("at least one disk must be selected for backup", ErrorDomain.NONE)
    return Backup(targets, skipped, since, server)


def _wanted(disk: Disk, node: Node | None, *, some: bool) -> bool:
    if node is not None:
        return dict(node.attributes).get("backup", "yes") == "yes"
    return not some and disk.source is not None and not disk.readonly


def _target(disk: Disk, node: Node | None, since: str | None, suffix: str, *, pulled: bool) -> _Target:
    chain = chain_of(disk)
    if not chain:
        raise unsupported(f"disk '{disk.target.dev}' has no media")
    attributes = dict(node.attributes) if node is not None else {}
    kind, form, path = attributes.get("type", "file"), "qcow2", ""
    for child in node.children if node is not None else ():
        inner = dict(child.attributes)
        if child.name == ("scratch" if pulled else "target"):
            path = inner.get("file") or inner.get("dev") or ""
        elif child.name == "driver":
            form = inner.get("type", form)
    since = None if attributes.get("backupmode") == "full" else attributes.get("incremental", since)
    if not path:
        if chain[0].kind != "file":
            raise unsupported(f"refusing to generate file name for disk '{disk.target.dev}'")
        path = f"{chain[0].path}.{suffix}"
    if pulled and form != "qcow2":
        raise unsupported(f"pull mode backup scratch of disk '{disk.target.dev}' must be in qcow2 format")
    bitmap = (attributes.get("exportbitmap") if pulled else None) or f"backup-{disk.target.dev}"
    export = (attributes.get("exportname") or disk.target.dev) if pulled else None
    return _Target(disk, path, form, kind, since, bitmap=bitmap, export=export)


async def begin(domain: ManagedDomain, text: str, checkpoint_text: str | None, flags: int) -> None:
    """Begin a backup, and (if asked) a checkpoint at the same moment. Raises LibvirtError; nothing is left then."""
    if not domain.active:
        raise not_supported("cannot perform disk backup for inactive domain")
    async with domain.job("backup"):
        domain.require_active()
        domain.check_no_async_job()
        job = domain.async_job = AsyncJob(BACKUP)
        try:
            run_blocking = domain.registry.daemon.run_blocking
            item = await checkpoints.prepare(domain, checkpoint_text) if checkpoint_text is not None else None
            backup = await run_blocking(_parse, domain, text, str(int(time.time())) if item is None else item.name)
            backup.job = job
            for target in backup.targets:
                _check_since(domain, target)
            await _start(domain, backup, item, reuse=bool(flags & _REUSE))
        except BaseException:
            domain.async_job = None
            job.over.set()
            raise
        domain.parts[_KEY] = backup
        domain.registry.spawn(_watch(domain, backup), f"the backup of {domain.name}")


async def _remember(domain: ManagedDomain, backup: Backup | None) -> None:
    """Note in the machine's record what has to be cleared up, for a daemon that finds it. Raises LibvirtError."""
    if domain.record is None:
        return
    domain.record.details.pop(_KEY, None)
    if backup is not None:
        domain.record.details[_KEY] = [
            {
                "job": target.job,
                "device": chain_of(target.disk)[0].node,
                "bitmap": target.bitmap if target.since is not None else None,
                "nodes": [target.image.node, target.image.storage] if target.image is not None else [],
                "created": target.path if target.created else None,
                "export": target.export,
            }
            for target in backup.targets
        ]
    try:
        await domain.save_record()
    except OSError as error:
        raise failed(f"cannot note the backup of '{domain.name}': {error.strerror}") from error


async def recover(domain: ManagedDomain, held: list[dict[str, Any]]) -> None:
    """Clear up a backup that was under way when the daemon ended: nobody would say what became of it."""
    if any(item.get("export") is not None for item in held):
        with contextlib.suppress(LibvirtError):
            await backup_server.stop(domain)
    for item in held:
        with contextlib.suppress(LibvirtError):
            await domain.monitor("job-cancel", {"id": item["job"]})
        for _ in range(_RECOVER_TRIES):
            found = [each for each in await domain.monitor("query-jobs") if each["id"] == item["job"]]
            if not found or found[0]["status"] == "concluded":
                break
            await asyncio.sleep(_POLL_S)
        commands: list[tuple[str, dict[str, Any]]] = [("job-dismiss", {"id": item["job"]})]
        if item["bitmap"] is not None:
            commands.append(("block-dirty-bitmap-remove", {"node": item["device"], "name": item["bitmap"]}))
        commands.extend(("blockdev-del", {"node-name": node}) for node in item["nodes"])
        for command, arguments in commands:
            with contextlib.suppress(LibvirtError):
                await domain.monitor(command, arguments)
        if item["created"] is not None:
            await asyncio.to_thread(Path(item["created"]).unlink, missing_ok=True)
    await _remember(domain, None)


def _check_since(domain: ManagedDomain, target: _Target) -> None:
    if target.since is None:
        return
    item = checkpoints.tree_of(domain).items.get(target.since)
    if item is None or dict(item.disks).get(target.disk.target.dev) is None:
        name = target.disk.target.dev
        detail = f"Checkpoint '{target.since}' for incremental backup of disk '{name}' not found"
        raise LibvirtError(ErrorCode.NO_DOMAIN_CHECKPOINT, ErrorDomain.QEMU, detail)


async def _start(domain: ManagedDomain, backup: Backup, item: Checkpoint | None, *, reuse: bool) -> None:
    if backup.server is not None:
        await backup_server.start(domain, backup.server)
    try:
        for target in backup.targets:
            await _open_target(domain, target, reuse=reuse)
        actions: list[dict[str, Any]] = []
        for target in backup.targets:
            actions += _bitmap_steps(domain, target)
        if item is not None:
            actions += checkpoints.bitmap_actions(domain, item)
        for target in backup.targets:
            actions.append({"type": "blockdev-backup", "data": _job_arguments(target)})
        await _remember(domain, backup)  # before it begins: whenever the daemon ends, the next one knows
        await domain.monitor("transaction", {"actions": actions})
        try:
            for target in backup.targets:
                if target.export is not None and target.image is not None:
                    bitmap = target.bitmap if target.since is not None else None
                    await backup_server.export(domain, target.image.node, target.export, bitmap)
            if item is not None:
                await checkpoints.keep_made(domain, item)
        except BaseException:
            await asyncio.shield(_cancel(domain, backup))
            raise
    except BaseException:
        await asyncio.shield(_undo(domain, backup))
        raise


async def _undo(domain: ManagedDomain, backup: Backup) -> None:
    if domain.is_left:
        return
    await _close_targets(domain, backup, keep=False)
    with contextlib.suppress(LibvirtError):
        await _remember(domain, None)


async def _open_target(domain: ManagedDomain, target: _Target, *, reuse: bool) -> None:
    chain = chain_of(target.disk)
    name = target.disk.target.dev
    exists = await asyncio.to_thread(Path(target.path).exists)
    if target.kind == "file" and not reuse:
        if exists:
            raise invalid_argument(f"store '{target.path}' for backup of '{name}' exists")
        capacity, _, _ = await asyncio.to_thread(image_sizes, chain[0].path, chain[0].format)
        await asyncio.to_thread(create_overlay, target.path, target.format, capacity, None)
        target.created = True
    elif not exists:
        raise invalid_argument(f"store '{target.path}' for backup of '{name}' doesn't exist")
    index = next_node(domain)
    source = (
        DiskSource(dev=target.path, index=index)
        if target.kind == "block"
        else DiskSource(file=target.path, index=index)
    )
    image = ChainImage(target.kind, source, target.format)
    await add_image(domain, image, backing=None if target.export is None else chain[0].node)
    target.image = image


def _bitmap_steps(domain: ManagedDomain, target: _Target) -> list[dict[str, Any]]:
    """Make a bitmap of what changed since the checkpoint, for as long as the backup takes."""
    if target.since is None:
        return []
    node = chain_of(target.disk)[0].node
    bitmap = dict(checkpoints.find(domain, target.since).disks)[target.disk.target.dev]
    return [
        {
            "type": "block-dirty-bitmap-add",
            "data": {"node": node, "name": target.bitmap, "persistent": False, "disabled": True},
        },
        {"type": "block-dirty-bitmap-merge", "data": {"node": node, "target": target.bitmap, "bitmaps": [bitmap]}},
    ]


def _job_arguments(target: _Target) -> dict[str, Any]:
    assert target.image is not None  # noqa: S101 - it was opened just before
    arguments: dict[str, Any] = {
        "job-id": target.job,
        "device": chain_of(target.disk)[0].node,
        "target": target.image.node,
        "sync": "full" if target.since is None else "incremental",
        "auto-finalize": True,
        "auto-dismiss": False,
    }
    if target.export is not None:
        arguments["sync"] = "none"
    elif target.since is not None:
        arguments |= {"bitmap": target.bitmap, "bitmap-mode": "on-success"}
    return arguments


async def _watch(domain: ManagedDomain, backup: Backup) -> None:
    """Wait until all of it is done, or one part of it failed or was given up, and clear up."""
    trouble: str | None = None
    try:
        trouble = await _wait(domain, backup)
    except LibvirtError as error:
        trouble = str(error)
    finally:
        async with domain.alone():
            domain.parts.pop(_KEY, None)
            await _finish(domain, backup, trouble)


async def _finish(domain: ManagedDomain, backup: Backup, trouble: str | None) -> None:
    if domain.is_left:
        return
    job = backup.job
    try:
        if domain.active:
            await _close_targets(domain, backup, keep=trouble is None)
            await _remember(domain, None)
        elif backup.server is not None:
            await asyncio.to_thread(_unlink_created, backup)
    finally:
        if job is not None and domain.async_job is job:
            domain.async_job = None
            job.over.set()
            done: dict[str, int | str] = {"time_elapsed": job.elapsed_ms, **job.progress}
            if trouble is None:
                _announce(domain, job)
            elif backup.server is not None and domain.active:
                done["errmsg"] = "Operation canceled"  # that is how it ends well, too
            domain.last_job = (job.operation, done) if trouble is None or "errmsg" in done else None
    if trouble is not None and backup.server is None:
        _log.warning("the backup of %s: %s", domain.name, trouble)


def _unlink_created(backup: Backup) -> None:
    for target in backup.targets:
        if target.created:
            Path(target.path).unlink(missing_ok=True)


async def _cancel(domain: ManagedDomain, backup: Backup) -> None:
    """Stop the jobs of a backup that nobody waits for."""
    for target in backup.targets:
        with contextlib.suppress(LibvirtError):
            await domain.monitor("job-cancel", {"id": target.job})
    await _wait(domain, backup)


async def _wait(domain: ManagedDomain, backup: Backup) -> str | None:
    job = backup.job
    waiting = {target.job for target in backup.targets}
    done: dict[str, tuple[int, int]] = {}
    trouble: str | None = None
    cancelled = False
    while waiting:
        found = {item["id"]: item for item in await domain.monitor("query-jobs") if item["id"].startswith("backup-")}
        for name in list(waiting):
            item = found.get(name)
            if item is None:
                waiting.discard(name)
                continue
            done[name] = (int(item.get("current-progress", 0)), int(item.get("total-progress", 0)))
            if item["status"] == "concluded":
                trouble = trouble or item.get("error")
                await domain.monitor("job-dismiss", {"id": name})
                waiting.discard(name)
        if job is not None:
            processed, total = sum(each for each, _ in done.values()), sum(each for _, each in done.values())
            if backup.server is not None:
                job.progress |= {"disk_temp_used": processed, "disk_temp_total": total}
            else:
                job.progress |= {"disk_total": total, "disk_processed": processed, "disk_remaining": total - processed}
            if job.aborted.is_set():
                trouble = trouble or "it was given up"
        if trouble is not None and not cancelled:
            cancelled = True
            for name in waiting:
                with contextlib.suppress(LibvirtError):
                    await domain.monitor("job-cancel", {"id": name})
        if waiting and job is not None and not cancelled:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S):
                    await job.aborted.wait()
        elif waiting:
            await asyncio.sleep(_CANCEL_POLL_S)
    return trouble


def _announce(domain: ManagedDomain, job: AsyncJob) -> None:
    params = [TypedParam("operation", ParamType.INT, job.operation)]
    figures = {"time_elapsed": job.elapsed_ms, **job.progress}
    params.extend(TypedParam(name, ParamType.ULLONG, value) for name, value in figures.items())
    params.append(TypedParam("success", ParamType.BOOLEAN, True))  # noqa: FBT003 - the value of the parameter
    domain.publish(DomainEvent.JOB_COMPLETED, params)


async def _close_targets(domain: ManagedDomain, backup: Backup, *, keep: bool) -> None:
    if backup.server is not None:
        keep = False  # what was pulled is elsewhere
        with contextlib.suppress(LibvirtError):
            await backup_server.stop(domain)
    for target in backup.targets:
        with contextlib.suppress(LibvirtError):
            if target.since is not None:
                node = chain_of(target.disk)[0].node
                await domain.monitor("block-dirty-bitmap-remove", {"node": node, "name": target.bitmap})
        if target.image is not None:
            with contextlib.suppress(LibvirtError):
                await remove_image(domain, target.image)
        if target.created and not keep:
            await asyncio.to_thread(Path(target.path).unlink, missing_ok=True)
