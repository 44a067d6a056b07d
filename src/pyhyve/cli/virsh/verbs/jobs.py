"""Domains: what is going on with them, and how to break it off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyhyve.cli.virsh.documents import DUMP_USAGE, show
from pyhyve.cli.virsh.flags import collect
from pyhyve.cli.virsh.output import pretty_size
from pyhyve.cli.virsh.registry import verb
from pyhyve.cli.virsh.shell import VerbFailed, read_file
from pyhyve.client import LibvirtError
from pyhyve.client.values import params_to_dict
from pyhyve.rpc.errors import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyhyve.cli.virsh.shell import Shell
    from pyhyve.cli.virsh.syntax import Values

_TYPES: Final = ("None", "Bounded", "Unbounded", "Completed", "Failed", "Cancelled")
_OPERATIONS: Final = (
    "Unknown",
    "Start",
    "Save",
    "Restore",
    "Incoming migration",
    "Outgoing migration",
    "Snapshot",
    "Snapshot revert",
    "Dump",
    "Backup",
    "Snapshot delete",
)
_SIZES: Final = (
    ("Data", "data_total", "data_processed", "data_remaining"),
    ("Memory", "memory_total", "memory_processed", "memory_remaining"),
    ("File", "disk_total", "disk_processed", "disk_remaining"),
)


@verb(
    "domjobinfo",
    "domain",
    "<domain> [--completed] [--keep-completed] [--anystats] [--rawstats]",
    "the job a domain is busy with",
)
def domjobinfo(shell: Shell, values: Values) -> None:
    """Show a job."""
    domain = shell.domain(values)
    flags = collect(values, {"completed": 1, "keep-completed": 2})
    try:
        answer = shell.call("DOMAIN_GET_JOB_STATS", domain.ref, flags)
        kind, stats = answer.type, params_to_dict(answer.params)
    except LibvirtError as error:
        if error.code != ErrorCode.NO_SUPPORT or flags:
            raise
        info = shell.call("DOMAIN_GET_JOB_INFO", domain.ref)
        names = {"mem": "memory", "file": "disk"}
        kind, stats = info.type, {}
        for name, value in info._asdict().items():
            prefix, _, rest = name.partition("_")
            stats[f"{names.get(prefix, prefix)}_{rest}"] = value
    shell.print(f"{'Job type:':<17} {_TYPES[kind] if kind < len(_TYPES) else 'unknown':<12}")
    if values.flag("rawstats"):
        shell.print()
        for name, value in stats.items():
            shell.print(f"{name}: {value}")
        return
    if kind == 0 or (kind in {4, 5} and not values.flag("anystats")):
        return
    _details(shell, stats)


def _details(shell: Shell, stats: Mapping[str, int | float | str | bool]) -> None:
    def line(label: str, value: object) -> None:
        shell.print(f"{label + ':':<17} {value}")

    operation = int(stats.get("operation", 0))
    line("Operation", _OPERATIONS[operation] if operation < len(_OPERATIONS) else "unknown")
    for label, field in (("Time elapsed", "time_elapsed"), ("Time remaining", "time_remaining")):
        if stats.get(field):
            line(label, f"{stats[field]:<12} ms")
    for label, *fields in _SIZES:
        for way, field in zip(("processed", "remaining", "total"), (fields[1], fields[2], fields[0]), strict=True):
            if fields[0] in stats and (stats.get(fields[0]) or stats.get(field)):
                value, unit = pretty_size(int(stats.get(field, 0)))
                line(f"{label} {way}", f"{value:.3f} {unit}")
    if "errmsg" in stats:
        line("Error message", stats["errmsg"])


@verb("domjobabort", "domain", "<domain> [--postcopy]", "break off the job a domain is busy with")
def domjobabort(shell: Shell, values: Values) -> None:
    """Break off a job."""
    domain, flags = shell.domain(values), collect(values, {"postcopy": 1})
    if flags:
        shell.call("DOMAIN_ABORT_JOB_FLAGS", domain.ref, flags)
    else:
        shell.call("DOMAIN_ABORT_JOB", domain.ref)


@verb(
    "backup-begin",
    "backup",
    "<domain> [--backupxml <string>] [--checkpointxml <string>] [--reuse-external]",
    "start a backup of a running domain's disks",
)
def backup_begin(shell: Shell, values: Values) -> None:
    """Start a backup."""
    domain, backup, checkpoint = shell.domain(values), values.get("backupxml"), values.get("checkpointxml")
    xml = "<domainbackup/>" if backup is None else read_file(backup)
    second = None if checkpoint is None else read_file(checkpoint)
    shell.call("DOMAIN_BACKUP_BEGIN", domain.ref, xml, second, collect(values, {"reuse-external": 1}))
    shell.print("Backup started")


@verb("backup-dumpxml", "backup", f"<domain> {DUMP_USAGE}", "the document of a running backup")
def backup_dumpxml(shell: Shell, values: Values) -> None:
    """Show a backup."""
    show(shell, values, shell.call("DOMAIN_BACKUP_GET_XML_DESC", shell.domain(values).ref, 0).xml)


# -- moving to another host --------------------------------------------------------------------------------------------


@verb("migrate-setmaxdowntime", "domain", "<domain> <downtime#>", "how long a migration may stop a domain (ms)")
def migrate_setmaxdowntime(shell: Shell, values: Values) -> None:
    """Set the most downtime."""
    domain, downtime = shell.domain(values), values.number("downtime", minimum=0)
    if not downtime:
        msg = "migrate: Invalid downtime"
        raise VerbFailed(msg)
    shell.call("DOMAIN_MIGRATE_SET_MAX_DOWNTIME", domain.ref, downtime, 0)


@verb("migrate-getmaxdowntime", "domain", "<domain>", "how long a migration may stop a domain (ms)")
def migrate_getmaxdowntime(shell: Shell, values: Values) -> None:
    """Show the most downtime."""
    shell.print(str(shell.call("DOMAIN_MIGRATE_GET_MAX_DOWNTIME", shell.domain(values).ref, 0).downtime))


@verb("migrate-compcache", "domain", "<domain> [--size <number>]", "the compression cache of a migration (bytes)")
def migrate_compcache(shell: Shell, values: Values) -> None:
    """Show or set the compression cache."""
    domain, size = shell.domain(values), values.scaled("size", 1)
    if size is not None:
        shell.call("DOMAIN_MIGRATE_SET_COMPRESSION_CACHE", domain.ref, size, 0)
    answer = shell.call("DOMAIN_MIGRATE_GET_COMPRESSION_CACHE", domain.ref, 0)
    value, unit = pretty_size(answer.cache_size)
    shell.print(f"Compression cache: {value:.3f} {unit}")


@verb("migrate-setspeed", "domain", "<domain> <bandwidth#> [--postcopy]", "the most bandwidth of a migration (MiB/s)")
def migrate_setspeed(shell: Shell, values: Values) -> None:
    """Set the most bandwidth."""
    domain, bandwidth = shell.domain(values), values.number("bandwidth", minimum=0)
    flags = collect(values, {"postcopy": 1})
    shell.call("DOMAIN_MIGRATE_SET_MAX_SPEED", domain.ref, bandwidth, flags)


@verb("migrate-getspeed", "domain", "<domain> [--postcopy]", "the most bandwidth of a migration (MiB/s)")
def migrate_getspeed(shell: Shell, values: Values) -> None:
    """Show the most bandwidth."""
    domain, flags = shell.domain(values), collect(values, {"postcopy": 1})
    shell.print(str(shell.call("DOMAIN_MIGRATE_GET_MAX_SPEED", domain.ref, flags).bandwidth))


@verb("migrate-postcopy", "domain", "<domain>", "let a migrating domain run on at its destination at once")
def migrate_postcopy(shell: Shell, values: Values) -> None:
    """Switch to post-copy."""
    shell.call("DOMAIN_MIGRATE_START_POST_COPY", shell.domain(values).ref, 0)
