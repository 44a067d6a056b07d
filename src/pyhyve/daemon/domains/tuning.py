"""Limits of domains: processors' shares, memory, disks' weights, NUMA, performance events.

Those of running machines are kept by the kernel for their control groups (:mod:`pyhyve.daemon.domains.limits`); where
there are none they are refused, in the words libvirt has for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains import definitions, limits
from pyhyve.daemon.domains.definition.cpusets import format_cpuset, parse_cpuset
from pyhyve.daemon.domains.faults import invalid, invalid_argument, unsupported
from pyhyve.daemon.domains.states import Affect
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.rpc.values import ParamType, TypedParam
from pyhyve.xml.document import Node
from pyhyve.xml.element import replace
from pyhyve.xml.tuning import CpuTune

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pyhyve.daemon.domains.domain import ManagedDomain
    from pyhyve.xml.domain import Domain

__all__ = [
    "blkio_parameters",
    "held_blkio",
    "held_memory",
    "held_scheduler",
    "memory_parameters",
    "numa_parameters",
    "perf_events",
    "scheduler_parameters",
    "set_blkio_parameters",
    "set_memory_parameters",
    "set_numa_parameters",
    "set_perf_events",
    "set_scheduler_parameters",
]

UNLIMITED: Final = 9007199254740991
_SCHEDULER: Final = (
    ("cpu_shares", "shares", ParamType.ULLONG),
    ("vcpu_period", "period", ParamType.ULLONG),
    ("vcpu_quota", "quota", ParamType.LLONG),
    ("emulator_period", "emulator_period", ParamType.ULLONG),
    ("emulator_quota", "emulator_quota", ParamType.LLONG),
    ("global_period", "global_period", ParamType.ULLONG),
    ("global_quota", "global_quota", ParamType.LLONG),
    ("iothread_period", "iothread_period", ParamType.ULLONG),
    ("iothread_quota", "iothread_quota", ParamType.LLONG),
)
_MEMORY: Final = (
    ("hard_limit", "hard_limit"),
    ("soft_limit", "soft_limit"),
    ("swap_hard_limit", "swap_hard_limit"),
)
_BLKIO: Final = (
    "device_weight",
    "device_read_iops_sec",
    "device_write_iops_sec",
    "device_read_bytes_sec",
    "device_write_bytes_sec",
)
_RANGES: Final = {"shares": (0, 262144), "period": (1000, 1000000), "quota": (1000, 17592186044415)}
_NUMA_MODES: Final = ("strict", "preferred", "interleave", "restrictive")
_EVENTS: Final = [
    "cmt",
    "mbmt",
    "mbml",
    "cpu_cycles",
    "instructions",
    "cache_references",
    "cache_misses",
    "branch_instructions",
    "branch_misses",
    "bus_cycles",
    "stalled_cycles_frontend",
    "stalled_cycles_backend",
    "ref_cpu_cycles",
    "cpu_clock",
    "task_clock",
    "page_faults",
    "context_switches",
    "cpu_migrations",
    "page_faults_min",
    "page_faults_maj",
    "alignment_faults",
    "emulation_faults",
]


def _config(domain: ManagedDomain, flags: int, controller: str) -> Domain:
    if domain.affected(flags & 3) & Affect.LIVE:
        raise invalid(controller)
    return domain.looked_at(flags & 3)


async def _set(
    domain: ManagedDomain,
    flags: int,
    controller: str,
    params: Sequence[TypedParam],
    known: set[str],
    update: Callable[[Domain, dict[str, int | float | str]], Domain],
    live: Callable[[dict[str, int | float | str]], Awaitable[None]] | None = None,
) -> None:
    affect = domain.affected(flags & 3)
    given: dict[str, int | float | str] = {}
    for param in params:
        if param.field not in known:
            detail = f"parameter '{param.field}' not supported"
            raise LibvirtError(ErrorCode.ARGUMENT_UNSUPPORTED, ErrorDomain.QEMU, detail)
        given[param.field] = param.value
    if affect & Affect.LIVE:
        if live is None:
            raise invalid(controller)
        await live(given)
    await definitions.change(domain, affect, lambda held: update(held, given))


_NO_CPU: Final = "cgroup CPU controller is not mounted"
_NO_MEMORY: Final = "cgroup memory controller is not mounted"
_NO_BLKIO: Final = "blkio cgroup isn't mounted"


def held_scheduler(held: Domain) -> list[TypedParam]:
    """Return what a definition says of the host's CPUs."""
    tune = held.cputune or CpuTune()
    return [TypedParam(name, kind, getattr(tune, key) or 0) for name, key, kind in _SCHEDULER]


