"""Disks of domains in numbers: statistics, sizes, limits; looking into them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains import definitions
from pyhyve.daemon.domains.definition.chains import chain_of
from pyhyve.daemon.domains.definition.find import find_disk
from pyhyve.daemon.domains.faults import internal, invalid_argument, not_supported, system_error, unsupported
from pyhyve.daemon.domains.images import image_sizes
from pyhyve.daemon.domains.states import Affect
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.rpc.values import DiskError, ParamType, TypedParam
from pyhyve.xml.document import Node
from pyhyve.xml.element import replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.daemon.domains.domain import ManagedDomain
    from pyhyve.xml.disk import Disk
    from pyhyve.xml.domain import Domain

__all__ = [
    "block_info",
    "block_statistics",
    "errors",
    "get_io_tune",
    "peek",
    "resize",
    "set_io_tune",
    "set_threshold",
    "statistics_by_alias",
]

PEEK_MAX: Final = 4 << 20
_TUNE: Final = (
    ("total_bytes_sec", "bps"),
    ("read_bytes_sec", "bps_rd"),
    ("write_bytes_sec", "bps_wr"),
    ("total_iops_sec", "iops"),
    ("read_iops_sec", "iops_rd"),
    ("write_iops_sec", "iops_wr"),
    ("total_bytes_sec_max", "bps_max"),
    ("read_bytes_sec_max", "bps_rd_max"),
    ("write_bytes_sec_max", "bps_wr_max"),
    ("total_iops_sec_max", "iops_max"),
    ("read_iops_sec_max", "iops_rd_max"),
    ("write_iops_sec_max", "iops_wr_max"),
    ("size_iops_sec", "iops_size"),
    ("group_name", "group"),
    ("total_bytes_sec_max_length", "bps_max_length"),
    ("read_bytes_sec_max_length", "bps_rd_max_length"),
    ("write_bytes_sec_max_length", "bps_wr_max_length"),
    ("total_iops_sec_max_length", "iops_max_length"),
    ("read_iops_sec_max_length", "iops_rd_max_length"),
    ("write_iops_sec_max_length", "iops_wr_max_length"),
)
"""Limits in libvirt's words and order, and in QEMU's."""
_FAMILIES: Final = ("bytes_sec", "iops_sec", "bytes_sec_max", "iops_sec_max")
"""What is limited for reading, writing, or both in total; what is given of one replaces all of it."""
_KINDS: Final = ("total", "read", "write")
_LIMIT_MAX: Final = 10**15
_STATS: Final = (
    ("rd_operations", "rd_operations"),
    ("rd_bytes", "rd_bytes"),
    ("rd_total_times", "rd_total_time_ns"),
    ("wr_operations", "wr_operations"),
    ("wr_bytes", "wr_bytes"),
    ("wr_total_times", "wr_total_time_ns"),
    ("flush_operations", "flush_operations"),
    ("flush_total_times", "flush_total_time_ns"),
)
_COUNTED: Final = tuple(key for _, key in _STATS)


async def statistics_by_alias(domain: ManagedDomain) -> dict[str, dict[str, int]]:
    """Return QEMU's counters of each disk by alias. Raises LibvirtError."""
    found: dict[str, dict[str, int]] = {}
    for item in await domain.monitor("query-blockstats"):
        path = item.get("qdev") or ""
        alias = path.removeprefix("/machine/peripheral/").partition("/")[0]
        stats = dict(item["stats"])
        highest = item.get("parent", {}).get("stats", {}).get("wr_highest_offset")
        if highest is not None:
            stats["wr_highest_offset"] = highest
        found[alias or item.get("device", "")] = stats
    return found


def alias_of(disk: Disk) -> str:
    """Return a disk's alias."""
    return disk.alias.name if disk.alias is not None else ""


def backend_of(domain: ManagedDomain, disk: Disk) -> str:
    """Return what QEMU's commands about the guest's side of a disk call it."""
    alias = alias_of(disk)
    ours = domain.record is not None and "pyhyve-system" in domain.record.emulator
    return f"/machine/peripheral/{alias}/virtio-backend" if disk.target.bus == "virtio" and not ours else alias


async def block_statistics(domain: ManagedDomain, path: str) -> dict[str, int]:
    """Return counters of a disk, or of all together where no path is given. Raises LibvirtError."""
    domain.require_active()
    disk: Disk | None = None
    if path:
        disk = find_disk(domain.devices, path)
        if disk is None:
            raise invalid_argument(f"invalid path: {path}")
    found = await statistics_by_alias(domain)
    if disk is None:
        return {key: sum(item.get(key, 0) for item in found.values()) for key in _COUNTED}
    stats = found.get(alias_of(disk))
    if stats is None:
        raise invalid_argument(f"cannot find statistics for device '{alias_of(disk)}'")
    return stats


def statistic_params(stats: dict[str, int]) -> list[TypedParam]:
    """Return counters in libvirt's words."""
    return [TypedParam(name, ParamType.LLONG, stats.get(key, 0)) for name, key in _STATS]


