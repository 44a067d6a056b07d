from __future__ import annotations

import io
import random
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyhyve.image.contract import BackingReference, ImageError, ImageFormatError, ImageReadonlyError, LayerState
from pyhyve.image.opening import OpenSettings, create_image, open_image, parse_create_options
from tests.unit.image.conftest import read

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from pyhyve.image.contract import Image
    from tests.unit.image.conftest import MakeImage

SIZE = 3 << 20
VARIANTS: list[dict[str, str]] = [
    {},
    {"compat": "v2"},
    {"cluster_size": "512"},
    {"cluster_size": "4096", "refcount_bits": "1"},
    {"refcount_bits": "64", "cluster_size": "1024"},
    {"lazy_refcounts": "on"},
    {"extended_l2": "on"},
    {"extended_l2": "on", "cluster_size": "16k", "compression_type": "zstd"},
    {"preallocation": "metadata"},
    {"preallocation": "falloc", "extended_l2": "on"},
]
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["write", "writev", "zero", "discard", "compress", "flush", "reopen", "read"]),
        st.integers(0, SIZE - 1),
        st.sampled_from([1, 512, 4096, 65536, 70000, 300000]),
        st.integers(0, 1 << 30),
    ),
    max_size=16,
)


def clusters(image: Image, offset: Any, length: Any) -> tuple[int, int]:
    size = image.cluster_size_bytes
    start = offset // size * size
    return start, min(SIZE - start, -(-length // size) * size)


def apply(image: Image, flat: Any, operation: Any) -> None:
    kind, offset, length, seed = operation
    length = min(length, SIZE - offset)
    chance = random.Random(seed)
    if kind == "write":
        data = chance.randbytes(length)
        image.pwrite(data, offset)
        flat[offset : offset + length] = data
    elif kind == "writev":
        data = memoryview(chance.randbytes(length))
        cut = chance.randrange(length + 1)
        image.pwritev([data[:cut], data[cut:]], offset)
        flat[offset : offset + length] = data
    elif kind == "zero":
        image.write_zeroes(offset, length, unmap=bool(seed & 1))
        flat[offset : offset + length] = bytes(length)
    elif kind == "discard":
        start, length = clusters(image, offset, length)
        image.discard(start, length)
        flat[start : start + length] = bytes(length)
    elif kind == "compress":
        start, length = clusters(image, offset, length)
        data = chance.randbytes(length) if seed % 5 == 0 else (chance.randbytes(20) * (length // 20 + 1))[:length]
        image.write_compressed(data, start)
        flat[start : start + length] = data
    elif kind == "flush":
        image.flush()
    else:
        views = [memoryview(bytearray(length // 2)), memoryview(bytearray(length - length // 2))]
        image.preadv(views, offset)
        assert b"".join(views) == flat[offset : offset + length]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=OPERATIONS)
def test_random_operations_agree_with_a_flat_disk(options: dict[str, str], operations: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "disk.qcow2")
    create_image(path, "qcow2", SIZE, parse_create_options("qcow2", options))
    flat = bytearray(SIZE)
    image = open_image(path, OpenSettings("qcow2", writable=True))
    for operation in operations:
        if operation[0] == "reopen":
            image.close()
            image = open_image(path, OpenSettings("qcow2", writable=True))
        else:
            apply(image, flat, operation)
    assert read(image) == flat
    image.close()
    with open_image(path) as again:
        assert read(again) == flat
        result = again.check()
        assert (result.corruptions, result.leaks, result.errors) == (0, 0, [])


def test_overlay_shows_and_hides_its_backing_file(make_image: MakeImage, tmp_path: Path) -> None:
    (tmp_path / "base.raw").write_bytes(b"B" * 100_000)
    overlay = make_image(size=1 << 20, backing=BackingReference("base.raw", "raw"))
    assert read(overlay) == b"B" * 100_000 + bytes((1 << 20) - 100_000)
    overlay.pwrite(b"o" * 10, 65530)
    overlay.write_zeroes(0, 65536)
    expected = bytes(65536) + b"o" * 4 + b"B" * (100_000 - 65540) + bytes((1 << 20) - 100_000)
    assert read(overlay) == expected
    overlay.close()
    assert (tmp_path / "base.raw").read_bytes() == b"B" * 100_000


def test_external_raw_data_file_is_the_disk(make_image: MakeImage, tmp_path: Path) -> None:
    image = make_image(size=1 << 20, data_file=str(tmp_path / "data.raw"), data_file_raw="on")
    image.pwrite(b"x" * 70_000, 5000)
    image.write_zeroes(6000, 65536)
    image.flush()
    expected = read(image)
    image.close()
    assert (tmp_path / "data.raw").read_bytes() == expected


def test_map_names_every_byte_once(make_image: MakeImage) -> None:
    image = make_image()
    image.pwrite(b"x" * 200_000, 100_000)
    image.write_zeroes(1 << 20, 1 << 20)
    runs = list(image.layer_extents(0, image.size_bytes))
    position = 0
    for run in runs:
        assert run.start == position
        position += run.length
    assert position == image.size_bytes
    assert {run.state for run in runs} == set(LayerState)
    image.close()


def test_read_only_image_refuses_writes(make_image: MakeImage, tmp_path: Path) -> None:
    make_image().close()
    with open_image(str(tmp_path / "disk.qcow2")) as image:
        with pytest.raises(ImageReadonlyError):
            image.pwrite(b"x", 0)
        with pytest.raises(ImageReadonlyError):
            image.resize(512)


@pytest.mark.parametrize("request_range", [(4 << 20, 1), ((4 << 20) - 1, 2), (-1, 1)])
def test_requests_past_the_end_are_refused(make_image: MakeImage, request_range: Any) -> None:
    image = make_image()
    offset, length = request_range
    with pytest.raises(ImageError, match="outside"):
        image.pread_into(memoryview(bytearray(length)), offset)
    with pytest.raises(ImageError, match="outside"):
        image.pwrite(bytes(length), offset)
    image.close()


def test_threads_share_one_image(make_image: MakeImage) -> None:
    image = make_image(cluster_size="4096")
    chance = random.Random(3)
    flat = bytearray(chance.randbytes(image.size_bytes))
    blocks = list(range(0, image.size_bytes, 1536))
    chance.shuffle(blocks)
    failures = []

    def work(mine: Any) -> None:
        try:
            for at in mine:
                image.pwrite(flat[at : at + 1536], at)
                if at % 7 == 0:
                    image.flush()
                got = bytearray(len(flat[at : at + 1536]))
                image.pread_into(memoryview(got), at)
                assert got == flat[at : at + 1536]
        except BaseException as error:  # noqa: BLE001 - handed to the test
            failures.append(error)

    workers = [threading.Thread(target=work, args=(blocks[index::4],)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures
    assert read(image) == flat
    assert image.check().corruptions == 0
    image.close()


def test_dirty_image_is_repaired_when_opened_for_writing(make_image: MakeImage, tmp_path: Path) -> None:
    image = make_image(lazy_refcounts="on")
    image.pwrite(b"x" * 300_000, 0)
    image.flush()
    copy = (tmp_path / "disk.qcow2").read_bytes()  # what a crash would leave: counts not written
    image.close()
    (tmp_path / "crashed.qcow2").write_bytes(copy)
    with open_image(str(tmp_path / "crashed.qcow2")) as crashed:
        assert crashed.dirty
        assert crashed.check().corruptions > 0
    with open_image(str(tmp_path / "crashed.qcow2"), OpenSettings(writable=True)) as repaired:
        assert read(repaired, 0, 300_000) == b"x" * 300_000
    with open_image(str(tmp_path / "crashed.qcow2")) as clean:
        assert not clean.dirty
        assert (clean.check().corruptions, clean.check().leaks) == (0, 0)


def test_corrupt_image_opens_only_for_reading(make_image: MakeImage, tmp_path: Path) -> None:
    make_image().close()
    path = tmp_path / "disk.qcow2"
    data = bytearray(path.read_bytes())
    data[79] |= 2
    path.write_bytes(data)
    open_image(str(path)).close()
    with pytest.raises(ImageFormatError, match="corrupt"):
        open_image(str(path), OpenSettings(writable=True))


def test_damaged_compressed_cluster_is_an_error(make_image: MakeImage) -> None:
    for kind in ("zlib", "zstd"):
        image = make_image(f"{kind}.qcow2", compression_type=kind)
        image.write_compressed(b"abcd" * 16384, 0)
        entry = next(iter(image.meta.table(0).entries))
        offset, length = image.meta.compressed_extent(entry)
        image.storage.pwrite(b"\xff" * length, offset)
        with pytest.raises(ImageFormatError, match="compressed cluster"):
            read(image, 0, 512)
        image.close()


def test_metadata_is_never_handed_out_as_data(make_image: MakeImage) -> None:
    image = make_image()
    image.meta.refcounts.set(3, 0)  # the L1 table's cluster, said to be free
    with pytest.raises(ImageFormatError, match="corrupt"):
        image.pwrite(b"x", 0)
    with suppress(ImageError):
        image.close()


def test_python_file_object_is_an_image(make_image: MakeImage, tmp_path: Path) -> None:
    image = make_image()
    image.pwrite(b"hello", 1000)
    image.close()
    with open_image(io.BytesIO((tmp_path / "disk.qcow2").read_bytes())) as again:
        assert read(again, 1000, 5) == b"hello"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"cluster_size": "1000"}, "power of two"),
        ({"cluster_size": "4M"}, "power of two"),
        ({"compat": "v9"}, "compat"),
        ({"refcount_bits": "3"}, "power of two"),
        ({"compat": "v2", "refcount_bits": "8"}, "1.1"),
        ({"compat": "v2", "extended_l2": "on"}, "1.1"),
        ({"compat": "v2", "compression_type": "zstd"}, "1.1"),
        ({"extended_l2": "on", "cluster_size": "8k"}, "16384"),
        ({"data_file_raw": "on"}, "data-file"),
        ({"compression_type": "lzma"}, "compression_type"),
        ({"preallocation": "some"}, "preallocation"),
        ({"nonsense": "1"}, "nonsense"),
    ],
)
def test_contradicting_options_are_refused(make_image: MakeImage, options: dict[str, str], text: str) -> None:
    with pytest.raises(ImageError, match=text):
        make_image(**options)


def test_disk_too_large_for_its_clusters_is_refused(make_image: MakeImage) -> None:
    with pytest.raises(ImageError, match="too large"):
        make_image(size=1 << 45, cluster_size="512")
