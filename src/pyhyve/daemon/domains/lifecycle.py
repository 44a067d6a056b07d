"""The life of a domain's machine: started, paused, told to shut down, ended.

Who calls what: procedures call the coroutines here under the domain's lock; what machines say arrives at
:mod:`pyhyve.daemon.domains.notices`; :func:`ended` is called once for each machine, when its process is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains import limits, placement
from pyhyve.daemon.domains.agent import CHANNEL as AGENT_CHANNEL
from pyhyve.daemon.domains.definition.processors import at_start, now
from pyhyve.daemon.domains.faults import failed, internal, invalid
from pyhyve.daemon.domains.hypervisor import MachineRecord
from pyhyve.daemon.domains.states import (
    DomainState,
    LifecycleEvent,
    PausedReason,
    ResumedDetail,
    RunningReason,
    ShutoffReason,
    StartedDetail,
    StoppedDetail,
    SuspendedDetail,
)
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.events import DomainEvent, EventKind
from pyhyve.rpc.errors import ErrorDomain
from pyhyve.xml.devices import Devices

if TYPE_CHECKING:
    from pyhyve.daemon.connection import Connection
    from pyhyve.daemon.domains.domain import ManagedDomain

__all__ = [
    "destroy",
    "end",
    "ended",
    "powerdown",
    "reset",
    "resume",
    "start",
    "stopped_by_itself",
    "suspend",
]

_log = logging.getLogger(__name__)
_DISCONNECTED, _DOMAIN_STARTED = 2, 1
"""virConnectDomainEventAgentLifecycleState and its reason."""
STATE_WAIT_S: Final = 10.0
"""How long a machine may take from obeying a command to saying so."""


async def start(
    domain: ManagedDomain,
    *,
    paused: bool = False,
    owner: Connection | None = None,
    incoming: str | None = None,
    running_reason: RunningReason = RunningReason.BOOTED,
    announce: StartedDetail | None = StartedDetail.BOOTED,
    definition: Any = None,
) -> None:
    """Start a domain's machine; with ``incoming``, one that waits for its state. Raises LibvirtError."""
    if domain.active:
        raise invalid("domain is already running", ErrorDomain.QEMU)
    registry = domain.registry
    definition = definition or domain.definition
    if definition is None:
        raise domain.missing()
    number = registry.next_id()
    registry.set_active(domain, number)
    domain.gone.clear()
    domain.parts.clear()
    try:
        live = await registry.hypervisor.prepare(definition, number)
        record = MachineRecord(
            uuid=domain.uuid_text,
            name=domain.name,
            id=number,
            pid=0,
            start_time=0,
            boot_id="",
            emulator="",
            monitor="",
            log="",
            live="",
            state=int(DomainState.PAUSED),
            reason=int(PausedReason.STARTING_UP),
            autodestroy=owner is not None,
            transient=not domain.persistent,
            details={"starting": True},
        )
        domain.record, domain.live, domain.owner = record, live, owner
        record.monitor = str(registry.hypervisor.runtime_directory(f"{number}-{domain.name}") / "monitor.sock")
        await domain.save_record()
        domain.machine, domain.live = await registry.hypervisor.launch(live, record, domain, incoming=incoming)
        domain.state, domain.reason = DomainState.PAUSED, PausedReason.STARTING_UP
        await _set_up(domain)
        if incoming is None:
            await _begin(domain, running_reason, announce, paused=paused)
    except BaseException as error:
        await asyncio.shield(_give_up(domain))
        if isinstance(error, (OSError, TimeoutError)):
            raise internal(f"cannot start '{domain.name}': {error}") from error
        raise


async def _begin(
    domain: ManagedDomain, running_reason: RunningReason, announce: StartedDetail | None, *, paused: bool
) -> None:
    if paused:
        domain.set_state(DomainState.PAUSED, PausedReason.USER)
    else:
        await let_run(domain, running_reason)
    await began(domain)
    if announce is not None:
        domain.lifecycle(LifecycleEvent.STARTED, announce)
    if paused:
        domain.lifecycle(LifecycleEvent.SUSPENDED, SuspendedDetail.PAUSED)


async def began(domain: ManagedDomain) -> None:
    """Note that a machine is fully there: a daemon that finds it now keeps it."""
    if domain.record is not None:
        domain.record.details.pop("starting", None)
        await domain.save_record()