async def block_info(domain: ManagedDomain, path: str) -> tuple[int, int, int]:
    """Return allocation, capacity and physical size of a disk's image in bytes. Raises LibvirtError."""
    disk = find_disk(domain.devices, path)
    if disk is None:
        raise invalid_argument(f"invalid path {path} not assigned to domain")
    chain = chain_of(disk)
    if not chain:
        raise invalid_argument(f"disk '{path}' does not currently have a source assigned")
    capacity, allocation, physical = await domain.registry.daemon.run_blocking(
        image_sizes, chain[0].path, chain[0].format
    )
    if domain.active and domain.has_command("query-blockstats"):
        for item in await domain.monitor("query-blockstats"):
            alias = (item.get("qdev") or "").removeprefix("/machine/peripheral/").partition("/")[0]
            offset = item.get("parent", {}).get("stats", {}).get("wr_highest_offset") or item["stats"].get(
                "wr_highest_offset"
            )
            if alias == alias_of(disk) and offset and chain[0].source.dev is not None:
                allocation = offset
    return allocation, capacity, physical


async def resize(domain: ManagedDomain, path: str, size: int, flags: int) -> None:
    """Grow or shrink a disk: KiB, or bytes as flags say. Raises LibvirtError."""
    domain.require_active()
    disk = find_disk(domain.devices, path)
    if disk is None:
        raise invalid_argument(f"disk '{path}' was not found in the domain config")
    if not path:
        raise invalid_argument("path must not be empty", ErrorDomain.DOMAIN)
    amount = size if flags & 1 else size << 10
    if amount >= 1 << 63:
        raise LibvirtError(ErrorCode.OVERFLOW, ErrorDomain.QEMU, f"size must be less than {(1 << 63) >> 10}")
    if disk.source is None:
        raise invalid_argument(f"can't resize empty or readonly disk '{path}'")
    chain = chain_of(disk)
    arguments: dict[str, Any] = {"node-name": chain[0].node, "size": amount}
    await domain.monitor("block_resize", arguments)


async def peek(domain: ManagedDomain, path: str, offset: int, size: int) -> bytes:
    """Return bytes of a disk's image file. Raises LibvirtError."""
    disk = find_disk(domain.devices, path)
    if disk is None or disk.source is None:
        raise invalid_argument(f"invalid disk or path '{path}'")
    if size > PEEK_MAX:
        raise invalid_argument(f"size {size} exceeds {PEEK_MAX}", ErrorDomain.REMOTE)
    where = disk.source.file or disk.source.dev
    if where is None:
        raise not_supported("only files and devices of the host can be looked into")

    def read() -> bytes:
        with open(where, "rb") as file:  # noqa: PTH123 - the path is text of a document
            file.seek(offset)
            return file.read(size)

    try:
        data = await domain.registry.daemon.run_blocking(read)
    except OSError as error:
        raise system_error(f"{where}: failed to seek or read", error) from error
    if len(data) < size:
        raise system_error(f"{where}: failed to seek or read", OSError(5, "Input/output error"))
    return data


def errors(domain: ManagedDomain, most: int) -> tuple[list[DiskError], int]:
    """Return the disks that stopped for an error, and which (1 none in particular, 2 no space)."""
    domain.require_active()
    held: dict[str, int] = domain.parts.get("disk-errors", {})
    if not most:
        return [], len(domain.devices.disk)
    found = [DiskError(name, error) for name, error in held.items()][:most]
    return found, len(found)


# -- limits -----------------------------------------------------------------------------------------------------------


def _tuned(held: Domain, path: str, *, live: bool = False) -> Disk:
    disk = find_disk(held.devices, path) if held.devices is not None else None
    if disk is None:
        raise invalid_argument(
            f"disk '{path}' {'not found in domain' if live else 'was not found in the domain config'}"
        )
    return disk


def _limits_of(disk: Disk) -> dict[str, str]:
    return {node.name: node.text.strip() for node in (disk.iotune.children if disk.iotune is not None else ())}


async def get_io_tune(
    domain: ManagedDomain, path: str | None, nparams: int, flags: int
) -> tuple[list[TypedParam], int]:
    """Return a disk's limits; a path of nobody asks how many there are. Raises LibvirtError."""
    live = domain.active and not flags & Affect.CONFIG
    if not path or not nparams:
        if path:
            _tuned(domain.looked_at(flags & 3), path, live=live)
        return [], len(_TUNE)
    disk = _tuned(domain.looked_at(flags & 3), path, live=live)
    values = _limits_of(disk)
    if live and disk.source is None:
        raise internal("block_io_throttle inserted entry was not in expected format")
    if values and live:
        values.setdefault("group_name", backend_of(domain, disk))
    params = [
        TypedParam(name, ParamType.STRING, values.get(name, ""))
        if name == "group_name"
        else TypedParam(name, ParamType.ULLONG, int(values.get(name, 0)))
        for name, _ in _TUNE
    ]
    return params[:nparams], len(params[:nparams])


