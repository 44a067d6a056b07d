"""Limits of running machines, kept by the kernel for their control groups."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains import placement
from pyhyve.daemon.domains.faults import invalid_argument, system_error
from pyhyve.daemon.host.groups import MachineGroup, find_controllers
from pyhyve.rpc.values import ParamType, TypedParam

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyhyve.daemon.domains.domain import ManagedDomain

__all__ = ["apply", "enter", "group_of", "leave", "memory", "scheduler", "set_blkio", "set_memory", "set_scheduler"]

_log = logging.getLogger(__name__)
_UNLIMITED_KIB: Final = 9007199254740991
_SCOPES: Final = ("vcpu", "emulator", "global", "iothread")
_DEVICE: Final = {
    "device_read_iops_sec": "read_iops",
    "device_write_iops_sec": "write_iops",
    "device_read_bytes_sec": "read_bps",
    "device_write_bytes_sec": "write_bps",
}
_KEY: Final = "group"


def enter(pid: int) -> None:
    """Put a machine that was just started into groups of its own, where there can be any. Blocks."""
    controllers = find_controllers()
    if controllers:
        MachineGroup(controllers, pid).create()


def leave(pid: int) -> None:
    """Remove the groups of a machine that ended. Blocks."""
    MachineGroup(find_controllers(), pid).remove()


def group_of(domain: ManagedDomain, controller: str) -> MachineGroup | None:
    """Return a machine's group, or None where it is in none of that controller."""
    group = domain.parts.get(_KEY)
    if not isinstance(group, MachineGroup):
        pid = domain.machine.pid if domain.machine is not None else 0
        group = domain.parts[_KEY] = MachineGroup(find_controllers(), pid)
    return group if group.has(controller) else None


def scheduler(group: MachineGroup) -> list[TypedParam]:
    """Return how much of the host's CPUs a machine gets."""
    params = [TypedParam("cpu_shares", ParamType.ULLONG, group.shares)]
    for scope in _SCOPES:
        period, quota = group.bandwidth(scope if scope == "emulator" else "vcpu0" if scope == "vcpu" else "")
        params.append(TypedParam(f"{scope}_period", ParamType.ULLONG, period))
        params.append(TypedParam(f"{scope}_quota", ParamType.LLONG, quota))
    return params


async def set_scheduler(domain: ManagedDomain, group: MachineGroup, given: Mapping[str, Any]) -> None:
    """Set some of that. Raises LibvirtError."""
    vcpus = await placement.vcpu_threads(domain)
    try:
        if "cpu_shares" in given:
            group.shares = int(given["cpu_shares"])
        for scope in _SCOPES:
            period, quota = given.get(f"{scope}_period"), given.get(f"{scope}_quota")
            if period is None and quota is None:
                continue
            for path in await asyncio.to_thread(_places, domain, group, scope, vcpus):
                group.set_bandwidth(
                    path, None if period is None else int(period), None if quota is None else int(quota)
                )
    except OSError as error:
        raise system_error(f"Unable to write to '{error.filename}'", error) from error


def _places(domain: ManagedDomain, group: MachineGroup, scope: str, vcpus: dict[int, int]) -> list[Any]:
    if scope == "global":
        return [group.path("cpu")]
    if scope == "vcpu":
        return [group.thread_group(f"vcpu{number}", [thread]) for number, thread in sorted(vcpus.items())]
    if scope == "emulator":
        return [group.thread_group("emulator", placement.emulator_threads(domain, vcpus))]
    return []


def memory(group: MachineGroup) -> dict[str, int]:
    """Return how much memory a machine may take, in KiB."""
    found = {}
    for kind in ("hard_limit", "soft_limit", "swap_hard_limit"):
        value = group.memory_limit(kind)
        found[kind] = _UNLIMITED_KIB if value is None else value >> 10
    return found


def set_memory(group: MachineGroup, given: Mapping[str, Any]) -> None:
    """Set some of that. Raises LibvirtError."""
    hard, swap = given.get("hard_limit"), given.get("swap_hard_limit")
    order = ["soft_limit", "hard_limit", "swap_hard_limit"]
    if swap is not None and hard is not None and int(hard) << 10 > (group.memory_limit("swap_hard_limit") or 1 << 62):
        order = ["soft_limit", "swap_hard_limit", "hard_limit"]  # the kernel wants the one never above the other
    try:
        for kind in order:
            if kind in given:
                value = int(given[kind])
                group.set_memory_limit(kind, None if value >= _UNLIMITED_KIB else value << 10)
    except OSError as error:
        raise system_error(f"Unable to write to '{error.filename}'", error) from error


def set_blkio(group: MachineGroup, given: Mapping[str, Any]) -> None:
    """Set a machine's weight among those that use disks, and limits for devices. Raises LibvirtError."""
    try:
        if given.get("weight"):
            group.set_weight(int(given["weight"]))
        for name, kind in _DEVICE.items():
            for device, value in _pairs(str(given.get(name, ""))):
                group.set_throttle(kind, device, value)
    except OSError as error:
        raise system_error(f"Unable to write to '{error.filename}'", error) from error


def _pairs(text: str) -> list[tuple[str, int]]:
    """Read ``/dev/sda,1000,/dev/sdb,0``. Raises LibvirtError, OSError."""
    words = [word for word in text.split(",") if word]
    if len(words) % 2:
        raise invalid_argument(f"unable to parse blkio device '{text}'")
    found = []
    for path, value in zip(words[::2], words[1::2], strict=True):
        if not value.isdecimal():
            raise invalid_argument(f"invalid value '{value}' for device '{path}'")
        number = os.stat(path).st_rdev  # noqa: PTH116 - one call, of a device's number
        if not number:
            raise invalid_argument(f"'{path}' is no block device")
        found.append((f"{os.major(number)}:{os.minor(number)}", int(value)))
    return found


async def apply(domain: ManagedDomain) -> None:
    """Set the limits of a definition for the machine that was just started; what cannot be set is logged."""
    from pyhyve.daemon.domains import tuning  # noqa: PLC0415 - it sets limits of running machines with this module

    live = domain.live
    if live is None:
        return
    try:
        if live.cputune is not None and (group := group_of(domain, "cpu")) is not None:
            given = {param.field: param.value for param in tuning.held_scheduler(live) if param.value}
            if given:
                await set_scheduler(domain, group, given)
        if live.memtune is not None and (group := group_of(domain, "memory")) is not None:
            held = tuning.held_memory(live)
            set_memory(group, {param.field: param.value for param in held if param.value != _UNLIMITED_KIB})
        if live.blkiotune is not None and (group := group_of(domain, "blkio")) is not None:
            set_blkio(group, {param.field: param.value for param in tuning.held_blkio(live) if param.value})
    except Exception as error:  # noqa: BLE001 - a machine without a limit is better than none
        _log.warning("%s runs without its limits: %s", domain.name, error)