def scheduler_parameters(domain: ManagedDomain, flags: int) -> list[TypedParam]:
    """Return how much of the host's CPUs a domain gets. Raises LibvirtError."""
    if domain.affected(flags & 3) & Affect.LIVE and (group := limits.group_of(domain, "cpu")) is not None:
        return limits.scheduler(group)
    return held_scheduler(_config(domain, flags, _NO_CPU))


def _check_range(param: TypedParam) -> None:
    """Raise LibvirtError for a number the kernel does not take; a quota below zero is none."""
    kind = param.field.rpartition("_")[2]
    if kind not in _RANGES or not isinstance(param.value, int) or (kind == "quota" and param.value <= 0):
        return
    low, high = _RANGES[kind]
    if not low <= param.value <= high and param.value:
        raise invalid_argument(f"value of '{param.field}' is out of range [{low}, {high}]")


async def set_scheduler_parameters(domain: ManagedDomain, params: Sequence[TypedParam], flags: int) -> None:
    """Set how much of the host's CPUs a domain gets. Raises LibvirtError."""
    for param in params:
        _check_range(param)

    def update(held: Domain, given: dict[str, int | float | str]) -> Domain:
        tune = held.cputune or CpuTune()
        changes: dict[str, Any] = {key: int(given[name]) for name, key, _ in _SCHEDULER if name in given}
        return replace(held, cputune=replace(tune, **changes))

    async def live(given: dict[str, int | float | str]) -> None:
        group = limits.group_of(domain, "cpu")
        if group is None:
            raise invalid(_NO_CPU)
        await limits.set_scheduler(domain, group, given)

    await _set(domain, flags, _NO_CPU, params, {name for name, _, _ in _SCHEDULER}, update, live)


def held_memory(held: Domain) -> list[TypedParam]:
    """Return what a definition says of the host's memory, in KiB."""
    memtune = held.memtune
    values = {node.name: int(node.text.strip() or 0) for node in memtune.children} if memtune is not None else {}
    return [TypedParam(name, ParamType.ULLONG, values.get(key, UNLIMITED)) for name, key in _MEMORY]


def memory_parameters(domain: ManagedDomain, flags: int) -> list[TypedParam]:
    """Return how much of the host's memory a domain may take, in KiB. Raises LibvirtError."""
    if domain.affected(flags & 3) & Affect.LIVE and (group := limits.group_of(domain, "memory")) is not None:
        return [TypedParam(name, ParamType.ULLONG, value) for name, value in limits.memory(group).items()]
    return held_memory(_config(domain, flags, _NO_MEMORY))


async def set_memory_parameters(domain: ManagedDomain, params: Sequence[TypedParam], flags: int) -> None:
    """Set how much of the host's memory a domain may take. Raises LibvirtError."""
    asked = {param.field: int(param.value) for param in params if param.field in {"hard_limit", "swap_hard_limit"}}
    if asked.get("hard_limit", 0) > asked.get("swap_hard_limit", UNLIMITED):
        raise invalid_argument("memory hard_limit tunable value must be lower than or equal to swap_hard_limit")

    def update(held: Domain, given: dict[str, int | float | str]) -> Domain:
        values = {node.name: node.text for node in held.memtune.children} if held.memtune is not None else {}
        values.update({name: str(int(value)) for name, value in given.items()})
        nodes = tuple(
            Node(name, (("unit", "KiB"),), values[name])
            for name, _ in _MEMORY
            if name in values and int(values[name]) < UNLIMITED
        )
        return replace(held, memtune=Node("memtune", children=nodes) if nodes else None)

    async def live(given: dict[str, int | float | str]) -> None:
        group = limits.group_of(domain, "memory")
        if group is None:
            raise invalid(_NO_MEMORY)
        limits.set_memory(group, given)

    await _set(domain, flags, _NO_MEMORY, params, {name for name, _ in _MEMORY}, update, live)


