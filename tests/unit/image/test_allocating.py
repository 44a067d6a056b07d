"""What all block-mapped formats have in common, against a flat disk."""

from __future__ import annotations

import io
import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyhyve.image.contract import ImageError, ImageReadonlyError, LayerState, OpenRequest
from pyhyve.image.opening import OpenSettings, create_image, open_image, parse_create_options
from pyhyve.image.registry import find_format
from pyhyve.image.storage import FileObjectStorage
from tests.unit.image.conftest import read

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

SIZE = 3 << 20
CASES = [
    ("vdi", {}),
    ("vdi", {"static": "on"}),
    ("vpc", {"force_size": "on"}),
    ("vpc", {"subformat": "fixed", "force_size": "on"}),
    ("parallels", {"cluster_size": "4096"}),
    ("vhdx", {"block_size": "1M"}),
    ("vhdx", {"block_size": "1M", "block_state_zero": "off"}),
    ("vhdx", {"subformat": "fixed", "block_size": "1M"}),
    ("vmdk", {}),
    ("vmdk", {"zeroed_grain": "on"}),
    ("vmdk", {"subformat": "monolithicFlat"}),
    ("vmdk", {"subformat": "twoGbMaxExtentSparse"}),
    ("vmdk", {"subformat": "streamOptimized"}),
]
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "zero", "vector", "discard", "flush", "reopen"]),
        st.integers(0, SIZE - 1),
        st.sampled_from([1, 511, 4096, 65536, 200_000]),
        st.integers(0, 1 << 30),
    ),
    max_size=14,
)
each_case = pytest.mark.parametrize(
    ("format_name", "options"), CASES, ids=["-".join((name, *options.values())) for name, options in CASES]
)


@each_case
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=OPERATIONS)
def test_random_operations_agree_with_a_flat_disk(
    format_name: Any, options: Any, operations: Any, tmp_path: Path
) -> None:
    path = str(tmp_path / "disk.img")
    flat = bytearray(SIZE)
    create_image(path, format_name, SIZE, parse_create_options(format_name, options))
    writer = OpenSettings(format_name, writable=True)
    image = open_image(path, writer)
    assert image.size_bytes == SIZE
    for kind, offset, wanted, seed in operations:
        length = min(wanted, SIZE - offset)
        data = random.Random(seed).randbytes(length)
        if kind == "write":
            image.pwrite(data, offset)
        elif kind == "vector":
            third = memoryview(bytearray(data)), memoryview(bytearray(b"")), memoryview(bytearray(data[:1]))
            image.pwritev(third[:2], offset)
        elif kind == "zero":
            data = bytes(length)
            image.write_zeroes(offset, length)
        elif kind == "discard":
            image.discard(offset, length)
            data = read(image, offset, length)
            assert all(new in {0, old} for new, old in zip(data, flat[offset : offset + length], strict=True))
        else:
            image.flush()
            if kind == "reopen":
                image.close()
                image = open_image(path, writer)
            continue
        flat[offset : offset + length] = data
    assert read(image) == flat
    parts = [memoryview(bytearray(1000)), memoryview(bytearray(2000))]
    image.preadv(parts, 65000)
    assert b"".join(parts) == flat[65000:68000]
    image.close()
    image.close()
    with open_image(path, OpenSettings(format_name)) as again:
        assert read(again) == flat
        assert_layers_cover(again)


def assert_layers_cover(image: Any) -> None:
    position = 0
    for extent in image.layer_extents(0, image.size_bytes):
        assert extent.start == position
        assert extent.length > 0
        if extent.state is not LayerState.DATA or extent.zero:
            assert not any(read(image, extent.start, extent.length))
        position += extent.length
    assert position == image.size_bytes


@each_case
def test_readers_cannot_write_and_ranges_are_checked(format_name: Any, options: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "disk.img")
    create_image(path, format_name, SIZE, parse_create_options(format_name, options))
    before = (tmp_path / "disk.img").read_bytes()
    with open_image(path, OpenSettings(format_name)) as image:
        for change in (
            lambda: image.pwrite(b"x", 0),
            lambda: image.write_zeroes(0, 1),
            lambda: image.discard(0, 1),
            lambda: image.pwritev([memoryview(b"x")], 0),
        ):
            with pytest.raises(ImageReadonlyError):
                change()
        with pytest.raises(ImageError, match="outside the image"):
            image.pread_into(memoryview(bytearray(2)), SIZE - 1)
    assert (tmp_path / "disk.img").read_bytes() == before


