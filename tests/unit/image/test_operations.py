from __future__ import annotations

import errno
import os
import random
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pyhyve.image.contract import BackingReference, ImageError
from pyhyve.image.opening import OpenSettings, create_image, open_image, parse_create_options
from pyhyve.image.operations.chain import change_backing, commit, copy_differences
from pyhyve.image.operations.compare import compare
from pyhyve.image.operations.convert import Concatenation, ConvertSettings, convert
from pyhyve.image.operations.measure import measure
from pyhyve.image.operations.work import Outlet, Zeroes, pieces, run_parallel
from tests.unit.image.conftest import read

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

SIZE = 9 << 20


def source_disk(tmp_path: Path) -> bytearray:
    chance = random.Random(4)
    flat = bytearray(SIZE)
    for _ in range(12):
        length = chance.randrange(1, 1 << 20)
        at = chance.randrange(SIZE - length)
        flat[at : at + length] = (
            chance.randbytes(length) if chance.random() < 0.5 else b"text " * (length // 5) + bytes(length % 5)
        )
    create_image(str(tmp_path / "source.qcow2"), "qcow2", SIZE)
    with open_image(str(tmp_path / "source.qcow2"), OpenSettings(writable=True)) as image:
        image.pwrite(flat, 0)
        image.write_zeroes(3 << 20, 1 << 20)
    flat[3 << 20 : 4 << 20] = bytes(1 << 20)
    return flat


@pytest.mark.parametrize(
    ("format_name", "options", "how"),
    [
        ("raw", {}, ConvertSettings()),
        ("raw", {}, ConvertSettings(sparse_bytes=0)),
        ("qcow2", {}, ConvertSettings()),
        ("qcow2", {}, ConvertSettings(compress=True)),
        ("qcow2", {"compression_type": "zstd"}, ConvertSettings(compress=True, in_order=False, threads=4)),
        ("qcow2", {"cluster_size": "2M"}, ConvertSettings(in_order=False)),
        ("qcow2", {"cluster_size": "512"}, ConvertSettings(threads=1)),
        ("qcow2", {"extended_l2": "on"}, ConvertSettings()),
        ("qcow", {}, ConvertSettings(compress=True)),
        ("qcow", {}, ConvertSettings()),
    ],
)
def test_converted_disk_is_the_same(format_name: Any, options: dict[str, str], how: Any, tmp_path: Path) -> None:
    flat = source_disk(tmp_path)
    create_image(str(tmp_path / "t"), format_name, SIZE, parse_create_options(format_name, options))
    seen = []
    with (
        open_image(str(tmp_path / "source.qcow2")) as source,
        open_image(str(tmp_path / "t"), OpenSettings(format_name, writable=True)) as target,
    ):
        convert(Concatenation([source]), target, how, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (SIZE, SIZE)
    with open_image(str(tmp_path / "t")) as target, open_image(str(tmp_path / "source.qcow2")) as source:
        assert read(target) == flat
        assert compare(source, target).identical
        if format_name == "qcow2":
            assert target.check().corruptions == target.check().leaks == 0


def test_target_that_is_not_zero_is_cleared(tmp_path: Path) -> None:
    flat = source_disk(tmp_path)
    (tmp_path / "t").write_bytes(b"old" * (SIZE // 3))
    with (
        open_image(str(tmp_path / "source.qcow2")) as source,
        open_image(str(tmp_path / "t"), OpenSettings("raw", writable=True)) as target,
    ):
        convert(Concatenation([source]), target, ConvertSettings(target_is_zero=False))
    assert (tmp_path / "t").read_bytes() == flat


def test_raw_files_are_copied_in_the_kernel(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(3 << 20)
    (tmp_path / "s").write_bytes(data)
    create_image(str(tmp_path / "t"), "raw", len(data))
    with (
        open_image(str(tmp_path / "s"), OpenSettings("raw")) as source,
        open_image(str(tmp_path / "t"), OpenSettings("raw", writable=True)) as target,
    ):
        convert(Concatenation([source]), target, ConvertSettings(offload=True))
    assert (tmp_path / "t").read_bytes() == data


def test_sources_are_joined(tmp_path: Path) -> None:
    parts = [random.Random(seed).randbytes(100_000 // 512 * 512) for seed in range(3)]
    names = []
    for index, part in enumerate(parts):
        (tmp_path / f"{index}").write_bytes(part)
        names.append(str(tmp_path / f"{index}"))
    create_image(str(tmp_path / "t"), "qcow2", sum(map(len, parts)))
    images = [open_image(name, OpenSettings("raw")) for name in names]
    with open_image(str(tmp_path / "t"), OpenSettings(writable=True)) as target:
        convert(Concatenation(images), target, ConvertSettings())
        assert read(target) == b"".join(parts)
        with pytest.raises(ImageError, match="cluster"):
            convert(Concatenation(images), target, ConvertSettings(compress=True))
    for image in images:
        image.close()


def test_compare_finds_the_first_difference(tmp_path: Path) -> None:
    one, other = bytearray(SIZE), bytearray(SIZE)
    one[5_000_000] = other[8_000_000] = 1
    (tmp_path / "a").write_bytes(one)
    (tmp_path / "b").write_bytes(other)
    (tmp_path / "c").write_bytes(one + bytes(1 << 20))
    (tmp_path / "d").write_bytes(one + bytes(1 << 20) + b"x" * 512)
    images = {name: open_image(str(tmp_path / name), OpenSettings("raw")) for name in "abcd"}
    assert compare(images["a"], images["b"]).offset == 5_000_000 // 512 * 512
    assert compare(images["a"], images["a"]).identical
    assert compare(images["a"], images["c"]).identical
    assert compare(images["d"], images["a"]).offset == SIZE + (1 << 20)
    for image in images.values():
        image.close()


def overlay_over(tmp_path: Path, name: str, base: Any, size: Any = SIZE) -> Any:
    create_image(str(tmp_path / name), "qcow2", size, {}, BackingReference(base, "qcow2"))
    return open_image(str(tmp_path / name), OpenSettings(writable=True))


def test_commit_brings_the_overlay_into_its_base(tmp_path: Path) -> None:
    flat = source_disk(tmp_path)
    overlay = overlay_over(tmp_path, "o", "source.qcow2", SIZE + (1 << 20))
    overlay.pwrite(b"new" * 50_000, 123_456)
    overlay.write_zeroes(6 << 20, 1 << 20)
    flat = flat + bytes(1 << 20)
    flat[123_456 : 123_456 + 150_000] = b"new" * 50_000
    flat[6 << 20 : 7 << 20] = bytes(1 << 20)
    with open_image(str(tmp_path / "source.qcow2"), OpenSettings(writable=True, lock=False)) as base:
        commit(overlay, base, 1)
    overlay.make_empty()
    overlay.close()
    with open_image(str(tmp_path / "o")) as again, open_image(str(tmp_path / "source.qcow2")) as base:
        assert read(base) == flat
        assert read(again) == flat
        assert {extent.depth for extent in again.map(0, SIZE) if extent.present} == {1}
        assert again.check().leaks == base.check().leaks == 0


def test_emptied_qcow_overlay_shows_its_base(tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(b"B" * 65536)
    create_image(str(tmp_path / "o"), "qcow", 65536, {}, BackingReference("base", "raw"))
    with open_image(str(tmp_path / "o"), OpenSettings(writable=True)) as overlay:
        overlay.pwrite(b"x" * 1000, 100)
        overlay.flush()
        overlay.make_empty()
        assert read(overlay) == b"B" * 65536
        overlay.pwrite(b"y", 7)
    with open_image(str(tmp_path / "o")) as again:
        assert read(again, 0, 9) == b"BBBBBBByB"


def test_rate_limit_slows_a_copy(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"x" * (4 << 20))
    create_image(str(tmp_path / "t"), "raw", 4 << 20)
    begin = time.monotonic()
    with (
        open_image(str(tmp_path / "s"), OpenSettings("raw")) as source,
        open_image(str(tmp_path / "t"), OpenSettings("raw", writable=True)) as target,
    ):
        convert(Concatenation([source]), target, ConvertSettings(rate_limit=16 << 20))
    assert time.monotonic() - begin >= 0.2


def test_rebase_keeps_what_the_disk_shows(tmp_path: Path) -> None:
    flat = source_disk(tmp_path)
    overlay = overlay_over(tmp_path, "o", "source.qcow2")
    overlay.pwrite(b"new" * 50_000, 123_456)
    flat[123_456 : 123_456 + 150_000] = b"new" * 50_000
    create_image(str(tmp_path / "other"), "qcow2", SIZE // 2)
    with open_image(str(tmp_path / "other"), OpenSettings(writable=True)) as other:
        other.pwrite(b"other" * 200_000, 0)
    with open_image(str(tmp_path / "other")) as other:
        copy_differences(overlay, other)
    change_backing(overlay, BackingReference("other", "qcow2"))
    overlay.close()
    with open_image(str(tmp_path / "o")) as again:
        assert again.backing.storage.filename.endswith("other")
        assert read(again) == flat


def test_measure_agrees_with_what_is_made(tmp_path: Path) -> None:
    source_disk(tmp_path)
    for options in ({}, {"cluster_size": "4096"}, {"refcount_bits": "1"}, {"extended_l2": "on"}):
        parsed = parse_create_options("qcow2", options)
        with open_image(str(tmp_path / "source.qcow2")) as source:
            estimate = measure("qcow2", SIZE, parsed, source)
            create_image(str(tmp_path / "t"), "qcow2", SIZE, parsed)
            with open_image(str(tmp_path / "t"), OpenSettings(writable=True)) as target:
                convert(Concatenation([source]), target, ConvertSettings(sparse_bytes=0))
        assert (tmp_path / "t").stat().st_size <= estimate.fully_allocated
        assert estimate.required <= estimate.fully_allocated


def test_pieces_cover_the_disk_and_respect_alignment(tmp_path: Path) -> None:
    source_disk(tmp_path)
    with open_image(str(tmp_path / "source.qcow2")) as source:
        position = 0
        for piece in pieces(source, 1 << 20, 65536):
            assert piece.offset == position
            assert piece.offset % 65536 == 0
            assert piece.length > 0
            position += piece.length
        assert position == SIZE


def test_zero_runs_are_found_in_units() -> None:
    view = memoryview(bytearray(10_000))
    view[4096] = 1
    assert list(Zeroes().runs(view, 4096)) == [(0, 4096, True), (4096, 8192, False), (8192, 10_000, True)]
    assert list(Zeroes().runs(view[5000:], 512)) == [(0, 5000, True)]


def test_first_failure_ends_parallel_work() -> None:
    done = []

    def work(item: Any) -> None:
        if item == 5:
            raise ValueError(item)
        done.append(item)

    with pytest.raises(ValueError, match="5"):
        run_parallel(range(100_000), work, 3)
    assert len(done) < 100_000


def test_pieces_are_written_in_order_whoever_hands_them_in() -> None:
    outlet, written = Outlet(8), []
    threads = [
        threading.Thread(target=outlet.put, args=(number, partial(written.append, number))) for number in (3, 1, 2, 0)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert written == [0, 1, 2, 3]


def test_pieces_without_order_are_written_at_once() -> None:
    outlet, written = Outlet(8, in_order=False), []
    for number in (3, 1):
        outlet.put(number, partial(written.append, number))
    assert written == [3, 1]


def test_who_hands_in_a_piece_waits_only_when_far_ahead() -> None:
    outlet, written, handed_in = Outlet(2), [], []

    def ahead() -> None:
        for number in (1, 2, 3, 4):
            outlet.put(number, partial(written.append, number))
            handed_in.append(number)

    thread = threading.Thread(target=ahead)
    thread.start()
    while len(handed_in) < 2:
        time.sleep(0.001)
    assert written == []
    outlet.put(0, partial(written.append, 0))
    thread.join()
    assert written == [0, 1, 2, 3, 4]


def test_failure_while_writing_ends_parallel_work_and_those_who_wait() -> None:
    outlet, written = Outlet(1), []

    def write(number: int) -> None:
        if number == 7:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(number)

    with pytest.raises(OSError, match="No space left"):
        run_parallel(range(1000), lambda number: outlet.put(number, partial(write, number)), 3, outlet.stop)
    assert written == list(range(7))
    outlet.put(7, partial(written.append, 7))
    assert len(written) == 7


def test_failure_while_reading_ends_parallel_work_and_those_who_wait() -> None:
    outlet, written = Outlet(1), []

    def work(number: int) -> None:
        if number == 5:
            msg = "unreadable"
            raise ImageError(msg)
        outlet.put(number, partial(written.append, number))

    with pytest.raises(ImageError, match="unreadable"):
        run_parallel(range(1000), work, 3, outlet.stop)
    assert written == list(range(len(written)))
    assert len(written) <= 5
