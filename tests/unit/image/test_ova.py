from __future__ import annotations

import random
import tarfile
from typing import TYPE_CHECKING

import pytest

from pyhyve.image.contract import ImageError, ImageFormatError, ImageReadonlyError, ImageUnsupportedError
from pyhyve.image.opening import OpenSettings, create_image, open_image
from pyhyve.image.ova.format import parse_ovf
from tests.unit.image import foreign_images
from tests.unit.image.conftest import read

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

DATA = bytes(70_000) + random.Random(1).randbytes(130_192)


@pytest.fixture
def box(tmp_path: Path) -> Path:
    return tmp_path / "box"


def test_first_disk_is_read_and_others_are_chosen(box: Path) -> None:
    box.write_bytes(
        foreign_images.ova(
            {"one.vmdk": foreign_images.stream_optimized(DATA), "two.vmdk": foreign_images.cowd(DATA[::-1])}
        )
    )
    with open_image(str(box)) as image:
        assert image.format_name == "ova"
        assert read(image) == DATA
        assert sum(extent.length for extent in image.layer_extents(0, image.size_bytes)) == len(DATA)
        with pytest.raises(ImageReadonlyError):
            image.pwrite(b"x", 0)
    with open_image(str(box), OpenSettings("ova", options={"disk": "2"})) as image:
        assert read(image) == DATA[::-1]
    for wrong in ("0", "3", "x", "9" * 5000):
        with pytest.raises(ImageError, match="2 disks"):
            open_image(str(box), OpenSettings("ova", options={"disk": wrong}))
    with pytest.raises(ImageUnsupportedError, match="convert the disk"):
        open_image(str(box), OpenSettings(writable=True))


@pytest.mark.parametrize("fmt", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_of_every_tar_kind_are_found(fmt: Any, box: Path) -> None:
    name = "directory/" + "n" * (90 if fmt == tarfile.USTAR_FORMAT else 150) + ".vmdk"
    box.write_bytes(foreign_images.ova({name: foreign_images.cowd(DATA)}, fmt=fmt))
    with open_image(str(box)) as image:
        assert read(image) == DATA


def test_disk_may_have_other_formats_but_not_refer_to_files(box: Path, tmp_path: Path) -> None:
    create_image(str(tmp_path / "disk.vdi"), "vdi", 1 << 20)
    box.write_bytes(foreign_images.ova({"disk.vdi": (tmp_path / "disk.vdi").read_bytes()}))
    with open_image(str(box)) as image:
        assert read(image) == bytes(1 << 20)
    text = b'version=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW 1 FLAT "secret" 0\n'
    (tmp_path / "secret").write_bytes(b"s" * 512)
    box.write_bytes(foreign_images.ova({"disk.vmdk": text}))
    with pytest.raises(ImageUnsupportedError, match="cannot refer"):
        open_image(str(box))
    box.write_bytes(foreign_images.ova({"disk.vmdk": b"QFI\xfb" + bytes(1000)}))
    with pytest.raises(ImageError):
        open_image(str(box))


def test_compressed_or_missing_disks_are_named(box: Path) -> None:
    box.write_bytes(foreign_images.ova({"d.vmdk": b""}, compression="gzip"))
    with pytest.raises(ImageUnsupportedError, match="gzip"):
        open_image(str(box))
    text = foreign_images.OVF.format(
        files='<File ovf:href="gone.vmdk" ovf:id="a"/>', disks='<Disk ovf:diskId="d" ovf:fileRef="a"/>'
    )
    box.write_bytes(foreign_images.ova({}, ovf=text))
    with pytest.raises(ImageFormatError, match="not in the OVA"):
        open_image(str(box))


@pytest.mark.parametrize(
    "text",
    [
        b"<a",
        b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
        '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'.encode("utf-16"),
        b"<a>" * 100_000,
        b'<?xml version="1.0" encoding="nothing"?><a/>',
        b'<a><Disk diskId="d" fileRef="nowhere"/></a>',
    ],
)
def test_hostile_descriptors_are_refused(text: Any) -> None:
    with pytest.raises(ImageFormatError) as caught:
        parse_ovf(text)
    assert "\n" not in str(caught.value)


def test_damaged_archives_are_refused(box: Path) -> None:
    good = foreign_images.ova({"d.vmdk": foreign_images.cowd(DATA)})
    size_of_first = good[:124] + b"7" * 11 + good[135:]
    for data, what in (
        (good[:100] + b"x" + good[101:], "invalid tar header"),
        (size_of_first, "invalid tar header"),
        (good[:124] + b"\xff" + good[125:], "invalid tar header"),
        (good[:4096], "cut off"),
        (good[:600], "cut off"),
        (good[:1024], "not in the OVA"),
    ):
        box.write_bytes(data)
        with pytest.raises(ImageError, match=what):
            open_image(str(box), OpenSettings("ova"))
