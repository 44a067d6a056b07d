"""Seeds of other hypervisors' formats: created here where possible, else built from their specifications."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

from pyhyve.image.vhdx.format import (
    HEADER_OFFSETS,
    HEADER_SIZE_BYTES,
    NO_GUID,
    REGION_TABLE_OFFSETS,
    REGION_TABLE_SIZE_BYTES,
    build_header,
    parse_header,
    sealed,
)
from pyhyve.image.vhdx.log import DATA_DESCRIPTOR, ENTRY_HEADER
from tests.unit.image import foreign_images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VARIANTS: tuple[tuple[str, dict[str, str]], ...] = (
    ("vdi", {}),
    ("vpc", {"force_size": "on"}),
    ("vpc", {"subformat": "fixed"}),
    ("parallels", {"cluster_size": "4096"}),
    ("vhdx", {"block_size": "1M"}),
    ("vmdk", {}),
    ("vmdk", {"zeroed_grain": "on"}),
    ("vmdk", {"subformat": "streamOptimized"}),
)
_LOG_OFFSET, _GUID = 1 << 20, bytes(range(1, 17))


def _content() -> bytes:
    data = bytearray(300_032)
    data[:70_000] = random.Random(1).randbytes(70_000)
    data[150_000:200_000] = b"text " * 10_000
    return bytes(data)


def built() -> Iterator[tuple[str, str, bytes]]:
    """`(name, format, bytes)` of images that are only read."""
    data = _content()
    yield "cloop", "cloop", foreign_images.cloop(data, 16384)
    yield "dmg", "dmg", foreign_images.dmg(data, (1, 0x80000005, 0x80000006, 0x80000008))
    yield "dmg with resources", "dmg", foreign_images.dmg(data, (0x80000005,), resource_fork=True)
    stream = foreign_images.stream_optimized(data)
    yield "vmdk of VMware", "vmdk", stream
    yield "vmdk COWD", "vmdk", foreign_images.cowd(data)
    yield "vpc differencing", "vpc", foreign_images.differencing_vhd({0: (data[:4096], 0b1010)}, 1 << 20)
    yield "ova", "ova", foreign_images.ova({"disk.vmdk": stream})


def with_log(data: bytes) -> bytes:
    """A VHDX image with a log entry to be replayed."""
    image = bytearray(data)
    bat = bytes(image[2 << 20 : (2 << 20) + 4096])
    descriptor = DATA_DESCRIPTOR.pack(b"desc", bat[-4:], bat[:8], 2 << 20, 1)
    head = ENTRY_HEADER.pack(b"loge", 0, 8192, 0, 1, 1, _GUID, len(image), len(image))
    sector = b"data" + bytes(4) + bat[8:-4] + struct.pack("<I", 1)
    image[_LOG_OFFSET : _LOG_OFFSET + 8192] = sealed((head + descriptor).ljust(4096, b"\0") + sector, 8192)
    for offset in HEADER_OFFSETS:
        header = parse_header(bytes(image[offset : offset + HEADER_SIZE_BYTES]))
        assert header is not None
        assert header.log_guid == NO_GUID
        values = {name: getattr(header, name) for name in header.__slots__} | {"log_guid": _GUID}
        image[offset : offset + HEADER_SIZE_BYTES] = build_header(type(header)(**values))
    return bytes(image)


def seal_vhdx(data: bytes) -> bytes:
    """Make the checksums of a damaged VHDX image right, so that what they protect is looked at."""
    image = bytearray(data)
    spans = [(offset, HEADER_SIZE_BYTES) for offset in HEADER_OFFSETS]
    spans += [(offset, REGION_TABLE_SIZE_BYTES) for offset in REGION_TABLE_OFFSETS]
    spans.append((_LOG_OFFSET, 8192))
    for offset, size in spans:
        part = bytes(image[offset : offset + size])
        if len(part) == size and any(part):
            image[offset : offset + size] = sealed(part, size)
    return bytes(image)


RESEAL: dict[str, Callable[[bytes], bytes]] = {"vhdx": seal_vhdx}
