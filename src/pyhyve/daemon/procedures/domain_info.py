"""What a domain is doing: state, time, memory, processors in numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.daemon.dispatch import procedure
from pyhyve.daemon.domains import information
from pyhyve.daemon.procedures.domain_access import domain_of

if TYPE_CHECKING:
    from pyhyve.daemon.dispatch import Call


@procedure("DOMAIN_GET_INFO")
def get_info(call: Call, args: Any) -> tuple[int, int, int, int, int]:
    """State, memory in KiB, number of processors, and nanoseconds they ran."""
    return information.info(domain_of(call, args.dom))


@procedure("DOMAIN_GET_STATE")
def get_state(call: Call, args: Any) -> tuple[int, int]:
    """State and why."""
    call.check_flags(args.flags, 0)
    domain = domain_of(call, args.dom)
    return int(domain.state), int(domain.reason)


@procedure("DOMAIN_GET_OS_TYPE")
def get_os_type(call: Call, args: Any) -> str:
    """How it boots."""
    return domain_of(call, args.dom).current.os.type.type


@procedure("DOMAIN_GET_MAX_MEMORY")
def get_max_memory(call: Call, args: Any) -> int:
    """Memory at most, in KiB."""
    return domain_of(call, args.dom).current.memory_kib


@procedure("DOMAIN_GET_SECURITY_LABEL")
def get_security_label(call: Call, args: Any) -> tuple[list[int], int]:
    """No label: nothing confines machines."""
    domain_of(call, args.dom)
    return [], 0


@procedure("DOMAIN_GET_SECURITY_LABEL_LIST")
def get_security_label_list(call: Call, args: Any) -> tuple[list[object], int]:
    """No labels."""
    domain_of(call, args.dom)
    return [], 0


@procedure("DOMAIN_GET_CONTROL_INFO")
def get_control_info(call: Call, args: Any) -> tuple[int, int, int]:
    """Whether the machine can be asked: state, details, milliseconds since."""
    call.check_flags(args.flags, 0)
    domain = domain_of(call, args.dom)
    domain.require_active()
    if domain.async_job is not None:
        return 1, 0, domain.async_job.elapsed_ms
    return (2 if domain.busy_with else 0), 0, 0


@procedure("DOMAIN_GET_MESSAGES")
def get_messages(call: Call, args: Any) -> list[str]:
    """Warnings about a domain: those libvirt would give."""
    call.check_flags(args.flags, 3)
    domain = domain_of(call, args.dom)
    return information.messages(domain)


@procedure("DOMAIN_GET_HOSTNAME")
async def get_hostname(call: Call, args: Any) -> str:
    """Name of the guest, as its agent gives it or as it asked for an address."""
    call.check_flags(args.flags, 3)
    domain = domain_of(call, args.dom)
    return await information.hostname(domain, args.flags)


@procedure("DOMAIN_GET_LAUNCH_SECURITY_INFO")
def get_launch_security_info(call: Call, args: Any) -> list[object]:
    """Nothing: no machine is confidential."""
    call.check_flags(args.flags, 4)
    domain_of(call, args.dom)
    return []
