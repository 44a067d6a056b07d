"""One node of the block graph: a file that holds bytes, or a format that interprets the bytes of the node below it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyhyve.image.contract import ImageError, OpenRequest
from pyhyve.image.opening import OpenSettings, open_storage
from pyhyve.image.raw import RawImage
from pyhyve.machine.block.errors import ChangeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Protocol

    from pyhyve.image.contract import Image
    from pyhyve.image.storage import Storage

    class Buffer(Protocol):
        """Bytes of any kind."""

        def __buffer__(self, flags: int, /) -> memoryview:
            """Their view."""


PROTOCOL_DRIVERS = ("file", "host_device", "nbd")
"""Drivers whose nodes hold bytes themselves."""


class BorrowedStorage:
    """A storage that stays open when the image on it is closed: it belongs to a node of its own."""

    def __init__(self, storage: Storage) -> None:
        self.filename = storage.filename
        self.writable = storage.writable
        self._storage = storage
        self.pread_into = storage.pread_into
        self.preadv = storage.preadv
        self.pread = storage.pread
        self.pwrite = storage.pwrite
        self.pwritev = storage.pwritev
        self.write_zeroes = storage.write_zeroes
        self.discard = storage.discard
        self.truncate = storage.truncate
        self.allocate = storage.allocate
        self.extents = storage.extents
        self.disk_usage_bytes = storage.disk_usage_bytes
        self.flush = storage.flush

    @property
    def size_bytes(self) -> int:
        """Length of the storage below."""
        return self._storage.size_bytes

    @property
    def fd(self) -> int | None:
        """Descriptor of the storage below, when it has one."""
        return self._storage.fd

    def close(self) -> None:
        """Flush; the storage below stays open."""
        if self.writable:
            self._storage.flush()


@dataclass(slots=True, eq=False)
class BlockNode:
    """A node. Format nodes have an image; protocol nodes a storage once somebody needs it."""

    name: str
    driver: str
    options: Mapping[str, Any]
    readonly: bool = False
    auto_readonly: bool = False
    implicit: bool = False
    """Made along with another node, without a name of the user's: it goes when its parent goes."""
    file: BlockNode | None = None
    backing: BlockNode | None = None
    image: Image | None = None
    storage: Storage | None = None
    users: list[str] = field(default_factory=list)
    """Who holds it: names of parent nodes, devices, jobs."""
    unlocked: bool = False
    """Opened for reading alone and without locks: another process has it, or is about to (`handover`)."""
    image_readonly: bool = False
    """Whether the image really is, whatever it shows."""
    was_open: bool = False
    """It had an image before it was closed to be opened again."""

    @property
    def is_protocol(self) -> bool:
        """Whether it holds bytes itself."""
        return self.driver in PROTOCOL_DRIVERS

    @property
    def filename(self) -> str:
        """The name of what it is stored in."""
        if self.image is not None:
            return self.image.storage.filename
        if self.storage is not None:
            return self.storage.filename
        return location(self.options) if self.is_protocol else ""

    @property
    def cache_mode(self) -> str:
        """The cache mode of `image.opening` that the options ask for."""
        cache = self.options.get("cache") or {}
        if cache.get("no-flush"):
            return "unsafe"
        if cache.get("write-through"):
            return "directsync" if cache.get("direct") else "writethrough"
        return "none" if cache.get("direct") else "writeback"

    @property
    def discards(self) -> bool:
        """Whether discards reach the image."""
        return bool(self.options.get("discard", "ignore") == "unmap")

    def probe(self) -> None:
        """See that the storage can be opened; it is, and locked, when somebody needs it. Raises ImageError."""
        open_storage(location(self.options), OpenSettings(cache=self.cache_mode, lock=False)).close()

    def borrow_storage(self, *, writable: bool) -> BorrowedStorage:
        """The storage, opened (again) so that it can be written when `writable`. Raises ImageError and ChangeError."""
        if writable and self.readonly and not self.auto_readonly:
            msg = f"Block node '{self.name}' is read-only"
            raise ChangeError(msg)
        if self.storage is None or (writable and not self.storage.writable and not self.unlocked):
            settings = OpenSettings(
                writable=writable and not self.unlocked,
                cache=self.cache_mode,
                lock=self.options.get("locking", "auto") != "off" and not self.unlocked,
            )
            if self.storage is not None:
                # Its lock would be in the way of the new one.
                self.storage.close()
                self.storage = None
            self.storage = open_storage(location(self.options), settings)
        return BorrowedStorage(self.storage)

    def need_image(self) -> Image:
        """The image a device reads: a protocol node's bytes as they are. Raises ChangeError."""
        if self.image is None and not self.is_protocol:
            msg = f"Block node '{self.name}' is closed: its device was taken out"
            raise ChangeError(msg)
        if self.image is None:
            try:
                storage = self.borrow_storage(writable=not self.readonly)
                self.image = RawImage(OpenRequest(storage, not self.readonly and not self.unlocked, _no_sibling))
                self.image_readonly, self.image.readonly = self.image.readonly, self.readonly
            except (ImageError, OSError, ValueError) as error:
                raise ChangeError(str(error)) from error
        return self.image

    def chain(self) -> Iterator[BlockNode]:
        """This node and its backing nodes, from the top."""
        node: BlockNode | None = self
        while node is not None:
            yield node
            node = node.backing

    def close(self) -> None:
        """Close image and storage of this node alone; idempotent."""
        image, self.image = self.image, None
        try:
            if image is not None:
                image.backing = None
                image.close()
        finally:  # an image that cannot be written back, on a full disk, is not kept locked
            storage, self.storage = self.storage, None
            if storage is not None:
                storage.close()


def location(options: Mapping[str, Any]) -> str:
    """The path or network address of a protocol node's options."""
    if options["driver"] == "nbd":
        server = options["server"]
        if server["type"] not in {"inet", "unix"}:
            msg = f"nbd: servers of type {server['type']} are not supported (use inet or unix)"
            raise ChangeError(msg)
        if server["type"] == "unix":
            return f"nbd+unix:///{options.get('export', '')}?socket={server['path']}"
        return f"nbd://{server['host']}:{server['port']}/{options.get('export', '')}"
    return str(options["filename"])


def _no_sibling(name: str, writable: bool) -> Storage:  # noqa: FBT001 - the contract's signature
    del writable
    msg = f"a block device has no further file '{name}'"
    raise ImageError(msg)
