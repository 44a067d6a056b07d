"""Domains: counters of disks, interfaces, memory and CPUs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from pyhyve.cli.virsh.documents import disks
from pyhyve.cli.virsh.flags import AFFECT_USAGE, affect, collect
from pyhyve.cli.virsh.output import param_text, pretty_size
from pyhyve.cli.virsh.registry import verb
from pyhyve.cli.virsh.shell import VerbFailed
from pyhyve.client import LibvirtError
from pyhyve.rpc.errors import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyhyve.cli.virsh.shell import Shell
    from pyhyve.cli.virsh.syntax import Values
    from pyhyve.client import Domain
    from pyhyve.rpc.values import TypedParam

_MEMORY_TAGS: Final = (
    "swap_in",
    "swap_out",
    "major_fault",
    "minor_fault",
    "unused",
    "available",
    "actual",
    "rss",
    "usable",
    "last_update",
    "disk_caches",
    "hugetlb_pgalloc",
    "hugetlb_pgfail",
)
_BLOCK_LABELS: Final = {
    "rd_operations": "number of read operations:",
    "rd_bytes": "number of bytes read:",
    "wr_operations": "number of write operations:",
    "wr_bytes": "number of bytes written:",
    "errs": "error count:",
    "flush_operations": "number of flush operations:",
    "rd_total_times": "total duration of reads (ns):",
    "wr_total_times": "total duration of writes (ns):",
    "flush_total_times": "total duration of flushes (ns):",
}
_BLOCK_NAMES: Final = {"rd_operations": "rd_req", "wr_operations": "wr_req", "flush_operations": "flush_operations"}
_STATS: Final = {
    "state": 1,
    "cpu-total": 2,
    "balloon": 4,
    "vcpu": 8,
    "interface": 16,
    "block": 32,
    "perf": 64,
    "iothread": 128,
    "memory": 256,
    "dirtyrate": 512,
    "vm": 1024,
}
_STATS_FLAGS: Final = {
    "list-active": 1,
    "list-inactive": 2,
    "list-persistent": 4,
    "list-transient": 8,
    "list-running": 16,
    "list-paused": 32,
    "list-shutoff": 64,
    "list-other": 128,
    "nowait": 1 << 29,
    "backing": 1 << 30,
    "enforce": 1 << 31,
}
_DISK_ERRORS: Final = ("no error", "unspecified error", "no space")
_ADDRESS_SOURCES: Final = ("lease", "agent", "arp")
_ADDRESS_TYPES: Final = ("ipv4", "ipv6")


@verb("domblkinfo", "monitor", "<domain> [--device <string>] [--human] [--all]", "sizes of a domain's disks")
def domblkinfo(shell: Shell, values: Values) -> None:
    """Show disk sizes."""
    domain, human = shell.domain(values), values.flag("human")
    if not values.flag("all"):
        device = values.get("device")
        if device is None:
            msg = "command 'domblkinfo' requires <device> option"
            raise VerbFailed(msg)
        info = shell.call("DOMAIN_GET_BLOCK_INFO", domain.ref, device, 0)
        for name, size in (("Capacity", info.capacity), ("Allocation", info.allocation), ("Physical", info.physical)):
            shell.fact(f"{name}:", _size(size, human=human))
        return
    rows = []
    for disk in disks(domain.xml()):
        try:
            info = shell.call("DOMAIN_GET_BLOCK_INFO", domain.ref, disk.target or "", 0)
        except LibvirtError:
            if disk.type != "network" and disk.source is not None:
                raise
            rows.append([disk.target or "-", "-", "-", "-"])
        else:
            sizes = (_size(size, human=human) for size in (info.capacity, info.allocation, info.physical))
            rows.append([disk.target or "-", *sizes])
    shell.table(["Target", "Capacity", "Allocation", "Physical"], rows)


def _size(size_bytes: int, *, human: bool) -> str:
    if not human:
        return str(size_bytes)
    value, unit = pretty_size(size_bytes)
    return f"{value:.3f} {unit}"


@verb("domblkstat", "monitor", "<domain> [--device <string>] [--human]", "counters of a disk")
def domblkstat(shell: Shell, values: Values) -> None:
    """Show a disk's counters."""
    domain, device = shell.domain(values), values.get("device") or ""
    human = values.flag("human")
    counters: list[tuple[str, int]] = []
    try:
        count = shell.call("DOMAIN_BLOCK_STATS_FLAGS", domain.ref, device, 0, 0).nparams
        params = shell.call("DOMAIN_BLOCK_STATS_FLAGS", domain.ref, device, count, 0).params
        counters = [(param.field, int(param.value)) for param in params]
    except LibvirtError as error:
        if error.code != ErrorCode.NO_SUPPORT:
            raise
        with shell.failing(f"Failed to get block stats {domain.name} {device}"):
            old = shell.call("DOMAIN_BLOCK_STATS", domain.ref, device)
        fields = ("rd_operations", "rd_bytes", "wr_operations", "wr_bytes", "errs")
        counters = [(field, value) for field, value in zip(fields, old, strict=True) if value >= 0]
    if human:
        shell.print(f"Device: {device}")
    order = {name: i for i, name in enumerate(_BLOCK_LABELS)}
    for field, value in sorted(counters, key=lambda pair: order.get(pair[0], len(order))):
        if human:
            shell.print(f"  {_BLOCK_LABELS.get(field, field):<31}  {value}")
        else:
            shell.print(f"{device} {_BLOCK_NAMES.get(field, field)} {value}".lstrip())


