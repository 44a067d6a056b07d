"""Starting, pausing and ending domains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.dispatch import procedure
from pyhyve.daemon.domains import lifecycle, power
from pyhyve.daemon.domains.migration.spec import OPERATION_OUT
from pyhyve.daemon.domains.states import PausedReason, SuspendedDetail
from pyhyve.daemon.procedures.domain_access import domain_of, registry_of

if TYPE_CHECKING:
    from pyhyve.daemon.dispatch import Call
    from pyhyve.rpc.values import Domain

_START_FLAGS: Final = 0x3F


@procedure("DOMAIN_CREATE", "DOMAIN_CREATE_WITH_FLAGS", "DOMAIN_CREATE_WITH_FILES")
async def create(call: Call, args: Any) -> Domain | None:
    """Start a domain."""
    flags = getattr(args, "flags", 0)
    call.check_flags(flags, _START_FLAGS)
    domain = domain_of(call, args.dom)
    async with domain.job("start"):
        await power.create(domain, flags, call.connection)
    return None if call.procedure.name == "DOMAIN_CREATE" else domain.ref


@procedure("DOMAIN_CREATE_XML", "DOMAIN_CREATE_XML_WITH_FILES")
async def create_xml(call: Call, args: Any) -> Domain:
    """Start a domain that is gone when it ends."""
    call.check_flags(args.flags, _START_FLAGS)
    return (await power.create_transient(registry_of(call), args.xml_desc, args.flags, call.connection)).ref


@procedure("DOMAIN_SUSPEND")
async def suspend(call: Call, args: Any) -> None:
    """Pause a domain."""
    domain = domain_of(call, args.dom)
    if domain.async_job is not None and domain.async_job.operation == OPERATION_OUT:
        # so that its state can be sent faster than it changes; it goes on where it gets to
        reason = (PausedReason.MIGRATION, SuspendedDetail.MIGRATED)
        await lifecycle.suspend(domain, *reason)
        domain.parts["suspend"] = reason
        return
    async with domain.job("suspend"):
        await lifecycle.suspend(domain)


@procedure("DOMAIN_RESUME")
async def resume(call: Call, args: Any) -> None:
    """Let a paused domain go on."""
    domain = domain_of(call, args.dom)
    async with domain.job("resume"):
        await lifecycle.resume(domain)


@procedure("DOMAIN_SHUTDOWN", "DOMAIN_SHUTDOWN_FLAGS")
async def shutdown(call: Call, args: Any) -> None:
    """Ask a guest to shut down."""
    flags = getattr(args, "flags", 0)
    call.check_flags(flags, 3)
    domain = domain_of(call, args.dom)
    async with domain.job("shutdown"):
        await power.shutdown(domain, flags)


@procedure("DOMAIN_REBOOT")
async def reboot(call: Call, args: Any) -> None:
    """Ask a guest to reboot."""
    call.check_flags(args.flags, 3)
    domain = domain_of(call, args.dom)
    async with domain.job("reboot"):
        await power.reboot(domain, args.flags)


@procedure("DOMAIN_RESET")
async def reset(call: Call, args: Any) -> None:
    """Press a domain's reset button."""
    call.check_flags(args.flags, 0)
    domain = domain_of(call, args.dom)
    async with domain.job("reset"):
        await lifecycle.reset(domain)


@procedure("DOMAIN_DESTROY", "DOMAIN_DESTROY_FLAGS")
async def destroy(call: Call, args: Any) -> None:
    """Pull a domain's plug."""
    flags = getattr(args, "flags", 0)
    call.check_flags(flags, 3)
    domain = domain_of(call, args.dom)
    await power.destroy(domain, flags)


@procedure("DOMAIN_INJECT_NMI")
async def inject_nmi(call: Call, args: Any) -> None:
    """Interrupt every processor."""
    call.check_flags(args.flags, 0)
    domain = domain_of(call, args.dom)
    async with domain.job("nmi"):
        await domain.monitor("inject-nmi")


@procedure("DOMAIN_SEND_KEY")
async def send_key(call: Call, args: Any) -> None:
    """Press keys."""
    call.check_flags(args.flags, 0)
    domain = domain_of(call, args.dom)
    async with domain.job("send key"):
        await power.send_key(domain, args.codeset, args.holdtime, args.keycodes)


@procedure("DOMAIN_PM_SUSPEND_FOR_DURATION")
async def pm_suspend(call: Call, args: Any) -> None:
    """Have a guest go to sleep."""
    call.check_flags(args.flags, 0)
    domain = domain_of(call, args.dom)
    async with domain.job("pm suspend"):
        await power.pm_suspend(domain, args.target, args.duration)


@procedure("DOMAIN_PM_WAKEUP")
async def pm_wakeup(call: Call, args: Any) -> None:
    """Wake a guest up."""
    call.check_flags(args.flags, 0)
    domain = domain_of(call, args.dom)
    async with domain.job("pm wakeup"):
        await power.pm_wakeup(domain)
