from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from pyhyve.image.contract import ImageFormatError, ImageUnsupportedError
from pyhyve.image.opening import OpenSettings, create_image, open_image
from pyhyve.image.vdi.format import HEADER, Header, ImageType, build_header, parse_header
from tests.unit.image.conftest import read

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

GOOD = Header(ImageType.DYNAMIC, 512, 1024, 4 << 20, 1 << 20, 4, 0)


def test_header_is_512_bytes_and_round_trips() -> None:
    assert HEADER.size == 512
    assert parse_header(build_header(GOOD), 1 << 20).blocks_in_image == 4


@pytest.mark.parametrize(
    ("where", "layout", "value", "error"),
    [
        (64, "<I", 0, ImageFormatError),
        (68, "<I", 0x10000, ImageUnsupportedError),
        (76, "<I", ImageType.DIFFERENCING, ImageUnsupportedError),
        (340, "<I", 0, ImageFormatError),
        (340, "<I", 513, ImageFormatError),
        (340, "<I", 1 << 30, ImageFormatError),
        (344, "<I", 512, ImageFormatError),
        (344, "<I", 1025, ImageFormatError),
        (360, "<I", 4096, ImageUnsupportedError),
        (368, "<Q", 1 << 40, ImageFormatError),
        (376, "<I", 3 << 20, ImageUnsupportedError),
        (376, "<I", 1 << 31, ImageUnsupportedError),
        (380, "<I", 512, ImageUnsupportedError),
        (384, "<I", 0xFFFFFFFF, ImageFormatError),
        (424, "<I", 1, ImageUnsupportedError),
        (440, "<I", 1, ImageUnsupportedError),
    ],
)
def test_header_that_contradicts_is_refused(where: Any, layout: Any, value: Any, error: Any) -> None:
    data = bytearray(build_header(GOOD))
    struct.pack_into(layout, data, where, value)
    with pytest.raises(error) as caught:
        parse_header(bytes(data), 1 << 20)
    assert "\n" not in str(caught.value)


def test_slot_outside_the_image_is_an_error_not_a_read(tmp_path: Path) -> None:
    path = tmp_path / "disk.vdi"
    create_image(str(path), "vdi", 4 << 20)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 512, 4)
    path.write_bytes(data)
    with open_image(str(path)) as image, pytest.raises(ImageFormatError, match="slot 4"):
        read(image, 0, 1)


def test_check_counts_shared_and_stray_slots_and_repairs_the_count(tmp_path: Path) -> None:
    path = tmp_path / "disk.vdi"
    create_image(str(path), "vdi", 4 << 20)
    good = path.read_bytes()
    path.write_bytes(good[:512] + struct.pack("<4I", 0, 0, 9, 0xFFFFFFFF) + good[528:])
    with open_image(str(path)) as image:
        result = image.check()
    assert (result.corruptions, len(result.errors)) == (3, 3)
    path.write_bytes(good[:512] + struct.pack("<4I", 0, 1, 0xFFFFFFFE, 0xFFFFFFFF) + good[528:])
    with open_image(str(path), OpenSettings(writable=True)) as image:
        assert image.check(fix_errors=True).corruptions_fixed == 1
        assert image.check().corruptions == 0


def test_leftover_of_a_crash_is_cleared_before_a_block_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "disk.vdi"
    create_image(str(path), "vdi", 2 << 20)
    with path.open("ab") as file:
        file.write(b"\xee" * 4096)
    with open_image(str(path), OpenSettings(writable=True)) as image:
        image.pwrite(b"x", 10)
        assert read(image, 0, 4096) == bytes(10) + b"x" + bytes(4085)
