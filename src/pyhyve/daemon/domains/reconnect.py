"""Finding machines again after the daemon was gone, and starting those that start by themselves."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.domains import backups, interfaces, lifecycle, notices, saving
from pyhyve.daemon.domains.definition.parse import parse_live_domain
from pyhyve.daemon.domains.faults import internal
from pyhyve.daemon.domains.migration import outgoing
from pyhyve.daemon.domains.states import (
    CrashedReason,
    DomainState,
    PausedReason,
    RunningReason,
    ShutoffReason,
    StoppedDetail,
)
from pyhyve.daemon.errors import LibvirtError

if TYPE_CHECKING:
    from pyhyve.daemon.domains.domain import ManagedDomain
    from pyhyve.daemon.domains.hypervisor import MachineRecord
    from pyhyve.daemon.domains.registry import DomainRegistry

__all__ = ["autostart", "reconnect"]

_log = logging.getLogger(__name__)
_PAUSED: Final = {
    "paused": PausedReason.USER,
    "io-error": PausedReason.IOERROR,
    "watchdog": PausedReason.WATCHDOG,
    "postmigrate": PausedReason.SAVE,
    "finish-migrate": PausedReason.SAVE,
    "save-vm": PausedReason.SAVE,
    "debug": PausedReason.UNKNOWN,
    "internal-error": PausedReason.UNKNOWN,
    "prelaunch": PausedReason.STARTING_UP,
    "inmigrate": PausedReason.STARTING_UP,
}


async def reconnect(registry: DomainRegistry, record: MachineRecord) -> None:
    """Take a machine up again, or note how it ended. Never raises: one machine's trouble is not the others'."""
    try:
        await _reconnect(registry, record)
    except Exception:  # noqa: BLE001 - see above
        _log.exception("cannot take up the machine of %s again", record.name)


def _domain_of(registry: DomainRegistry, record: MachineRecord) -> ManagedDomain | None:
    identity = uuid.UUID(record.uuid).bytes
    domain = registry.by_uuid.get(identity)
    if domain is not None:
        return domain
    if not record.live:
        return None
    return registry.add(parse_live_domain(record.live))


async def _reconnect(registry: DomainRegistry, record: MachineRecord) -> None:
    domain = _domain_of(registry, record)
    if domain is None:
        await registry.records.remove(record.uuid)
        return
    domain.live = parse_live_domain(record.live) if record.live else domain.definition
    domain.record = record
    registry.set_active(domain, record.id)
    domain.state, domain.reason = DomainState(record.state), record.reason
    machine = None
    if record.details.get("starting"):
        await asyncio.to_thread(_kill_half_started, record)
    else:
        try:
            machine = await registry.hypervisor.adopt(record, domain)
        except LibvirtError as error:
            _log.error("%s runs as process %d but does not answer: %s", record.name, record.pid, error)
            raise internal(str(error)) from error
    if machine is None:
        _log.warning("the machine of %s ended while nobody watched", record.name)
        reason, detail = ShutoffReason.CRASHED, StoppedDetail.FAILED
        if record.details.get("starting"):
            reason = ShutoffReason.FAILED
        elif domain.state is DomainState.SHUTDOWN:
            reason, detail = ShutoffReason.SHUTDOWN, StoppedDetail.SHUTDOWN
        await lifecycle.finish(domain, reason, detail)
        return
    domain.machine = machine
    if record.autodestroy:
        await lifecycle.end(domain, ShutoffReason.DESTROYED, StoppedDetail.DESTROYED)
        return
    await _catch_up(domain)


async def _catch_up(domain: ManagedDomain) -> None:
    """Note what a machine is doing now."""
    status = (await domain.monitor("query-status"))["status"]
    _log.info("found the machine of %s again: %s", domain.name, status)
    if status == "running":
        if domain.state is not DomainState.RUNNING:
            domain.set_state(DomainState.RUNNING, RunningReason.UNKNOWN)
    elif status == "shutdown":
        domain.set_state(DomainState.SHUTDOWN, 0)
        await lifecycle.stopped_by_itself(domain)
    elif status == "guest-panicked":
        domain.set_state(DomainState.CRASHED, CrashedReason.PANICKED)
    elif status == "suspended":
        domain.set_state(DomainState.PMSUSPENDED, 0)
    elif domain.state is not DomainState.PAUSED or status == "io-error":
        domain.set_state(DomainState.PAUSED, _PAUSED.get(status, PausedReason.UNKNOWN))
    if domain.record is not None and (before := domain.record.details.get(outgoing.MOVING)):
        await outgoing.recover(domain, before)
    if domain.record is not None and (held := domain.record.details.get("backup")):
        await backups.recover(domain, held)
    await interfaces.reapply_limits(domain)
    await notices.refresh(domain)


def _kill_half_started(record: MachineRecord) -> None:
    """End a machine whose start nobody was told about: its record was written before its process was known."""
    needle = os.fsencode(record.monitor)
    if not needle:
        return
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if b"path=" + needle in words:
            _log.warning("ending process %s, a machine of %s that was being started", entry.name, record.name)
            try:
                os.kill(int(entry.name), signal.SIGKILL)
            except ProcessLookupError:
                continue


async def autostart(registry: DomainRegistry) -> None:
    """Start every domain that starts by itself, in the order of their names, once in a boot of the host.

    As many at once as the host has processors: most of a start is one processor's work.
    """
    marker = registry.daemon.paths.runtime / f"autostarted-{registry.driver.type_name.lower()}"
    if marker.exists():
        return
    await asyncio.to_thread(marker.write_text, "", encoding="ascii")
    waiting = iter([domain for domain in registry.ordered() if domain.autostart])

    async def start_some() -> None:
        for domain in waiting:  # each taken by one
            if not domain.active and not domain.removed:
                try:
                    async with domain.job("autostart"):
                        await start_from_wherever(domain)
                except LibvirtError as error:
                    _log.error("cannot start %s: %s", domain.name, error)

    await asyncio.gather(*(start_some() for _ in range(len(os.sched_getaffinity(0)))))


async def start_from_wherever(domain: ManagedDomain) -> None:
    """Start a domain, from its managed save if it has one."""
    if saving.has_managed_save(domain):
        await saving.start_managed(domain)
    else:
        await lifecycle.start(domain)
