"""Pools that are mounted: a device's file system, or one of the network."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.storage import faults
from pyhyve.daemon.storage.backend import run_program
from pyhyve.daemon.storage.directory_backend import DirectoryBackend
from pyhyve.xml.disk import Format
from pyhyve.xml.storage import PoolSource

if TYPE_CHECKING:
    from pyhyve.xml.storage import StoragePool

__all__ = ["DEVICE_FORMATS", "NETWORK_FORMATS", "FilesystemBackend", "NetworkFilesystemBackend"]

DEVICE_FORMATS: Final = (
    *("auto", "ext2", "ext3", "ext4", "ufs", "iso9660", "udf", "gfs", "gfs2", "vfat", "hfs+", "xfs", "ocfs2", "vmfs"),
)
NETWORK_FORMATS: Final = ("auto", "nfs", "glusterfs", "cifs")
_MADE: Final = {"auto": "ext4"}


def _attribute(source: PoolSource | None, element: str, name: str) -> str | None:
    """An attribute of a part of the source that is kept as it was written."""
    if source is None:
        return None
    for _, node in source.other_children:
        if node.name == element:
            return dict(node.attributes).get(name)
    return None


class _Mounted(DirectoryBackend, ABC):
    formats: tuple[str, ...] = ()

    def complete(self, pool: StoragePool) -> StoragePool:
        """A source that can be mounted, of a known kind."""
        self.source(pool)
        pool = super().complete(pool)
        source = pool.source if pool.source is not None else PoolSource(name=None, format=None)
        kind = "auto" if source.format is None or source.format.type is None else source.format.type
        if kind not in self.formats:
            raise faults.unsupported(f"unknown pool format type {kind}")
        return replace(pool, source=replace(source, format=Format(type=kind)))

    @abstractmethod
    def source(self, pool: StoragePool) -> str:
        """What is mounted, as mount wants it. Raises LibvirtError."""

    @staticmethod
    def kind(pool: StoragePool) -> str:
        """The kind of file system."""
        found = pool.source.format if pool.source is not None else None
        return "auto" if found is None or found.type is None else found.type

    def is_up(self, pool: StoragePool) -> bool:
        """Whether it is mounted."""
        directory, source = str(self.directory(pool)), self.source(pool)
        for line in Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            device, where, *_ = (_unescape(word) for word in line.split(" "))
            if where == directory and (device == source or os.path.realpath(device) == os.path.realpath(source)):
                return True
        return False

    def start(self, pool: StoragePool) -> None:
        """Mount it."""
        if self.is_up(pool):
            return
        words = ["mount", "-o", "nodev,nosuid,noexec"]
        words += ["-t", self.kind(pool), self.source(pool), str(self.directory(pool))]
        run_program(words, package="mount")

    def stop(self, pool: StoragePool) -> None:
        """Unmount it."""
        if self.is_up(pool):
            run_program(["umount", str(self.directory(pool))], package="mount")


def _unescape(word: str) -> str:
    return word.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")


class FilesystemBackend(_Mounted):
    """``<pool type='fs'>``: a block device's file system."""

    formats = DEVICE_FORMATS

    def source(self, pool: StoragePool) -> str:
        """The device."""
        device = _attribute(pool.source, "device", "path")
        if not device:
            raise faults.xml("missing storage pool source device name")
        return device

    def build(self, pool: StoragePool, *, overwrite: bool, keep: bool) -> None:
        """Make the mount point, and the file system where that is asked for."""
        super().build(pool, overwrite=overwrite, keep=keep)
        if not overwrite and not keep:
            return
        device, kind = self.source(pool), _MADE.get(self.kind(pool), self.kind(pool))
        if not Path(device).exists():
            raise faults.failed(f"Source device does not exist when formatting pool '{pool.name}'")
        if keep and _signature(device):
            msg = f"Existing file system found on device '{device}', use --overwrite to replace it"
            raise faults.failed(msg)
        quiet = {"ext2": "-F", "ext3": "-F", "ext4": "-F", "xfs": "-f"}.get(kind)
        words = [f"mkfs.{kind}", *([quiet] if quiet else []), device]
        run_program(words, package="e2fsprogs or the file system's own tools")


def _signature(device: str) -> bool:
    from pyhyve.daemon.errors import LibvirtError  # noqa: PLC0415 - beside its use

    try:
        return bool(run_program(["blkid", "-p", "-o", "value", "-s", "TYPE", device], package="util-linux").strip())
    except LibvirtError:
        return False  # blkid exits with 2 where it finds nothing


class NetworkFilesystemBackend(_Mounted):
    """``<pool type='netfs'>``: a directory that another host exports."""

    formats = NETWORK_FORMATS

    def source(self, pool: StoragePool) -> str:
        """Host and directory."""
        host = _attribute(pool.source, "host", "name")
        if not host:
            raise faults.xml("missing storage pool source host name")
        directory = _attribute(pool.source, "dir", "path")
        if not directory:
            raise faults.xml("missing storage pool source path")
        return f"//{host}{directory}" if self.kind(pool) == "cifs" else f"{host}:{directory}"
