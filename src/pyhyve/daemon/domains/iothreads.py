"""I/O threads of domains: which there are, where they run, adding and removing them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains import definitions, placement
from pyhyve.daemon.domains.definition.cpusets import cpuset_from_map, cpuset_to_map, format_cpuset, parse_cpuset
from pyhyve.daemon.domains.faults import invalid, invalid_argument, not_supported
from pyhyve.daemon.domains.states import Affect
from pyhyve.rpc.values import IoThreadInfo, ParamType, TypedParam
from pyhyve.xml.document import Node
from pyhyve.xml.element import replace
from pyhyve.xml.tuning import CpuTune, IothreadPin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.daemon.domains.domain import ManagedDomain
    from pyhyve.xml.domain import Domain

__all__ = ["POLLING", "POOL", "add", "listed", "numbers_of", "pin", "remove", "set_parameters", "statistics"]

POLLING: Final = ("poll_max_ns", "poll_grow", "poll_shrink")
"""How a thread waits: only of one that runs."""
POOL: Final = ("thread_pool_min", "thread_pool_max")
"""How many helpers a thread has."""
_UINT_MAX: Final = (1 << 31) - 1


def numbers_of(held: Domain) -> list[int]:
    """Return the numbers of a definition's I/O threads."""
    count = held.iothreads or 0
    given = []
    for node in held.iothreadids.children if held.iothreadids is not None else ():
        written = dict(node.attributes).get("id", "")
        if written.isdecimal():
            given.append(int(written))
    free = (number for number in range(1, count + len(given) + 2) if number not in given)
    while len(given) < count:
        given.append(next(free))
    return sorted(given)


def pool_of(held: Domain, number: int) -> dict[str, int]:
    """Return how many helpers a definition gives a thread, where it says."""
    for node in held.iothreadids.children if held.iothreadids is not None else ():
        attributes = dict(node.attributes)
        if attributes.get("id") == str(number):
            return {name: int(attributes[name]) for name in POOL if attributes.get(name, "").isdecimal()}
    return {}


def _with_numbers(held: Domain, numbers: list[int], pools: dict[int, dict[str, int]] | None = None) -> Domain:
    nodes = []
    for number in sorted(numbers):
        pool = (pools or {}).get(number, pool_of(held, number))
        nodes.append(
            Node("iothread", (("id", str(number)), *((name, str(pool[name])) for name in POOL if name in pool)))
        )
    ids = Node("iothreadids", children=tuple(nodes))
    return replace(held, iothreads=len(numbers) or None, iothreadids=ids if numbers else None)


def _where(held: Domain, number: int, cpus: int) -> set[int]:
    for item in held.cputune.iothreadpin if held.cputune is not None else ():
        if item.iothread == number:
            return parse_cpuset(item.cpuset)
    if held.vcpu is not None and held.vcpu.cpuset:
        return parse_cpuset(held.vcpu.cpuset)
    return set(range(cpus))


async def _running(domain: ManagedDomain) -> dict[int, dict[str, Any]]:
    """Return what a machine says of each of its I/O threads, in its order."""
    found = {}
    for item in await domain.monitor("query-iothreads"):
        number = str(item["id"]).removeprefix("iothread")
        if number.isdecimal():
            found[int(number)] = item
    return found


