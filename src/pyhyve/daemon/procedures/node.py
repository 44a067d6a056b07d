"""The host: its shape, what its processors and memory do, its huge pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.dispatch import procedure
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.host.api import ALL
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.rpc.values import NodeStat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.daemon.dispatch import Call
    from pyhyve.rpc.values import TypedParam

_MODEL_SIZE: Final = 32
_ALLOCATE_SET: Final = 1  # VIR_NODE_ALLOC_PAGES_SET
_LABEL_MAX: Final = 256
_CELLS_MAX: Final = 1024
_CPU_STATS: Final = 4
"""How many figures there are of a CPU."""


def _none_of(given: int, wanted: int, function: str) -> None:
    """Raise LibvirtError where a client has less room for an answer than there is of it."""
    if given < wanted:
        msg = f"nparams in {function} must be equal to {wanted}"
        raise LibvirtError(ErrorCode.INVALID_ARG, ErrorDomain.NONE, msg)


@procedure("NODE_GET_INFO")
async def node_get_info(call: Call, args: Any) -> tuple[object, ...]:
    """Give the host's shape."""
    info = await call.daemon.run_blocking(call.driver.host.info)
    model = info.model.encode()[: _MODEL_SIZE - 1].ljust(_MODEL_SIZE, b"\0")
    return (
        tuple(model),
        info.memory_kib,
        info.cpus,
        info.mhz,
        info.nodes,
        info.sockets,
        info.cores,
        info.threads,
    )


@procedure("CONNECT_GET_HOSTNAME")
async def connect_get_hostname(call: Call, args: Any) -> str:
    """Give the host's name."""
    return await call.daemon.run_blocking(call.driver.host.hostname)


@procedure("CONNECT_GET_SYSINFO")
async def connect_get_sysinfo(call: Call, args: Any) -> str:
    """Give what the firmware says of the host."""
    call.check_flags(args.flags, 0)
    return await call.daemon.run_blocking(call.driver.host.system_information)


@procedure("NODE_GET_CPU_STATS")
async def node_get_cpu_stats(call: Call, args: Any) -> tuple[list[NodeStat], int]:
    """Give what a CPU, or all of them, did."""
    call.check_flags(args.flags, 0)
    if args.cpu_num < ALL:
        msg = f"cpuNum in {call.function} only accepts {ALL} as a negative value"
        raise LibvirtError(ErrorCode.INVALID_ARG, ErrorDomain.NONE, msg)
    if args.nparams == 0:
        return [], _CPU_STATS
    times = await call.daemon.run_blocking(call.driver.host.cpu_times, args.cpu_num)
    _none_of(args.nparams, len(times), call.function)
    return [NodeStat(name, value) for name, value in times.items()], len(times)


@procedure("NODE_GET_MEMORY_STATS")
async def node_get_memory_stats(call: Call, args: Any) -> tuple[list[NodeStat], int]:
    """Give what memory a cell, or all of them, have."""
    call.check_flags(args.flags, 0)
    if args.cell_num < ALL:
        msg = f"cellNum in {call.function} only accepts {ALL} as a negative value"
        raise LibvirtError(ErrorCode.INVALID_ARG, ErrorDomain.NONE, msg)
    memory = await call.daemon.run_blocking(call.driver.host.memory, args.cell_num)
    if args.nparams == 0:
        return [], len(memory)
    _none_of(args.nparams, len(memory), call.function)
    return [NodeStat(name, value) for name, value in memory.items()], len(memory)


@procedure("NODE_GET_FREE_MEMORY")
async def node_get_free_memory(call: Call, args: Any) -> int:
    """Give the bytes that are free."""
    return await call.daemon.run_blocking(call.driver.host.free_memory)


@procedure("NODE_GET_CELLS_FREE_MEMORY")
async def node_get_cells_free_memory(call: Call, args: Any) -> Sequence[int]:
    """Give the bytes that are free in each cell."""
    if not 0 < args.maxcells <= _CELLS_MAX:
        msg = f"too many NUMA cells: {args.maxcells} > {_CELLS_MAX}"
        raise LibvirtError(ErrorCode.INTERNAL_ERROR, ErrorDomain.RPC, msg)
    return await call.daemon.run_blocking(call.driver.host.cells_free_memory, args.start_cell, args.maxcells)


@procedure("NODE_GET_CPU_MAP")
async def node_get_cpu_map(call: Call, args: Any) -> tuple[bytes, int, int]:
    """Give which CPUs are online."""
    call.check_flags(args.flags, 0)
    online = await call.daemon.run_blocking(call.driver.host.online_cpus)
    cpu_map = bytearray((len(online) + 7) // 8)
    for number, there in enumerate(online):
        cpu_map[number >> 3] |= there << (number & 7)
    return bytes(cpu_map) if args.need_map else b"", sum(online) if args.need_online else 0, len(online)


@procedure("NODE_GET_MEMORY_PARAMETERS")
async def node_get_memory_parameters(call: Call, args: Any) -> tuple[Sequence[TypedParam], int]:
    """Give how the host shares equal pages."""
    call.check_flags(args.flags, 1 << 2)  # VIR_TYPED_PARAM_STRING_OKAY
    parameters = await call.daemon.run_blocking(call.driver.host.memory_parameters)
    return ([], len(parameters)) if args.nparams == 0 else (parameters[: args.nparams], len(parameters))


@procedure("NODE_SET_MEMORY_PARAMETERS")
async def node_set_memory_parameters(call: Call, args: Any) -> None:
    """Change how the host shares equal pages."""
    call.check_flags(args.flags, 0)
    await call.daemon.run_blocking(call.driver.host.set_memory_parameters, args.params)


@procedure("NODE_GET_FREE_PAGES")
async def node_get_free_pages(call: Call, args: Any) -> Sequence[int]:
    """Give the free pages of each size in each cell."""
    call.check_flags(args.flags, 0)
    if len(args.pages) * args.cell_count > _CELLS_MAX:
        msg = f"the result won't fit into the message: {len(args.pages)} * {args.cell_count} > {_CELLS_MAX}"
        raise LibvirtError(ErrorCode.RPC, ErrorDomain.RPC, msg)
    host = call.driver.host
    return await call.daemon.run_blocking(host.free_pages, args.pages, args.start_cell, args.cell_count)


@procedure("NODE_ALLOC_PAGES")
async def node_alloc_pages(call: Call, args: Any) -> int:
    """Change how many huge pages there are."""
    call.check_flags(args.flags, _ALLOCATE_SET)
    counts = dict(zip(args.page_sizes, args.page_counts, strict=False))
    host, add = call.driver.host, not args.flags & _ALLOCATE_SET
    return await call.daemon.run_blocking(
        lambda: host.allocate_pages(counts, args.start_cell, args.cell_count, add=add)
    )


@procedure("NODE_SUSPEND_FOR_DURATION")
def node_suspend_for_duration(call: Call, args: Any) -> None:
    """Have the host sleep for a while."""
    call.check_flags(args.flags, 0)
    call.daemon.sleep.begin(args.target, args.duration)


@procedure("NODE_GET_SECURITY_MODEL")
async def node_get_security_model(call: Call, args: Any) -> tuple[list[int], list[int]]:
    """Give the security model, as texts that end with a NUL."""
    model, interpretation = call.driver.host.security_model()
    if not model:
        return [], []
    return _characters(model), _characters(interpretation)


def _characters(text: str) -> list[int]:
    return [*text.encode()[:_LABEL_MAX], 0]
