"""Memory, processors, limits and statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.dispatch import Encoded, procedure
from pyhyve.daemon.domains import interfaces, memory, statistics, tuning, vcpus
from pyhyve.daemon.domains.definition.processors import at_most
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.procedures.domain_access import domain_of, registry_of, visible
from pyhyve.daemon.procedures.domain_lookup import matches
from pyhyve.rpc.errors import ErrorCode, ErrorDomain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pyhyve.daemon.dispatch import Call
    from pyhyve.daemon.domains.domain import ManagedDomain
    from pyhyve.rpc.values import DomainInterface, MemoryStat, StatsRecord, TypedParam, VcpuInfo

_AFFECT: Final = 3
_TYPED: Final = 4
"""VIR_TYPED_PARAM_STRING_OKAY."""
_LIST_FLAGS: Final = 0xFF
_STATS_NOWAIT, _STATS_BACKING, _STATS_ENFORCE = 1 << 29, 1 << 30, 1 << 31


@procedure("DOMAIN_SET_MEMORY", "DOMAIN_SET_MEMORY_FLAGS")
async def set_memory(call: Call, args: Any) -> None:
    """Set a guest's memory, in KiB."""
    flags = getattr(args, "flags", 1)
    call.check_flags(flags, 7)
    domain = domain_of(call, args.dom)
    async with domain.job("memory"):
        await memory.set_memory(domain, args.memory, flags)


@procedure("DOMAIN_SET_MAX_MEMORY")
async def set_max_memory(call: Call, args: Any) -> None:
    """Set a guest's memory at most, in KiB."""
    domain = domain_of(call, args.dom)
    async with domain.job("memory"):
        await memory.set_memory(domain, args.memory, 4)


@procedure("DOMAIN_SET_MEMORY_STATS_PERIOD")
async def set_memory_stats_period(call: Call, args: Any) -> None:
    """Have a guest report its memory every so many seconds."""
    call.check_flags(args.flags, _AFFECT)
    domain = domain_of(call, args.dom)
    async with domain.job("memory statistics"):
        await memory.set_stats_period(domain, args.period, args.flags)


@procedure("DOMAIN_MEMORY_STATS")
async def memory_stats(call: Call, args: Any) -> list[MemoryStat]:
    """Statistics of a guest's memory."""
    call.check_flags(args.flags, 0)
    return (await memory.statistics(domain_of(call, args.dom)))[: args.max_stats]


@procedure("DOMAIN_MEMORY_PEEK")
async def memory_peek(call: Call, args: Any) -> bytes:
    """Look into a guest's memory."""
    domain = domain_of(call, args.dom)
    async with domain.job("peek"):
        return await memory.peek(domain, args.offset, args.size, args.flags)


@procedure("DOMAIN_SET_VCPUS", "DOMAIN_SET_VCPUS_FLAGS")
async def set_vcpus(call: Call, args: Any) -> None:
    """Set the number of processors."""
    flags = getattr(args, "flags", 1)
    call.check_flags(flags, 0x1F)
    domain = domain_of(call, args.dom)
    async with domain.job("vcpus"):
        await vcpus.set_count(domain, args.nvcpus, flags)


@procedure("DOMAIN_GET_VCPUS_FLAGS")
async def get_vcpus_flags(call: Call, args: Any) -> int:
    """Number of processors."""
    call.check_flags(args.flags, 0xF)
    return await vcpus.count(domain_of(call, args.dom), args.flags)


@procedure("DOMAIN_GET_MAX_VCPUS")
def get_max_vcpus(call: Call, args: Any) -> int:
    """Number of processors at most, of a domain that runs."""
    domain = domain_of(call, args.dom)
    domain.require_active()
    return at_most(domain.current)


@procedure("DOMAIN_GET_VCPUS")
async def get_vcpus(call: Call, args: Any) -> tuple[list[VcpuInfo], bytes]:
    """What each processor does."""
    return await vcpus.vcpu_table(domain_of(call, args.dom), args.maxinfo, args.maplen)


@procedure("DOMAIN_PIN_VCPU", "DOMAIN_PIN_VCPU_FLAGS")
async def pin_vcpu(call: Call, args: Any) -> None:
    """Have a processor run on some CPUs of the host."""
    flags = getattr(args, "flags", 1)
    call.check_flags(flags, _AFFECT)
    domain = domain_of(call, args.dom)
    async with domain.job("pin"):
        await vcpus.pin_vcpu(domain, args.vcpu, args.cpumap, flags)


