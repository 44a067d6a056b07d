from __future__ import annotations

import os
import random
import threading
from typing import TYPE_CHECKING

import pytest

from pyhyve.backends.block import open_backend
from pyhyve.image.contract import ImageError
from pyhyve.image.opening import OpenSettings, create_image, open_image
from pyhyve.image.storage import FileStorage
from pyhyve.image.storage_direct import DirectFileStorage, aligned_buffer
from tests.unit.image.conftest import read

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "direct.raw"
    path.write_bytes(b"")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_DIRECT))
    except OSError:
        pytest.skip("the file system of the temporary directory has no O_DIRECT")
    return path


def test_any_request_gives_what_a_cached_file_gives(place: Path) -> None:
    chance, flat = random.Random(1), bytearray(random.Random(2).randbytes(200_003))
    place.write_bytes(flat)
    storage = FileStorage.open(str(place), writable=True, cache="none")
    assert isinstance(storage, DirectFileStorage)
    for _ in range(300):
        offset = chance.choice((chance.randrange(260_000), chance.randrange(60) * 4096))
        length = chance.choice((1, 511, 512, 4096, 4097, 65536, chance.randrange(1, 20_000)))
        action = chance.randrange(4)
        if action == 0:
            found = aligned_buffer(length) if chance.random() < 0.5 else memoryview(bytearray(length))
            storage.pread_into(found, offset)
            assert found == flat[offset : offset + length].ljust(length, b"\0")
            assert storage.pread(length, offset) == flat[offset : offset + length]
            continue
        data = chance.randbytes(length)
        if action == 1:
            storage.pwrite(data, offset)
        elif action == 2:
            storage.pwritev([data[: length // 3], data[length // 3 :]], offset)
        else:
            data = bytes(length)
            storage.write_zeroes(offset, length)
        if offset > len(flat):
            flat += bytes(offset - len(flat))
        flat[offset : offset + length] = data
        assert storage.size_bytes == len(flat)
    storage.truncate(5)
    assert storage.pread(10, 0) == flat[:5]
    storage.flush()
    storage.close()
    assert place.read_bytes() == flat[:5]


def test_parts_of_one_block_written_at_once_all_arrive(place: Path) -> None:
    place.write_bytes(bytes(1 << 16))
    storage = FileStorage.open(str(place), writable=True, cache="none")

    def write(number: int) -> None:
        for at in range(number, 400, 4):
            storage.pwrite(bytes((number + 1,)) * 100, at * 100)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = storage.pread(40_000, 0)
    assert found == b"".join(bytes((at % 4 + 1,)) * 100 for at in range(400))
    storage.close()


@pytest.mark.parametrize("cache", ["none", "directsync", "writethrough", "unsafe"])
@pytest.mark.parametrize("format_name", ["raw", "qcow2", "vmdk", "vdi", "vhdx", "vpc"])
def test_images_work_in_every_cache_mode(place: Path, cache: str, format_name: str) -> None:
    path = str(place.with_suffix("." + format_name))
    create_image(path, format_name, 4 << 20)
    data = random.Random(3).randbytes(300_001)
    with open_image(path, OpenSettings(format_name, writable=True, cache=cache)) as image:
        image.pwrite(data, 12_345)
        image.flush()
        assert read(image, 12_345, len(data)) == data
        image.write_zeroes(1 << 20, 1 << 20)
    with open_image(path, OpenSettings(format_name)) as image:
        assert read(image, 12_345, len(data)) == data


def test_file_system_without_direct_access_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"")
    real = os.open

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ImageError, match="does not support O_DIRECT"):
        open_image(str(tmp_path / "a"), OpenSettings("raw", cache="none"))
    with pytest.raises(ImageError, match="Invalid cache option"):
        open_image(str(tmp_path / "a"), OpenSettings("raw", cache="cold"))


@pytest.mark.parametrize("format_name", ["raw", "qcow2"])
def test_machine_reads_and_writes_past_the_page_cache_at_any_alignment(place: Path, format_name: str) -> None:
    path = str(place.with_suffix("." + format_name))
    create_image(path, format_name, 1 << 20)
    backend = open_backend(open_image(path, OpenSettings(format_name, writable=True, cache="none")))
    memory, data = bytearray(70_000), random.Random(4).randbytes(8192)
    views = [memoryview(data)[:512], memoryview(data)[512:4608], memoryview(data)[4608:]]
    backend.write(views, 512 * 3)
    backend.flush()
    odd = [memoryview(memory)[5:1029], memoryview(memory)[3001:10169]]
    backend.read(odd, 512 * 3)
    assert b"".join(odd) == data
    backend.close()
    with open_image(path, OpenSettings(format_name)) as image:
        assert read(image, 512 * 3, len(data)) == data
