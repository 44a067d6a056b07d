from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import pytest

from pyhyve.image.contract import BackingReference, ImageError, ImageFormatError, ImageUnsupportedError
from pyhyve.image.opening import OpenSettings, create_image, open_image
from pyhyve.image.registry import probe_format
from pyhyve.image.vmdk.create import extent_name
from pyhyve.image.vmdk.descriptor import check_extent_name, parse_descriptor, with_cid
from pyhyve.image.vmdk.format import SPARSE_HEADER, parse_sparse_header
from tests.unit.image import foreign_images
from tests.unit.image.conftest import read

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

TEXT = b"""# Disk DescriptorFile
version=1
encoding="UTF-8"
CID=0000beef
parentCID=ffffffff
createType="twoGbMaxExtentFlat"

# Extent description
RW 4 FLAT "a-f001.vmdk" 2
RW 4 ZERO
RDONLY 2 FLAT "a-f002.vmdk" 0
"""


def write_disk(directory: Path, text: bytes = TEXT) -> str:
    (directory / "a.vmdk").write_bytes(text)
    (directory / "a-f001.vmdk").write_bytes(bytes(1024) + b"1" * 2048)
    (directory / "a-f002.vmdk").write_bytes(b"2" * 700)
    return str(directory / "a.vmdk")


def test_descriptor_is_parsed_as_written() -> None:
    found = parse_descriptor(TEXT + b"\0" * 50 + b'RW 9 FLAT "after the end" 0\n')
    assert (found.cid, found.parent_cid, found.create_type) == (0xBEEF, 0xFFFFFFFF, "twoGbMaxExtentFlat")
    assert [(line.access, line.sectors, line.type, line.offset) for line in found.extents] == [
        ("RW", 4, "FLAT", 2), ("RW", 4, "ZERO", 0), ("RDONLY", 2, "FLAT", 0),
    ]  # fmt: skip
    assert found.parent_hint is None


def test_windows_line_ends_are_understood() -> None:
    assert parse_descriptor(TEXT.replace(b"\n", b"\r\n")) == parse_descriptor(TEXT)


def test_content_id_is_replaced_alone() -> None:
    assert with_cid(TEXT, 0x12) == TEXT.replace(b"\nCID=0000beef", b"\nCID=00000012")


@pytest.mark.parametrize("text", [b"", b"version=1\n", TEXT.replace(b"CID=0000beef", b"CID=zz"), b"\xff" * 600])
def test_text_that_is_no_descriptor_is_refused(text: Any, tmp_path: Path) -> None:
    (tmp_path / "a.vmdk").write_bytes(text)
    with pytest.raises(ImageFormatError):
        open_image(str(tmp_path / "a.vmdk"), OpenSettings("vmdk"))


def test_probing_looks_for_the_version_behind_comments() -> None:
    assert probe_format(TEXT, "x") == "vmdk"
    assert probe_format(b"# a shell script\nset -e\n", "x") == "raw"
    assert probe_format(b"#" * 2048, "x") == "raw"
    assert probe_format(b"KDMV" + bytes(100), "x") == "vmdk"


def test_flat_extents_and_zeroes_make_one_disk(tmp_path: Path) -> None:
    with open_image(write_disk(tmp_path)) as image:
        assert read(image) == b"1" * 2048 + bytes(2048) + b"2" * 700 + bytes(324)
        with pytest.raises(ImageError):
            image.pread_into(memoryview(bytearray(1)), 5120)
    with pytest.raises(ImageUnsupportedError, match="read-only"):
        open_image(write_disk(tmp_path), OpenSettings(writable=True))


def test_extent_of_zeroes_cannot_be_written(tmp_path: Path) -> None:
    path = write_disk(tmp_path, TEXT.replace(b"RDONLY", b"RW"))
    with open_image(path, OpenSettings(writable=True)) as image:
        image.pwrite(b"W" * 100, 2000 - 52)
        with pytest.raises(ImageUnsupportedError):
            image.pwrite(b"x", 2048)
    assert (tmp_path / "a-f001.vmdk").read_bytes()[1024 + 1948 :] == b"W" * 100


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "a/../../b", "", "nbd://host/x", "json:{}"])
def test_extents_stay_beside_their_descriptor(name: Any, tmp_path: Path) -> None:
    with pytest.raises(ImageUnsupportedError, match="outside the directory"):
        check_extent_name(name)
    path = write_disk(tmp_path, TEXT.replace(b"a-f001.vmdk", name.encode()))
    with pytest.raises(ImageUnsupportedError):
        open_image(path)


