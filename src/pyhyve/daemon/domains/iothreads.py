"""I/O threads of domains: which there are, where they run, adding and removing them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.daemon.domains import definitions, placement
from pyhyve.daemon.domains.definition.cpusets import cpuset_from_map, cpuset_to_map, format_cpuset, parse_cpuset
from pyhyve.daemon.domains.faults import invalid_argument
from pyhyve.daemon.domains.states import Affect
from pyhyve.rpc.values import IoThreadInfo
from pyhyve.xml.document import Node
from pyhyve.xml.element import replace
from pyhyve.xml.tuning import CpuTune, IothreadPin

if TYPE_CHECKING:
    from pyhyve.daemon.domains.domain import ManagedDomain
    from pyhyve.xml.domain import Domain

__all__ = ["add", "listed", "numbers_of", "pin", "remove"]


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


def _with_numbers(held: Domain, numbers: list[int]) -> Domain:
    ids = Node("iothreadids", children=tuple(Node("iothread", (("id", str(number)),)) for number in sorted(numbers)))
    return replace(held, iothreads=len(numbers) or None, iothreadids=ids if numbers else None)


def _where(held: Domain, number: int, cpus: int) -> set[int]:
    for item in held.cputune.iothreadpin if held.cputune is not None else ():
        if item.iothread == number:
            return parse_cpuset(item.cpuset)
    if held.vcpu is not None and held.vcpu.cpuset:
        return parse_cpuset(held.vcpu.cpuset)
    return set(range(cpus))


def listed(domain: ManagedDomain, flags: int, cpus: int) -> list[IoThreadInfo]:
    """Return each I/O thread with a bitmap of the CPUs it may run on. Raises LibvirtError."""
    held = domain.looked_at(flags & 3)
    length = -(-cpus // 8)
    return [IoThreadInfo(number, cpuset_to_map(_where(held, number, cpus), length)) for number in numbers_of(held)]


def _targets(domain: ManagedDomain, affect: Affect) -> list[Domain]:
    found = [domain.live if affect & Affect.LIVE else None, domain.definition if affect & Affect.CONFIG else None]
    return [held for held in found if held is not None]


async def add(domain: ManagedDomain, number: int, flags: int) -> None:
    """Add an I/O thread. Raises LibvirtError."""
    affect = domain.affected(flags & 3)
    if number < 1:
        raise invalid_argument("invalid value of 0 for iothread_id")
    for held in _targets(domain, affect):
        if number in numbers_of(held):
            raise invalid_argument(f"an IOThread is already using iothread_id '{number}'")
    if affect & Affect.LIVE:
        await domain.monitor("object-add", {"qom-type": "iothread", "id": f"iothread{number}"})
    await definitions.change(domain, affect, lambda held: _with_numbers(held, [*numbers_of(held), number]))


async def remove(domain: ManagedDomain, number: int, flags: int) -> None:
    """Remove an I/O thread no disk uses. Raises LibvirtError."""
    affect = domain.affected(flags & 3)
    for held in _targets(domain, affect):
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
    for held in _targets(domain, affect):
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