@procedure("DOMAIN_GET_VCPU_PIN_INFO")
def get_vcpu_pin_info(call: Call, args: Any) -> tuple[bytes, int]:
    """Where each processor may run."""
    call.check_flags(args.flags, _AFFECT)
    return vcpus.pins(domain_of(call, args.dom), args.ncpumaps, args.maplen, args.flags)


@procedure("DOMAIN_PIN_EMULATOR")
async def pin_emulator(call: Call, args: Any) -> None:
    """Have everything but the processors run on some CPUs of the host."""
    call.check_flags(args.flags, _AFFECT)
    domain = domain_of(call, args.dom)
    async with domain.job("pin"):
        await vcpus.pin_emulator(domain, args.cpumap, args.flags)


@procedure("DOMAIN_GET_EMULATOR_PIN_INFO")
def get_emulator_pin_info(call: Call, args: Any) -> tuple[bytes, int]:
    """Where everything but the processors may run."""
    call.check_flags(args.flags, _AFFECT)
    return vcpus.emulator_pin(domain_of(call, args.dom), args.maplen, args.flags), 1


@procedure("DOMAIN_GET_CPU_STATS")
async def get_cpu_stats(call: Call, args: Any) -> tuple[list[TypedParam], int]:
    """How long a machine ran."""
    call.check_flags(args.flags, _TYPED)
    return await vcpus.cpu_statistics(domain_of(call, args.dom), args.nparams, args.start_cpu, args.ncpus)


@procedure("DOMAIN_GET_GUEST_VCPUS")
async def get_guest_vcpus(call: Call, args: Any) -> list[TypedParam]:
    """Processors as the guest sees them."""
    call.check_flags(args.flags, 0)
    return await vcpus.guest_vcpus(domain_of(call, args.dom))


@procedure("DOMAIN_SET_GUEST_VCPUS")
async def set_guest_vcpus(call: Call, args: Any) -> None:
    """Have the guest use some processors, or not."""
    call.check_flags(args.flags, 0)
    await vcpus.set_guest_vcpus(domain_of(call, args.dom), args.cpumap, online=bool(args.state))


@procedure("DOMAIN_SET_VCPU")
async def set_vcpu(call: Call, args: Any) -> None:
    """Plug processors in or out."""
    call.check_flags(args.flags, _AFFECT)
    domain = domain_of(call, args.dom)
    async with domain.job("vcpus"):
        await vcpus.set_vcpu(domain, args.cpumap, enabled=bool(args.state), flags=args.flags)


@procedure("CONNECT_GET_ALL_DOMAIN_STATS")
async def get_all_domain_stats(call: Call, args: Any) -> list[StatsRecord | Encoded]:
    """All statistics of domains."""
    call.check_flags(args.flags, _LIST_FLAGS | _STATS_NOWAIT | _STATS_BACKING | _STATS_ENFORCE)
    registry = registry_of(call)
    wanted = args.stats or statistics.ALL
    if args.flags & _STATS_ENFORCE and wanted & ~statistics.ALL:
        detail = f"Stats types bits 0x{wanted & ~statistics.ALL:x} are not supported by this daemon or QEMU"
        raise LibvirtError(ErrorCode.ARGUMENT_UNSUPPORTED, ErrorDomain.QEMU, detail)
    if args.doms:
        chosen = [found for ref in args.doms if (found := registry.by_uuid.get(ref.uuid)) is not None]
    else:
        chosen = [domain for domain in registry if matches(domain, args.flags & _LIST_FLAGS)]
    seen = [domain for domain in chosen if visible(call, domain)]
    return await statistics.collect(seen, wanted & statistics.ALL, args.flags)


@procedure("DOMAIN_INTERFACE_STATS")
def interface_stats(call: Call, args: Any) -> tuple[int, ...]:
    """Counters of a network interface."""
    return interfaces.statistics(domain_of(call, args.dom), args.device)