async def let_run(domain: ManagedDomain, reason: RunningReason, detail: int = ResumedDetail.UNPAUSED) -> None:
    """Start the processors, and say so. Raises LibvirtError."""
    domain.parts["resume"] = (reason, detail)
    try:
        await domain.monitor("cont")
        await _wait_state(domain, DomainState.RUNNING)
        if domain.state is not DomainState.RUNNING and domain.active:
            resumed(domain)  # it said nothing
    finally:
        domain.parts.pop("resume", None)


async def _wait_state(domain: ManagedDomain, *states: DomainState) -> None:
    """Wait a moment for the event that follows a command."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            while domain.active and domain.state not in states:
                await domain.changed.wait()


def resumed(domain: ManagedDomain) -> None:
    """The processors run: note it, with the reason of whoever asked."""
    reason, detail = domain.parts.pop("resume", (RunningReason.UNPAUSED, ResumedDetail.UNPAUSED))
    if domain.state is DomainState.RUNNING:
        return
    domain.set_state(DomainState.RUNNING, reason)
    domain.lifecycle(LifecycleEvent.RESUMED, detail)


def paused(domain: ManagedDomain) -> None:
    """The processors stand: note it, with the reason of whoever asked."""
    reason, detail = domain.parts.pop("suspend", (PausedReason.UNKNOWN, SuspendedDetail.PAUSED))
    if domain.state in {DomainState.PAUSED, DomainState.SHUTDOWN, DomainState.CRASHED}:
        return
    domain.set_state(DomainState.PAUSED, reason)
    if detail is not None:
        domain.lifecycle(LifecycleEvent.SUSPENDED, detail)


async def _set_up(domain: ManagedDomain) -> None:
    """Tell a machine that just started what its command line cannot say."""
    live = domain.live
    if live is None:
        return
    if now(live) > at_start(live) and domain.has_command("query-hotpluggable-cpus"):
        present = sum("qom-path" in slot for slot in await placement.vcpu_slots(domain))
        await placement.plug_vcpus(domain, max(now(live) - present, 0))  # ours begins with all of them
    devices = live.devices or Devices()
    for item in devices.graphics:
        if item.passwd and domain.has_command("set_password"):
            arguments = {"protocol": item.type, "password": item.passwd}
            await domain.monitor("set_password", {**arguments, "connected": "keep"})
    balloon = devices.memballoon
    if (
        balloon is not None
        and balloon.model != "none"
        and domain.has_command("balloon")
        and live.current_memory_kib != live.memory_kib
    ):
        try:
            await domain.monitor("balloon", {"value": live.current_memory_kib << 10})
        except LibvirtError as error:
            _log.debug("%s: %s", domain.name, error)
    await placement.apply(domain)
    await limits.apply(domain)
    if any(item.target is not None and item.target.name == AGENT_CHANNEL for item in devices.channel):
        domain.publish(DomainEvent.AGENT_LIFECYCLE, _DISCONNECTED, _DOMAIN_STARTED)


async def _give_up(domain: ManagedDomain) -> None:
    """Undo a start that failed."""
    if domain.is_left:
        return  # the next daemon ends what was half started
    machine, domain.machine = domain.machine, None
    if machine is not None:
        machine.forget()
        await machine.end(gracefully=False)
    await _clear(domain)
    domain.set_state(DomainState.SHUTOFF, ShutoffReason.FAILED)
    if not domain.persistent:
        domain.registry.remove(domain)


async def _clear(domain: ManagedDomain) -> None:
    """Forget a machine: its record, its sockets, its taps."""
    registry = domain.registry
    record, live = domain.record, domain.live
    domain.machine, domain.record, domain.live, domain.owner = None, None, None, None
    for part in list(domain.parts.values()):
        close = getattr(part, "close", None)
        if close is not None:
            close()
    domain.parts.clear()
    registry.set_active(domain, -1)
    if record is not None:
        if live is not None:
            await registry.hypervisor.clean_up(record, live)
        try:
            await registry.records.remove(domain.uuid_text)
        except OSError:
            _log.exception("cannot remove the record of %s", domain.name)


async def ended(domain: ManagedDomain, status: int | None) -> None:
    """A machine's process is gone: say why, and clean up, once nothing else is done to the domain."""
    machine = domain.machine
    async with domain.alone():
        if machine is None or domain.machine is not machine:
            return  # whoever had it ended dealt with it
        _log.info("the machine of %s ended%s", domain.name, "" if status is None else f" with status {status}")
        plan: tuple[ShutoffReason, StoppedDetail] | None = domain.parts.get("ending")
        if plan is None:
            if domain.state is DomainState.SHUTDOWN:
                plan = (ShutoffReason.SHUTDOWN, StoppedDetail.SHUTDOWN)
            elif domain.state is DomainState.CRASHED:
                plan = (ShutoffReason.CRASHED, StoppedDetail.CRASHED)
            else:
                plan = (ShutoffReason.CRASHED, StoppedDetail.FAILED)
        await finish(domain, *plan)


