"""What only QEMU's driver has: its machines' monitors and guest agents, directly."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pyhyve.daemon.dispatch import procedure
from pyhyve.daemon.domains import agent
from pyhyve.daemon.domains.monitor_events import MonitorEvents
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.procedures.domain_access import domain_of
from pyhyve.rpc.errors import ErrorDomain

if TYPE_CHECKING:
    from pyhyve.daemon.dispatch import Call


def _events(call: Call) -> MonitorEvents:
    found = call.driver.offers(MonitorEvents)
    if found is None:
        raise LibvirtError.no_support(call.function, ErrorDomain.NONE)
    return found


@procedure("QEMU_CONNECT_DOMAIN_MONITOR_EVENT_REGISTER")
def register(call: Call, args: Any) -> int:
    """Register for what monitors say."""
    call.check_flags(args.flags, 3)
    uuid = None if args.dom is None else domain_of(call, args.dom).uuid
    return _events(call).register(call.connection, uuid, args.event, args.flags)


@procedure("QEMU_CONNECT_DOMAIN_MONITOR_EVENT_DEREGISTER")
def deregister(call: Call, args: Any) -> None:
    """End that."""
    _events(call).deregister(call.connection, args.callback_id)


@procedure("QEMU_DOMAIN_MONITOR_COMMAND_WITH_FILES")
async def monitor_command_with_files(call: Call, args: Any) -> str:
    """Have the machine's monitor run a command that takes open files."""
    call.check_flags(args.flags, 1)
    domain = domain_of(call, args.dom)
    fds = [os.dup(fd) for fd in call.fds]
    try:
        return await agent.monitor_raw(domain, args.cmd, human=bool(args.flags & 1), fds=fds)
    finally:
        for fd in fds:
            os.close(fd)
