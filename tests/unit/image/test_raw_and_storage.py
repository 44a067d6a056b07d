from __future__ import annotations

import io
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyhyve.image.contract import ImageError, LayerState
from pyhyve.image.opening import OpenSettings, create_image, open_image
from pyhyve.image.storage import FileObjectStorage, FileStorage
from tests.unit.image.conftest import read

if TYPE_CHECKING:
    from typing import Any


def file_storage(tmp_path: Path) -> FileStorage:
    return FileStorage.open(str(tmp_path / "f"), writable=True, create=True)


def object_storage(_tmp_path: Any) -> FileObjectStorage:
    return FileObjectStorage(io.BytesIO())


@pytest.mark.parametrize("make", [file_storage, object_storage])
def test_storage_grows_and_reads_zero_past_its_end(make: Any, tmp_path: Path) -> None:
    storage = make(tmp_path)
    storage.pwrite(b"abc", 5000)
    storage.pwritev([b"12", memoryview(b"345")], 5003)
    assert storage.size_bytes == 5008
    views = [memoryview(bytearray(4)), memoryview(bytearray(10))]
    storage.preadv(views, 4999)
    assert b"".join(views) == b"\0abc12345".ljust(14, b"\0")
    assert storage.pread(100, 5006) == b"45"
    storage.write_zeroes(5001, 10_000)
    assert storage.pread(4, 5000) == b"a\0\0\0"
    assert storage.size_bytes == 15_001
    storage.truncate(5001)
    assert storage.pread(4, 5000) == b"a"
    storage.close()


def test_scatter_lists_longer_than_the_kernel_takes(tmp_path: Path) -> None:
    storage = file_storage(tmp_path)
    parts = [bytes((index % 251,)) * 3 for index in range(3000)]
    storage.pwritev(parts, 7)
    views = [memoryview(bytearray(2)) for _ in range(4500)]
    storage.preadv(views, 7)
    assert b"".join(views) == b"".join(parts)
    storage.close()


def test_directory_is_not_an_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="directory"):
        open_image(str(tmp_path))


def test_raw_map_shows_holes(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    create_image(str(path), "raw", 1 << 20)
    with open_image(str(path), OpenSettings("raw", writable=True)) as image:
        image.pwrite(b"x" * 65536, 1 << 19)
        runs = list(image.layer_extents(0, 1 << 20))
        if len(runs) > 1:  # the file system has holes
            # the first block is written when the file is made
            assert [run.state for run in runs[1:]] == [LayerState.ZERO, LayerState.DATA, LayerState.ZERO]
        image.discard(1 << 19, 65536)
        assert read(image) == bytes(1 << 20)
        image.resize(1 << 21)
        assert path.stat().st_size == 1 << 21


def test_raw_size_is_rounded_up_to_sectors(tmp_path: Path) -> None:
    (tmp_path / "odd").write_bytes(b"x" * 1000)
    with open_image(str(tmp_path / "odd")) as image:
        assert image.size_bytes == 1024
        assert read(image) == b"x" * 1000 + bytes(24)


def test_guessed_raw_image_never_becomes_another_format(tmp_path: Path) -> None:
    path = str(tmp_path / "disk.raw")
    create_image(path, "raw", 1 << 20)
    header = b"QFI\xfb\0\0\0\3" + bytes(504)
    with open_image(path, OpenSettings(writable=True)) as guessed:
        for offset, data in ((0, header), (0, header[:8]), (2, b"I\xfb\0\0")):
            if offset == 2:
                guessed.pwrite(b"Q", 0)
                guessed.pwrite(b"F", 1)
                data = b"I\xfb\0\0\0\3"  # noqa: PLW2901 - completes the magic
            with pytest.raises(ImageError, match="format=raw"):
                guessed.pwritev([memoryview(data)], offset)
        guessed.pwrite(b"harmless", 0)
        guessed.pwrite(header, 512)
    with open_image(path, OpenSettings("raw", writable=True)) as stated:
        stated.pwrite(header, 0)


@pytest.mark.parametrize("mode", ["falloc", "full"])
def test_preallocated_raw_takes_its_space(mode: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "disk.raw")
    create_image(path, "raw", 1 << 20, {"preallocation": mode})
    assert Path(path).stat().st_blocks * 512 >= 1 << 20


def test_window_of_a_raw_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(512) + b"y" * 1024 + bytes(512))
    settings = OpenSettings("raw", options={"offset": "512", "size": "1024"})
    with open_image(str(tmp_path / "f"), settings) as image:
        assert read(image) == b"y" * 1024
    with pytest.raises(ImageError, match="window"):
        open_image(str(tmp_path / "f"), OpenSettings("raw", options={"offset": "1024", "size": "4096"}))


def test_writes_longer_than_the_kernel_is_asked_for_are_whole(tmp_path: Path) -> None:
    data = random.Random(3).randbytes(FileStorage.longest_write_bytes * 5 // 2)
    storage = FileStorage.open(str(tmp_path / "disk"), writable=True, create=True)
    storage.pwrite(data, 7)
    storage.pwritev([memoryview(data)], len(data) + 7)
    assert storage.pread(2 * len(data) + 7, 0) == bytes(7) + data + data
    storage.close()
