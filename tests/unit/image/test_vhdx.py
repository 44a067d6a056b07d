from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import pytest

from pyhyve.image.contract import ImageError, ImageFormatError, ImageUnsupportedError
from pyhyve.image.opening import OpenSettings, create_image, open_image
from pyhyve.image.vhdx.crc32c import crc32c
from pyhyve.image.vhdx.create import default_block_size
from pyhyve.image.vhdx.format import (
    HEADER,
    HEADER_OFFSETS,
    METADATA_TABLE_ENTRY,
    METADATA_TABLE_HEADER,
    MIB,
    REGION_TABLE_ENTRY,
    REGION_TABLE_HEADER,
    REGION_TABLE_OFFSETS,
    Metadata,
    build_metadata,
    is_sealed,
    parse_header,
    parse_metadata,
    sealed,
)
from tests.unit.image.conftest import read

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

METADATA = Metadata(1 << 20, leave_blocks_allocated=False, virtual_disk_size=5 << 30, logical_sector_size=512,
                    physical_sector_size=512, virtual_disk_id=bytes(range(16)))  # fmt: skip


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.vhdx"
    create_image(str(path), "vhdx", 4 << 20, {"block_size": MIB})
    return path


def patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize(
    ("data", "value"),
    [  # RFC 3720, appendix B.4
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_crc32c_of_known_vectors(data: Any, value: Any) -> None:
    assert crc32c(data) == value


def test_crc32c_of_trailing_zeroes_is_that_of_the_plain_algorithm() -> None:
    def plain(data: bytes) -> int:
        crc = 0xFFFFFFFF
        for byte in data:
            crc ^= byte
            for _ in range(8):
                crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        return crc ^ 0xFFFFFFFF

    chance = random.Random(1)
    for _ in range(40):
        data = chance.randbytes(chance.randrange(40)) + bytes(chance.randrange(70))
        assert crc32c(data) == plain(data)


def test_structures_have_the_sizes_of_the_specification() -> None:
    sizes = (HEADER, REGION_TABLE_HEADER, REGION_TABLE_ENTRY, METADATA_TABLE_HEADER, METADATA_TABLE_ENTRY)
    assert [layout.size for layout in sizes] == [80, 16, 32, 32, 32]


def test_metadata_round_trips_and_counts_bitmap_entries() -> None:
    assert parse_metadata(build_metadata(METADATA)) == METADATA
    assert (METADATA.chunk_ratio, METADATA.payload_blocks, METADATA.bat_entries) == (4096, 5120, 5121)


@pytest.mark.parametrize(
    ("where", "layout", "value", "error"),
    [
        (0, "<Q", 0, ImageFormatError),
        (10, "<H", 2048, ImageFormatError),
        (10, "<H", 2, ImageFormatError),
        (32, "<Q", 1, ImageUnsupportedError),
        (48, "<I", 100, ImageFormatError),
        (48, "<I", 0xFFFFFFFF, ImageFormatError),
        (52, "<I", 4, ImageFormatError),
        (65536, "<I", 3 << 20, ImageFormatError),
        (65536, "<I", 1 << 31, ImageFormatError),
        (65540, "<I", 2, ImageUnsupportedError),
        (65544, "<Q", 1 << 60, ImageFormatError),
        (65544, "<Q", 100, ImageFormatError),
        (65568, "<I", 513, ImageFormatError),
    ],
)
def test_metadata_that_contradicts_is_refused(where: Any, layout: Any, value: Any, error: Any) -> None:
    data = bytearray(build_metadata(METADATA))
    struct.pack_into(layout, data, where, value)
    with pytest.raises(error) as caught:
        parse_metadata(bytes(data))
    assert "\n" not in str(caught.value)


def test_newer_valid_header_counts_and_one_is_enough(disk: Path) -> None:
    patch(disk, HEADER_OFFSETS[1], bytes(4096))
    with open_image(str(disk), OpenSettings(writable=True)) as image:
        image.pwrite(b"data", 0)
    headers = [parse_header(disk.read_bytes()[at : at + 4096]) for at in HEADER_OFFSETS]
    assert None not in headers
    assert len({header.sequence_number for header in headers if header}) == 2
    patch(disk, HEADER_OFFSETS[0], bytes(4096))
    patch(disk, HEADER_OFFSETS[1] + 100, b"x")
    with pytest.raises(ImageFormatError, match="both headers"):
        open_image(str(disk))


def test_first_write_changes_the_identity_and_reading_does_not(disk: Path) -> None:
    def identity() -> tuple[bytes, bytes]:
        headers = [parse_header(disk.read_bytes()[at : at + 4096]) for at in HEADER_OFFSETS]
        newest = max((header for header in headers if header), key=lambda header: header.sequence_number)
        return newest.file_write_guid, newest.data_write_guid

    before = identity()
    with open_image(str(disk)) as image:
        read(image)
    assert identity() == before
    with open_image(str(disk), OpenSettings(writable=True)) as image:
        image.pwrite(b"x", 0)
    assert all(new != old for new, old in zip(identity(), before, strict=True))


def test_second_region_table_stands_in_for_the_first(disk: Path) -> None:
    patch(disk, REGION_TABLE_OFFSETS[0] + 20, b"\xff")
    with open_image(str(disk)) as image:
        assert image.size_bytes == 4 << 20
    patch(disk, REGION_TABLE_OFFSETS[1] + 20, b"\xff")
    with pytest.raises(ImageFormatError, match="both region tables"):
        open_image(str(disk))


@pytest.mark.parametrize(
    ("where", "layout", "value", "error"),
    [
        (8, "<I", 2048, ImageFormatError),
        (8, "<I", 1, ImageFormatError),
        (16, "<Q", 1, ImageUnsupportedError),
        (32, "<Q", 12345, ImageFormatError),
        (32, "<Q", 1 << 62, ImageFormatError),
        (32, "<Q", 3 << 20, ImageFormatError),
        (40, "<I", 0, ImageFormatError),
    ],
)
def test_regions_that_contradict_are_refused(disk: Path, where: Any, layout: Any, value: Any, error: Any) -> None:
    table = bytearray(disk.read_bytes()[REGION_TABLE_OFFSETS[0] :][:65536])
    struct.pack_into(layout, table, where, value)
    for offset in REGION_TABLE_OFFSETS:
        patch(disk, offset, sealed(bytes(table), 65536))
    with pytest.raises(error) as caught:
        open_image(str(disk))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("entry", [7, 4, 6 | 1 << 20, 6 | 1 << 50])
def test_block_with_an_impossible_entry_is_an_error(disk: Path, entry: Any) -> None:
    patch(disk, 2 << 20, entry.to_bytes(8, "little"))
    with open_image(str(disk)) as image, pytest.raises(ImageFormatError):
        read(image, 0, 1)
    if entry & 7 == 6:
        with open_image(str(disk)) as image:
            assert image.check().corruptions == 1


@pytest.mark.parametrize("state", [0, 1, 2, 3, 5])
def test_blocks_that_are_not_there_read_as_zero(disk: Path, state: Any) -> None:
    patch(disk, 2 << 20, state.to_bytes(8, "little"))
    with open_image(str(disk)) as image:
        assert not any(read(image))


def test_disk_with_sector_bitmap_entries_between_its_blocks(tmp_path: Path) -> None:
    path = tmp_path / "large"
    create_image(str(path), "vhdx", 9 << 30, {"block_size": MIB})
    places = (0, (4 << 30) - 1000, (8 << 30) - 5, (9 << 30) - 3)
    with open_image(str(path), OpenSettings(writable=True)) as image:
        for number, at in enumerate(places):
            image.pwrite(bytes((number + 1,)) * 3, at)
    data = path.read_bytes()[2 << 20 : (2 << 20) + 9300 * 8]
    entries = struct.unpack("<9300Q", data)
    assert entries[4096] == entries[8193] == 0
    with open_image(str(path)) as image:
        assert [read(image, at, 3) for at in places] == [bytes((number + 1,)) * 3 for number in range(4)]


@pytest.mark.parametrize(
    ("size", "options", "text"),
    [
        (65 << 40, {}, "max of 64TB"),
        (1 << 20, {"block_size": 3 << 20}, "power of two"),
        (1 << 20, {"block_size": 1 << 29}, "must not exceed"),
        (1 << 20, {"block_size": 1000}, "multiple of 1 MB"),
        (1 << 20, {"log_size": (1 << 20) + 1}, "Log size"),
        (1 << 20, {"subformat": "differencing"}, "subformat"),
    ],
)
def test_options_are_checked(size: Any, options: Any, text: Any, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=text):
        create_image(str(tmp_path / "x"), "vhdx", size, options)


def test_default_block_size_grows_with_the_disk() -> None:
    sizes = [default_block_size(size) >> 20 for size in (1 << 30, 2 << 30, 200 << 30, 33 << 40)]
    assert sizes == [8, 16, 32, 64]


def test_seal_covers_every_byte() -> None:
    data = sealed(b"head" + bytes(100), 4096)
    assert is_sealed(data)
    for at in (0, 4, 8, 4095):
        assert not is_sealed(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :])
