"""What machines say: each event of QMP made a state, a change of the live definition, and an event for clients."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains import blockjobs, hotplug, lifecycle
from pyhyve.daemon.domains.definition.find import device_of_qom_path, disk_of_device, drop_device
from pyhyve.daemon.domains.states import (
    CrashedReason,
    DomainState,
    LifecycleEvent,
    PausedReason,
    RunningReason,
    ShutdownDetail,
    ShutoffReason,
    StartedDetail,
    StoppedDetail,
    SuspendedDetail,
)
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.events import DomainEvent
from pyhyve.rpc.values import ParamType, TypedParam
from pyhyve.xml.devices import Devices
from pyhyve.xml.domain import CurrentMemory
from pyhyve.xml.element import replace

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.daemon.domains.domain import ManagedDomain

__all__ = ["handle", "refresh"]

_log = logging.getLogger(__name__)
_WATCHDOG: Final = {"none": 0, "pause": 1, "reset": 2, "poweroff": 3, "shutdown": 4, "debug": 5, "inject-nmi": 6}
_IO_ACTION: Final = {"ignore": 0, "stop": 1, "report": 2}
_AGENT_CHANNEL: Final = "org.qemu.guest_agent.0"


def handle(domain: ManagedDomain, name: str, data: dict[str, Any], when: float) -> None:
    """Deal with one event."""
    del when
    handler = _HANDLERS.get(name)
    if handler is not None and domain.active:
        handler(domain, data)


def _stop(domain: ManagedDomain, data: dict[str, Any]) -> None:
    del data
    lifecycle.paused(domain)


def _resume(domain: ManagedDomain, data: dict[str, Any]) -> None:
    del data
    lifecycle.resumed(domain)


def _shutdown(domain: ManagedDomain, data: dict[str, Any]) -> None:
    if domain.state is DomainState.SHUTDOWN:
        return
    guest = data.get("guest", True)
    ending = domain.parts.get("ending")
    if ending is not None and ending[0] in {ShutoffReason.MIGRATED, ShutoffReason.SAVED}:
        return  # it goes on elsewhere
    domain.set_state(DomainState.SHUTDOWN, 0)
    domain.lifecycle(LifecycleEvent.SHUTDOWN, ShutdownDetail.GUEST if guest else ShutdownDetail.HOST)
    if "ending" in domain.parts:
        return  # its process is being ended anyway
    domain.registry.spawn(lifecycle.stopped_by_itself(domain), f"the shutdown of {domain.name}")


def _reset(domain: ManagedDomain, data: dict[str, Any]) -> None:
    del data
    domain.publish(DomainEvent.REBOOT)


def _panicked(domain: ManagedDomain, data: dict[str, Any]) -> None:
    del data
    domain.set_state(DomainState.CRASHED, CrashedReason.PANICKED)
    domain.lifecycle(LifecycleEvent.CRASHED, 0)
    domain.registry.spawn(_after_panic(domain), f"the panic of {domain.name}")


async def _after_panic(domain: ManagedDomain) -> None:
    action = domain.live.on_crash if domain.live is not None else "destroy"
    try:
        if action in {"restart", "rename-restart", "coredump-restart"}:
            await domain.monitor("system_reset")
            await lifecycle.let_run(domain, RunningReason.CRASHED)
        elif action != "preserve":
            await lifecycle.end(domain, ShutoffReason.CRASHED, StoppedDetail.CRASHED)
    except LibvirtError as error:
        _log.info("%s: %s", domain.name, error)


def _watchdog(domain: ManagedDomain, data: dict[str, Any]) -> None:
    action = str(data.get("action"))
    domain.publish(DomainEvent.WATCHDOG, _WATCHDOG.get(action, 0))
    if action == "pause":
        domain.parts["suspend"] = (PausedReason.WATCHDOG, SuspendedDetail.WATCHDOG)
        lifecycle.paused(domain)


def _rtc_change(domain: ManagedDomain, data: dict[str, Any]) -> None:
    domain.publish(DomainEvent.RTC_CHANGE, int(data.get("offset", 0)))


def _io_error(domain: ManagedDomain, data: dict[str, Any]) -> None:
    disk = disk_of_device(domain.devices, str(data.get("device", "")), str(data.get("qom-path", "")))
    path = ""
    alias = ""
    if disk is not None:
        source = disk.source
        path = (source.file or source.dev or "") if source is not None else ""
        alias = disk.alias.name if disk.alias is not None else ""
    action = _IO_ACTION.get(str(data.get("action")), 0)
    reason = "enospc" if data.get("nospace") else ""
    domain.publish(DomainEvent.IO_ERROR, path, alias, action)
    domain.publish(DomainEvent.IO_ERROR_REASON, path, alias, action, reason)
    if data.get("action") == "stop":
        errors = domain.parts.setdefault("disk-errors", {})
        if disk is not None:
            errors[disk.target.dev] = 2 if data.get("nospace") else 1
        domain.parts["suspend"] = (PausedReason.IOERROR, SuspendedDetail.IOERROR)
        lifecycle.paused(domain)


def _device_deleted(domain: ManagedDomain, data: dict[str, Any]) -> None:
    alias = data.get("device") or device_of_qom_path(str(data.get("path", "")))
    waiting = domain.parts.get("unplugging", {}).get(alias)
    if waiting is not None and not waiting.done():
        waiting.set_result(True)
    if not alias or domain.live is None:
        return
    devices, device = drop_device(domain.live.devices or Devices(), alias)
    if device is None:
        return
    domain.live = replace(domain.live, devices=devices)
    domain.keep_record()
    domain.publish(DomainEvent.DEVICE_REMOVED, alias)
    domain.registry.spawn(hotplug.after_removal(domain, device), f"cleaning up after {alias} of {domain.name}")


def _unplug_failed(domain: ManagedDomain, data: dict[str, Any]) -> None:
    alias = data.get("device") or device_of_qom_path(str(data.get("path", "")))
    waiting = domain.parts.get("unplugging", {}).get(alias)
    if waiting is not None and not waiting.done():
        waiting.set_result(False)
    domain.publish(DomainEvent.DEVICE_REMOVAL_FAILED, str(alias))


def _balloon_change(domain: ManagedDomain, data: dict[str, Any]) -> None:
    kib = int(data.get("actual", 0)) >> 10
    if domain.live is not None:
        domain.live = replace(domain.live, current_memory=CurrentMemory(unit="KiB", amount=kib))
        domain.keep_record()
    domain.publish(DomainEvent.BALLOON_CHANGE, kib)


def _port_change(domain: ManagedDomain, data: dict[str, Any]) -> None:
    live = domain.live
    if live is None or live.devices is None:
        return
    alias, opened = str(data.get("id", "")), bool(data.get("open"))
    set_channel_state(domain, alias, opened=opened, reason=2)


def set_channel_state(domain: ManagedDomain, alias: str, *, opened: bool, reason: int) -> None:
    """Note whether somebody in the guest has a channel open; ``reason`` is virConnectDomainEventAgentLifecycle's."""
    live = domain.live
    if live is None or live.devices is None:
        return
    channels = list(live.devices.channel)
    for number, channel in enumerate(channels):
        if channel.alias is None or channel.alias.name != alias or channel.target is None:
            continue
        state = "connected" if opened else "disconnected"
        changed = channel.target.state != state
        channels[number] = replace(channel, target=replace(channel.target, state=state))
        domain.live = replace(live, devices=replace(live.devices, channel=tuple(channels)))
        domain.keep_record()
        if channel.target.name == _AGENT_CHANNEL and (changed or reason == 1):
            domain.publish(DomainEvent.AGENT_LIFECYCLE, 1 if opened else 2, reason)
            agent = domain.parts.get("agent")
            if agent is not None and not opened:
                agent.close()
        return


