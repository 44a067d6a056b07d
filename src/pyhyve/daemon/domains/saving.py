"""Saving machines to files and bringing them back; managed saves; memory dumps.

The machine writes its state itself (a migration to a file it is handed), so that none of it passes through the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains import lifecycle
from pyhyve.daemon.domains.definition.parse import parse_live_domain
from pyhyve.daemon.domains.definition.stable import check_same_guest
from pyhyve.daemon.domains.definition.view import format_domain, migratable_view
from pyhyve.daemon.domains.faults import failed, internal, invalid, invalid_argument, not_supported, system_error
from pyhyve.daemon.domains.saveimage import finish, read_header, rewrite_document, write_header
from pyhyve.daemon.domains.states import (
    DomainState,
    LifecycleEvent,
    PausedReason,
    RunningReason,
    ShutoffReason,
    StartedDetail,
    StoppedDetail,
    SuspendedDetail,
)
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.events import DomainEvent
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.rpc.values import ParamType, TypedParam

if TYPE_CHECKING:
    from pyhyve.daemon.connection import Connection
    from pyhyve.daemon.domains.domain import AsyncJob, ManagedDomain
    from pyhyve.daemon.domains.registry import DomainRegistry
    from pyhyve.daemon.domains.saveimage import SaveHeader

__all__ = [
    "define_image_document",
    "dump",
    "has_managed_save",
    "image_document",
    "managed_path",
    "managed_save",
    "remove_managed",
    "rename_managed",
    "restore",
    "save",
    "start_managed",
]

_RUNNING, _PAUSED, _BYPASS_CACHE = 2, 4, 1
_OPERATION_SAVE, _OPERATION_DUMP = 2, 8
_POLL_S: Final = 0.02
_FORMATS: Final = ("elf", "kdump-zlib", "kdump-lzo", "kdump-snappy", "win-dmp")
_CRASH, _LIVE, _BYPASS, _RESET, _MEMORY_ONLY = 1, 2, 4, 8, 16


def managed_path(domain: ManagedDomain) -> Path:
    """Return the file of a domain's managed save."""
    return domain.registry.state_directory / "save" / f"{domain.name.replace('/', '_')}.save"


def has_managed_save(domain: ManagedDomain) -> bool:
    """Whether a domain has one."""
    known = domain.registry.managed_saves
    if known is None:
        directory = domain.registry.state_directory / "save"
        known = domain.registry.managed_saves = {path.stem for path in directory.glob("*.save")}
    return bool(known) and domain.name in known


async def remove_managed(domain: ManagedDomain) -> None:
    """Remove a domain's managed save. Raises LibvirtError."""
    path = managed_path(domain)
    try:
        await asyncio.to_thread(path.unlink)
    except OSError as error:
        raise system_error(f"Failed to remove managed save file '{path}'", error) from error
    finally:
        domain.registry.managed_saves = None


async def rename_managed(domain: ManagedDomain, name: str) -> None:
    """Have a managed save follow its domain's name."""
    if has_managed_save(domain):
        path = managed_path(domain)
        await asyncio.to_thread(path.rename, path.with_name(f"{name}.save"))
        domain.registry.managed_saves = None


def _wanted_state(flags: int, *, running: bool) -> bool:
    if flags & _RUNNING and flags & _PAUSED:
        message = "VIR_DOMAIN_SAVE_RUNNING and VIR_DOMAIN_SAVE_PAUSED are mutually exclusive"
        raise invalid_argument(message, ErrorDomain.DOMAIN)
    return True if flags & _RUNNING else False if flags & _PAUSED else running


async def managed_save(domain: ManagedDomain, flags: int) -> None:
    """Save a machine where it is started from the next time. Raises LibvirtError."""
    domain.require_active(ErrorDomain.DOMAIN)
    if not domain.persistent:
        raise invalid("cannot do managed save for transient domain")
    path = managed_path(domain)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    await save(domain, str(path), None, flags)
    domain.registry.managed_saves = None


async def save(domain: ManagedDomain, target: str, document: str | None, flags: int) -> None:
    """Save a machine to a file and end it. Raises LibvirtError; then the machine goes on."""
    domain.require_active(ErrorDomain.DOMAIN)
    async with domain.long_job(_OPERATION_SAVE, "save") as job:
        domain.require_active()
        running = domain.state is DomainState.RUNNING
        if document is not None:
            definition = await domain.registry.complete(document)
            check_same_guest(migratable_view(domain.current), definition)
            text = format_domain(definition, secure=True)
        else:
            text = format_domain(migratable_view(domain.current), secure=True)
        resumes = _wanted_state(flags, running=running)
        path = Path(target)
        await lifecycle.suspend(domain, PausedReason.SAVE, SuspendedDetail.PAUSED)
        try:
            await _write_state(domain, job, path, text, running=resumes)
        except BaseException:
            await asyncio.shield(_go_on(domain, running=running))
            raise
        _announce_completion(domain, job)
        await lifecycle.end(domain, ShutoffReason.SAVED, StoppedDetail.SAVED)


