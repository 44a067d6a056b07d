"""A volume: what is known of it, and its document."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from pyhyve.rpc.values import StorageVol
from pyhyve.xml.document import Node, format_node

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["FileFacts", "Volume", "VolumeType", "volume_document"]


class VolumeType(IntEnum):
    """What a volume is on the host (virStorageVolType)."""

    FILE = 0
    BLOCK = 1
    DIR = 2
    NETWORK = 3


_WORDS = {VolumeType.FILE: "file", VolumeType.BLOCK: "block", VolumeType.DIR: "dir", VolumeType.NETWORK: "network"}


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Who owns a file, and when it was used; times in nanoseconds since 1970."""

    mode: int
    owner: int
    group: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileFacts:
        """From a file's status."""
        mode = stat.S_IMODE(status.st_mode)
        return cls(mode, status.st_uid, status.st_gid, status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class Volume:
    """One volume of a pool, as it was when it was last looked at. Sizes in bytes."""

    name: str
    path: str
    type: VolumeType
    format: str
    capacity: int
    """What a guest sees."""
    allocation: int
    """What the host's disk holds."""
    physical: int
    """Length of the file."""
    facts: FileFacts | None = None
    backing_path: str | None = None
    backing_format: str | None = None
    compat: str | None = None
    cluster_size: int | None = None
    lazy_refcounts: bool = False
    encrypted: bool = False

    @property
    def key(self) -> str:
        """Its key: unique on the host."""
        return self.path

    def ref(self, pool: str) -> StorageVol:
        """How clients name it."""
        return StorageVol(pool, self.name, self.key)


def _leaf(name: str, text: object, *attributes: tuple[str, str]) -> Node:
    return Node(name, attributes, str(text))


def _time(name: str, nanoseconds: int) -> Node:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return _leaf(name, f"{seconds}.{rest:09}")


def _facts(facts: FileFacts | None) -> Iterable[Node]:
    if facts is None:
        return
    yield Node(
        "permissions",
        children=(_leaf("mode", f"0{facts.mode:03o}"), _leaf("owner", facts.owner), _leaf("group", facts.group)),
    )
    times = (("atime", facts.atime_ns), ("mtime", facts.mtime_ns), ("ctime", facts.ctime_ns))
    yield Node("timestamps", children=(*(_time(name, value) for name, value in times), _leaf("btime", 0)))


def _format(name: str | None) -> Iterable[Node]:
    if name is not None:
        yield Node("format", (("type", name),))


def volume_document(volume: Volume, *, with_format: bool = True) -> str:
    """Return the ``<volume>`` document. ``with_format`` is off for pools whose volumes have none (logical)."""
    unit = ("unit", "bytes")
    target = [_leaf("path", volume.path)]
    if with_format:
        target += _format(volume.format)
    target += _facts(volume.facts)
    if volume.encrypted:
        target.append(Node("encryption", (("format", "luks"),), children=()))
    if volume.compat is not None:
        target.append(_leaf("compat", volume.compat))
    if volume.cluster_size is not None:
        target.append(_leaf("clusterSize", volume.cluster_size, ("unit", "B")))
    if volume.compat is not None and volume.compat != "0.10":
        features = (Node("lazy_refcounts"),) if volume.lazy_refcounts else ()
        target.append(Node("features", children=features))
    children = [
        _leaf("name", volume.name),
        _leaf("key", volume.key),
        _leaf("capacity", volume.capacity, unit),
        _leaf("allocation", volume.allocation, unit),
        _leaf("physical", volume.physical, unit),
        Node("target", children=tuple(target)),
    ]
    if volume.backing_path is not None:
        inner = [_leaf("path", volume.backing_path), *_format(volume.backing_format)]
        with contextlib.suppress(OSError, ValueError):
            inner += _facts(FileFacts.of(os.stat(volume.backing_path)))  # noqa: PTH116 - a path from an image
        children.append(Node("backingStore", children=tuple(inner)))
    return format_node(Node("volume", (("type", _WORDS[volume.type]),), children=tuple(children)))
