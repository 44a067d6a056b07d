"""Pools that are directories; those that are mounted first are :mod:`pyhyve.daemon.storage.filesystem_backend`'s."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.storage import faults, images
from pyhyve.daemon.storage.backend import Contents
from pyhyve.daemon.storage.volume import Volume, VolumeType

if TYPE_CHECKING:
    from pyhyve.xml.storage import Permissions, StoragePool, StorageVolume

__all__ = ["DirectoryBackend"]

_DEFAULT_MODE: Final = 0o711
_ENTRIES_MOST: Final = 100_000


class DirectoryBackend:
    """``<pool type='dir'>``."""

    formats_volumes = True

    def complete(self, pool: StoragePool) -> StoragePool:
        """The target's path is what a directory needs."""
        if pool.target is None or not pool.target.path:
            raise faults.xml("missing storage pool target path")
        path = os.path.normpath(pool.target.path)
        if not path.startswith("/"):
            raise faults.xml(f"storage pool target path '{pool.target.path}' is not absolute")
        return replace(pool, target=replace(pool.target, path=path))

    def directory(self, pool: StoragePool) -> Path:
        """Where its volumes are."""
        assert pool.target is not None  # noqa: S101 - complete() saw to it
        return Path(str(pool.target.path))

    def is_up(self, pool: StoragePool) -> bool:
        """A directory is always in use, if it is there."""
        return self.directory(pool).is_dir()

    def start(self, pool: StoragePool) -> None:
        """It must be there."""
        directory = self.directory(pool)
        try:
            os.scandir(directory).close()
        except OSError as error:
            raise faults.system(f"cannot open directory '{directory}'", error) from error

    def stop(self, pool: StoragePool) -> None:
        """Nothing holds it."""

    def build(self, pool: StoragePool, *, overwrite: bool, keep: bool) -> None:
        """Make the directory."""
        directory = self.directory(pool)
        wanted = pool.target.permissions if pool.target is not None else None
        mode, owner, group = numbers(wanted, _DEFAULT_MODE)
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            existed = directory.is_dir()
            directory.mkdir(mode=mode, exist_ok=True)
            if not existed or (wanted is not None and wanted.mode is not None):
                directory.chmod(mode)
            if (owner, group) != (-1, -1):
                os.chown(directory, owner, group)
        except OSError as error:
            raise faults.system(f"failed to create directory '{directory}'", error) from error

    def delete(self, pool: StoragePool) -> None:
        """Remove the directory, which must be empty."""
        directory = self.directory(pool)
        try:
            directory.rmdir()
        except OSError as error:
            raise faults.system(f"failed to remove pool '{directory}'", error) from error

    def look(self, pool: StoragePool, before: Contents) -> Contents:
        """Its files, and how full its file system is."""
        directory = self.directory(pool)
        volumes = []
        known = {volume.path: volume for volume in before.volumes}
        now = time.time_ns()
        try:
            with os.scandir(directory) as entries:
                for count, entry in enumerate(entries):
                    if count >= _ENTRIES_MOST:
                        break
                    if entry.name.startswith(".") or not entry.name.isprintable():
                        continue
                    volume = images.look(entry.path, entry.name, known.get(entry.path), before.looked_ns)
                    if volume is not None:
                        volumes.append(volume)
            room = os.statvfs(directory)
        except OSError as error:
            raise faults.system(f"cannot open directory '{directory}'", error) from error
        capacity, available = room.f_frsize * room.f_blocks, room.f_frsize * room.f_bfree
        return Contents(capacity, capacity - available, available, tuple(volumes), now)

    def path_of(self, pool: StoragePool, name: str) -> str:
        """In the directory."""
        if "/" in name:
            raise faults.invalid(f"volume name '{name}' cannot contain '/'")
        if name in {"", ".", ".."} or "\0" in name:
            raise faults.xml(f"'{name}' cannot be a volume's name")
        return str(self.directory(pool) / name)

    def create(
        self, pool: StoragePool, wanted: StorageVolume, source: Volume | None, *, metadata: bool, reflink: bool
    ) -> None:
        """Make an image file, or a directory."""
        path = self.path_of(pool, wanted.name)
        kind = format_of(wanted)
        capacity = 0 if wanted.capacity is None else wanted.capacity.size_bytes
        permissions = None if wanted.target is None else wanted.target.permissions
        mode, owner, group = numbers(permissions, 0o600)
        if kind == "dir":
            self._make_directory(path, mode, owner, group)
            return
        if kind not in images.CREATABLE:
            raise faults.unsupported(f"volumes of format {kind} cannot be made")
        allocation = capacity if wanted.allocation is None else wanted.allocation.size_bytes
        if source is not None:
            capacity = max(capacity, source.capacity)
            allocation = min(allocation, capacity) if wanted.allocation is not None else 0
        below = None
        if wanted.backing_store is not None and wanted.backing_store.path:
            given = wanted.backing_store.format
            below = (wanted.backing_store.path, None if given is None else given.type)
            if not Path(below[0]).exists() and "://" not in below[0]:
                raise faults.argument(f"missing backing store volume: {below[0]}")
        images.create(
            path,
            kind,
            capacity,
            allocation,
            backing=below,
            metadata=metadata,
            options=_image_options(wanted, kind),
            access=(mode, owner, group),
        )
        if source is not None:
            try:
                images.clone(source, path, kind)
            except BaseException:
                Path(path).unlink(missing_ok=True)
                raise

    @staticmethod
    def _make_directory(path: str, mode: int, owner: int, group: int) -> None:
        try:
            Path(path).mkdir(mode=mode | 0o100)
            if (owner, group) != (-1, -1):
                os.chown(path, owner, group)
        except FileExistsError as error:
            raise faults.conflict(f"'{Path(path).name}'") from error
        except OSError as error:
            raise faults.system(f"cannot create path '{path}'", error) from error

    def remove(self, pool: StoragePool, volume: Volume) -> None:
        """Unlink it."""
        try:
            if volume.type is VolumeType.DIR:
                shutil.rmtree(volume.path)
            else:
                Path(volume.path).unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            raise faults.system(f"cannot unlink file '{volume.path}'", error) from error

    def resize(self, pool: StoragePool, volume: Volume, capacity: int, *, allocate: bool) -> None:
        """Change an image file's size."""
        if volume.type is VolumeType.DIR:
            raise faults.unsupported("directories have no size to change")
        images.resize(volume, capacity, allocate=allocate)

    def wipe(self, pool: StoragePool, volume: Volume, algorithm: int) -> None:
        """Overwrite an image file."""
        if volume.type is VolumeType.DIR:
            raise faults.unsupported("directories cannot be wiped")
        images.wipe(volume, algorithm)