async def set_io_tune(domain: ManagedDomain, path: str, params: Sequence[TypedParam], flags: int) -> None:
    """Limit a disk, and those in its group with it. Raises LibvirtError."""
    affect = domain.affected(flags & 3)
    known = {name for name, _ in _TUNE}
    given: dict[str, str] = {}
    for param in params:
        if param.field not in known:
            raise invalid_argument(f"parameter '{param.field}' not supported", ErrorDomain.NONE)
        given[param.field] = str(param.value)
        if param.field != "group_name" and int(param.value) > _LIMIT_MAX:
            detail = f"block I/O throttle limit value must be no more than {_LIMIT_MAX}"
            raise LibvirtError(ErrorCode.ARGUMENT_UNSUPPORTED, ErrorDomain.QEMU, detail)
    for family in _FAMILIES:
        both = [int(given.get(f"{kind}_{family}", 0)) for kind in ("read", "write")]
        if int(given.get(f"total_{family}", 0)) and any(both):
            raise invalid_argument(f"total and read/write of {family} cannot be set at the same time")
    for held in domain.definitions_affected(affect):
        disk = find_disk(held.devices, path) if held.devices is not None else None
        if disk is None:
            missing = f"missing persistent configuration for disk '{path}'"
            raise invalid_argument(f"disk '{path}' not found in domain" if held is domain.live else missing)
        _check_peaks(_merged(held, disk, given), given)
    if affect & Affect.LIVE and domain.live is not None:
        disk = _tuned(domain.live, path)
        merged = _merged(domain.live, disk, given)
        arguments: dict[str, Any] = {"id": backend_of(domain, disk)}
        for name, key in _TUNE:
            written = merged.get(name)
            if key == "group":
                if written:
                    arguments[key] = written
            elif name in {item for item, _ in _TUNE[:6]} or int(written or 0):
                arguments[key] = int(written or 0)
        if disk.source is not None:
            await domain.monitor("block_set_io_throttle", arguments)
    await definitions.change(domain, affect, lambda held: _with_tune(held, path, given))


def _check_peaks(merged: dict[str, str], given: dict[str, str]) -> None:
    """Raise LibvirtError where a peak is set without what it is the peak of, or is below it."""
    for family in _FAMILIES[:2]:
        asked = any(f"{kind}_{family}" in given for kind in _KINDS)
        for kind in _KINDS:
            name = f"{kind}_{family}"
            peak, average = int(merged.get(f"{name}_max", 0)), int(merged.get(name, 0))
            if peak and not average:
                reset = f"cannot reset '{name}' when '{name}_max' is set"
                raise unsupported(
                    reset if asked else f"value '{name}_max' cannot be set if '{name}' is not set", ErrorDomain.QEMU
                )
            if peak and peak < average:
                raise unsupported(f"value '{name}_max' cannot be smaller than '{name}'", ErrorDomain.QEMU)


def _merged(held: Domain, disk: Disk, given: dict[str, str]) -> dict[str, str]:
    """Return the limits a disk has then: of each family what is given, or what it had, or what its group has."""
    values = _limits_of(disk)
    group = given.get("group_name", values.get("group_name"))
    if group and group != values.get("group_name"):
        others = [_limits_of(other) for other in (held.devices.disk if held.devices is not None else ())]
        values = next((other for other in others if other.get("group_name") == group), values)
    merged = dict(values)
    for family in _FAMILIES:
        names = [f"{kind}_{family}" for kind in _KINDS]
        if any(name in given for name in names):
            merged.update(dict.fromkeys(names, "0"))
    merged.update(given)
    return {name: value for name, value in merged.items() if value not in {"", "0"}}


def _with_tune(held: Domain, path: str, given: dict[str, str]) -> Domain:
    disk = _tuned(held, path)
    merged = _merged(held, disk, given)
    nodes = tuple(Node(name, text=merged[name]) for name, _ in _TUNE if name in merged)
    tune = Node("iotune", children=nodes) if nodes else None
    if held.devices is None:
        return held
    group = merged.get("group_name")
    disks = tuple(
        replace(item, iotune=tune) if item is disk or (group and _limits_of(item).get("group_name") == group) else item
        for item in held.devices.disk
    )
    return replace(held, devices=replace(held.devices, disk=disks))


async def set_threshold(domain: ManagedDomain, name: str, threshold: int) -> None:
    """Have an event sent when a disk's image is written beyond a place. Raises LibvirtError."""
    domain.require_active()
    target, _, index = name.partition("[")
    disk = find_disk(domain.devices, target)
    if disk is None or disk.source is None:
        raise invalid_argument(f"block device '{name}' was not found in the domain config")
    chain = chain_of(disk)
    image = chain[0]
    if index:
        wanted = index.rstrip("]")
        found = [item for item in chain if wanted.isdecimal() and item.index == int(wanted)]
        if not found:
            raise invalid_argument(f"block device '{name}' was not found in the domain config")
        image = found[0]
    arguments = {"node-name": image.storage, "write-threshold": threshold}
    await domain.monitor("block-set-write-threshold", arguments)
    domain.parts.setdefault("thresholds", {})[disk.target.dev] = threshold
