"""One disk of an OVA package, read in place. The runtime option `disk` (1, 2, …) chooses; the first is the default."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.image.contract import (
    Image,
    ImageError,
    ImageFormatError,
    ImageReadonlyError,
    ImageUnsupportedError,
    LayerExtent,
    OpenRequest,
)
from pyhyve.image.ova.format import MAX_OVF_BYTES, Member, members, parse_ovf
from pyhyve.image.ova.window import WindowStorage
from pyhyve.image.registry import PROBE_SIZE_BYTES, find_format, probe_format
from pyhyve.support.records import replace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyhyve.image.storage import Storage

# Formats that a package's disk may have: single files that refer to no others.
_DISK_FORMATS = frozenset(("vmdk", "vdi", "vpc", "vhdx"))


class OvaImage(Image):
    """The chosen disk, through the format it has inside the package."""

    format_name = "ova"

    def __init__(self, request: OpenRequest) -> None:
        if request.writable:
            msg = "OVA packages can only be read: convert the disk first"
            raise ImageUnsupportedError(msg)
        self.storage = request.storage
        self.readonly = True
        self._disk = self._open_disk(request)

    def _open_disk(self, request: OpenRequest) -> Image:
        found: dict[str, Member] = {}
        descriptor: Member | None = None
        for member in members(self.storage):
            found.setdefault(member.name.removeprefix("./"), member)
            if descriptor is None and member.name.lower().endswith(".ovf"):
                descriptor = member
        if descriptor is None:
            msg = "the OVA package holds no OVF descriptor"
            raise ImageFormatError(msg)
        if descriptor.length > MAX_OVF_BYTES:
            msg = "the OVF descriptor is too large"
            raise ImageFormatError(msg)
        disks = parse_ovf(self.storage.pread(descriptor.length, descriptor.offset))
        wanted = request.options.get("disk", "1")
        if not wanted.isdecimal() or not 1 <= int(wanted[:6]) <= len(disks):
            msg = f"the OVA package has {len(disks)} disks with data: there is no disk '{wanted[:20]}'"
            raise ImageError(msg)
        disk = disks[int(wanted[:6]) - 1]
        if disk.compression != "identity":
            msg = f"the disk '{disk.href}' is compressed ({disk.compression}): unpack the OVA package first"
            raise ImageUnsupportedError(msg)
        place = found.get(disk.href)
        if place is None:
            msg = f"the disk '{disk.href}' is not in the OVA package"
            raise ImageFormatError(msg)
        window = WindowStorage(self.storage, place.offset, place.length, f"{self.storage.filename}:{place.name}")
        name = probe_format(window.pread(PROBE_SIZE_BYTES, 0), "")
        if name not in _DISK_FORMATS:
            msg = f"the disk '{disk.href}' has the format {name}, which an OVA package cannot hold"
            raise ImageUnsupportedError(msg)
        return find_format(name).open(OpenRequest(window, writable=False, open_sibling=_no_sibling))

    @property
    def size_bytes(self) -> int:
        """Virtual size of the disk."""
        return self._disk.size_bytes

    @property
    def cluster_size_bytes(self) -> int | None:
        """Allocation unit of the disk."""
        return self._disk.cluster_size_bytes

    def pread_into(self, buffer: memoryview, offset: int) -> None:
        """Read the disk."""
        self._disk.pread_into(buffer, offset)

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Read the disk."""
        self._disk.preadv(buffers, offset)

    def pwrite(self, buffer: bytes | bytearray | memoryview, offset: int) -> None:
        """Refused."""
        msg = "OVA packages can only be read"
        raise ImageReadonlyError(msg)

    def layer_extents(self, start: int, length: int) -> Iterator[LayerExtent]:
        """Runs of the disk; where they lie counts from the start of the package."""
        for run in self._disk.layer_extents(start, length):
            yield replace(run, offset=None, filename=None)

    def flush(self) -> None:
        """Nothing is ever written."""

    def close(self) -> None:
        """Close the disk and the package."""
        self._disk.close()
        self.storage.close()


def _no_sibling(name: str, writable: bool) -> Storage:  # noqa: FBT001 - the contract's signature
    del writable
    msg = f"a disk inside an OVA package cannot refer to another file ('{name}')"
    raise ImageUnsupportedError(msg)