_DEVICE_ELEMENTS: Final = {
    "device_weight": "weight",
    "device_read_iops_sec": "read_iops_sec",
    "device_write_iops_sec": "write_iops_sec",
    "device_read_bytes_sec": "read_bytes_sec",
    "device_write_bytes_sec": "write_bytes_sec",
}


def held_blkio(held: Domain) -> list[TypedParam]:
    """Return what a definition says of disks."""
    nodes = held.blkiotune.children if held.blkiotune is not None else ()
    weight = next((int(node.text) for node in nodes if node.name == "weight"), 0)
    params = [TypedParam("weight", ParamType.UINT, weight)]
    for name, element in _DEVICE_ELEMENTS.items():
        words = []
        for node in nodes:
            inner = {child.name: child.text.strip() for child in node.children} if node.name == "device" else {}
            if element in inner:
                words += [inner.get("path", ""), inner[element]]
        params.append(TypedParam(name, ParamType.STRING, ",".join(words)))
    return params


def blkio_parameters(domain: ManagedDomain, flags: int) -> list[TypedParam]:
    """Return a domain's weight among those that use disks, and its limits for devices. Raises LibvirtError."""
    if domain.affected(flags & 3) & Affect.LIVE and (group := limits.group_of(domain, "blkio")) is not None:
        return [TypedParam("weight", ParamType.UINT, group.weight), *held_blkio(domain.current)[1:]]
    return held_blkio(_config(domain, flags, _NO_BLKIO))


async def set_blkio_parameters(domain: ManagedDomain, params: Sequence[TypedParam], flags: int) -> None:
    """Set a domain's weight among those that use disks, and its limits for devices. Raises LibvirtError."""
    for param in params:
        if param.field in _DEVICE_ELEMENTS and len([word for word in str(param.value).split(",") if word]) % 2:
            raise invalid_argument(f"unable to parse blkio device '{param.field}' '{param.value}'")

    def update(held: Domain, given: dict[str, int | float | str]) -> Domain:
        nodes = list(held.blkiotune.children) if held.blkiotune else []
        if given.get("weight"):
            others = [node for node in nodes if node.name != "weight"]
            nodes = [Node("weight", text=str(int(given["weight"]))), *others]
        for name, element in _DEVICE_ELEMENTS.items():
            words = [word for word in str(given.get(name, "")).split(",") if word]
            for path, value in zip(words[::2], words[1::2], strict=False):
                nodes = _with_device(nodes, path, element, value)
        return replace(held, blkiotune=Node("blkiotune", children=tuple(nodes)) if nodes else None)

    async def live(given: dict[str, int | float | str]) -> None:
        group = limits.group_of(domain, "blkio")
        if group is None:
            raise invalid(_NO_BLKIO)
        limits.set_blkio(group, given)

    await _set(domain, flags, _NO_BLKIO, params, {"weight", *_BLKIO}, update, live)


def _with_device(nodes: list[Node], path: str, element: str, value: str) -> list[Node]:
    """Return nodes with a device's limit set; 0 takes it away."""
    kept, inner = [], {"path": path}
    for node in nodes:
        held = {child.name: child.text.strip() for child in node.children} if node.name == "device" else {}
        if held.get("path") == path:
            inner = held
        else:
            kept.append(node)
    inner[element] = value
    limits_set = {name: text for name, text in inner.items() if name != "path" and text != "0"}
    if limits_set:
        order = ("weight", "read_iops_sec", "write_iops_sec", "read_bytes_sec", "write_bytes_sec")
        children = [Node("path", text=path), *(Node(key, text=limits_set[key]) for key in order if key in limits_set)]
        kept.append(Node("device", children=tuple(children)))
    return kept


