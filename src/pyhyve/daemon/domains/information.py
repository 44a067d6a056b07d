"""Numbers about a domain that need no question to its machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.domains import agent
from pyhyve.daemon.domains.definition import processors
from pyhyve.daemon.domains.faults import invalid_argument, not_supported
from pyhyve.daemon.domains.interfaces import leased_name
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain

if TYPE_CHECKING:
    from pyhyve.daemon.domains.domain import ManagedDomain

__all__ = ["cpu_time_ns", "hostname", "info", "messages", "resident_kib", "thread_times_ns", "vcpu_count"]

_TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_HOSTNAME_LEASE, _HOSTNAME_AGENT = 1, 2


def _times(path: str) -> tuple[int, int] | None:
    """Return user and system nanoseconds of a process or thread (proc(5), stat, fields 14 and 15)."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - on the path of every info()
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return int(fields[11]) * _TICK_NS, int(fields[12]) * _TICK_NS


def cpu_time_ns(domain: ManagedDomain) -> int:
    """Return how long a machine ran on the host's CPUs, in nanoseconds."""
    machine = domain.machine
    return 0 if machine is None else machine.time_ns()


def process_times_ns(domain: ManagedDomain) -> tuple[int, int]:
    """Return user and system nanoseconds of a machine."""
    machine = domain.machine
    return (0, 0) if machine is None else machine.times_ns()


def thread_times_ns(pid: int, thread: int) -> tuple[int, int]:
    """Return user and system nanoseconds of one thread."""
    return _times(f"/proc/{pid}/task/{thread}/stat") or (0, 0)


def thread_cpu(pid: int, thread: int) -> int:
    """Return the CPU a thread ran on last."""
    try:
        fields = Path(f"/proc/{pid}/task/{thread}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0
    return int(fields[36])


def resident_kib(domain: ManagedDomain) -> int:
    """Return how much of a machine is in the host's memory, in KiB."""
    machine = domain.machine
    if machine is None:
        return 0
    try:
        pages = int(Path(f"/proc/{machine.pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * (os.sysconf("SC_PAGE_SIZE") >> 10)


def vcpu_count(domain: ManagedDomain) -> int:
    """Return how many processors a domain has now."""
    return processors.now(domain.current)


def info(domain: ManagedDomain) -> tuple[int, int, int, int, int]:
    """Return state, memory at most and now in KiB, processors, and nanoseconds they ran."""
    held = domain.current
    known = domain.sizes
    if known is None or known[0] is not held:  # a definition is a value: another one is another object
        known = domain.sizes = held, (held.memory_kib, held.current_memory_kib, vcpu_count(domain))
    return (domain.state, *known[1], cpu_time_ns(domain))


def messages(domain: ManagedDomain) -> list[str]:
    """Return warnings about a domain."""
    held = domain.current
    found = []
    if held.cpu is not None and held.cpu.mode == "host-passthrough" and held.type == "qemu":
        found.append("tainted: use of host cpu passthrough")
    if held.qemu_commandline is not None:
        found.append("tainted: custom command line control enabled")
    return found


async def hostname(domain: ManagedDomain, flags: int) -> str:
    """Return the guest's name. Raises LibvirtError where nobody knows it."""
    domain.require_active()
    if flags & _HOSTNAME_LEASE and flags & _HOSTNAME_AGENT:
        detail = "VIR_DOMAIN_GET_HOSTNAME_LEASE and VIR_DOMAIN_GET_HOSTNAME_AGENT are mutually exclusive"
        raise invalid_argument(detail)
    if flags & _HOSTNAME_LEASE:
        name = await leased_name(domain)
        if name is None:
            detail = f"no hostname found for domain {domain.name}"
            raise LibvirtError(ErrorCode.NO_HOSTNAME, ErrorDomain.QEMU, detail)
        return name
    answer = await agent.execute(domain, "guest-get-host-name")
    if not isinstance(answer, dict) or "host-name" not in answer:
        raise not_supported("the agent does not know the guest's name")
    return str(answer["host-name"])
