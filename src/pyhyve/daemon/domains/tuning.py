"""Limits that are kept with a definition: processors' shares, memory, disks' weights, NUMA, performance events.

Machines are not in control groups of their own, so that a limit of a running one would not be kept: it is refused, in
the words libvirt has for a host without them, and those of definitions are stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains import definitions
from pyhyve.daemon.domains.faults import invalid, invalid_argument
from pyhyve.daemon.domains.states import Affect
from pyhyve.rpc.values import ParamType, TypedParam
from pyhyve.xml.document import Node
from pyhyve.xml.element import replace
from pyhyve.xml.tuning import CpuTune

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyhyve.daemon.domains.domain import ManagedDomain
    from pyhyve.xml.domain import Domain

__all__ = [
    "blkio_parameters",
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
) -> None:
    affect = domain.affected(flags & 3)
    given: dict[str, int | float | str] = {}
    for param in params:
        if param.field not in known:
            raise invalid_argument(f"parameter '{param.field}' not supported")
        given[param.field] = param.value
    if affect & Affect.LIVE:
        raise invalid(controller)
    await definitions.change(domain, affect, lambda held: update(held, given))


_NO_CPU: Final = "cgroup CPU controller is not mounted"
_NO_MEMORY: Final = "cgroup memory controller is not mounted"
_NO_BLKIO: Final = "blkio cgroup isn't mounted"


def scheduler_parameters(domain: ManagedDomain, flags: int) -> list[TypedParam]:
    """Return how much of the host's CPUs a domain gets. Raises LibvirtError."""
    tune = _config(domain, flags, _NO_CPU).cputune or CpuTune()
    return [TypedParam(name, kind, getattr(tune, key) or 0) for name, key, kind in _SCHEDULER]


async def set_scheduler_parameters(domain: ManagedDomain, params: Sequence[TypedParam], flags: int) -> None:
    """Set how much of the host's CPUs a domain gets. Raises LibvirtError."""

    def update(held: Domain, given: dict[str, int | float | str]) -> Domain:
        tune = held.cputune or CpuTune()
        changes: dict[str, Any] = {key: int(given[name]) for name, key, _ in _SCHEDULER if name in given}
        return replace(held, cputune=replace(tune, **changes))

    await _set(domain, flags, _NO_CPU, params, {name for name, _, _ in _SCHEDULER}, update)


def memory_parameters(domain: ManagedDomain, flags: int) -> list[TypedParam]:
    """Return how much of the host's memory a domain may take, in KiB. Raises LibvirtError."""
    memtune = _config(domain, flags, _NO_MEMORY).memtune
    held = {node.name: int(node.text.strip() or 0) for node in memtune.children} if memtune is not None else {}
    return [TypedParam(name, ParamType.ULLONG, held.get(key, UNLIMITED)) for name, key in _MEMORY]


async def set_memory_parameters(domain: ManagedDomain, params: Sequence[TypedParam], flags: int) -> None:
    """Set how much of the host's memory a domain may take. Raises LibvirtError."""

    def update(held: Domain, given: dict[str, int | float | str]) -> Domain:
        values = {node.name: node.text for node in held.memtune.children} if held.memtune is not None else {}
        values.update({name: str(int(value)) for name, value in given.items()})
        nodes = tuple(
            Node(name, (("unit", "KiB"),), values[name])
            for name, _ in _MEMORY
            if name in values and int(values[name]) < UNLIMITED
        )
        return replace(held, memtune=Node("memtune", children=nodes) if nodes else None)

    await _set(domain, flags, _NO_MEMORY, params, {name for name, _ in _MEMORY}, update)


def blkio_parameters(domain: ManagedDomain, flags: int) -> list[TypedParam]:
    """Return a domain's weight among those that use disks. Raises LibvirtError."""
    tune = _config(domain, flags, _NO_BLKIO).blkiotune
    weight = next((int(node.text) for node in tune.children if node.name == "weight"), 0) if tune is not None else 0
    return [TypedParam("weight", ParamType.UINT, weight), *(TypedParam(name, ParamType.STRING, "") for name in _BLKIO)]


async def set_blkio_parameters(domain: ManagedDomain, params: Sequence[TypedParam], flags: int) -> None:
    """Set a domain's weight among those that use disks. Raises LibvirtError."""

    def update(held: Domain, given: dict[str, int | float | str]) -> Domain:
        kept = tuple(node for node in held.blkiotune.children if node.name != "weight") if held.blkiotune else ()
        nodes = (Node("weight", text=str(int(given["weight"]))), *kept) if given.get("weight") else kept
        return replace(held, blkiotune=Node("blkiotune", children=nodes) if nodes else None)

    await _set(domain, flags, _NO_BLKIO, params, {"weight", *_BLKIO}, update)


def numa_parameters(domain: ManagedDomain, flags: int) -> list[TypedParam]:
    """Return which of the host's cells a domain's memory comes from. Raises LibvirtError."""
    numatune = domain.looked_at(flags & 3).numatune
    memory = next((node for node in numatune.children if node.name == "memory"), None) if numatune is not None else None
    held = dict(memory.attributes) if memory is not None else {}
    mode = _NUMA_MODES.index(held.get("mode", "strict")) if held.get("mode", "strict") in _NUMA_MODES else 0
    return [
        TypedParam("numa_mode", ParamType.INT, mode),
        TypedParam("numa_nodeset", ParamType.STRING, held.get("nodeset", "")),
    ]


async def set_numa_parameters(domain: ManagedDomain, params: Sequence[TypedParam], flags: int) -> None:
    """Set which of the host's cells a domain's memory comes from. Raises LibvirtError."""

    def update(held: Domain, given: dict[str, int | float | str]) -> Domain:
        mode = int(given.get("numa_mode", 0))
        if not 0 <= mode < len(_NUMA_MODES):
            raise invalid_argument(f"unsupported numatune mode: '{mode}'")
        attributes = (("mode", _NUMA_MODES[mode]), ("nodeset", str(given.get("numa_nodeset", ""))))
        return replace(held, numatune=Node("numatune", children=(Node("memory", attributes),)))

    await _set(domain, flags, "cgroup cpuset controller is not mounted", params, {"numa_mode", "numa_nodeset"}, update)


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

    await _set(domain, flags, "performance events cannot be counted here", params, set(_EVENTS), update)