@each_case
def test_threads_write_at_once(format_name: Any, options: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "disk.img")
    create_image(path, format_name, SIZE, parse_create_options(format_name, options))
    flat = bytearray(random.Random(1).randbytes(SIZE))
    unit = 20_000
    with open_image(path, OpenSettings(format_name, writable=True)) as image:

        def write(first: int) -> None:
            for at in range(first * unit, SIZE, 4 * unit):
                image.pwrite(flat[at : at + unit], at)
                if at % 3 == 0:
                    image.flush()
                assert read(image, at, min(unit, SIZE - at)) == flat[at : at + unit]

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
        assert read(image) == flat
    with open_image(path, OpenSettings(format_name)) as image:
        assert read(image) == flat


class CrashingStorage(FileObjectStorage):
    """Memory that keeps apart what was flushed and what a crash may or may not leave, sector by sector."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), "disk.img", writable=True)
        self._durable = data
        self._pending: list[tuple[int, bytes | None]] = []  # data at an offset, or a new length
        self.before_barrier: Callable[[], None] = lambda: None

    def pwrite(self, buffer: bytes | bytearray | memoryview, offset: int) -> None:
        super().pwrite(buffer, offset)
        data = bytes(buffer)
        while data:
            step = 512 - offset % 512
            self._pending.append((offset, data[:step]))
            data, offset = data[step:], offset + step

    def truncate(self, size_bytes: int) -> None:
        with self._lock:
            grown = self._file.seek(0, io.SEEK_END) < size_bytes
            self._file.truncate(size_bytes)
            if grown:
                self._file.seek(size_bytes - 1)
                self._file.write(b"\0")
        self._pending.append((size_bytes, None))

    def flush(self) -> None:
        self.before_barrier()
        self._durable = self.pread(1 << 30, 0)
        self._pending.clear()

    def after_crash(self, chance: random.Random) -> bytes:
        left = bytearray(self._durable)
        odds = chance.choice((0.1, 0.5, 0.9))
        for offset, data in self._pending:
            if chance.random() > odds:
                continue
            end = offset if data is None else offset + len(data)
            left.extend(bytes(max(0, end - len(left))))
            if data is not None:
                left[offset:end] = data
        return bytes(left)


@each_case
def test_crash_leaves_every_flushed_byte(format_name: Any, options: Any, tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    size = 2 << 20
    create_image(str(path), format_name, size, parse_create_options(format_name, options))
    if len(list(tmp_path.iterdir())) > 1:
        pytest.skip("made of several files: the files are plain or sparse extents tested alone")
    storage = CrashingStorage(path.read_bytes())
    image_format = find_format(format_name)
    image = image_format.open(OpenRequest(storage, writable=True, open_sibling=no_sibling))
    chance = random.Random(7)
    flushed, unflushed = bytearray(size), bytearray(size)
    touched: list[tuple[int, int]] = []

    def crash() -> None:
        left = CrashingStorage(storage.after_crash(chance))
        with image_format.open(OpenRequest(left, writable=True, open_sibling=no_sibling)) as again:
            found = bytearray(read(again))
            again.pwrite(b"goes on", 0)
            assert read(again, 0, 7) == b"goes on"
        wanted = bytearray(flushed)
        for start, count in touched:  # may be old, new or a mixture
            found[start : start + count] = wanted[start : start + count] = bytes(count)
        assert found == wanted

    storage.before_barrier = crash  # when most is pending: tables and what they refer to
    for step in range(40):
        length = chance.choice((512, 4096, 70_000, 200_000))
        offset = chance.randrange(size - length)
        touched.append((offset, length))
        if chance.random() < 0.8:
            data = chance.randbytes(length)
            image.pwrite(data, offset)
        else:
            data = bytes(length)
            image.write_zeroes(offset, length)
        unflushed[offset : offset + length] = data
        if chance.random() < 0.3:
            image.flush()
            flushed, touched = bytearray(unflushed), []
        if step % 3 == 0:
            crash()


def no_sibling(name: str, writable: bool) -> Any:
    raise AssertionError(name, writable)
