from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from pyhyve.image.contract import ImageError, ImageFormatError, ImageUnsupportedError
from pyhyve.image.opening import OpenSettings, create_image, open_image
from pyhyve.image.parallels.format import HEADER, IN_USE, MAGIC_OLD, Header, build_header, parse_header
from tests.unit.image.conftest import read

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

GOOD = Header(
    extended=True, cylinders=4, tracks=8, nb_bat_entries=4, nb_sectors=32, in_use=False, data_off=8
)  # fmt: skip


def test_header_is_64_bytes_and_round_trips() -> None:
    assert HEADER.size == 64
    assert parse_header(build_header(GOOD), 4096) == GOOD


@pytest.mark.parametrize(
    ("where", "layout", "value", "error"),
    [
        (0, "<I", 0, ImageFormatError),
        (16, "<I", 3, ImageUnsupportedError),
        (28, "<I", 0, ImageFormatError),
        (28, "<I", 0xFFFFFFFF, ImageFormatError),
        (32, "<I", 0xFFFFFFFF, ImageFormatError),
        (32, "<I", 2000, ImageFormatError),
        (36, "<Q", 1 << 63, ImageFormatError),
        (36, "<Q", 33, ImageFormatError),
    ],
)
def test_header_that_contradicts_is_refused(where: Any, layout: Any, value: Any, error: Any) -> None:
    data = bytearray(build_header(GOOD))
    struct.pack_into(layout, data, where, value)
    with pytest.raises(error) as caught:
        parse_header(bytes(data), 4096)
    assert "\n" not in str(caught.value)


def test_old_images_count_in_sectors(tmp_path: Path) -> None:
    path = tmp_path / "old.hds"
    header = build_header(Header(False, 1, 8, 4, 32, False, 1))
    table = struct.pack("<4I", 3, 0, 0, 0)
    path.write_bytes((header + table).ljust(1536, b"\0") + b"A" * 4096)
    assert header.startswith(MAGIC_OLD)
    with open_image(str(path), OpenSettings(writable=True)) as image:
        assert image.format_name == "parallels"
        assert read(image, 0, 4097) == b"A" * 4096 + b"\0"
        image.pwrite(b"B" * 6000, 5000)
    assert struct.unpack_from("<4I", path.read_bytes(), 64) == (3, 11, 19, 0)
    with open_image(str(path)) as image:
        assert read(image) == b"A" * 4096 + bytes(904) + b"B" * 6000 + bytes(16384 - 11000)


def test_in_use_flag_is_set_while_writing_and_counts_as_corruption(tmp_path: Path) -> None:
    path = tmp_path / "disk.hds"
    create_image(str(path), "parallels", 8 << 20)
    with open_image(str(path), OpenSettings(writable=True)) as image:
        image.pwrite(b"x", 0)
        image.flush()
        crashed = path.read_bytes()
    assert struct.unpack_from("<I", path.read_bytes(), 44) == (0,)
    assert struct.unpack_from("<I", crashed, 44) == (IN_USE,)
    path.write_bytes(crashed)
    with open_image(str(path), OpenSettings(writable=True)) as image:
        assert image.check().corruptions == 1
        assert image.check(fix_errors=True).corruptions_fixed == 1
    with open_image(str(path)) as image:
        assert image.check().corruptions == 0


def test_check_finds_leaks_strays_and_double_use(tmp_path: Path) -> None:
    path = tmp_path / "disk.hds"
    create_image(str(path), "parallels", 32 << 10, {"cluster_size": 4096})
    data = bytearray(path.read_bytes()) + bytes(3 * 4096)
    struct.pack_into("<4I", data, 64, 1, 1, 77, 2)
    path.write_bytes(data)
    with open_image(str(path), OpenSettings(writable=True)) as image:
        result = image.check()
        assert (result.corruptions, result.leaks, result.allocated_clusters) == (2, 1, 2)
        fixed = image.check(fix_leaks=True, fix_errors=True)
        assert (fixed.corruptions_fixed, fixed.leaks_fixed) == (1, 1)
    assert path.stat().st_size == 3 * 4096


def test_format_extension_is_not_made_stale(tmp_path: Path) -> None:
    path = tmp_path / "disk.hds"
    create_image(str(path), "parallels", 1 << 20)
    data = bytearray(path.read_bytes())
    struct.pack_into("<Q", data, 56, 8)
    path.write_bytes(data)
    with open_image(str(path)) as image:
        assert not any(read(image))
    with pytest.raises(ImageUnsupportedError, match="extension"):
        open_image(str(path), OpenSettings(writable=True))


@pytest.mark.parametrize("cluster_size", [0, 1000, 1 << 29])
def test_cluster_size_is_checked(cluster_size: Any, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="Cluster size"):
        create_image(str(tmp_path / "x"), "parallels", 1 << 20, {"cluster_size": cluster_size})
