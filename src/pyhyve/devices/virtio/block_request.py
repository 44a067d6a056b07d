"""Block requests: parsed once from a chain into a frozen value (VIRTIO 1.2, 5.2.6). No I/O here."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from pyhyve.devices.virtio.chain import VirtqueueError
from pyhyve.devices.virtio.spec import SECTOR_BYTES, WRITE_ZEROES_UNMAP

if TYPE_CHECKING:
    from pyhyve.devices.virtio.chain import DescriptorChain

_HEADER = Struct("<IIQ")
_HEADER_BYTES = 16
_SEGMENT = Struct("<QII")
MAX_SEGMENTS = 256
"""Most ranges of one discard or write-zeroes request."""
MAX_RANGE_SECTORS = 1 << 22
"""Most sectors of one such range: 2 GiB."""


class BlockRequest(NamedTuple):
    """What the driver asks for. `data` is what `type` says: to be read from or written to the disk."""

    chain: DescriptorChain
    type: int
    sector: int
    readable: list[memoryview]
    """Device-readable data after the header."""
    readable_bytes: int
    writable: list[memoryview]
    """Device-writable data before the status byte."""
    writable_bytes: int
    status: memoryview


class RangeSegment(NamedTuple):
    """One range of a discard or write-zeroes request, in sectors."""

    sector: int
    sectors: int
    flags: int

    @property
    def unmap(self) -> bool:
        """Whether zeroed space may be given back."""
        return bool(self.flags & WRITE_ZEROES_UNMAP)


def parse_request(chain: DescriptorChain) -> BlockRequest:
    """Split a chain into header, data and status; VirtqueueError when one of them has no room."""
    readable, writable = chain.readable, chain.writable
    if chain.readable_bytes < _HEADER_BYTES or not writable:
        msg = "block request without header or status"
        raise VirtqueueError(msg)
    first = readable[0]
    if len(first) == _HEADER_BYTES:
        kind, _, sector = _HEADER.unpack(first)
        data = readable[1:]
    elif len(first) > _HEADER_BYTES:
        kind, _, sector = _HEADER.unpack_from(first)
        data = [first[_HEADER_BYTES:], *readable[1:]]
    else:
        header, data = split_views(readable, _HEADER_BYTES)
        kind, _, sector = _HEADER.unpack(header)
    last = writable[-1]
    if len(last) == 1:
        status, into = last, writable[:-1]
    else:
        status, into = last[-1:], [*writable[:-1], last[:-1]]
    return BlockRequest(
        chain, kind, sector, data, chain.readable_bytes - _HEADER_BYTES, into, chain.writable_bytes - 1, status
    )


def split_views(views: list[memoryview], length: int) -> tuple[bytes, list[memoryview]]:
    """A copy of the first `length` bytes (there are as many), and views of the rest."""
    head = bytearray()
    for index, view in enumerate(views):
        need = length - len(head)
        if len(view) > need:
            head += view[:need]
            return bytes(head), [view[need:], *views[index + 1 :]]
        head += view
    return bytes(head), []


def parse_ranges(request: BlockRequest, capacity_sectors: int) -> list[RangeSegment] | None:
    """The ranges of a discard or write-zeroes request; None when they are malformed, too many or outside."""
    if not request.readable_bytes or request.readable_bytes % _SEGMENT.size:
        return None
    if request.readable_bytes > MAX_SEGMENTS * _SEGMENT.size:
        return None
    data, _ = split_views(request.readable, request.readable_bytes)
    segments = [RangeSegment(*fields) for fields in _SEGMENT.iter_unpack(data)]
    for segment in segments:
        if segment.sectors > MAX_RANGE_SECTORS or segment.sector + segment.sectors > capacity_sectors:
            return None
    return segments


def in_bounds(sector: int, length: int, capacity_sectors: int) -> bool:
    """Whether `length` bytes from `sector` are whole sectors inside the disk."""
    return not length % SECTOR_BYTES and sector + length // SECTOR_BYTES <= capacity_sectors
