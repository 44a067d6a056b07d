"""Whether a machine may move at all, and whether its disks are the same on both hosts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.domains import checkpoints, snapshots
from pyhyve.daemon.domains.faults import invalid
from pyhyve.daemon.domains.migration.spec import STORAGE, MigrateFlags
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain

if TYPE_CHECKING:
    from pyhyve.daemon.domains.domain import ManagedDomain
    from pyhyve.daemon.domains.migration.wish import MigrationWish
    from pyhyve.xml.disk import Disk

__all__ = ["check_allowed", "check_safe", "file_system_of"]

_SHARED: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "afs", "acfs", "virtiofs", "9p"})
"""File systems that several hosts see; their caches may differ for a while."""
_CLUSTERED: Final = frozenset({"gfs2", "ocfs2", "ceph", "gpfs", "beegfs", "lustre", "fuse.glusterfs"})
"""File systems whose caches are the same on all hosts."""
_UNCACHED: Final = frozenset({"none", "directsync"})


def check_allowed(domain: ManagedDomain) -> None:
    """Raise LibvirtError for a domain that cannot move."""
    if count := snapshots.count(domain):
        raise invalid(f"cannot migrate domain with {count} snapshots")
    if count := checkpoints.count(domain):
        raise invalid(f"cannot migrate domain with {count} checkpoints")
    for item in domain.devices.hostdev:
        raise invalid(f"cannot migrate a domain with <hostdev mode='subsystem' type='{item.type or 'pci'}'>")
    if any(disk.mirror is not None for disk in domain.devices.disk):
        raise invalid("domain has active block job")


def file_system_of(path: str, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Return the type of the file system a path is on. Blocks."""
    real = os.path.realpath(path)
    best, kind = "", ""
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        point = fields[4].replace("\\040", " ") if len(fields) > 4 else ""
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind


def check_safe(domain: ManagedDomain, wish: MigrationWish) -> None:
    """Raise LibvirtError where a disk may not be the same on the destination, unless asked not to. Blocks."""
    if wish.has(MigrateFlags.UNSAFE | MigrateFlags.OFFLINE):
        return
    for disk in domain.devices.disk:
        if not _at_risk(disk) or wish.has(STORAGE):
            continue
        source = disk.source
        path = None if source is None else source.file or source.dev
        if path is None:
            continue
        kind = file_system_of(path) if source is not None and source.file else "local"
        if kind in _CLUSTERED:
            continue
        if kind not in _SHARED:
            raise _unsafe("Migration without shared storage is unsafe")
        if disk.driver is None or disk.driver.cache not in _UNCACHED:
            raise _unsafe("Migration may lead to data corruption if disks use cache other than none or directsync")


def _at_risk(disk: Disk) -> bool:
    return disk.source is not None and not disk.readonly and not disk.shareable


def _unsafe(detail: str) -> LibvirtError:
    return LibvirtError(ErrorCode.MIGRATE_UNSAFE, ErrorDomain.QEMU, detail)