async def listed(domain: ManagedDomain, flags: int, cpus: int) -> list[IoThreadInfo]:
    """Return each I/O thread with a bitmap of the CPUs it may run on. Raises LibvirtError."""
    held = domain.looked_at(flags & 3)
    length = -(-cpus // 8)
    numbers = numbers_of(held)
    if numbers and domain.affected(flags & 3) & Affect.LIVE:
        numbers = list(await _running(domain))
    return [IoThreadInfo(number, cpuset_to_map(_where(held, number, cpus), length)) for number in numbers]


async def statistics(domain: ManagedDomain) -> list[TypedParam]:
    """Return how many I/O threads a machine has, and how each waits. Raises LibvirtError."""
    found = await _running(domain)
    params = [TypedParam("iothread.count", ParamType.UINT, len(found))]
    for number, item in found.items():
        if "poll-max-ns" in item:
            head = f"iothread.{number}"
            params.append(TypedParam(f"{head}.poll-max-ns", ParamType.ULLONG, item["poll-max-ns"]))
            params.append(TypedParam(f"{head}.poll-grow", ParamType.UINT, item.get("poll-grow", 0)))
            params.append(TypedParam(f"{head}.poll-shrink", ParamType.UINT, item.get("poll-shrink", 0)))
    return params


async def set_parameters(domain: ManagedDomain, number: int, params: Sequence[TypedParam], flags: int) -> None:
    """Change how an I/O thread waits, and how many helpers it has. Raises LibvirtError."""
    affect = domain.affected(flags & 3)
    given: dict[str, int] = {}
    for param in params:
        if param.field not in {*POLLING, *POOL}:
            raise invalid_argument(f"parameter '{param.field}' not supported")
        given[param.field] = int(param.value)
        if not 0 <= given[param.field] <= (_UINT_MAX if param.field != "poll_max_ns" else 1 << 63):
            raise invalid_argument(f"value of '{param.field}' is out of range [0, {_UINT_MAX}]")
    for held in domain.definitions_affected(affect):
        if number not in numbers_of(held):
            raise invalid_argument(f"cannot find IOThread '{number}' in iothreadids")
        merged: dict[str, int] = {**pool_of(held, number), **given}
        least, most = (merged.get(name) for name in POOL)
        if least is not None and most is not None and least > most:
            raise invalid(f"thread_pool_min ({least}) can't be greater than thread_pool_max ({most})")
    if affect & Affect.CONFIG and any(name in given for name in POLLING):
        raise not_supported("configuring persistent polling values is not supported")
    if affect & Affect.LIVE:
        # The least is never above the most: where it outgrows it, the most comes first.
        outgrows = given.get("thread_pool_min", 0) > pool_of(domain.current, number).get("thread_pool_max", 64)
        for name in sorted(given, reverse=not outgrows):
            wanted = {"path": f"/objects/iothread{number}", "property": name.replace("_", "-"), "value": given[name]}
            await domain.monitor("qom-set", wanted)
    pool = {name: given[name] for name in POOL if name in given}
    if pool:
        await definitions.change(
            domain,
            affect,
            lambda held: _with_numbers(held, numbers_of(held), {number: pool_of(held, number) | pool}),
        )


async def add(domain: ManagedDomain, number: int, flags: int) -> None:
    """Add an I/O thread. Raises LibvirtError."""
    affect = domain.affected(flags & 3)
    if number < 1:
        raise invalid_argument("invalid value of 0 for iothread_id")
    for held in domain.definitions_affected(affect):
        if number in numbers_of(held):
            raise invalid_argument(f"an IOThread is already using iothread_id '{number}'")
    if affect & Affect.LIVE:
        await domain.monitor("object-add", {"qom-type": "iothread", "id": f"iothread{number}"})
    await definitions.change(domain, affect, lambda held: _with_numbers(held, [*numbers_of(held), number]))


async def remove(domain: ManagedDomain, number: int, flags: int) -> None:
    """Remove an I/O thread no disk uses. Raises LibvirtError."""
    affect = domain.affected(flags & 3)
    for held in domain.definitions_affected(affect):
        if number not in numbers_of(held):
            raise invalid_argument(f"cannot find IOThread '{number}' in iothreadids list")
        for disk in held.devices.disk if held.devices is not None else ():
            if disk.driver is not None and disk.driver.iothread == number:
                raise invalid_argument(
                    f"cannot remove IOThread {number} since it is being used by disk '{disk.target.dev}'"
                )
    if affect & Affect.LIVE:
        await domain.monitor("object-del", {"id": f"iothread{number}"})
    await definitions.change(
        domain, affect, lambda held: _with_numbers(held, [item for item in numbers_of(held) if item != number])
    )


async def pin(domain: ManagedDomain, number: int, bitmap: bytes, flags: int) -> None:
    """Have an I/O thread run on some CPUs. Raises LibvirtError."""
    affect = domain.affected(flags & 3)
    chosen = cpuset_from_map(bitmap)
    if not chosen:
        raise invalid_argument("Empty iothread cpumap list for pinning")
    for held in domain.definitions_affected(affect):
        if number not in numbers_of(held):
            raise invalid_argument(f"iothread {number} not found")
    if affect & Affect.LIVE:
        threads: list[dict[str, Any]] = await domain.monitor("query-iothreads")
        found = [item["thread-id"] for item in threads if item["id"] == f"iothread{number}"]
        placement.pin_threads(found, chosen)

    def update(held: Domain) -> Domain:
        tune = held.cputune or CpuTune()
        kept = [item for item in tune.iothreadpin if item.iothread != number]
        pins = (*kept, IothreadPin(iothread=number, cpuset=format_cpuset(chosen)))
        return replace(held, cputune=replace(tune, iothreadpin=pins))

    await definitions.change(domain, affect, update)
