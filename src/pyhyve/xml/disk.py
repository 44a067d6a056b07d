"""``<disk>``: a disk, CD-ROM or floppy drive of a domain.

Source: libvirt's documentation, "Domain XML format", hard drives.
"""

from __future__ import annotations

from pyhyve.xml.address import Address, Alias
from pyhyve.xml.element import INTEGER, NUMBER, Element, attribute, child, child_text, element, present

__all__ = ["BackingStore", "Disk", "DiskDriver", "DiskSource", "DiskTarget", "Format"]


@element("driver")
class DiskDriver(Element):
    """How the hypervisor serves it."""

    name: str | None = attribute("name")
    type: str | None = attribute("type")
    cache: str | None = attribute("cache")
    error_policy: str | None = attribute("error_policy")
    io: str | None = attribute("io")
    discard: str | None = attribute("discard")
    iothread: int | None = attribute("iothread", NUMBER)
    queues: int | None = attribute("queues", NUMBER)


@element("source")
class DiskSource(Element):
    """Where its data is: one of file, dev, dir, or pool with volume, or a network protocol with a name."""

    file: str | None = attribute("file")
    dev: str | None = attribute("dev")
    dir: str | None = attribute("dir")
    protocol: str | None = attribute("protocol")
    name: str | None = attribute("name")
    pool: str | None = attribute("pool")
    volume: str | None = attribute("volume")
    startup_policy: str | None = attribute("startupPolicy")
    index: int | None = attribute("index", NUMBER)


@element("format")
class Format(Element):
    """An image format."""

    type: str = attribute("type", required=True)


@element("backingStore")
class BackingStore(Element):
    """The image underneath; empty where the chain ends. Deeper levels are kept as they are."""

    type: str | None = attribute("type")
    index: int | None = attribute("index", NUMBER)
    format: Format | None = child(Format)
    source: DiskSource | None = child(DiskSource)


@element("target")
class DiskTarget(Element):
    """What the guest sees."""

    dev: str = attribute("dev", required=True)
    bus: str | None = attribute("bus")
    tray: str | None = attribute("tray")
    removable: str | None = attribute("removable")


@element("boot")
class BootOrder(Element):
    """Its place in the boot order."""

    order: int = attribute("order", INTEGER, required=True)


@element("disk")
class Disk(Element):
    """A disk. ``device`` is disk, cdrom, floppy or lun."""

    type: str | None = attribute("type")
    device: str | None = attribute("device")
    snapshot: str | None = attribute("snapshot")
    driver: DiskDriver | None = child(DiskDriver)
    source: DiskSource | None = child(DiskSource)
    backing_store: BackingStore | None = child(BackingStore)
    target: DiskTarget = child(DiskTarget, required=True)
    readonly: bool = present("readonly")
    shareable: bool = present("shareable")
    transient: bool = present("transient")
    serial: str | None = child_text("serial")
    wwn: str | None = child_text("wwn")
    boot: BootOrder | None = child(BootOrder)
    alias: Alias | None = child(Alias)
    address: Address | None = child(Address)