def test_hostile_extent_lists_are_bounded(tmp_path: Path) -> None:
    line = b'RW 4 FLAT "a-f001.vmdk" 0\n'
    for text, what in (
        (TEXT + line * 5000, "more than 4096 extents"),
        (TEXT.replace(b"RW 4 FLAT", b"RW 9999999999999999999 FLAT"), "invalid size"),
        (TEXT.replace(b"RW 4 FLAT", b"RW 0 FLAT"), "invalid size"),
        (TEXT.replace(b"ZERO", b"SESPARSE"), "Unsupported extent type"),
        (TEXT.replace(b"RDONLY", b"NOACCESS"), "Unsupported extent type"),
        (TEXT[: TEXT.index(b"RW 4 FLAT")], "no extents"),
        (TEXT + bytes(2 << 20), "too large"),
    ):
        with pytest.raises(ImageError, match=what) as caught:
            open_image(write_disk(tmp_path, text))
        assert "\n" not in str(caught.value)


def header_of(data: bytes, **changes: int) -> bytes:
    names = (
        "magic", "version", "flags", "capacity", "grain", "desc_offset", "desc_size", "gtes", "rgd", "gd", "over_head",
        "unclean", "check", "algorithm",
    )  # fmt: skip
    values = dict(zip(names, SPARSE_HEADER.unpack_from(data), strict=True)) | changes
    return SPARSE_HEADER.pack(*values.values()) + data[512:]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"version": 4}, ImageUnsupportedError),
        ({"version": 0}, ImageUnsupportedError),
        ({"check": b"\n\r\n\n"}, ImageFormatError),
        ({"flags": 0x10003, "algorithm": 7}, ImageUnsupportedError),
        ({"grain": 0}, ImageFormatError),
        ({"grain": 3}, ImageFormatError),
        ({"grain": 1 << 40}, ImageFormatError),
        ({"gtes": 0}, ImageFormatError),
        ({"gtes": 1 << 20}, ImageFormatError),
        ({"capacity": 1 << 60}, ImageFormatError),
        ({"capacity": 1 << 40}, ImageFormatError),
        ({"gd": 1 << 50}, ImageFormatError),
        ({"gd": 0xFFFFFFFFFFFFFFFF}, ImageFormatError),
        ({"over_head": 1 << 40}, ImageFormatError),
        ({"desc_size": 1 << 40}, ImageFormatError),
        ({"desc_offset": 0}, ImageFormatError),
    ],
)
def test_header_that_contradicts_is_refused(changes: Any, error: Any, tmp_path: Path) -> None:
    path = tmp_path / "disk.vmdk"
    create_image(str(path), "vmdk", 4 << 20)
    path.write_bytes(header_of(path.read_bytes(), **changes))
    with pytest.raises(error) as caught:
        open_image(str(path))
    assert "\n" not in str(caught.value)


def test_grain_and_table_outside_the_file_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "disk.vmdk"
    create_image(str(path), "vmdk", 4 << 20)
    good = path.read_bytes()
    header = parse_sparse_header(good)
    directory = header.gd_offset * 512
    table = struct.unpack_from("<I", good, directory)[0] * 512
    for at, what in ((directory, "grain table"), (table, "grain at sector")):
        data = bytearray(good)
        struct.pack_into("<I", data, at, 0x7FFFFFFF)
        path.write_bytes(data)
        with open_image(str(path)) as image:
            with pytest.raises(ImageFormatError, match=what):
                read(image, 0, 1)
            assert image.check().corruptions == 1


def test_missing_grain_tables_are_made(tmp_path: Path) -> None:
    path = tmp_path / "disk.vmdk"
    create_image(str(path), "vmdk", 100 << 20)
    data = bytearray(path.read_bytes())
    header = parse_sparse_header(bytes(data))
    for directory in (header.gd_offset, header.rgd_offset):
        data[directory * 512 : directory * 512 + 16] = bytes(16)
    path.write_bytes(data)
    with open_image(str(path), OpenSettings(writable=True)) as image:
        image.pwrite(b"first", 0)
        image.pwrite(b"later", 70 << 20)
    data = bytearray(path.read_bytes())
    for directory in (header.gd_offset, header.rgd_offset):
        found = struct.unpack_from("<4I", data, directory * 512)
        assert found[0]
        assert found[2]
        assert not found[1]
    with open_image(str(path)) as image:
        assert read(image, 0, 5) + read(image, 70 << 20, 5) == b"firstlater"


@pytest.mark.parametrize("build", [foreign_images.stream_optimized, foreign_images.cowd])
def test_disks_as_vmware_writes_them_are_read(build: Any, tmp_path: Path) -> None:
    data = bytearray(400_384)
    data[70_000:200_000] = random.Random(1).randbytes(130_000)
    data[-10:] = b"last bytes"
    path = tmp_path / "disk.vmdk"
    path.write_bytes(build(bytes(data)))
    with open_image(str(path)) as image:
        assert read(image) == data
    with pytest.raises(ImageUnsupportedError, match="only be read"):
        open_image(str(path), OpenSettings(writable=True))


