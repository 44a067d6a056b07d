"""Memory of domains: how much, statistics, and looking into it."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains import definitions, hotplug_live, information
from pyhyve.daemon.domains.faults import invalid, invalid_argument, not_supported, system_error
from pyhyve.daemon.domains.states import Affect
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorDomain
from pyhyve.rpc.values import MemoryStat
from pyhyve.xml.devices import StatsPeriod
from pyhyve.xml.domain import CurrentMemory, Memory
from pyhyve.xml.element import replace

if TYPE_CHECKING:
    from pyhyve.daemon.domains.domain import ManagedDomain
    from pyhyve.xml.domain import Domain

__all__ = ["PEEK_MAX", "peek", "set_memory", "set_stats_period", "statistics"]

_MAXIMUM: Final = 4
PEEK_MAX: Final = 4 << 20
_TAGS: Final = {
    "stat-swap-in": (0, 10),
    "stat-swap-out": (1, 10),
    "stat-major-faults": (2, 0),
    "stat-minor-faults": (3, 0),
    "stat-free-memory": (4, 10),
    "stat-total-memory": (5, 10),
    "stat-available-memory": (8, 10),
    "stat-disk-caches": (10, 10),
    "stat-htlb-pgalloc": (11, 0),
    "stat-htlb-pgfail": (12, 0),
}
"""Of each statistic of QEMU's balloon: virDomainMemoryStatTags, and by how much it is shifted to be in KiB."""
_BALLOON, _RSS, _LAST_UPDATE = 6, 7, 9
_UNKNOWN: Final = (1 << 64) - 1


async def set_memory(domain: ManagedDomain, kib: int, flags: int) -> None:
    """Set the memory a guest has, or at most can have. Raises LibvirtError."""
    affect = domain.affected(flags & 3)
    if flags & _MAXIMUM:
        if affect & Affect.LIVE:
            raise invalid("cannot resize the maximum memory on an active domain")
        if not kib:
            raise invalid_argument("memory must not be zero", ErrorDomain.DOMAIN)
        await definitions.change(domain, affect, lambda held: _with_maximum(held, kib))
        return
    for held in _affected_definitions(domain, affect):
        if kib > held.memory_kib:
            raise invalid_argument("cannot set memory higher than max memory")
    if affect & Affect.LIVE:
        balloon = domain.devices.memballoon
        if balloon is None or balloon.model == "none" or not domain.has_command("balloon"):
            raise invalid(
                "Unable to change memory of active domain without the balloon device and guest OS balloon driver"
            )
        await domain.monitor("balloon", {"value": kib << 10})
    if affect & Affect.CONFIG:
        await definitions.change(
            domain, Affect.CONFIG, lambda held: replace(held, current_memory=CurrentMemory(unit="KiB", amount=kib))
        )


def _affected_definitions(domain: ManagedDomain, affect: Affect) -> list[Domain]:
    found = []
    if affect & Affect.LIVE and domain.live is not None:
        found.append(domain.live)
    if affect & Affect.CONFIG and domain.definition is not None:
        found.append(domain.definition)
    return found


def _with_maximum(held: Domain, kib: int) -> Domain:
    current = min(held.current_memory_kib, kib)
    return replace(
        held,
        memory=Memory(unit="KiB", amount=kib, dump_core=held.memory.dump_core),
        current_memory=CurrentMemory(unit="KiB", amount=current),
    )


async def set_stats_period(domain: ManagedDomain, period: int, flags: int) -> None:
    """Have the guest report its memory every so many seconds. Raises LibvirtError."""
    affect = domain.affected(flags & 3)
    if period < 0:
        raise invalid_argument("Memory stats period must not be negative", ErrorDomain.DOMAIN)
    for held in _affected_definitions(domain, affect):
        balloon = held.devices.memballoon if held.devices is not None else None
        if balloon is None or balloon.model == "none":
            raise invalid("Memory balloon model must be virtio to set the collection period")
    if affect & Affect.LIVE:
        await hotplug_live.set_stats_period(domain, period)
    await definitions.change(domain, affect, lambda held: _with_period(held, period))


def _with_period(held: Domain, period: int) -> Domain:
    devices = held.devices
    if devices is None or devices.memballoon is None:
        return held
    balloon = replace(devices.memballoon, stats=StatsPeriod(period=period) if period else None)
    return replace(held, devices=replace(devices, memballoon=balloon))


async def statistics(domain: ManagedDomain) -> list[MemoryStat]:
    """Return what is known about a guest's memory, in KiB where it is a size. Raises LibvirtError."""
    domain.require_active()
    found = [MemoryStat(_BALLOON, domain.current.current_memory_kib)]
    balloon = domain.devices.memballoon
    if balloon is not None and balloon.model != "none" and domain.has_command("qom-get"):
        alias = balloon.alias.name if balloon.alias is not None else "balloon0"
        try:
            answer: dict[str, Any] = await domain.monitor(
                "qom-get", {"path": f"/machine/peripheral/{alias}", "property": "guest-stats"}
            )
        except LibvirtError:
            answer = {}
        for name, value in answer.get("stats", {}).items():
            tag = _TAGS.get(name)
            if tag is not None and 0 <= value < _UNKNOWN:
                found.append(MemoryStat(tag[0], value >> tag[1]))
        if 0 <= answer.get("last-update", -1) < _UNKNOWN:
            found.append(MemoryStat(_LAST_UPDATE, answer["last-update"]))
    found.append(MemoryStat(_RSS, information.resident_kib(domain)))
    return found


async def peek(domain: ManagedDomain, offset: int, size: int, flags: int) -> bytes:
    """Return bytes of a guest's memory, by virtual (1) or physical (2) address. Raises LibvirtError."""
    domain.require_active()
    if flags not in {1, 2}:
        raise invalid_argument("flags parameter must be VIR_MEMORY_VIRTUAL or VIR_MEMORY_PHYSICAL")
    if size > PEEK_MAX:
        raise invalid_argument(f"size {size} exceeds {PEEK_MAX}", ErrorDomain.REMOTE)
    command = "memsave" if flags == 1 else "pmemsave"
    if not domain.has_command(command):
        raise not_supported("this emulator cannot be looked into")
    descriptor, path = tempfile.mkstemp(prefix="peek-", dir=domain.registry.daemon.paths.runtime)
    os.close(descriptor)
    try:
        await domain.monitor(command, {"val": offset, "size": size, "filename": path})
        return await asyncio.to_thread(Path(path).read_bytes)
    except OSError as error:
        raise system_error("failed to read temporary file", error) from error
    finally:
        Path(path).unlink(missing_ok=True)