def numa_parameters(domain: ManagedDomain, flags: int) -> list[TypedParam]:
    """Return which of the host's cells a domain's memory comes from. Raises LibvirtError."""
    held = _numa_memory(domain.looked_at(flags & 3))
    mode = _NUMA_MODES.index(held.get("mode", "strict")) if held.get("mode", "strict") in _NUMA_MODES else 0
    return [
        TypedParam("numa_mode", ParamType.INT, mode),
        TypedParam("numa_nodeset", ParamType.STRING, held.get("nodeset", "")),
    ]


async def set_numa_parameters(domain: ManagedDomain, params: Sequence[TypedParam], flags: int) -> None:
    """Set which of the host's cells a domain's memory comes from. Raises LibvirtError."""
    for param in params:
        if param.field == "numa_nodeset":
            parse_cpuset(str(param.value))
        if param.field == "numa_mode" and not 0 <= int(param.value) < len(_NUMA_MODES):
            raise invalid_argument(f"unsupported numatune mode: '{param.value}'")

    def update(held: Domain, given: dict[str, int | float | str]) -> Domain:
        before = _numa_memory(held)
        mode = _NUMA_MODES[int(given["numa_mode"])] if "numa_mode" in given else before.get("mode", "strict")
        nodes = str(given.get("numa_nodeset") or before.get("nodeset", ""))
        if not nodes and held is domain.live:
            nodes = format_cpuset(_host_cells(domain))
        if not nodes:
            raise unsupported(
                "nodeset for NUMA memory tuning must be set if 'placement' is 'static'", ErrorDomain.DOMAIN
            )
        others = [node for node in (held.numatune.children if held.numatune else ()) if node.name != "memory"]
        memory = Node("memory", (("mode", mode), ("nodeset", nodes)))
        return replace(held, numatune=Node("numatune", children=(memory, *others)))

    async def live(given: dict[str, int | float | str]) -> None:
        mode = _numa_memory(domain.current).get("mode", "strict")
        if "numa_mode" in given and _NUMA_MODES[int(given["numa_mode"])] != mode:
            raise invalid("can't change numatune mode for running domain")
        nodes = given.get("numa_nodeset")
        if nodes and not _host_cells(domain) <= parse_cpuset(str(nodes)):
            raise invalid("change of nodeset for running domain requires restrictive numa mode")

    await _set(domain, flags, "", params, {"numa_mode", "numa_nodeset"}, update, live)


def _host_cells(domain: ManagedDomain) -> set[int]:
    return set(range(len(domain.registry.driver.host.cells_free_memory(0, 1 << 10))))


def _numa_memory(held: Domain) -> dict[str, str]:
    memory = next((node for node in held.numatune.children if node.name == "memory"), None) if held.numatune else None
    return dict(memory.attributes) if memory is not None else {}


def perf_events(domain: ManagedDomain, flags: int) -> list[TypedParam]:
    """Return which performance events are counted. Raises LibvirtError."""
    perf = domain.looked_at(flags & 3).perf
    on = (
        {dict(node.attributes).get("name") for node in perf.children if dict(node.attributes).get("enabled") == "yes"}
        if (perf is not None)
        else set()
    )
    return [TypedParam(name, ParamType.BOOLEAN, name in on) for name in _EVENTS]


async def set_perf_events(domain: ManagedDomain, params: Sequence[TypedParam], flags: int) -> None:
    """Set which performance events are counted the next time. Raises LibvirtError."""

    def update(held: Domain, given: dict[str, int | float | str]) -> Domain:
        values = {}
        for node in held.perf.children if held.perf is not None else ():
            attributes = dict(node.attributes)
            values[attributes.get("name", "")] = attributes.get("enabled", "no")
        values.update({name: "yes" if value else "no" for name, value in given.items()})
        nodes = tuple(Node("event", (("name", name), ("enabled", values[name]))) for name in _EVENTS if name in values)
        return replace(held, perf=Node("perf", children=nodes) if nodes else None)

    async def live(given: dict[str, int | float | str]) -> None:
        for name, value in given.items():
            if value:
                detail = f"unable to enable host cpu perf event for {name}"
                raise LibvirtError(ErrorCode.ARGUMENT_UNSUPPORTED, ErrorDomain.NONE, detail)

    await _set(domain, flags, "performance events cannot be counted here", params, set(_EVENTS), update, live)
