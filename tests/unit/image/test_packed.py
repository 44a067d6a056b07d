"""cloop and dmg: compressed images that are only read."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import pytest

from pyhyve.image.contract import ImageError, ImageFormatError, ImageReadonlyError, ImageUnsupportedError
from pyhyve.image.dmg.format import MAX_PLIST_BYTES
from pyhyve.image.opening import OpenSettings, open_image
from pyhyve.image.packed import unpack
from tests.unit.image import foreign_images
from tests.unit.image.conftest import read

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

RAW, ADC, ZLIB, BZIP2, LZFSE, XZ = 1, 0x80000004, 0x80000005, 0x80000006, 0x80000007, 0x80000008


def data_of(size: int = 500_224) -> bytes:
    data = bytearray(size)
    data[:100_000] = random.Random(1).randbytes(100_000)
    data[300_000:400_000] = b"text " * 20_000
    return bytes(data)


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    return tmp_path / "image.dmg"


@pytest.mark.parametrize("block_size", [512, 65536, 1 << 20])
def test_cloop_reads_back(block_size: Any, image_file: Path) -> None:
    image_file.write_bytes(foreign_images.cloop(data_of(), block_size))
    with open_image(str(image_file), OpenSettings("cloop")) as image:
        found = read(image)
        assert found[:500_224] == data_of()
        assert not any(found[500_224:])
        for at in (0, 1000, 65530, 99_990):
            assert read(image, at, 70_000) == data_of()[at : at + 70_000]


@pytest.mark.parametrize(
    ("where", "layout", "value"),
    [(0, ">I", 0), (128, ">I", 0), (128, ">I", 1000), (128, ">I", 1 << 31), (132, ">I", 0xFFFFFFFF)],
)
def test_cloop_header_that_contradicts_is_refused(where: Any, layout: Any, value: Any, image_file: Path) -> None:
    data = bytearray(foreign_images.cloop(data_of()))
    struct.pack_into(layout, data, where, value)
    image_file.write_bytes(data)
    with pytest.raises(ImageFormatError) as caught:
        open_image(str(image_file), OpenSettings("cloop"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [0, 1 << 63, 400_000, 100])
def test_cloop_offsets_are_bounded(value: Any, image_file: Path) -> None:
    data = bytearray(foreign_images.cloop(data_of()))
    struct.pack_into(">Q", data, 144, value)
    image_file.write_bytes(data)
    with open_image(str(image_file), OpenSettings("cloop")) as image, pytest.raises(ImageFormatError):
        read(image, 0, 131072)


@pytest.mark.parametrize("resource_fork", [False, True])
@pytest.mark.parametrize("kinds", [(RAW,), (ZLIB,), (BZIP2,), (XZ,), (RAW, ZLIB, BZIP2, XZ)])
def test_dmg_reads_back(kinds: Any, resource_fork: Any, image_file: Path) -> None:
    image_file.write_bytes(foreign_images.dmg(data_of(), kinds, resource_fork=resource_fork))
    with open_image(str(image_file)) as image:
        assert image.format_name == "dmg"
        assert read(image) == data_of()
        assert read(image, 65530, 100) == data_of()[65530:65630]


@pytest.mark.parametrize(("kind", "name"), [(ADC, "ADC"), (LZFSE, "LZFSE")])
def test_dmg_with_apples_own_compression_is_refused_by_name(kind: Any, name: Any, image_file: Path) -> None:
    image_file.write_bytes(foreign_images.dmg(data_of(), (kind,)))
    with pytest.raises(ImageUnsupportedError, match=name):
        open_image(str(image_file))


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (0, 0), (0x18, 1 << 62), (0x28, 1 << 62), (0x30, 1 << 62), (0xD8, 1 << 63), (0xE0, MAX_PLIST_BYTES + 1),
        (0xE0, 0), (0x1EC, 1 << 60),
    ],
)  # fmt: skip
def test_dmg_trailer_that_contradicts_is_refused(where: Any, value: Any, image_file: Path) -> None:
    data = bytearray(foreign_images.dmg(data_of(), (ZLIB,)))
    struct.pack_into(">Q", data, len(data) - 512 + where, value)
    image_file.write_bytes(data)
    with pytest.raises(ImageFormatError) as caught:
        open_image(str(image_file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        (8, 1 << 62, "outside the disk"),  # sector
        (16, 1 << 40, "too large"),  # count
        (16, 129, "two dmg chunks"),
        (24, 1 << 50, "outside the file"),  # offset
        (32, 1 << 50, "too large"),  # length
    ],
)
def test_dmg_chunk_that_contradicts_is_refused(field: Any, value: Any, error: Any, image_file: Path) -> None:
    data = bytearray(foreign_images.dmg(data_of(), (ZLIB,), resource_fork=True))
    first = data.rindex(b"mish", 0, data.rindex(b"mish")) + 204
    struct.pack_into(">Q", data, first + field, value)
    image_file.write_bytes(data)
    with pytest.raises(ImageError, match=error):
        open_image(str(image_file))


def test_packed_images_cannot_be_written(image_file: Path) -> None:
    image_file.write_bytes(foreign_images.cloop(data_of()))
    with pytest.raises(ImageUnsupportedError, match="only be read"):
        open_image(str(image_file), OpenSettings("cloop", writable=True))
    with open_image(str(image_file), OpenSettings("cloop")) as image, pytest.raises(ImageReadonlyError):
        image.pwrite(b"x", 0)


@pytest.mark.parametrize("kind", ["zlib", "bzip2", "xz"])
def test_streams_give_no_more_than_asked_for(kind: Any) -> None:
    import bz2
    import lzma
    import zlib

    packed = {"zlib": zlib.compress, "bzip2": bz2.compress, "xz": lzma.compress}[kind](bytes(10 << 20))
    assert unpack(kind, packed, 1000) == bytes(1000)
    for damaged in (packed[:10], b"", b"\xff" * 100, packed):
        with pytest.raises(ImageFormatError):
            unpack(kind, damaged, (10 << 20) + 1)
