"""Processors of domains: how many, where they run, how long they ran."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains import agent, definitions, information, notices, placement
from pyhyve.daemon.domains.definition.cpusets import cpuset_from_map, cpuset_to_map, format_cpuset, parse_cpuset
from pyhyve.daemon.domains.definition.processors import at_most, at_start, now, with_plugged
from pyhyve.daemon.domains.faults import invalid, invalid_argument, not_supported, unsupported
from pyhyve.daemon.domains.states import Affect
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorDomain
from pyhyve.rpc.values import ParamType, TypedParam, VcpuInfo
from pyhyve.xml.domain import Vcpu
from pyhyve.xml.element import replace
from pyhyve.xml.tuning import CpuTune, EmulatorPin, VcpuPin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.daemon.domains.domain import ManagedDomain
    from pyhyve.xml.domain import Domain

__all__ = [
    "count",
    "cpu_statistics",
    "emulator_pin",
    "pin_emulator",
    "pin_vcpu",
    "pins",
    "set_count",
    "vcpu_table",
]

_MAXIMUM, _GUEST, _HOTPLUGGABLE = 4, 8, 16
_RUNNING: Final = 1
_OFFLINE: Final = 0


async def count(domain: ManagedDomain, flags: int) -> int:
    """Return how many processors a domain has, or at most can have. Raises LibvirtError."""
    held = domain.looked_at(flags & 3)
    if flags & _GUEST:
        if flags & _MAXIMUM:
            return now(held)
        answer = await agent.execute(domain, "guest-get-vcpus")
        return sum(1 for item in answer if item.get("online"))
    return at_most(held) if flags & _MAXIMUM else now(held)


async def set_count(domain: ManagedDomain, wanted: int, flags: int) -> None:
    """Set how many processors a domain has, or at most can have. Raises LibvirtError."""
    affect = domain.affected(flags & 3)
    if not wanted:
        raise invalid_argument("nvcpus is zero", ErrorDomain.DOMAIN)
    if flags & _GUEST:
        await _set_guest(domain, wanted)
        return
    if flags & _MAXIMUM:
        if affect & Affect.LIVE:
            raise invalid("maximum vcpu count of a live domain can't be modified")
        await _set_maximum(domain, wanted)
        return
    if affect & Affect.CONFIG and domain.definition is not None and wanted > at_most(domain.definition):
        limit = at_most(domain.definition)
        what = "requested vcpus is greater than max allowable vcpus for the persistent domain"
        raise invalid_argument(f"{what}: {wanted} > {limit}")
    if affect & Affect.LIVE and domain.live is not None:
        if wanted > at_most(domain.live):
            what = "requested vcpus is greater than max allowable vcpus for the live domain"
            raise invalid_argument(f"{what}: {wanted} > {at_most(domain.live)}")
        await _plug(domain, wanted)
    await definitions.change(domain, affect, lambda held: _with_count(held, wanted))


def _with_count(held: Domain, wanted: int) -> Domain:
    vcpu = held.vcpu or Vcpu(count=1)
    return replace(held, vcpu=replace(vcpu, current=None if wanted == vcpu.count else wanted))


async def _set_maximum(domain: ManagedDomain, wanted: int) -> None:
    definition = domain.definition
    if definition is None:
        return
    topology = definition.cpu.topology if definition.cpu is not None else None
    if topology is not None:
        product = topology.sockets * (topology.dies or 1) * topology.cores * topology.threads
        if product != wanted:
            raise invalid_argument("CPU topology doesn't match the desired vcpu count")
    vcpu = definition.vcpu or Vcpu(count=1)
    current = min(vcpu.current or vcpu.count, wanted)
    if vcpu.current is None and wanted > vcpu.count:
        current = vcpu.count
    changed = replace(definition, vcpu=replace(vcpu, count=wanted, current=current if current != wanted else None))
    completed = await domain.registry.complete_parsed(changed)
    await definitions.change(domain, Affect.CONFIG, lambda _: completed)


async def _plug(domain: ManagedDomain, wanted: int) -> None:
    """Add processors to a machine, or take some away. Raises LibvirtError."""
    live = domain.live
    if live is None:
        return
    present = now(live)
    if wanted == present:
        return
    if wanted > present:
        await placement.plug_vcpus(domain, wanted - present)
    else:
        slots = await placement.vcpu_slots(domain)
        removable = [
            item["qom-path"] for item in slots if item.get("qom-path", "").startswith("/machine/peripheral/vcpu")
        ]
        if len(removable) < present - wanted:
            raise unsupported(placement.NO_SLOT, ErrorDomain.QEMU)
        for path in removable[-(present - wanted) :]:
            await domain.monitor("device_del", {"id": path.rpartition("/")[2]})
    domain.live = with_plugged(live, at_start(live), wanted)
    domain.parts.pop("threads", None)
    await placement.apply(domain)


async def _set_guest(domain: ManagedDomain, wanted: int) -> None:
    """Have the guest use that many of its processors, through its agent. Raises LibvirtError."""
    known = await agent.execute(domain, "guest-get-vcpus")
    online = [item for item in known if item.get("online")]
    changes = []
    if wanted < len(online):
        able = [item for item in reversed(online) if item.get("can-offline")]
        changes = [{"logical-id": item["logical-id"], "online": False} for item in able[: len(online) - wanted]]
    else:
        changes = [{"logical-id": item["logical-id"], "online": True} for item in known if not item.get("online")][
            : wanted - len(online)
        ]
    if abs(wanted - len(online)) != len(changes):
        most = "requested vcpu count is greater than the count of enabled vcpus in the domain"
        raise invalid_argument(f"{most}: {wanted} > {len(known)}")
    if changes:
        await agent.execute(domain, "guest-set-vcpus", {"vcpus": changes})


# -- where they run ---------------------------------------------------------------------------------------------------


def host_cpus() -> int:
    """Return how many CPUs the host has."""
    return os.cpu_count() or 1


def _pinned(held: Domain, vcpu: int) -> set[int]:
    """Return the CPUs a processor may run on, as a definition says."""
    tune = held.cputune
    for pin in tune.vcpupin if tune is not None else ():
        if pin.vcpu == vcpu:
            return parse_cpuset(pin.cpuset)
    if held.vcpu is not None and held.vcpu.cpuset:
        return parse_cpuset(held.vcpu.cpuset)
    return set(range(host_cpus()))


def pins(domain: ManagedDomain, count_max: int, length: int, flags: int) -> tuple[bytes, int]:
    """Return bitmaps of where each processor may run, one after another, and how many there are."""
    held = domain.looked_at(flags & 3)
    number = min(at_most(held), max(count_max, 0))
    return b"".join(cpuset_to_map(_pinned(held, vcpu), length) for vcpu in range(number)), number


def _with_pin(held: Domain, vcpu: int, chosen: set[int]) -> Domain:
    tune = held.cputune or CpuTune()
    kept = [pin for pin in tune.vcpupin if pin.vcpu != vcpu]
    kept.append(VcpuPin(vcpu=vcpu, cpuset=format_cpuset(chosen)))
    kept.sort(key=lambda pin: pin.vcpu)
    return replace(held, cputune=replace(tune, vcpupin=tuple(kept)))


async def pin_vcpu(domain: ManagedDomain, vcpu: int, bitmap: bytes, flags: int) -> None:
    """Have a processor run on some CPUs. Raises LibvirtError."""
    affect = domain.affected(flags & 3)
    chosen = cpuset_from_map(bitmap)
    if not chosen:
        raise invalid_argument("Empty cpu list for pinning")
    if affect & Affect.LIVE and domain.live is not None:
        if vcpu >= at_most(domain.live):
            raise invalid_argument(f"vcpu {vcpu} is out of range of live cpu count {now(domain.live)}")
        threads = await placement.vcpu_threads(domain)
        if threads.get(vcpu):
            placement.pin_threads([threads[vcpu]], chosen)
    if affect & Affect.CONFIG and domain.definition is not None and vcpu >= at_most(domain.definition):
        raise invalid_argument(f"vcpu {vcpu} is out of range of persistent cpu count {now(domain.definition)}")
    await definitions.change(domain, affect, lambda held: _with_pin(held, vcpu, chosen))
    if affect & Affect.LIVE:
        notices.tunable(domain, f"cputune.vcpupin{vcpu}", format_cpuset(chosen))


async def pin_emulator(domain: ManagedDomain, bitmap: bytes, flags: int) -> None:
    """Have everything of a machine but its processors run on some CPUs. Raises LibvirtError."""
    affect = domain.affected(flags & 3)
    chosen = cpuset_from_map(bitmap)
    if not chosen:
        raise invalid_argument("Empty cpu list for pinning")
    if affect & Affect.LIVE:
        threads = await placement.vcpu_threads(domain)
        placement.pin_threads(placement.emulator_threads(domain, threads), chosen)
    pin = EmulatorPin(cpuset=format_cpuset(chosen))
    await definitions.change(
        domain, affect, lambda held: replace(held, cputune=replace(held.cputune or CpuTune(), emulatorpin=pin))
    )
    if affect & Affect.LIVE:
        notices.tunable(domain, "cputune.emulatorpin", format_cpuset(chosen))


def emulator_pin(domain: ManagedDomain, length: int, flags: int) -> bytes:
    """Return the bitmap of where everything but the processors may run."""
    held = domain.looked_at(flags & 3)
    tune = held.cputune
    if tune is not None and tune.emulatorpin is not None:
        chosen = parse_cpuset(tune.emulatorpin.cpuset)
    elif held.vcpu is not None and held.vcpu.cpuset:
        chosen = parse_cpuset(held.vcpu.cpuset)
    else:
        chosen = set(range(host_cpus()))
    return cpuset_to_map(chosen, length)


async def vcpu_table(domain: ManagedDomain, most: int, length: int) -> tuple[list[VcpuInfo], bytes]:
    """Return each processor's state, time and CPU, and bitmaps of where they may run. Raises LibvirtError."""
    if not domain.active:
        raise invalid("cannot retrieve vcpu information for inactive domain")
    machine = domain.require_active()
    threads = await placement.vcpu_threads(domain)
    held = domain.current
    rows, maps = [], []
    for vcpu in range(min(now(held), max(most, 0))):
        thread = threads.get(vcpu, 0)
        user, system = information.thread_times_ns(machine.pid, thread)
        rows.append(VcpuInfo(vcpu, _RUNNING, user + system, information.thread_cpu(machine.pid, thread)))
        if length > 0:
            try:
                where = os.sched_getaffinity(thread) if thread else _pinned(held, vcpu)
            except OSError:
                where = _pinned(held, vcpu)
            maps.append(cpuset_to_map(where, length))
    return rows, b"".join(maps)