def test_damaged_compressed_grains_are_errors(tmp_path: Path) -> None:
    good = foreign_images.stream_optimized(random.Random(1).randbytes(65536))
    path = tmp_path / "disk.vmdk"
    for where, value in ((65536 + 8, b"\0\0\0\0"), (65536 + 8, b"\xff\xff\xff\x7f"), (65536 + 12, b"\0\0\0\0"),
                         (65536 + 8, b"\x20\0\0\0")):  # fmt: skip
        path.write_bytes(good[:where] + value + good[where + len(value) :])
        with open_image(str(path)) as image, pytest.raises(ImageFormatError):
            read(image)


def test_only_stream_optimized_disks_compress(tmp_path: Path) -> None:
    path = str(tmp_path / "disk.vmdk")
    create_image(path, "vmdk", 1 << 20)
    with open_image(path, OpenSettings(writable=True)) as image, pytest.raises(ImageUnsupportedError, match="stream"):
        image.write_compressed(bytes(65536), 0)
    create_image(path, "vmdk", 100_352, {"subformat": "streamOptimized"})
    with open_image(path, OpenSettings(writable=True)) as image:
        with pytest.raises(ImageError, match="whole clusters"):
            image.write_compressed(bytes(512), 512)
        image.write_compressed(b"text" * 16384 + b"end!" * 8704, 0)
        image.pwrite(b"more", 10)
    with open_image(path) as image:
        assert read(image) == (b"text" * 3)[:10] + b"more" + (b"text" * 16384 + b"end!" * 8704)[14:]
        assert all(extent.compressed for extent in image.layer_extents(0, image.size_bytes))


def test_zeroed_grains_hide_the_parent_without_taking_space(tmp_path: Path) -> None:
    base, top = tmp_path / "base.vmdk", tmp_path / "top.vmdk"
    create_image(str(base), "vmdk", 1 << 20)
    with open_image(str(base), OpenSettings(writable=True)) as image:
        image.pwrite(b"b" * (1 << 20), 0)
    create_image(str(top), "vmdk", 1 << 20, {"zeroed_grain": True}, BackingReference("base.vmdk", "vmdk"))
    size = top.stat().st_size
    with open_image(str(top), OpenSettings(writable=True)) as image:
        image.write_zeroes(65536, 3 * 65536)
    assert top.stat().st_size == size
    with open_image(str(top)) as image:
        assert read(image) == b"b" * 65536 + bytes(3 * 65536) + b"b" * ((1 << 20) - 4 * 65536)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"subformat": "custom"}, "subformat"),
        ({"adapter_type": "nvme"}, "adapter type"),
        ({"compat6": True, "hwversion": "10"}, "compat6 cannot be enabled"),
        ({"subformat": "monolithicFlat", "zeroed_grain": True}, "zeroed grain"),
        ({"toolsversion": 'a"b'}, "quotes"),
    ],
)
def test_options_are_checked(options: Any, text: Any, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=text):
        create_image(str(tmp_path / "x.vmdk"), "vmdk", 1 << 20, options)


def test_parent_must_be_vmdk_and_exist(tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(bytes(4096))
    for below in (
        BackingReference("base", "raw"),
        BackingReference("missing", "vmdk"),
        BackingReference("base", "vmdk"),
    ):
        with pytest.raises(ImageError):
            create_image(str(tmp_path / "x.vmdk"), "vmdk", 4096, {}, below)


def test_extent_names_follow_the_disk() -> None:
    assert extent_name("disk.vmdk", flat=True, number=None) == "disk-flat.vmdk"
    assert extent_name("disk.vmdk", flat=True, number=1) == "disk-f001.vmdk"
    assert extent_name("disk.a.b", flat=False, number=12) == "disk.a-s012.b"
    assert extent_name("disk", flat=False, number=1) == "disk-s001"


def test_split_disks_cross_their_extents(tmp_path: Path) -> None:
    path = str(tmp_path / "disk.vmdk")
    size = (4 << 30) + (1 << 20)
    for subformat in ("twoGbMaxExtentSparse", "twoGbMaxExtentFlat"):
        create_image(path, "vmdk", size, {"subformat": subformat})
        with open_image(path, OpenSettings(writable=True)) as image:
            assert image.size_bytes == size
            for at in (2 << 30, 4 << 30):
                image.pwrite(b"across the border", at - 8)
        with open_image(path) as image:
            assert [read(image, at - 9, 18) for at in (2 << 30, 4 << 30)] == [b"\0across the border"] * 2
    assert len(list(tmp_path.iterdir())) == 7