async def _go_on(domain: ManagedDomain, *, running: bool) -> None:
    """Let a machine that could not be saved go on."""
    if running and domain.active and domain.state is DomainState.PAUSED:
        with contextlib.suppress(LibvirtError):
            await lifecycle.let_run(domain, RunningReason.SAVE_CANCELED)


def _announce_completion(domain: ManagedDomain, job: AsyncJob) -> None:
    params = [
        TypedParam("operation", ParamType.INT, job.operation),
        TypedParam("time_elapsed", ParamType.ULLONG, job.elapsed_ms),
    ]
    params.extend(TypedParam(name, ParamType.ULLONG, value) for name, value in job.progress.items())
    params.append(TypedParam("success", ParamType.BOOLEAN, True))  # noqa: FBT003 - the value of the parameter
    domain.publish(DomainEvent.JOB_COMPLETED, params)


async def _write_state(domain: ManagedDomain, job: AsyncJob, path: Path, document: str, *, running: bool) -> None:
    if not domain.has_command("migrate"):
        raise not_supported("this emulator cannot save machines")
    try:
        file = await asyncio.to_thread(path.open, "wb")
    except OSError as error:
        raise system_error(f"Failed to create file '{path}'", error) from error
    try:
        with file:
            os.fchmod(file.fileno(), 0o600)
            write_header(file, document, running=running)
            await migrate_to(domain, job, file.fileno())
            size = os.fstat(file.fileno()).st_size
        job.progress["disk_bytes"] = size
        await asyncio.to_thread(finish, path)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise system_error(f"cannot write '{path}'", error) from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise


async def migrate_to(domain: ManagedDomain, job: AsyncJob, descriptor: int) -> None:
    """Have a machine write its state to a file it is handed, from where the file stands. Raises LibvirtError."""
    await domain.monitor("getfd", {"fdname": "migrate"}, fds=(descriptor,))
    if domain.has_command("migrate-set-parameters"):
        await domain.monitor("migrate-set-parameters", {"max-bandwidth": (1 << 63) - 1})
    await domain.monitor("migrate", {"uri": "fd:migrate"})
    job.migrating = True
    try:
        await _watch_migration(domain, job)
    finally:
        job.migrating = False


async def _watch_migration(domain: ManagedDomain, job: AsyncJob) -> None:
    pause = _POLL_S
    while True:
        answer: dict[str, Any] = await domain.monitor("query-migrate")
        status = answer.get("status")
        memory = answer.get("ram")
        if memory:
            job.progress.update(
                {
                    "data_total": memory["total"],
                    "data_processed": memory["transferred"],
                    "data_remaining": memory["remaining"],
                    "memory_total": memory["total"],
                    "memory_processed": memory["transferred"],
                    "memory_remaining": memory["remaining"],
                }
            )
        if status == "completed":
            return
        if status == "failed":
            raise failed(f"job 'save' unexpectedly failed: {answer.get('error-desc', 'the machine does not say why')}")
        if status in {"cancelled", "cancelling"} or job.aborted.is_set():
            if status != "cancelled":
                await asyncio.sleep(_POLL_S)
                continue
            raise LibvirtError(ErrorCode.OPERATION_ABORTED, ErrorDomain.QEMU, "job 'save' canceled by client")
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, 0.25)


async def migrate_from(domain: ManagedDomain, descriptor: int) -> None:
    """Have a machine that waits for its state read it from a file. Raises LibvirtError."""
    await domain.monitor("getfd", {"fdname": "migrate"}, fds=(descriptor,))
    await domain.monitor("migrate-incoming", {"uri": "fd:migrate"})
    pause = _POLL_S
    while True:
        answer = await domain.monitor("query-migrate")
        status = answer.get("status")
        if status == "completed":
            return
        if status == "failed":
            raise failed(f"cannot restore: {answer.get('error-desc', 'the machine does not say why')}")
        state = (await domain.monitor("query-status"))["status"]
        if status is None and state not in {"inmigrate", "prelaunch"}:
            return
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, 0.25)


async def restore(registry: DomainRegistry, source: str, document: str | None, flags: int) -> ManagedDomain:
    """Start a machine from the file it was saved to. Raises LibvirtError."""
    path = Path(source)
    header = await registry.daemon.run_blocking(read_header, path)
    definition = await registry.complete(document or header.document)
    if document is not None:
        check_same_guest(parse_live_domain(header.document), definition)
    domain = registry.check_unique(definition, inactive_only=True)
    if domain is None:
        domain = registry.add(definition)
    running = _wanted_state(flags, running=header.running)
    async with domain.job("restore"):
        await _start_from(domain, path, header, definition, running=running)
    return domain