async def cpu_statistics(domain: ManagedDomain, nparams: int, start: int, cpus: int) -> tuple[list[TypedParam], int]:
    """Return how long a machine ran: in all (start -1), or by CPU. Raises LibvirtError."""
    domain.require_active()
    user, system = information.process_times_ns(domain)
    if start == -1:
        params = [
            TypedParam("cpu_time", ParamType.ULLONG, user + system),
            TypedParam("user_time", ParamType.ULLONG, user),
            TypedParam("system_time", ParamType.ULLONG, system),
        ]
        return (params[:nparams] if nparams else []), len(params)
    if not nparams:
        return [], 1 if cpus else host_cpus()
    # The kernel counts a process's time by CPU only in a cgroup, so that all of it is the first CPU's here.
    params = []
    for cpu in range(start, min(start + cpus, host_cpus())):
        params.append(TypedParam("cpu_time", ParamType.ULLONG, user + system if cpu == 0 else 0))
    return params, 1


async def guest_vcpus(domain: ManagedDomain) -> list[TypedParam]:
    """Return which processors the guest has, uses, and can stop using. Raises LibvirtError."""
    known: Sequence[dict[str, Any]] = await agent.execute(domain, "guest-get-vcpus")
    sets = {
        "vcpus": {item["logical-id"] for item in known},
        "online": {item["logical-id"] for item in known if item.get("online")},
        "offlinable": {item["logical-id"] for item in known if item.get("can-offline")},
    }
    return [TypedParam(name, ParamType.STRING, format_cpuset(chosen)) for name, chosen in sets.items() if chosen]


