"""``<domainsnapshot>``: a moment of a domain that can be gone back to.

Source: libvirt's documentation, "Snapshot XML format".
"""

from __future__ import annotations

from pyhyve.xml.document import Node
from pyhyve.xml.domain import Domain
from pyhyve.xml.element import INTEGER, Element, attribute, child, child_text, children, element, node

__all__ = ["DomainSnapshot", "SnapshotDisk", "SnapshotDisks", "SnapshotMemory", "SnapshotParent"]


@element("parent")
class SnapshotParent(Element):
    """The snapshot it grew from."""

    name: str = child_text("name", required=True)


@element("memory")
class SnapshotMemory(Element):
    """Where the memory is: no, internal (in an image) or external (in a file)."""

    snapshot: str | None = attribute("snapshot")
    file: str | None = attribute("file")


@element("driver")
class SnapshotDriver(Element):
    """Format of a new image."""

    type: str | None = attribute("type")


@element("source")
class SnapshotSource(Element):
    """Where a new image is."""

    file: str | None = attribute("file")
    dev: str | None = attribute("dev")


@element("disk")
class SnapshotDisk(Element):
    """What becomes of one disk: no, internal or external."""

    name: str = attribute("name", required=True)
    snapshot: str | None = attribute("snapshot")
    type: str | None = attribute("type")
    driver: SnapshotDriver | None = child(SnapshotDriver)
    source: SnapshotSource | None = child(SnapshotSource)


@element("disks")
class SnapshotDisks(Element):
    """What becomes of the disks."""

    disk: tuple[SnapshotDisk, ...] = children(SnapshotDisk)


@element("domainsnapshot")
class DomainSnapshot(Element):
    """A snapshot; ``state`` is what the domain was, creation time in seconds since 1970."""

    name: str | None = child_text("name")
    description: str | None = child_text("description")
    state: str | None = child_text("state")
    parent: SnapshotParent | None = child(SnapshotParent)
    creation_time: int | None = child_text("creationTime", INTEGER)
    memory: SnapshotMemory | None = child(SnapshotMemory)
    disks: SnapshotDisks | None = child(SnapshotDisks)
    domain: Domain | None = child(Domain)
    inactive_domain: Node | None = node("inactiveDomain")
