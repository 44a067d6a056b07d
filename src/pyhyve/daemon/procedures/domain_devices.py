"""Devices that come and go, and terminals of machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.dispatch import procedure
from pyhyve.daemon.domains import hotplug, screens, terminals
from pyhyve.daemon.procedures.domain_access import domain_of

if TYPE_CHECKING:
    from pyhyve.daemon.dispatch import Call

_AFFECT: Final = 3
_FORCE: Final = 4


@procedure("DOMAIN_ATTACH_DEVICE", "DOMAIN_ATTACH_DEVICE_FLAGS")
async def attach_device(call: Call, args: Any) -> None:
    """Add a device."""
    flags = getattr(args, "flags", 1)
    call.check_flags(flags, _AFFECT)
    domain = domain_of(call, args.dom)
    if call.procedure.name == "DOMAIN_ATTACH_DEVICE":
        domain.require_active()
    async with domain.job("attach"):
        await hotplug.attach(domain, args.xml, flags)


@procedure("DOMAIN_DETACH_DEVICE", "DOMAIN_DETACH_DEVICE_FLAGS")
async def detach_device(call: Call, args: Any) -> None:
    """Take a device away."""
    flags = getattr(args, "flags", 1)
    call.check_flags(flags, _AFFECT)
    domain = domain_of(call, args.dom)
    async with domain.job("detach"):
        await hotplug.detach(domain, args.xml, flags)


@procedure("DOMAIN_DETACH_DEVICE_ALIAS")
async def detach_device_alias(call: Call, args: Any) -> None:
    """Take the device of an alias away."""
    call.check_flags(args.flags, _AFFECT)
    domain = domain_of(call, args.dom)
    async with domain.job("detach"):
        await hotplug.detach_alias(domain, args.alias, args.flags)


@procedure("DOMAIN_UPDATE_DEVICE_FLAGS")
async def update_device(call: Call, args: Any) -> None:
    """Change a device."""
    call.check_flags(args.flags, _AFFECT | _FORCE)
    domain = domain_of(call, args.dom)
    async with domain.job("update"):
        await hotplug.update(domain, args.xml, args.flags)


@procedure("DOMAIN_OPEN_CONSOLE")
async def open_console(call: Call, args: Any) -> None:
    """Open a console or serial port as a stream."""
    call.check_flags(args.flags, 3)
    call.stream(
        await call.daemon.run_blocking(terminals.console_body, domain_of(call, args.dom), args.dev_name, args.flags)
    )


@procedure("DOMAIN_OPEN_CHANNEL")
async def open_channel(call: Call, args: Any) -> None:
    """Open a channel as a stream."""
    call.check_flags(args.flags, 1)
    call.stream(
        await call.daemon.run_blocking(terminals.channel_body, domain_of(call, args.dom), args.name, args.flags)
    )


@procedure("DOMAIN_SCREENSHOT")
async def screenshot(call: Call, args: Any) -> str:
    """Take a picture of a screen."""
    call.check_flags(args.flags, 0)
    domain = domain_of(call, args.dom)
    async with domain.job("screenshot"):
        kind, body = await screens.screenshot(domain, args.screen)
    call.stream(body)
    return kind


@procedure("DOMAIN_OPEN_GRAPHICS")
async def open_graphics(call: Call, args: Any) -> None:
    """Hand a client's socket to a display."""
    call.check_flags(args.flags, 1)
    domain = domain_of(call, args.dom)
    async with domain.job("open graphics"):
        await screens.open_graphics(domain, args.idx, args.flags, call.fds[0] if call.fds else -1)


@procedure("DOMAIN_OPEN_GRAPHICS_FD")
async def open_graphics_fd(call: Call, args: Any) -> None:
    """Give a client a socket of a display."""
    call.check_flags(args.flags, 1)
    domain = domain_of(call, args.dom)
    async with domain.job("open graphics"):
        call.reply_fds.append(await screens.open_graphics_fd(domain, args.idx, args.flags))