@procedure("DOMAIN_INTERFACE_ADDRESSES")
async def interface_addresses(call: Call, args: Any) -> list[DomainInterface]:
    """Addresses a guest has."""
    call.check_flags(args.flags, 0)
    if args.source == 1:
        call.require("domain:write")
    return await interfaces.addresses(domain_of(call, args.dom), args.source)


@procedure("DOMAIN_GET_INTERFACE_PARAMETERS")
def get_interface_parameters(call: Call, args: Any) -> tuple[list[TypedParam], int]:
    """Limits of a network interface."""
    call.check_flags(args.flags, 7)
    return interfaces.get_limits(domain_of(call, args.dom), args.device, args.nparams, args.flags)


@procedure("DOMAIN_SET_INTERFACE_PARAMETERS")
async def set_interface_parameters(call: Call, args: Any) -> None:
    """Limit a network interface."""
    call.check_flags(args.flags, 7)
    domain = domain_of(call, args.dom)
    async with domain.job("interface"):
        await interfaces.set_limits(domain, args.device, args.params, args.flags)


@procedure("DOMAIN_GET_SCHEDULER_TYPE")
def get_scheduler_type(call: Call, args: Any) -> tuple[str, int]:
    """Who shares out the host's CPUs."""
    domain = domain_of(call, args.dom)
    tuning.scheduler_parameters(domain, 0)
    return "posix", 9


@procedure("DOMAIN_GET_SCHEDULER_PARAMETERS", "DOMAIN_GET_SCHEDULER_PARAMETERS_FLAGS")
def get_scheduler_parameters(call: Call, args: Any) -> list[TypedParam]:
    """How much of the host's CPUs a domain gets."""
    flags = getattr(args, "flags", 0)
    call.check_flags(flags, 7)
    return tuning.scheduler_parameters(domain_of(call, args.dom), flags)[: args.nparams]


@procedure("DOMAIN_SET_SCHEDULER_PARAMETERS", "DOMAIN_SET_SCHEDULER_PARAMETERS_FLAGS")
async def set_scheduler_parameters(call: Call, args: Any) -> None:
    """Set how much of the host's CPUs a domain gets."""
    flags = getattr(args, "flags", 0)
    call.check_flags(flags, _AFFECT)
    call.require("domain:write")
    domain = domain_of(call, args.dom)
    async with domain.job("scheduler"):
        await tuning.set_scheduler_parameters(domain, args.params, flags)


def _parameters(reader: Callable[[ManagedDomain, int], list[TypedParam]], count: int) -> Callable[[Call, Any], Any]:
    def handler(call: Call, args: Any) -> tuple[list[TypedParam], int]:
        call.check_flags(args.flags, 7)
        domain = domain_of(call, args.dom)
        if not args.nparams:
            return [], count
        params = reader(domain, args.flags)[: args.nparams]
        return params, len(params)

    return handler


def _set_parameters(writer: Callable[[ManagedDomain, Any, int], Awaitable[None]]) -> Callable[[Call, Any], Any]:
    async def handler(call: Call, args: Any) -> None:
        call.check_flags(args.flags, _AFFECT)
        domain = domain_of(call, args.dom)
        async with domain.job("parameters"):
            await writer(domain, args.params, args.flags)

    return handler


procedure("DOMAIN_GET_MEMORY_PARAMETERS")(_parameters(tuning.memory_parameters, 3))
procedure("DOMAIN_SET_MEMORY_PARAMETERS")(_set_parameters(tuning.set_memory_parameters))
procedure("DOMAIN_GET_BLKIO_PARAMETERS")(_parameters(tuning.blkio_parameters, 6))
procedure("DOMAIN_SET_BLKIO_PARAMETERS")(_set_parameters(tuning.set_blkio_parameters))
procedure("DOMAIN_GET_NUMA_PARAMETERS")(_parameters(tuning.numa_parameters, 2))
procedure("DOMAIN_SET_NUMA_PARAMETERS")(_set_parameters(tuning.set_numa_parameters))
procedure("DOMAIN_SET_PERF_EVENTS")(_set_parameters(tuning.set_perf_events))


@procedure("DOMAIN_GET_PERF_EVENTS")
def get_perf_events(call: Call, args: Any) -> list[TypedParam]:
    """Which performance events are counted."""
    call.check_flags(args.flags, 7)
    return tuning.perf_events(domain_of(call, args.dom), args.flags)
