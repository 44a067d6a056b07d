"""``<disk>``: a disk, CD-ROM or floppy drive of a domain.

Source: libvirt's documentation, "Domain XML format", hard drives.
"""

from __future__ import annotations

from pyhyve.xml.address import Address, Alias
from pyhyve.xml.document import Node
from pyhyve.xml.element import INTEGER, NUMBER, Element, attribute, child, child_text, children, element, node, present

__all__ = ["BackingStore", "BootOrder", "Disk", "DiskDriver", "DiskHost", "DiskSource", "DiskTarget", "Format"]


@element("driver")
class DiskDriver(Element):
    """How the hypervisor serves it."""

    name: str | None = attribute("name")
    type: str | None = attribute("type")
    cache: str | None = attribute("cache")
    error_policy: str | None = attribute("error_policy")
    rerror_policy: str | None = attribute("rerror_policy")
    io: str | None = attribute("io")
    ioeventfd: str | None = attribute("ioeventfd")
    event_idx: str | None = attribute("event_idx")
    copy_on_read: str | None = attribute("copy_on_read")
    discard: str | None = attribute("discard")
    iothread: int | None = attribute("iothread", NUMBER)
    detect_zeroes: str | None = attribute("detect_zeroes")
    queues: int | None = attribute("queues", NUMBER)
    queue_size: int | None = attribute("queue_size", NUMBER)
    iommu: str | None = attribute("iommu")
    ats: str | None = attribute("ats")
    packed: str | None = attribute("packed")
    page_per_vq: str | None = attribute("page_per_vq")
    metadata_cache: Node | None = node("metadata_cache")


@element("host")
class DiskHost(Element):
    """A server that has the data."""

    name: str | None = attribute("name")
    port: str | None = attribute("port")
    transport: str | None = attribute("transport")
    socket: str | None = attribute("socket")


@element("source")
class DiskSource(Element):
    """Where its data is: one of file, dev, dir, or pool with volume, or a network protocol with a name."""

    file: str | None = attribute("file")
    dev: str | None = attribute("dev")
    dir: str | None = attribute("dir")
    protocol: str | None = attribute("protocol")
    name: str | None = attribute("name")
    tls: str | None = attribute("tls")
    query: str | None = attribute("query")
    pool: str | None = attribute("pool")
    volume: str | None = attribute("volume")
    mode: str | None = attribute("mode")
    startup_policy: str | None = attribute("startupPolicy")
    index: int | None = attribute("index", NUMBER)
    host: tuple[DiskHost, ...] = children(DiskHost)
    snapshot: Node | None = node("snapshot")
    config: Node | None = node("config")
    auth: Node | None = node("auth")
    encryption: Node | None = node("encryption")
    reservations: Node | None = node("reservations")
    initiator: Node | None = node("initiator")
    slices: Node | None = node("slices")
    ssl: Node | None = node("ssl")
    cookies: Node | None = node("cookies")
    readahead: Node | None = node("readahead")
    timeout: Node | None = node("timeout")


@element("format")
class Format(Element):
    """An image format."""

    type: str = attribute("type", required=True)
    metadata_cache: Node | None = node("metadata_cache")


@element("backingStore")
class BackingStore(Element):
    """The image underneath; empty where the chain ends. What is under that is kept as it is."""

    type: str | None = attribute("type")
    index: int | None = attribute("index", NUMBER)
    format: Format | None = child(Format)
    source: DiskSource | None = child(DiskSource)
    backing_store: Node | None = node("backingStore")


@element("target")
class DiskTarget(Element):
    """What the guest sees."""

    dev: str = attribute("dev", required=True)
    bus: str | None = attribute("bus")
    tray: str | None = attribute("tray")
    removable: str | None = attribute("removable")
    rotation_rate: str | None = attribute("rotation_rate")


@element("boot")
class BootOrder(Element):
    """Its place in the boot order."""

    order: int = attribute("order", INTEGER, required=True)
    loadparm: str | None = attribute("loadparm")


@element("disk")
class Disk(Element):
    """A disk. ``device`` is disk, cdrom, floppy or lun."""

    type: str | None = attribute("type")
    device: str | None = attribute("device")
    model: str | None = attribute("model")
    rawio: str | None = attribute("rawio")
    sgio: str | None = attribute("sgio")
    snapshot: str | None = attribute("snapshot")
    driver: DiskDriver | None = child(DiskDriver)
    auth: Node | None = node("auth")
    source: DiskSource | None = child(DiskSource)
    backing_store: BackingStore | None = child(BackingStore)
    backenddomain: Node | None = node("backenddomain")
    geometry: Node | None = node("geometry")
    blockio: Node | None = node("blockio")
    mirror: Node | None = node("mirror")
    target: DiskTarget = child(DiskTarget, required=True)
    iotune: Node | None = node("iotune")
    readonly: bool = present("readonly")
    shareable: bool = present("shareable")
    transient: Node | None = node("transient")
    serial: str | None = child_text("serial")
    wwn: str | None = child_text("wwn")
    vendor: str | None = child_text("vendor")
    product: str | None = child_text("product")
    encryption: Node | None = node("encryption")
    boot: BootOrder | None = child(BootOrder)
    alias: Alias | None = child(Alias)
    address: Address | None = child(Address)