async def _start_from(
    domain: ManagedDomain,
    path: Path,
    header: SaveHeader,
    definition: Any,
    *,
    running: bool,
    owner: Connection | None = None,
) -> None:
    if header.compression:
        raise not_supported("compressed save images are not supported")
    await lifecycle.start(
        domain,
        incoming="defer",
        definition=definition,
        owner=owner,
        running_reason=RunningReason.RESTORED,
        announce=None,
    )
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.lseek(descriptor, header.offset, os.SEEK_SET)
            await migrate_from(domain, descriptor)
        finally:
            os.close(descriptor)
        await lifecycle.began(domain)
        domain.set_state(DomainState.PAUSED, PausedReason.MIGRATION)
        domain.lifecycle(LifecycleEvent.STARTED, StartedDetail.RESTORED)
        if running:
            await lifecycle.let_run(domain, RunningReason.RESTORED, 2)
        else:
            domain.lifecycle(LifecycleEvent.SUSPENDED, SuspendedDetail.RESTORED)
    except BaseException as error:
        if domain.active:
            with contextlib.suppress(LibvirtError):
                await lifecycle.end(domain, ShutoffReason.FAILED, StoppedDetail.FAILED)
        if isinstance(error, OSError):
            raise system_error(f"Failed to open file '{path}'", error) from error
        raise


async def start_managed(domain: ManagedDomain, *, paused: bool = False, owner: Connection | None = None) -> None:
    """Start a domain from its managed save, and remove that. Raises LibvirtError."""
    path = managed_path(domain)
    header = await domain.registry.daemon.run_blocking(read_header, path)
    definition = await domain.registry.complete(header.document)
    await _start_from(domain, path, header, definition, running=header.running and not paused, owner=owner)
    await remove_managed(domain)


async def image_document(registry: DomainRegistry, path: str, *, secure: bool) -> str:
    """Return the document of a saved machine. Raises LibvirtError."""
    header = await registry.daemon.run_blocking(read_header, Path(path))
    return format_domain(parse_live_domain(header.document), secure=secure)


async def define_image_document(registry: DomainRegistry, path: str, document: str, flags: int) -> None:
    """Replace the document of a saved machine. Raises LibvirtError."""
    header = await registry.daemon.run_blocking(read_header, Path(path))
    definition = await registry.complete(document)
    check_same_guest(parse_live_domain(header.document), definition)
    running = _wanted_state(flags, running=header.running)
    text = format_domain(definition, secure=True)
    await registry.daemon.run_blocking(lambda: rewrite_document(Path(path), text, running=running))


async def dump(domain: ManagedDomain, target: str, form: int, flags: int) -> None:
    """Write a machine's memory to a file for a debugger. Raises LibvirtError."""
    domain.require_active(ErrorDomain.DOMAIN)
    if not 0 <= form < len(_FORMATS):
        raise invalid_argument(f"dumpformat '{form}' is out of range", ErrorDomain.DOMAIN)
    async with domain.long_job(_OPERATION_DUMP, "dump") as job:
        domain.require_active()
        running = domain.state is DomainState.RUNNING
        if not flags & _LIVE:
            await lifecycle.suspend(domain, PausedReason.DUMP, None)
        try:
            await _dump_memory(domain, job, target, _FORMATS[form], memory_only=bool(flags & _MEMORY_ONLY))
        finally:
            if running and not flags & _CRASH and domain.active and domain.state is DomainState.PAUSED:
                await lifecycle.let_run(domain, RunningReason.UNPAUSED)
        if flags & _RESET:
            await domain.monitor("system_reset")
        if flags & _CRASH:
            await lifecycle.end(domain, ShutoffReason.CRASHED, StoppedDetail.CRASHED)


async def _dump_memory(domain: ManagedDomain, job: AsyncJob, target: str, form: str, *, memory_only: bool) -> None:
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise system_error(f"Failed to create file '{target}'", error) from error
    try:
        if memory_only or not domain.has_command("migrate"):
            await domain.monitor("getfd", {"fdname": "dump"}, fds=(descriptor,))
            arguments: dict[str, Any] = {"paging": False, "protocol": "fd:dump"}
            if form != "elf":
                arguments["format"] = form
            await domain.monitor("dump-guest-memory", arguments, timeout_s=3600)
        else:
            await migrate_to(domain, job, descriptor)
            await asyncio.to_thread(os.fsync, descriptor)
    except LibvirtError:
        Path(target).unlink(missing_ok=True)
        raise
    except OSError as error:
        raise internal(f"cannot write '{target}': {error.strerror}") from error
    finally:
        os.close(descriptor)
