"""``<pool>`` and ``<volume>``: where images are kept.

Source: libvirt's documentation, "Storage pool and volume XML format".
"""

from __future__ import annotations

from pyhyve.xml.disk import Format
from pyhyve.xml.document import Node
from pyhyve.xml.element import NUMBER, Element, attribute, child, child_text, element, node, text
from pyhyve.xml.quantities import scaled_bytes

__all__ = [
    "Allocation",
    "Available",
    "Capacity",
    "ClusterSize",
    "Permissions",
    "PoolSource",
    "PoolTarget",
    "StoragePool",
    "StorageVolume",
    "VolumeBackingStore",
    "VolumeTarget",
]


class _Size(Element):
    """A size with its unit."""

    unit: str | None
    amount: int

    @property
    def size_bytes(self) -> int:
        """The size in bytes. Raises XmlError for an unknown unit."""
        return scaled_bytes(self.amount, self.unit)


@element("capacity")
class Capacity(_Size):
    """How much there is, or what a guest sees."""

    unit: str | None = attribute("unit")
    amount: int = text(NUMBER, required=True)


@element("allocation")
class Allocation(_Size):
    """How much is taken on the host."""

    unit: str | None = attribute("unit")
    amount: int = text(NUMBER, required=True)


@element("available")
class Available(_Size):
    """How much is free."""

    unit: str | None = attribute("unit")
    amount: int = text(NUMBER, required=True)


@element("clusterSize")
class ClusterSize(_Size):
    """How much an image allocates at a time."""

    unit: str | None = attribute("unit")
    amount: int = text(NUMBER, required=True)


@element("permissions")
class Permissions(Element):
    """Who may use the file; the mode is octal."""

    mode: str | None = child_text("mode")
    owner: str | None = child_text("owner")
    group: str | None = child_text("group")
    label: str | None = child_text("label")


@element("source", spread=True)
class PoolSource(Element):
    """What the pool is made of. Hosts and devices are kept as they are."""

    name: str | None = child_text("name")
    format: Format | None = child(Format)


@element("target")
class PoolTarget(Element):
    """Where it is mounted."""

    path: str | None = child_text("path")
    permissions: Permissions | None = child(Permissions)


@element("pool")
class StoragePool(Element):
    """A pool. ``type`` is dir, fs, logical, …."""

    type: str = attribute("type", required=True)
    name: str | None = child_text("name")
    uuid: str | None = child_text("uuid")
    capacity: Capacity | None = child(Capacity)
    allocation: Allocation | None = child(Allocation)
    available: Available | None = child(Available)
    source: PoolSource | None = child(PoolSource)
    target: PoolTarget | None = child(PoolTarget)


@element("target")
class VolumeTarget(Element):
    """The volume on the host."""

    path: str | None = child_text("path")
    format: Format | None = child(Format)
    permissions: Permissions | None = child(Permissions)
    encryption: Node | None = node("encryption")
    compat: str | None = child_text("compat")
    cluster_size: ClusterSize | None = child(ClusterSize)
    features: Node | None = node("features")


@element("backingStore")
class VolumeBackingStore(Element):
    """The image underneath."""

    path: str | None = child_text("path")
    format: Format | None = child(Format)
    permissions: Permissions | None = child(Permissions)


@element("volume")
class StorageVolume(Element):
    """A volume."""

    type: str | None = attribute("type")
    name: str = child_text("name", required=True)
    key: str | None = child_text("key")
    capacity: Capacity | None = child(Capacity)
    allocation: Allocation | None = child(Allocation)
    target: VolumeTarget | None = child(VolumeTarget)
    backing_store: VolumeBackingStore | None = child(VolumeBackingStore)
