"""The images of a disk as a list, and a disk from such a list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyhyve.xml.disk import BackingStore, DiskDriver, DiskSource, Format
from pyhyve.xml.element import from_node, replace, to_node

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.xml.disk import Disk

__all__ = ["ChainImage", "chain_of", "find_in_chain", "with_chain"]


@dataclass(frozen=True, slots=True)
class ChainImage:
    """One image of a disk: kind (file, block, network), where it is, its format."""

    kind: str
    source: DiskSource
    format: str

    @property
    def index(self) -> int:
        """Its number among the machine's images; 0 where it has none."""
        return self.source.index or 0

    @property
    def path(self) -> str:
        """Its path, or its name at a server."""
        return self.source.file or self.source.dev or self.source.name or ""

    @property
    def node(self) -> str:
        """Name of its block node."""
        return f"libvirt-{self.index}-format"

    @property
    def storage(self) -> str:
        """Name of the block node below that, which reads its data."""
        return f"libvirt-{self.index}-storage"


def chain_of(disk: Disk) -> list[ChainImage]:
    """Return a disk's images, the one the guest writes first."""
    if disk.source is None:
        return []
    source = disk.source
    if source.pool is not None and (source.file or source.dev):
        source = replace(source, pool=None, volume=None)  # an image is where it is
    chain = [ChainImage(disk.type or "file", source, (disk.driver.type if disk.driver else None) or "raw")]
    store = disk.backing_store
    while store is not None and store.source is not None:
        source = replace(store.source, index=store.index)
        chain.append(ChainImage(store.type or "file", source, store.format.type if store.format else "raw"))
        store = from_node(BackingStore, store.backing_store) if store.backing_store is not None else None
    return chain


def with_chain(disk: Disk, chain: Sequence[ChainImage]) -> Disk:
    """Return a disk with these images; numbers stay only if they are there."""
    store = BackingStore()
    for image in reversed(chain[1:]):
        store = BackingStore(
            type=image.kind,
            index=image.source.index,
            format=Format(type=image.format),
            source=replace(image.source, index=None),
            backing_store=to_node(store),
        )
    top = chain[0]
    driver = replace(disk.driver or DiskDriver(name="qemu"), type=top.format)
    return replace(disk, type=top.kind, source=top.source, driver=driver, backing_store=store)


def find_in_chain(chain: Sequence[ChainImage], target: str, wanted: str) -> int | None:
    """Return the place of an image in a chain, by path or as ``vda[3]`` (its number, or its place), or None."""
    if wanted.startswith(f"{target}[") and wanted.endswith("]"):
        number = wanted[len(target) + 1 : -1]
        if not number.isdecimal():
            return None
        return next((place for place, image in enumerate(chain) if image.index == int(number)), None)
    return next((place for place, image in enumerate(chain) if image.path == wanted), None)
