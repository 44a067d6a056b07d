"""All statistics of domains in one answer (virConnectGetAllDomainStats)."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.dispatch import Encoded, Turn
from pyhyve.daemon.domains import disks, information, interfaces, iothreads, memory, placement
from pyhyve.daemon.domains.definition import processors
from pyhyve.daemon.domains.definition.chains import chain_of
from pyhyve.daemon.domains.images import image_sizes
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.codec import codec
from pyhyve.rpc.values import ParamType, StatsRecord, TypedParam

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyhyve.daemon.domains.domain import ManagedDomain

__all__ = ["ALL", "collect"]

_STATE, _CPU, _BALLOON, _VCPU, _INTERFACE, _BLOCK, _PERF, _IOTHREAD = 1, 2, 4, 8, 16, 32, 64, 128
_MEMORY, _DIRTYRATE, _VM = 256, 512, 1024
ALL: Final = 2047
_AT_ONCE: Final = 32
"""Machines that are asked at the same time."""
_BACKING: Final = 1 << 30
_BALLOON_WORDS: Final = {
    0: "swap_in",
    1: "swap_out",
    2: "major_fault",
    3: "minor_fault",
    4: "unused",
    5: "available",
    7: "rss",
    8: "usable",
    9: "last-update",
    10: "disk_caches",
    11: "hugetlb_pgalloc",
    12: "hugetlb_pgfail",
}
_NET: Final = ("rx.bytes", "rx.pkts", "rx.errs", "rx.drop", "tx.bytes", "tx.pkts", "tx.errs", "tx.drop")
_BLOCKS: Final = (
    ("rd.reqs", "rd_operations"),
    ("rd.bytes", "rd_bytes"),
    ("rd.times", "rd_total_time_ns"),
    ("wr.reqs", "wr_operations"),
    ("wr.bytes", "wr_bytes"),
    ("wr.times", "wr_total_time_ns"),
    ("fl.reqs", "flush_operations"),
    ("fl.times", "flush_total_time_ns"),
)


def _int(name: str, value: int) -> TypedParam:
    return TypedParam(name, ParamType.INT, value)


def _uint(name: str, value: int) -> TypedParam:
    return TypedParam(name, ParamType.UINT, value)


def _count(name: str, value: int) -> TypedParam:
    return TypedParam(name, ParamType.ULLONG, value)


def _text(name: str, value: str) -> TypedParam:
    return TypedParam(name, ParamType.STRING, value)


async def collect(domains: Iterable[ManagedDomain], stats: int, flags: int) -> list[StatsRecord | Encoded]:
    """Return the statistics of domains; what a machine does not answer is left out."""
    limit = asyncio.Semaphore(_AT_ONCE)

    async def ask(domain: ManagedDomain) -> StatsRecord:
        async with limit:
            return StatsRecord(domain.ref, await _statistics(domain, stats, flags))

    found: list[StatsRecord | Encoded] = []
    asked: list[tuple[int, asyncio.Task[StatsRecord]]] = []
    turn = Turn()
    for domain in domains:
        at_rest = await _at_rest(domain, stats, flags)
        if at_rest is None:
            asked.append((len(found), asyncio.create_task(ask(domain))))
            at_rest = _NOTHING
        found.append(at_rest)
        await turn.over()
    for place, task in asked:
        found[place] = await task
    return found


_NOTHING: Final = Encoded(b"")


async def _at_rest(domain: ManagedDomain, stats: int, flags: int) -> Encoded | None:
    """Return the statistics of a domain nobody has to be asked about: it does not run, and has no images.

    They are kept until the domain changes: a host has more domains than machines.
    """
    definition = domain.definition
    if domain.active or definition is None:
        return None
    key = (int(domain.state), domain.reason, domain.name, stats, flags & _BACKING)
    kept = domain.statistics_at_rest
    if kept is not None and kept[0] is definition and kept[1] == key:
        return kept[2]
    if stats & _BLOCK and any(map(chain_of, domain.devices.disk)):
        return None
    record = StatsRecord(domain.ref, await _statistics(domain, stats, flags))
    encoded = Encoded(_RECORD.encode(record))
    domain.statistics_at_rest = (definition, key, encoded)
    return encoded


_RECORD: Final = codec("item stats_record")


async def _statistics(domain: ManagedDomain, stats: int, flags: int) -> list[TypedParam]:
    params: list[TypedParam] = []
    if stats & _STATE:
        params += (_int("state.state", int(domain.state)), _int("state.reason", int(domain.reason)))
    if stats & _CPU and domain.active:
        user, system = information.process_times_ns(domain)
        params += (_count("cpu.time", user + system), _count("cpu.user", user), _count("cpu.system", system))
        params.append(_uint("cpu.cache.monitor.count", 0))
    if stats & _BALLOON:
        await _balloon(domain, params)
    if stats & _VCPU:
        await _vcpus(domain, params)
    if stats & _INTERFACE and domain.active:
        _interfaces(domain, params)
    if stats & _BLOCK:
        await _blocks(domain, params, backing=bool(flags & _BACKING))
    if stats & _IOTHREAD and domain.active and (domain.current.iothreads or 0):
        with contextlib.suppress(LibvirtError):
            params += await iothreads.statistics(domain)
    if stats & _DIRTYRATE and domain.has_command("query-dirty-rate"):
        with contextlib.suppress(LibvirtError):
            params += _dirty_rate(await domain.monitor("query-dirty-rate"))
    return params


def _dirty_rate(said: dict[str, Any]) -> list[TypedParam]:
    status = {"unstarted": 0, "measuring": 1, "measured": 2}.get(said["status"], 0)
    params = [
        _int("dirtyrate.calc_status", status),
        TypedParam("dirtyrate.calc_start_time", ParamType.LLONG, said["start-time"]),
        _int("dirtyrate.calc_period", said["calc-time"]),
        _text("dirtyrate.calc_mode", said.get("mode", "page-sampling")),
    ]
    if status == 2:
        params.append(TypedParam("dirtyrate.megabytes_per_second", ParamType.LLONG, said.get("dirty-rate", 0)))
        params += [
            TypedParam(f"dirtyrate.vcpu.{vcpu['id']}.megabytes_per_second", ParamType.LLONG, vcpu["dirty-rate"])
            for vcpu in said.get("vcpu-dirty-rate", ())
        ]
    return params


async def _balloon(domain: ManagedDomain, params: list[TypedParam]) -> None:
    held = domain.current
    params.append(_count("balloon.current", held.current_memory_kib))
    params.append(_count("balloon.maximum", held.memory_kib))
    if domain.machine is None:
        return
    try:
        found = {item.tag: item.val for item in await memory.statistics(domain)}
    except LibvirtError:
        return
    params.extend(_count(f"balloon.{word}", found[tag]) for tag, word in _BALLOON_ORDER if tag in found)


_BALLOON_ORDER: Final = sorted(
    _BALLOON_WORDS.items(), key=lambda item: (0, 1, 2, 3, 4, 5, 9, 8, 7, 10, 11, 12).index(item[0])
)
"""Swap and faults, then sizes, when the guest last told them, and what the host counts."""


async def _vcpus(domain: ManagedDomain, params: list[TypedParam]) -> None:
    now = information.vcpu_count(domain)
    params.append(_uint("vcpu.current", now))
    params.append(_uint("vcpu.maximum", processors.at_most(domain.current)))
    machine = domain.machine
    if machine is None:
        return
    try:
        threads = await placement.vcpu_threads(domain)
    except LibvirtError:
        return
    for number in range(now):
        thread = threads.get(number, 0)
        user, system = information.thread_times_ns(machine.pid, thread)
        params.append(_int(f"vcpu.{number}.state", 1))
        params.append(_count(f"vcpu.{number}.time", user + system))
        params.append(_count(f"vcpu.{number}.wait", 0))
        params.append(_count(f"vcpu.{number}.delay", _delay_ns(machine.pid, thread)))


def _delay_ns(pid: int, thread: int) -> int:
    """Return how long a thread waited for a CPU (Documentation/scheduler/sched-stats, the second number)."""
    try:
        return int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _interfaces(domain: ManagedDomain, params: list[TypedParam]) -> None:
    held = domain.devices.interface
    params.append(_uint("net.count", len(held)))
    known = interfaces.all_counters() if held else {}
    for number, item in enumerate(held):
        name = item.target.dev if item.target is not None else None
        if name is None:
            continue
        params.append(_text(f"net.{number}.name", name))
        found = known.get(name)
        if found is not None:
            params.extend(_count(f"net.{number}.{word}", value) for word, value in zip(_NET, found, strict=True))


async def _blocks(domain: ManagedDomain, params: list[TypedParam], *, backing: bool) -> None:
    counted: dict[str, dict[str, int]] = {}
    nodes: dict[str, dict[str, Any]] = {}
    if domain.active and domain.has_command("query-blockstats"):
        try:
            counted = await disks.statistics_by_alias(domain)
            if domain.has_command("query-named-block-nodes"):
                answer = await domain.monitor("query-named-block-nodes", {"flat": True})
                nodes = {item["node-name"]: item for item in answer}
        except LibvirtError:
            counted = counted or {}
    entries: list[TypedParam] = []
    number = 0
    for disk in domain.devices.disk:
        chain = chain_of(disk)
        shown = chain if backing and chain else chain[:1]
        for place, image in enumerate(shown or [None]):
            prefix = f"block.{number}"
            entries.append(_text(f"{prefix}.name", disk.target.dev))
            if image is not None and image.path:
                entries.append(_text(f"{prefix}.path", image.path))
                if image.index:
                    entries.append(_uint(f"{prefix}.backingIndex", image.index))
            found = counted.get(disks.alias_of(disk))
            if domain.active and found is not None and place == 0:
                entries.extend(_count(f"{prefix}.{word}", found.get(key, 0)) for word, key in _BLOCKS)
            if image is not None and image.path:
                entries.extend(await _sizes(domain, prefix, image, nodes, found if place == 0 else None))
            threshold = domain.parts.get("thresholds", {}).get(disk.target.dev)
            if threshold and place == 0:
                entries.append(_count(f"{prefix}.threshold", threshold))
            number += 1
    params.append(_uint("block.count", number))
    params.extend(entries)


async def _sizes(
    domain: ManagedDomain, prefix: str, image: Any, nodes: dict[str, dict[str, Any]], found: dict[str, int] | None
) -> list[TypedParam]:
    node = nodes.get(image.node)
    if domain.active and node is not None:
        capacity = node["image"]["virtual-size"]
        physical = node["image"].get("actual-size", 0)
        written = (found or {}).get("wr_highest_offset", 0)
        return [
            _count(f"{prefix}.allocation", written),
            _count(f"{prefix}.capacity", capacity),
            _count(f"{prefix}.physical", physical),
        ]
    try:
        capacity, allocation, physical = await domain.registry.daemon.run_blocking(
            image_sizes, image.path, image.format
        )
    except LibvirtError:
        return []
    if image.source.dev is not None:
        return []
    return [
        _count(f"{prefix}.allocation", allocation),
        _count(f"{prefix}.capacity", capacity),
        _count(f"{prefix}.physical", physical),
    ]