@verb("domifstat", "monitor", "<domain> <interface>", "counters of a network interface")
def domifstat(shell: Shell, values: Values) -> None:
    """Show an interface's counters."""
    domain, device = shell.domain(values), values.text("interface")
    with shell.failing(f"Failed to get interface stats {domain.name} {device}"):
        stats = domain.interface_stats(device)
    for name, value in stats._asdict().items():
        if value >= 0:
            shell.print(f"{device} {name} {value}")


@verb("dommemstat", "monitor", f"<domain> [--period <number>] {AFFECT_USAGE}", "what is known of a domain's memory")
def dommemstat(shell: Shell, values: Values) -> None:
    """Show memory statistics, or how often the guest reports them."""
    flags = affect(values)
    period = values.number("period", minimum=0, maximum=(1 << 31) - 1)
    domain = shell.domain(values)
    if period is not None:
        with shell.failing("Unable to change balloon collection period."):
            shell.call("DOMAIN_SET_MEMORY_STATS_PERIOD", domain.ref, period, flags)
        return
    with shell.failing(f"Failed to get memory statistics for domain {domain.name}"):
        stats = shell.call("DOMAIN_MEMORY_STATS", domain.ref, len(_MEMORY_TAGS), 0).stats
    for stat in stats:
        if stat.tag < len(_MEMORY_TAGS):
            shell.print(f"{_MEMORY_TAGS[stat.tag]} {stat.val}")


@verb("domblkerror", "monitor", "<domain>", "disks that stopped for an error")
def domblkerror(shell: Shell, values: Values) -> None:
    """Show disk errors."""
    domain = shell.domain(values)
    count = shell.call("DOMAIN_GET_DISK_ERRORS", domain.ref, 0, 0).nerrors
    errors = shell.call("DOMAIN_GET_DISK_ERRORS", domain.ref, count, 0).errors if count else []
    if not errors:
        shell.print("No errors found")
    for error in errors:
        text = _DISK_ERRORS[error.error] if error.error < len(_DISK_ERRORS) else "unknown error"
        shell.print(f"{error.disk}: {text}")


@verb(
    "domstats",
    "monitor",
    " ".join(f"[--{name}]" for name in _STATS)
    + " [--list-active] [--list-inactive] [--list-persistent] [--list-transient] [--list-running] [--list-paused] "
    "[--list-shutoff] [--list-other] [--raw] [--enforce] [--backing] [--nowait] [<domain>]...",
    "statistics of many domains at once",
)
def domstats(shell: Shell, values: Values) -> None:
    """Show statistics in bulk."""
    groups, flags = collect(values, _STATS), collect(values, _STATS_FLAGS)
    refs = [shell.find_domain(name).ref for name in values.words("domain")]
    if refs:
        flags &= ~0xFF  # a list of domains is the choice
    answer = shell.call("CONNECT_GET_ALL_DOMAIN_STATS", refs, groups, flags)
    for i, record in enumerate(answer.ret_stats):
        if i:
            shell.print()
        shell.print(f"Domain: '{record.dom.name}'")
        for param in record.params:
            shell.print(f"  {param.field}={param_text(param)}")


@verb("cpu-stats", "domain", "<domain> [--total] [--start <number>] [--count <number>]", "CPU time of a domain")
def cpu_stats(shell: Shell, values: Values) -> None:
    """Show CPU time in total and on each host CPU."""
    domain = shell.domain(values)
    start = values.number("start", minimum=0)
    count = values.number("count", minimum=0)
    total = values.flag("total") or (start is None and count is None)
    with shell.failing(f"Failed to retrieve CPU statistics for domain '{domain.name}'"):
        if not values.flag("total") or start is not None or count is not None:
            _cpus(shell, domain, start or 0, count)
        if total:
            _cpu_total(shell, domain)