def _tray_moved(domain: ManagedDomain, data: dict[str, Any]) -> None:
    live = domain.live
    disk = disk_of_device(domain.devices, str(data.get("device", "")), str(data.get("id", "")))
    if live is None or live.devices is None or disk is None:
        return
    opened = bool(data.get("tray-open"))
    disks = tuple(
        replace(item, target=replace(item.target, tray="open" if opened else None)) if item is disk else item
        for item in live.devices.disk
    )
    domain.live = replace(live, devices=replace(live.devices, disk=disks))
    domain.keep_record()
    domain.publish(DomainEvent.TRAY_CHANGE, disk.alias.name if disk.alias is not None else "", 0 if opened else 1)


def _pm_suspend(domain: ManagedDomain, data: dict[str, Any]) -> None:
    del data
    domain.set_state(DomainState.PMSUSPENDED, 0)
    domain.lifecycle(LifecycleEvent.PMSUSPENDED, 0)
    domain.publish(DomainEvent.PMSUSPEND, 0)


def _pm_suspend_disk(domain: ManagedDomain, data: dict[str, Any]) -> None:
    del data
    domain.publish(DomainEvent.PMSUSPEND_DISK, 0)


def _pm_wakeup(domain: ManagedDomain, data: dict[str, Any]) -> None:
    del data
    if domain.state is DomainState.PMSUSPENDED:
        domain.set_state(DomainState.RUNNING, RunningReason.WAKEUP)
        domain.lifecycle(LifecycleEvent.STARTED, StartedDetail.WAKEUP)
    domain.publish(DomainEvent.PMWAKEUP, 0)


