"""Switches and keys: starting with its flags, shutting down in its ways, keys, sleep."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains import agent, lifecycle, saving
from pyhyve.daemon.domains.faults import internal, invalid, invalid_argument, not_supported
from pyhyve.daemon.domains.keycodes import to_qnum
from pyhyve.daemon.domains.states import DomainState
from pyhyve.rpc.errors import ErrorDomain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.daemon.connection import Connection
    from pyhyve.daemon.domains.domain import ManagedDomain
    from pyhyve.daemon.domains.registry import DomainRegistry

__all__ = ["create", "create_transient", "destroy", "pm_suspend", "pm_wakeup", "reboot", "send_key", "shutdown"]

_PAUSED, _AUTODESTROY, _FORCE_BOOT, _VALIDATE = 1, 2, 8, 16
_ACPI, _AGENT = 1, 2
_GRACEFUL: Final = 1
_KEYS_MAX: Final = 16
_RESET_NVRAM: Final = 32
"""VIR_DOMAIN_START_RESET_NVRAM: the firmware's variables are made anew."""


async def create(domain: ManagedDomain, flags: int, connection: Connection) -> None:
    """Start a domain, from its managed save if it has one. Raises LibvirtError."""
    if domain.active:
        raise invalid("domain is already running")
    owner = connection if flags & _AUTODESTROY else None
    if owner is not None:
        domain.registry.watch(owner)
    paused = bool(flags & _PAUSED)
    if saving.has_managed_save(domain):
        if not flags & _FORCE_BOOT:
            await saving.start_managed(domain, paused=paused, owner=owner)
            return
        await saving.remove_managed(domain)
    if flags & _RESET_NVRAM and domain.definition is not None:
        variables = domain.registry.hypervisor.nvram_path(domain.definition)
        if variables is not None:
            await asyncio.to_thread(variables.unlink, missing_ok=True)
    await lifecycle.start(domain, paused=paused, owner=owner)


async def create_transient(registry: DomainRegistry, text: str, flags: int, connection: Connection) -> ManagedDomain:
    """Start a domain from its document; it is gone when it ends. Raises LibvirtError."""
    definition = await registry.complete(text, validate=bool(flags & _VALIDATE))
    for permission in ("domain:write", "domain:start"):
        connection.require(permission, definition.name, b"")
    domain = registry.check_unique(definition, inactive_only=True)
    if domain is None:
        domain = registry.add(definition)
    owner = connection if flags & _AUTODESTROY else None
    if owner is not None:
        registry.watch(owner)
    async with domain.job("create"):
        await lifecycle.start(domain, paused=bool(flags & _PAUSED), owner=owner, definition=definition)
    return domain


async def shutdown(domain: ManagedDomain, flags: int) -> None:
    """Ask a guest to shut down, through ACPI or its agent. Raises LibvirtError."""
    domain.require_active(ErrorDomain.QEMU)
    if domain.state not in {DomainState.RUNNING, DomainState.PAUSED, DomainState.BLOCKED}:
        raise invalid("domain is not running")
    domain.parts["reboot"] = False
    if flags & _AGENT and (not flags & _ACPI or agent.is_available(domain)):
        await agent.shutdown(domain, "powerdown")
        return
    await lifecycle.powerdown(domain)


async def reboot(domain: ManagedDomain, flags: int) -> None:
    """Ask a guest to reboot, through ACPI or its agent. Raises LibvirtError."""
    domain.require_active()
    if flags & _AGENT and (not flags & _ACPI or agent.is_available(domain)):
        domain.parts["reboot"] = True
        await agent.shutdown(domain, "reboot")
        return
    await lifecycle.powerdown(domain, reboot=True)


async def destroy(domain: ManagedDomain, flags: int) -> None:
    """Pull the plug: at once, whatever else is under way. Raises LibvirtError."""
    if domain.active and domain.machine is None:  # it is being started: there is nothing to end until it has
        async with domain.job("destroy"):
            await lifecycle.destroy(domain, gracefully=bool(flags & _GRACEFUL))
    else:
        await lifecycle.destroy(domain, gracefully=bool(flags & _GRACEFUL))


async def send_key(domain: ManagedDomain, codeset: int, hold_ms: int, codes: Sequence[int]) -> None:
    """Press keys together, for a time. Raises LibvirtError."""
    domain.require_active()
    if len(codes) > _KEYS_MAX:
        raise invalid_argument(f"too many keycodes ({len(codes)})", ErrorDomain.DOMAIN)
    keys = []
    for code in codes:
        number = to_qnum(codeset, code)
        if number is None:
            raise internal(f"cannot translate keycode {code} of {codeset} codeset to qnum keycode")
        keys.append({"type": "number", "data": number})
    arguments: dict[str, Any] = {"keys": keys}
    if hold_ms:
        arguments["hold-time"] = hold_ms
    await domain.monitor("send-key", arguments)


async def pm_suspend(domain: ManagedDomain, target: int, duration: int) -> None:
    """Have a guest go to sleep: target 0 is memory, 1 disk, 2 both. Raises LibvirtError."""
    domain.require_active()
    if duration:
        raise invalid_argument("Duration not supported. Use 0 for now")
    if not 0 <= target <= 2:
        raise invalid_argument(f"Unknown suspend target: {target}")
    live = domain.live
    pm = live.pm if live is not None else None
    for wanted, state in ((0, pm.suspend_to_mem if pm else None), (1, pm.suspend_to_disk if pm else None)):
        if target == wanted and state is not None and state.enabled == "no":
            what = "suspend-to-mem" if target == 0 else "suspend-to-disk"
            raise not_supported(f"{what} is disabled for this domain")
    command = ("guest-suspend-ram", "guest-suspend-disk", "guest-suspend-hybrid")[target]
    await agent.execute(domain, command, answers=False)


async def pm_wakeup(domain: ManagedDomain) -> None:
    """Wake a guest up. Raises LibvirtError."""
    domain.require_active()
    await domain.monitor("system_wakeup")
