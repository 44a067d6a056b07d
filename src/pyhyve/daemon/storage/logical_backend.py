"""Pools that are LVM volume groups; their volumes are logical volumes. LVM's own tools do the work.

Source: lvm2's manual pages (lvs(8), vgs(8), lvcreate(8)); sizes are asked for in bytes.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.storage import faults, images
from pyhyve.daemon.storage.backend import Contents, run_program
from pyhyve.daemon.storage.volume import FileFacts, Volume, VolumeType
from pyhyve.xml.disk import Format
from pyhyve.xml.storage import PoolSource, PoolTarget

if TYPE_CHECKING:
    from pyhyve.xml.storage import StoragePool, StorageVolume

__all__ = ["LogicalBackend", "volume_groups"]

_PACKAGE: Final = "lvm2"
_REPORT: Final = ("--noheadings", "--units", "b", "--nosuffix", "--unbuffered", "--separator", "|")


def _rows(program: str, fields: str, *more: str) -> list[list[str]]:
    text = run_program([program, *_REPORT, "-o", fields, *more], package=_PACKAGE)
    return [[word.strip() for word in line.split("|")] for line in text.splitlines() if line.strip()]


def volume_groups() -> list[tuple[str, list[str]]]:
    """Return each volume group with its devices. Raises LibvirtError."""
    groups: dict[str, list[str]] = {}
    for device, group in _rows("pvs", "pv_name,vg_name"):
        if group:
            groups.setdefault(group, []).append(device)
    return sorted(groups.items())


class LogicalBackend:
    """``<pool type='logical'>``."""

    formats_volumes = False

    def complete(self, pool: StoragePool) -> StoragePool:
        """The group's name, which is the pool's unless the source says another."""
        source = pool.source if pool.source is not None else PoolSource(name=None, format=None)
        name = source.name or pool.name
        kind = source.format.type if source.format is not None else None
        if kind not in {None, "lvm2", "unknown"}:
            raise faults.unsupported(f"unknown pool format type {kind}")
        source = replace(source, name=name, format=Format(type="lvm2"))
        path = (pool.target.path if pool.target is not None else None) or f"/dev/{name}"
        target = pool.target if pool.target is not None else PoolTarget(path=None, permissions=None)
        return replace(pool, source=source, target=replace(target, path=path))

    @staticmethod
    def group(pool: StoragePool) -> str:
        """The volume group."""
        assert pool.source is not None  # noqa: S101 - complete() saw to it
        return str(pool.source.name)

    def is_up(self, pool: StoragePool) -> bool:
        """Whether any of its volumes is there to be used."""
        return Path("/dev", self.group(pool)).is_dir()

    def start(self, pool: StoragePool) -> None:
        """Activate the group."""
        group = self.group(pool)
        if group not in {row[0] for row in _rows("vgs", "vg_name")}:
            raise faults.unsupported(f"cannot find logical volume group name '{group}'")
        run_program(["vgchange", "-aly", group], package=_PACKAGE)

    def stop(self, pool: StoragePool) -> None:
        """Deactivate the group."""
        run_program(["vgchange", "-aln", self.group(pool)], package=_PACKAGE)

    @staticmethod
    def _devices(pool: StoragePool) -> list[str]:
        source = pool.source
        kept = () if source is None else source.other_children
        return [path for _, node in kept if node.name == "device" and (path := dict(node.attributes).get("path"))]

    def build(self, pool: StoragePool, *, overwrite: bool, keep: bool) -> None:
        """Make a volume group of the devices."""
        devices = self._devices(pool)
        if not devices:
            raise faults.xml("missing storage pool source device name")
        for device in devices:
            force = ["-ff", "-y"] if overwrite else []
            run_program(["pvcreate", *force, device], package=_PACKAGE)
        run_program(["vgcreate", self.group(pool), *devices], package=_PACKAGE)

    def delete(self, pool: StoragePool) -> None:
        """Remove the group, then its marks on the devices."""
        run_program(["vgremove", "-f", self.group(pool)], package=_PACKAGE)
        for device in self._devices(pool):
            run_program(["pvremove", device], package=_PACKAGE)

    def look(self, pool: StoragePool, before: Contents) -> Contents:
        """Its logical volumes."""
        group = self.group(pool)
        volumes = []
        for name, size, attributes, origin in _rows("lvs", "lv_name,lv_size,lv_attr,origin", group):
            if attributes[:1] in {"t", "r", "e", "p"} or (attributes[4:5] and attributes[4] != "a"):
                continue  # pools, mirrors' images, spare metadata; and what is not active cannot be used
            path = f"/dev/{group}/{name}"
            length = int(float(size))
            try:
                facts = FileFacts.of(os.stat(path))  # noqa: PTH116 - follows the link into device mapper
            except OSError:
                facts = None
            below = f"/dev/{group}/{origin}" if origin and "[" not in origin else None
            volumes.append(
                Volume(name, path, VolumeType.BLOCK, "raw", length, length, length, facts, backing_path=below)
            )
        total, free = (int(float(word)) for word in _rows("vgs", "vg_size,vg_free", group)[0])
        return Contents(total, total - free, free, tuple(volumes))

    def path_of(self, pool: StoragePool, name: str) -> str:
        """Under the group's directory in /dev."""
        if not name or "/" in name or name.startswith("-"):
            raise faults.xml(f"'{name}' cannot be a volume's name")
        return f"/dev/{self.group(pool)}/{name}"

    def create(
        self, pool: StoragePool, wanted: StorageVolume, source: Volume | None, *, metadata: bool, reflink: bool
    ) -> None:
        """Make a logical volume; with a backing store, a snapshot of it."""
        path = self.path_of(pool, wanted.name)
        capacity = 0 if wanted.capacity is None else wanted.capacity.size_bytes
        if source is not None:
            capacity = max(capacity, source.capacity)
        allocation = capacity if wanted.allocation is None else wanted.allocation.size_bytes
        words = ["lvcreate", "-W", "n", "--name", wanted.name]
        if wanted.backing_store is not None and wanted.backing_store.path:
            words += ["-L", f"{max(allocation, 1)}b", "-s", wanted.backing_store.path]
        elif allocation < capacity:
            words += ["--type", "snapshot", "-L", f"{max(allocation, 1 << 20)}b"]
            words += ["--virtualsize", f"{capacity}b", self.group(pool)]
        else:
            words += ["-L", f"{capacity}b", self.group(pool)]
        run_program(words, package=_PACKAGE)
        if source is None:
            return
        try:
            images.clone(source, path, "raw")
        except BaseException:
            run_program(["lvremove", "-f", path], package=_PACKAGE)
            raise

    def remove(self, pool: StoragePool, volume: Volume) -> None:
        """Remove a logical volume."""
        with contextlib.suppress(LibvirtError):  # lvremove deactivates it as well, and says why where it cannot
            run_program(["lvchange", "-aln", volume.path], package=_PACKAGE)
        run_program(["lvremove", "-f", volume.path], package=_PACKAGE)

    def resize(self, pool: StoragePool, volume: Volume, capacity: int, *, allocate: bool) -> None:
        """Change a logical volume's size."""
        run_program(["lvresize", "-f", "-L", f"{capacity}b", volume.path], package=_PACKAGE)

    def wipe(self, pool: StoragePool, volume: Volume, algorithm: int) -> None:
        """Overwrite a logical volume."""
        images.wipe(volume, algorithm)
