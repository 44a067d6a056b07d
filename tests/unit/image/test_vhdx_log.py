"""Replay of the log ([MS-VHDX] 2.3)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from pyhyve.image.contract import ImageFormatError, ImageUnsupportedError
from pyhyve.image.opening import OpenSettings, create_image, open_image
from pyhyve.image.vhdx.format import NO_GUID
from pyhyve.image.vhdx.image import VhdxImage
from tests.unit.image.foreign_images import LOG_LENGTH, log_entry, put_log

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

GUID = bytes(range(1, 17))
WRITER = OpenSettings("vhdx", writable=True)
DATA = random.Random(1).randbytes(4096)
PLACE = 6 << 20  # of the file, where the new image has nothing


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.vhdx"
    create_image(str(path), "vhdx", 4 << 20, {"block_size": 1 << 20})
    return path


def at(path: Path, offset: int, length: int = 4096) -> bytes:
    return path.read_bytes()[offset : offset + length]


@pytest.mark.parametrize("position", [0, 12288, LOG_LENGTH - 4096, LOG_LENGTH - 8192])
def test_newest_sequence_is_replayed_wherever_it_lies(disk: Path, position: Any) -> None:
    size = disk.stat().st_size
    first = log_entry(GUID, 5, position, [(PLACE, b"o" * 4096), (PLACE + 4096, DATA)], size)
    second = log_entry(GUID, 6, position, [(PLACE, DATA), (PLACE + 8192, 4096)], size)
    put_log(disk, position, first + second, GUID)
    with pytest.raises(ImageUnsupportedError, match="needs to be replayed"):
        open_image(str(disk))
    with open_image(str(disk), WRITER) as image:
        assert isinstance(image, VhdxImage)
        assert image.log_replayed
        assert image.header.log_guid == NO_GUID
        assert image.check().corruptions_fixed == 1
    assert at(disk, PLACE, 12288) == DATA + DATA + bytes(4096)
    with open_image(str(disk)) as image:
        assert image.check().corruptions_fixed == 0


def test_sequence_without_its_tail_is_not_replayed(disk: Path) -> None:
    size = disk.stat().st_size
    put_log(disk, 0, log_entry(GUID, 6, 4096 * 20, [(PLACE, DATA)], size), GUID)
    with open_image(str(disk), WRITER) as image:
        assert isinstance(image, VhdxImage)
        assert not image.log_replayed
    assert not any(at(disk, PLACE))


def test_older_complete_sequence_stands_in_for_a_torn_entry(disk: Path) -> None:
    size = disk.stat().st_size
    good = log_entry(GUID, 6, 0, [(PLACE, DATA)], size)
    torn = log_entry(GUID, 7, 0, [(PLACE, b"n" * 4096)], size)[:4096] + bytes(4096)
    put_log(disk, 0, good + torn, GUID)
    with open_image(str(disk), WRITER):
        pass
    assert at(disk, PLACE) == DATA


def test_file_grows_to_what_the_log_says(disk: Path) -> None:
    size = disk.stat().st_size
    entry = bytearray(log_entry(GUID, 6, 0, [(size + 8192, DATA)], size))
    put_log(disk, 0, bytes(entry), GUID)
    with open_image(str(disk), WRITER):
        pass
    assert at(disk, size + 8192) == DATA


@pytest.mark.parametrize(
    ("update", "file_size", "text"),
    [
        ((1 << 50, DATA), None, "far behind the end"),
        ((PLACE + 1, DATA), None, "contradicts"),
        ((PLACE, 100), None, "contradicts"),
        ((PLACE, DATA), 1 << 40, "cut off"),
    ],
)
def test_log_that_asks_for_the_impossible_is_refused_and_nothing_written(
    disk: Path, update: Any, file_size: Any, text: Any
) -> None:
    size = disk.stat().st_size
    put_log(disk, 0, log_entry(GUID, 6, 0, [(PLACE + 8192, DATA), update], file_size or size), GUID)
    before = disk.read_bytes()
    with pytest.raises(ImageFormatError, match=text) as caught:
        open_image(str(disk), WRITER)
    assert "\n" not in str(caught.value)
    assert disk.read_bytes() == before


def test_zeroes_far_behind_the_end_take_no_space(disk: Path) -> None:
    size = disk.stat().st_size
    put_log(disk, 0, log_entry(GUID, 6, 0, [(PLACE, 1 << 50)], size), GUID)
    with open_image(str(disk), WRITER):
        pass
    assert disk.stat().st_size == size