def _cpus(shell: Shell, domain: Domain, start: int, count: int | None) -> None:
    most = shell.call("DOMAIN_GET_CPU_STATS", domain.ref, 0, 0, 0, 0).nparams
    if start >= most:
        msg = f"Start CPU {start} is out of range (min: 0, max: {most - 1})"
        raise VerbFailed(msg)
    left = most - start if count is None else min(count, most - start)
    fields = shell.call("DOMAIN_GET_CPU_STATS", domain.ref, 0, 0, 1, 0).nparams
    if not fields:
        shell.print("No per-CPU stats available")
        return
    while left > 0:
        step = min(left, 128)
        answer = shell.call("DOMAIN_GET_CPU_STATS", domain.ref, fields, start, step, 0)
        for i in range(step):
            params = answer.params[i * fields : (i + 1) * fields]
            if not params:
                continue
            shell.print(f"CPU{start + i}:")
            _cpu_times(shell, params)
        start, left = start + step, left - step


def _cpu_total(shell: Shell, domain: Domain) -> None:
    shell.print("Total:")
    fields = shell.call("DOMAIN_GET_CPU_STATS", domain.ref, 0, -1, 1, 0).nparams
    if fields:
        _cpu_times(shell, shell.call("DOMAIN_GET_CPU_STATS", domain.ref, fields, -1, 1, 0).params)


def _cpu_times(shell: Shell, params: Iterable[TypedParam]) -> None:
    for param in params:
        if param.field.endswith("_time"):
            seconds, rest = divmod(int(param.value), 1_000_000_000)
            shell.print(f"\t{param.field:<12} {seconds:>9}.{rest:09} seconds")
        else:
            shell.print(f"\t{param.field:<15} {param_text(param)}")


@verb(
    "domifaddr",
    "monitor",
    "<domain> [--interface <string>] [--full] [--source <string>]",
    "addresses of a running domain's interfaces",
)
def domifaddr(shell: Shell, values: Values) -> None:
    """Show addresses."""
    wanted, source = values.get("interface"), values.get("source") or "lease"
    domain = shell.domain(values)
    if source not in _ADDRESS_SOURCES:
        msg = f"Unknown data source '{source}'"
        raise VerbFailed(msg)
    with shell.failing("Failed to query for interfaces addresses"):
        found = domain.interface_addresses(_ADDRESS_SOURCES.index(source))
    shell.say(f" {'Name':<10} {'MAC address':<17}    {'Protocol':<12} {'Address'}")
    shell.say("-" * 79)
    full = values.flag("full")
    for interface in found:
        if wanted not in {None, interface.name}:
            continue
        mac = interface.hwaddr or "N/A"
        if not interface.addrs:
            shell.print(f" {interface.name:<10} {mac:<17}    {'N/A':<12} N/A")
        for i, address in enumerate(interface.addrs):
            kind = _ADDRESS_TYPES[address.type] if address.type < len(_ADDRESS_TYPES) else "unknown"
            shown = f"{kind:<12} {address.addr}/{address.prefix}"
            first = (interface.name, mac) if full or i == 0 else ("-", "-")
            shell.print(f" {first[0]:<10} {first[1]:<17}    {shown}")


@verb(
    "domtime",
    "monitor",
    "<domain> [--now] [--pretty] [--sync] [--time <number>]",
    "a guest's clock (through its agent)",
)
def domtime(shell: Shell, values: Values) -> None:
    """Show or set the guest's clock."""
    from pyhyve.cli.virsh.flags import exclusive

    exclusive(values, "time", "now")
    exclusive(values, "time", "sync")
    exclusive(values, "now", "sync")
    domain, seconds = shell.domain(values), values.number("time")
    if seconds is None and values.flag("now"):
        seconds = int(time.time())
    if seconds is not None or values.flag("sync"):
        shell.call("DOMAIN_SET_TIME", domain.ref, seconds or 0, 0, 1 if values.flag("sync") else 0)
        return
    answer = shell.call("DOMAIN_GET_TIME", domain.ref, 0)
    if values.flag("pretty"):
        shell.hint(time.strftime("Time: %Y-%m-%d %H:%M:%S", time.gmtime(answer.seconds)))
    else:
        shell.hint(f"Time: {answer.seconds}")
