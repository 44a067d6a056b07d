from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import pytest

from pyhyve.image.contract import ImageError, ImageFormatError, ImageUnsupportedError
from pyhyve.image.opening import OpenSettings, create_image, open_image
from pyhyve.image.registry import probe_format
from pyhyve.image.vpc.format import (
    DYNAMIC_HEADER,
    FOOTER,
    MAX_SECTORS,
    Footer,
    bitmap_size_bytes,
    build_footer,
    checksum,
    geometry_for,
    parse_footer,
)
from tests.unit.image.conftest import read
from tests.unit.image.foreign_images import differencing_vhd

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any


def test_structures_have_the_sizes_of_the_specification() -> None:
    assert (FOOTER.size, DYNAMIC_HEADER.size) == (512, 1024)
    assert bitmap_size_bytes(2 << 20) == 512
    assert bitmap_size_bytes(4096) == 512


def test_footer_round_trips_with_its_checksum() -> None:
    footer = Footer(3, 512, 1 << 20, 1 << 20, 20, 4, 17, b"qemu", 5, bytes(range(16)))
    data = build_footer(footer)
    assert parse_footer(data) == footer
    assert checksum(data, 64) == int.from_bytes(data[64:68], "big")
    assert not parse_footer(data[:200] + b"\1" + data[201:]).checksum_valid


@pytest.mark.parametrize(
    ("sectors", "geometry"),
    [  # worked out from the specification's appendix
        (1, (0, 4, 17)),
        (20480, (301, 4, 17)),
        (17 * 4 * 1023, (1023, 4, 17)),
        (2 << 20, (2080, 16, 63)),
        (1 << 27, (32896, 16, 255)),
        (1 << 33, (65535, 16, 255)),
    ],
)
def test_geometry_follows_the_appendix(sectors: Any, geometry: Any) -> None:
    assert geometry_for(sectors) == geometry


def test_probing_finds_dynamic_images_only(tmp_path: Path) -> None:
    create_image(str(tmp_path / "dynamic"), "vpc", 1 << 20)
    create_image(str(tmp_path / "fixed"), "vpc", 1 << 20, {"subformat": "fixed"})
    assert probe_format((tmp_path / "dynamic").read_bytes()[:2048], "x") == "vpc"
    assert probe_format((tmp_path / "fixed").read_bytes()[:2048], "x") == "raw"


def test_size_calculation_can_be_chosen(tmp_path: Path) -> None:
    path = str(tmp_path / "disk")
    create_image(path, "vpc", 10_000_384, {"force_size": True})
    for how, size in (("auto", 10_000_384), ("current_size", 10_000_384)):
        with open_image(path, OpenSettings("vpc", options={"force_size_calc": how})) as image:
            assert image.size_bytes == size
    with pytest.raises(ImageError, match="auto, chs or current_size"):
        open_image(path, OpenSettings("vpc", options={"force_size_calc": "guess"}))


@pytest.mark.parametrize(
    ("where", "layout", "value", "error"),
    [
        (12, ">I", 0x20000, ImageUnsupportedError),
        (16, ">Q", 1 << 60, ImageFormatError),
        (16, ">Q", 0, ImageFormatError),
        (48, ">Q", (MAX_SECTORS + 1) * 512, ImageFormatError),
        (60, ">I", 9, ImageUnsupportedError),
        (60, ">I", 4, ImageUnsupportedError),
        (528, ">Q", 1 << 62, ImageFormatError),
        (528, ">Q", 1537, ImageFormatError),
        (536, ">I", 0x20000, ImageUnsupportedError),
        (540, ">I", 0, ImageFormatError),
        (540, ">I", 0xFFFFFFFF, ImageFormatError),
        (544, ">I", 0, ImageFormatError),
        (544, ">I", 3 << 20, ImageFormatError),
    ],
)
def test_header_that_contradicts_is_refused(where: Any, layout: Any, value: Any, error: Any, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    create_image(str(path), "vpc", 10 << 20, {"force_size": True})
    data = bytearray(path.read_bytes())
    struct.pack_into(layout, data, where, value)
    path.write_bytes(data)
    with pytest.raises(error) as caught:
        open_image(str(path), OpenSettings("vpc", writable=True))
    assert "\n" not in str(caught.value)


def test_fixed_image_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    create_image(str(path), "vpc", 1 << 20, {"subformat": "fixed"})
    path.write_bytes(path.read_bytes()[4096:])
    with pytest.raises(ImageFormatError, match="too short"):
        open_image(str(path), OpenSettings("vpc"))


def test_too_large_disks_cannot_be_created(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="2040 GiB"):
        create_image(str(tmp_path / "x"), "vpc", 3 << 40)


@pytest.mark.parametrize("parent_format", ["dynamic", "fixed"])
def test_differencing_image_shows_its_parent_by_sector(parent_format: Any, tmp_path: Path) -> None:
    size, block = 1 << 20, 65536
    chance = random.Random(5)
    below, here = bytearray(chance.randbytes(size)), chance.randbytes(block)
    create_image(str(tmp_path / "base.vhd"), "vpc", size, {"force_size": True, "subformat": parent_format})
    with open_image(str(tmp_path / "base.vhd"), OpenSettings("vpc", writable=True)) as image:
        image.pwrite(below, 0)
    bits = chance.getrandbits(block // 512)
    child = tmp_path / "child.vhd"
    child.write_bytes(differencing_vhd({3: (here, bits)}, size))
    for sector in range(block // 512):
        if bits >> sector & 1:
            at = 3 * block + sector * 512
            below[at : at + 512] = here[sector * 512 : sector * 512 + 512]
    with open_image(str(child)) as image:
        assert read(image) == below
        assert read(image, 3 * block - 100, 5000) == below[3 * block - 100 :][:5000]
    with pytest.raises(ImageUnsupportedError, match="only be read"):
        open_image(str(child), OpenSettings(writable=True))


def test_block_outside_the_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    create_image(str(path), "vpc", 10 << 20, {"force_size": True})
    data = bytearray(path.read_bytes())
    struct.pack_into(">I", data, 1536, 0x7FFFFFFF)
    path.write_bytes(data)
    with open_image(str(path)) as image, pytest.raises(ImageFormatError, match="outside the file"):
        read(image, 0, 1)
    with (
        open_image(str(path), OpenSettings(writable=True)) as image,
        pytest.raises(ImageFormatError, match="too short"),
    ):
        image.pwrite(b"x", 4 << 20)