def _block_job(domain: ManagedDomain, data: dict[str, Any]) -> None:
    blockjobs.job_event(domain, data)


def _threshold(domain: ManagedDomain, data: dict[str, Any]) -> None:
    node = str(data.get("node-name", ""))
    for disk in domain.devices.disk:
        source = disk.source
        if source is None or source.index is None or f"libvirt-{source.index}-" not in node:
            continue
        path = source.file or source.dev
        limit, excess = int(data.get("write-threshold", 0)), int(data.get("amount-exceeded", 0))
        domain.publish(DomainEvent.BLOCK_THRESHOLD, disk.target.dev, path, limit, excess)
        domain.publish(DomainEvent.BLOCK_THRESHOLD, f"{disk.target.dev}[{source.index}]", path, limit, excess)
        return


def _memory_failure(domain: ManagedDomain, data: dict[str, Any]) -> None:
    recipient = {"hypervisor": 0, "guest": 1}.get(str(data.get("recipient")), 0)
    action = {"ignore": 0, "inject": 1, "fatal": 2, "reset": 3}.get(str(data.get("action")), 0)
    flags = data.get("flags") or {}
    bits = (1 if flags.get("action-required") else 0) | (2 if flags.get("recursive") else 0)
    domain.publish(DomainEvent.MEMORY_FAILURE, recipient, action, bits)


def _migration(domain: ManagedDomain, data: dict[str, Any]) -> None:
    waiting = domain.parts.get("migration")
    if waiting is not None:
        waiting(str(data.get("status", "")))


def _migration_pass(domain: ManagedDomain, data: dict[str, Any]) -> None:
    domain.publish(DomainEvent.MIGRATION_ITERATION, int(data.get("pass", 0)))


def tunable(domain: ManagedDomain, name: str, value: int | str, kind: ParamType = ParamType.STRING) -> None:
    """Tell who listens that a limit was changed."""
    domain.publish(DomainEvent.TUNABLE, [TypedParam(name, kind, value)])


async def refresh(domain: ManagedDomain) -> None:
    """Ask a machine found again for what may have changed while nobody listened."""
    live = domain.live
    if live is None or live.devices is None:
        return
    if domain.has_command("query-chardev"):
        opened = {item["label"]: item.get("frontend-open", False) for item in await domain.monitor("query-chardev")}
        for channel in live.devices.channel:
            if channel.alias is not None and channel.target is not None and channel.target.type == "virtio":
                state = opened.get(f"char{channel.alias.name}", False)
                set_channel_state(domain, channel.alias.name, opened=state, reason=2)
    balloon = live.devices.memballoon
    if balloon is not None and balloon.model != "none" and domain.has_command("query-balloon"):
        try:
            kib = int((await domain.monitor("query-balloon"))["actual"]) >> 10
        except LibvirtError as error:
            _log.debug("%s: %s", domain.name, error)
        else:
            if domain.live is not None:
                domain.live = replace(domain.live, current_memory=CurrentMemory(unit="KiB", amount=kib))
    await blockjobs.refresh(domain)


_HANDLERS: Final[dict[str, Callable[[ManagedDomain, dict[str, Any]], None]]] = {
    "STOP": _stop,
    "RESUME": _resume,
    "SHUTDOWN": _shutdown,
    "RESET": _reset,
    "GUEST_PANICKED": _panicked,
    "WATCHDOG": _watchdog,
    "RTC_CHANGE": _rtc_change,
    "BLOCK_IO_ERROR": _io_error,
    "DEVICE_DELETED": _device_deleted,
    "DEVICE_UNPLUG_GUEST_ERROR": _unplug_failed,
    "MEM_UNPLUG_ERROR": _unplug_failed,
    "BALLOON_CHANGE": _balloon_change,
    "VSERPORT_CHANGE": _port_change,
    "DEVICE_TRAY_MOVED": _tray_moved,
    "SUSPEND": _pm_suspend,
    "SUSPEND_DISK": _pm_suspend_disk,
    "WAKEUP": _pm_wakeup,
    "JOB_STATUS_CHANGE": _block_job,
    "BLOCK_WRITE_THRESHOLD": _threshold,
    "MEMORY_FAILURE": _memory_failure,
    "MIGRATION": _migration,
    "MIGRATION_PASS": _migration_pass,
}