async def set_guest_vcpus(domain: ManagedDomain, cpumap: str, *, online: bool) -> None:
    """Have the guest use some processors, or not. Raises LibvirtError."""
    wanted = parse_cpuset(cpumap)
    known = {item["logical-id"]: item for item in await agent.execute(domain, "guest-get-vcpus")}
    if missing := wanted - set(known):
        raise invalid_argument(f"guest is missing vCPUs '{format_cpuset(missing)}'")
    for number in sorted(wanted):
        if not online and not known[number].get("can-offline"):
            raise not_supported(f"vCPU '{number}' is not offlinable")
    changes = [{"logical-id": number, "online": online} for number in sorted(wanted)]
    await agent.execute(domain, "guest-set-vcpus", {"vcpus": changes})


def _check_vcpus(held: Domain, wanted: set[int], which: str) -> None:
    if max(wanted) >= at_most(held):
        raise invalid_argument(f"vcpu {max(wanted)} is not present in {which} config")


async def set_vcpu(domain: ManagedDomain, cpumap: str, *, enabled: bool, flags: int) -> None:
    """Plug in or out the processors of a set. Raises LibvirtError."""
    affect = domain.affected(flags & 3)
    wanted = parse_cpuset(cpumap)
    if affect & Affect.CONFIG and domain.definition is not None:
        _check_vcpus(domain.definition, wanted, "persistent")
        if 0 in wanted:
            raise invalid_argument("vCPU '0' can't be modified")
    if affect & Affect.LIVE and domain.live is not None:
        _check_vcpus(domain.live, wanted, "live")
        for vcpu in sorted(wanted):
            if enabled is (vcpu < now(domain.live)):
                raise invalid_argument(f"vcpu '{vcpu}' is already in requested state")
        plugged = {item["qom-path"] for item in await domain.monitor("query-hotpluggable-cpus") if "qom-path" in item}
        for vcpu in sorted(wanted):
            if not enabled and f"/machine/peripheral/vcpu{vcpu}" not in plugged:
                raise not_supported(f"vcpu '{vcpu}' can't be unplugged")
    held = domain.looked_at(flags & 3)
    present = set(range(now(held)))
    goal = present | wanted if enabled else present - wanted
    if goal != set(range(len(goal))):
        raise LibvirtError.no_support("virDomainSetVcpu of processors in the middle", ErrorDomain.QEMU)
    await set_count(domain, len(goal), int(affect))
