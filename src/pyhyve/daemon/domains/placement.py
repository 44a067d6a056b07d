"""Which of the host's CPUs run a machine: its processors, and the rest of it.

Affinity is set on threads (sched_setaffinity(2)); which thread is which processor, the machine says.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains.definition.cpusets import parse_cpuset
from pyhyve.daemon.domains.faults import invalid_argument, system_error, unsupported
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorDomain

if TYPE_CHECKING:
    from pyhyve.daemon.domains.domain import ManagedDomain

__all__ = ["NO_SLOT", "apply", "emulator_threads", "pin_threads", "plug_vcpus", "vcpu_slots", "vcpu_threads"]

_log = logging.getLogger(__name__)
NO_SLOT: Final = "failed to find appropriate hotpluggable vcpus to reach the desired target vcpu count"


async def vcpu_threads(domain: ManagedDomain) -> dict[int, int]:
    """Return the thread of each processor by its number; nothing where the machine does not say."""
    if not domain.has_command("query-cpus-fast"):
        return {}
    held = domain.parts.get("threads")
    if held is None:
        held = {item["cpu-index"]: item.get("thread-id", 0) for item in await domain.monitor("query-cpus-fast")}
        domain.parts["threads"] = held
    found: dict[int, int] = held
    return found


async def vcpu_slots(domain: ManagedDomain) -> list[dict[str, Any]]:
    """Return the places a machine has for processors, in their order; those that are taken have a "qom-path"."""
    slots: list[dict[str, Any]] = await domain.monitor("query-hotpluggable-cpus")
    slots.sort(key=lambda item: tuple(sorted(item["props"].items())))
    return slots


async def plug_vcpus(domain: ManagedDomain, count: int) -> None:
    """Add processors to a machine. Raises LibvirtError."""
    slots = await vcpu_slots(domain)
    free = [item for item in slots if "qom-path" not in item]
    if len(free) < count:
        raise unsupported(NO_SLOT, ErrorDomain.QEMU)
    for number, slot in enumerate(free[:count], len(slots) - len(free)):
        await domain.monitor("device_add", {"driver": slot["type"], "id": f"vcpu{number}", **slot["props"]})


def emulator_threads(domain: ManagedDomain, vcpus: dict[int, int]) -> list[int]:
    """Return the threads of a machine that are no processors."""
    pid = domain.machine.pid if domain.machine is not None else 0
    processors = set(vcpus.values()) - {pid}
    try:
        threads = [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []
    return [thread for thread in threads if thread not in processors]


def pin_threads(threads: list[int], cpus: set[int]) -> None:
    """Have threads run on some of the host's CPUs. Raises LibvirtError."""
    usable = cpus & set(range(os.cpu_count() or 1))
    if not usable:
        raise invalid_argument("Failed to set affinity: none of the CPUs exists")
    for thread in threads:
        try:
            os.sched_setaffinity(thread, usable)
        except ProcessLookupError:
            continue  # it ended meanwhile
        except OSError as error:
            raise system_error(f"cannot set CPU affinity on process {thread}", error) from error


async def apply(domain: ManagedDomain) -> None:
    """Put a machine that just started where its definition says."""
    live = domain.live
    if live is None or live.vcpu is None:
        return
    tune = live.cputune
    everywhere = parse_cpuset(live.vcpu.cpuset) if live.vcpu.cpuset else None
    if everywhere is None and (tune is None or not (tune.vcpupin or tune.emulatorpin)):
        return
    try:
        threads = await vcpu_threads(domain)
        emulator = parse_cpuset(tune.emulatorpin.cpuset) if tune and tune.emulatorpin else everywhere
        if emulator is not None:
            pin_threads(emulator_threads(domain, threads), emulator)
        pins = {pin.vcpu: parse_cpuset(pin.cpuset) for pin in tune.vcpupin} if tune is not None else {}
        for number, thread in threads.items():
            wanted = pins.get(number, everywhere)
            if wanted is not None and thread:
                pin_threads([thread], wanted)
    except LibvirtError as error:
        _log.warning("%s: %s", domain.name, error)
        raise
