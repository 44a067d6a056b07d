"""I/O threads, and how fast memory changes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pyhyve.daemon.dispatch import procedure
from pyhyve.daemon.domains import iothreads
from pyhyve.daemon.domains.faults import not_supported
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.procedures.domain_access import domain_of
from pyhyve.rpc.errors import ErrorCode, ErrorDomain

if TYPE_CHECKING:
    from pyhyve.daemon.dispatch import Call
    from pyhyve.rpc.values import IoThreadInfo


@procedure("DOMAIN_GET_IOTHREAD_INFO")
async def get_iothread_info(call: Call, args: Any) -> tuple[list[IoThreadInfo], int]:
    """I/O threads, and where they may run."""
    call.check_flags(args.flags, 3)
    found = await iothreads.listed(domain_of(call, args.dom), args.flags, os.cpu_count() or 1)
    return found, len(found)


@procedure("DOMAIN_ADD_IOTHREAD")
async def add_iothread(call: Call, args: Any) -> None:
    """Add an I/O thread."""
    call.check_flags(args.flags, 3)
    domain = domain_of(call, args.dom)
    async with domain.job("iothread"):
        await iothreads.add(domain, args.iothread_id, args.flags)


@procedure("DOMAIN_DEL_IOTHREAD")
async def del_iothread(call: Call, args: Any) -> None:
    """Remove an I/O thread."""
    call.check_flags(args.flags, 3)
    domain = domain_of(call, args.dom)
    async with domain.job("iothread"):
        await iothreads.remove(domain, args.iothread_id, args.flags)


@procedure("DOMAIN_SET_IOTHREAD_PARAMS")
async def set_iothread_params(call: Call, args: Any) -> None:
    """Change how an I/O thread waits, and how many helpers it has."""
    call.check_flags(args.flags, 3)
    domain = domain_of(call, args.dom)
    async with domain.job("iothread"):
        await iothreads.set_parameters(domain, args.iothread_id, args.params, args.flags)


@procedure("DOMAIN_SET_LAUNCH_SECURITY_STATE")
def set_launch_security_state(call: Call, args: Any) -> None:
    """Refuse to give a guest a secret: none is confidential."""
    call.check_flags(args.flags, 0)
    domain_of(call, args.dom).require_active(ErrorDomain.DOMAIN)
    detail = "setting a launch secret is only supported in SEV-enabled domains"
    raise not_supported(detail)


@procedure("DOMAIN_PIN_IOTHREAD")
async def pin_iothread(call: Call, args: Any) -> None:
    """Have an I/O thread run on some CPUs of the host."""
    call.check_flags(args.flags, 3)
    domain = domain_of(call, args.dom)
    async with domain.job("pin"):
        await iothreads.pin(domain, args.iothreads_id, args.cpumap, args.flags)


@procedure("DOMAIN_START_DIRTY_RATE_CALC")
async def start_dirty_rate_calc(call: Call, args: Any) -> None:
    """Measure how fast a guest changes its memory."""
    call.check_flags(args.flags, 7)
    domain = domain_of(call, args.dom)
    if not 1 <= args.seconds <= 60:
        detail = f"seconds={args.seconds} is invalid, please choose value within [1, 60]."
        raise LibvirtError(ErrorCode.CONFIG_UNSUPPORTED, ErrorDomain.QEMU, detail)
    async with domain.job("dirty rate"):
        modes = {0: "page-sampling", 1: "page-sampling", 2: "dirty-bitmap", 4: "dirty-ring"}
        arguments = {"calc-time": args.seconds, "mode": modes.get(args.flags, "page-sampling")}
        await domain.monitor("calc-dirty-rate", arguments)