async def finish(domain: ManagedDomain, reason: ShutoffReason, detail: StoppedDetail) -> None:
    """Note that a domain does not run any more."""
    if domain.machine is None and domain.record is None:
        return
    reference = domain.ref
    try:
        await _clear(domain)
        domain.updated = False
        domain.set_state(DomainState.SHUTOFF, reason)
        registry = domain.registry
        registry.daemon.events.publish(
            registry.driver,
            EventKind.DOMAIN,
            DomainEvent.LIFECYCLE,
            reference._replace(id=-1),
            int(LifecycleEvent.STOPPED),
            int(detail),
        )
        if not domain.persistent:
            registry.remove(domain)
    finally:
        domain.gone.set()


async def end(domain: ManagedDomain, reason: ShutoffReason, detail: StoppedDetail, *, gracefully: bool = False) -> None:
    """End a domain's machine for a reason, and wait until it is gone. Raises LibvirtError."""
    machine = domain.require_active()
    domain.parts["ending"] = (reason, detail)
    try:
        gone = await machine.end(gracefully=gracefully)
    finally:
        if domain.machine is not None:
            domain.parts.pop("ending", None)
    if not gone:
        raise failed(f"Failed to terminate process {machine.pid} with SIGTERM: Device or resource busy")
    if domain.machine is machine:
        domain.parts["ending"] = (reason, detail)
        await finish(domain, reason, detail)
    else:  # its end was noticed first, and is being dealt with
        await domain.gone.wait()


async def destroy(domain: ManagedDomain, *, gracefully: bool = False) -> None:
    """End a domain as pulling its plug would."""
    domain.require_active()
    await end(domain, ShutoffReason.DESTROYED, StoppedDetail.DESTROYED, gracefully=gracefully)


async def suspend(
    domain: ManagedDomain,
    reason: PausedReason = PausedReason.USER,
    detail: SuspendedDetail | None = SuspendedDetail.PAUSED,
) -> None:
    """Stop the processors. Raises LibvirtError."""
    domain.require_active()
    if domain.state is DomainState.PMSUSPENDED:
        raise invalid("domain is pmsuspended")
    if domain.state is DomainState.PAUSED:
        return
    domain.parts["suspend"] = (reason, detail)
    try:
        await domain.monitor("stop")
        await _wait_state(domain, DomainState.PAUSED, DomainState.SHUTDOWN)
        if domain.state is DomainState.RUNNING and domain.active:
            paused(domain)
    finally:
        domain.parts.pop("suspend", None)


async def resume(domain: ManagedDomain, reason: RunningReason = RunningReason.UNPAUSED) -> None:
    """Let the processors go on. Raises LibvirtError."""
    domain.require_active()
    if domain.state is DomainState.PMSUSPENDED:
        raise invalid("domain is pmsuspended")
    if domain.state is DomainState.RUNNING:
        raise invalid("domain is already running")
    if domain.state is DomainState.CRASHED:
        raise invalid("domain is crashed")
    await let_run(domain, reason)


async def powerdown(domain: ManagedDomain, *, reboot: bool = False) -> None:
    """Press the power button: a guest with ACPI shuts down; with ``reboot`` the machine is reset when it has."""
    domain.require_active()
    domain.parts["reboot"] = reboot
    await domain.monitor("system_powerdown")


async def reset(domain: ManagedDomain) -> None:
    """Press the reset button."""
    domain.require_active()
    await domain.monitor("system_reset")


async def stopped_by_itself(domain: ManagedDomain) -> None:
    """A guest powered off: end its machine, or start it over, as its definition says."""
    live = domain.live
    if live is None or domain.machine is None:
        return
    restart = bool(domain.parts.pop("reboot", False)) or live.on_poweroff in {"restart", "rename-restart"}
    if live.on_poweroff == "preserve" and not restart:
        domain.set_state(DomainState.PAUSED, PausedReason.SHUTTING_DOWN)
        return
    try:
        if restart:
            await domain.monitor("system_reset")
            domain.set_state(DomainState.PAUSED, PausedReason.SHUTTING_DOWN)
            await let_run(domain, RunningReason.BOOTED)
            return
        await end(domain, ShutoffReason.SHUTDOWN, StoppedDetail.SHUTDOWN)
    except LibvirtError as error:
        _log.info("%s: %s", domain.name, error)