def _image_options(wanted: StorageVolume, kind: str) -> dict[str, str]:
    """Return what a document says of a qcow2 image's features, as options of its creation. Raises LibvirtError."""
    target = wanted.target
    if target is None:
        return {}
    if target.encryption is not None:
        raise faults.unsupported("encrypted volumes cannot be made")
    if kind != "qcow2":
        return {}
    options: dict[str, str] = {}
    if target.compat is not None:
        options["compat"] = target.compat
    if target.cluster_size is not None:
        options["cluster_size"] = str(target.cluster_size.size_bytes)
    for feature in target.features.children if target.features is not None else ():
        if feature.name != "lazy_refcounts":
            raise faults.unsupported(f"unsupported feature {feature.name}")
        if target.compat == "0.10":
            raise faults.unsupported("lazy_refcounts not supported with compat level 0.10")
        options["lazy_refcounts"] = "on"
    return options


def format_of(wanted: StorageVolume) -> str:
    """Return the format a document asks for. Raises LibvirtError."""
    kind = None
    if wanted.target is not None and wanted.target.format is not None:
        kind = wanted.target.format.type
    if kind is None:
        return "dir" if wanted.type == "dir" else "raw"
    if kind not in images.FORMATS:
        raise faults.unsupported(f"unknown volume format type {kind}")
    return kind


def numbers(permissions: Permissions | None, mode: int) -> tuple[int, int, int]:
    """Return mode, owner and group as numbers; -1 leaves owner or group alone. Raises LibvirtError."""
    if permissions is None:
        return mode, -1, -1
    try:
        if permissions.mode is not None:
            mode = int(permissions.mode, 8)
            if not 0 <= mode <= 0o7777:
                raise ValueError
    except ValueError as error:
        raise faults.xml("malformed octal mode") from error
    owners = []
    for what, text in (("owner", permissions.owner), ("group", permissions.group)):
        try:
            owners.append(-1 if text is None else int(text))
        except ValueError as error:
            raise faults.xml(f"malformed {what} element") from error
    return mode, owners[0], owners[1]
