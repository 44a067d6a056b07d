from __future__ import annotations

import random
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from pyhyve.image.contract import BackingReference, ImageError, ImageUnsupportedError
from pyhyve.image.opening import OpenSettings, open_image
from pyhyve.image.qcow2.bitmap_changes import BitmapChanges, load_bits
from pyhyve.image.qcow2.bitmaps import describe_bitmaps, load_bitmap_table, load_directory
from pyhyve.image.qcow2.format import BitmapEntry, BitmapsExtension, build_bitmap_directory
from pyhyve.image.qcow2.maintenance import amend
from tests.unit.image.conftest import read

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from pyhyve.image.contract import Image
    from tests.unit.image.conftest import MakeImage


def clean(image: Image) -> bool:
    image.flush()
    result = image.check()
    return (result.corruptions, result.leaks, result.errors) == (0, 0, [])


@pytest.mark.parametrize("options", [{}, {"compat": "v2"}, {"cluster_size": "512"}, {"extended_l2": "on"}], ids=str)
def test_snapshots_keep_what_was_there(make_image: MakeImage, options: dict[str, str]) -> None:
    image = make_image(size=2 << 20, **options)
    chance = random.Random(5)
    states = {}
    for number in range(3):
        for _ in range(4):
            image.pwrite(chance.randbytes(50_000), chance.randrange(image.size_bytes - 50_000))
        image.write_compressed(b"z" * image.cluster_size_bytes, 0)
        image.create_snapshot(f"s{number}", date_ns=1_700_000_000_000_000_005)
        states[f"s{number}"] = read(image)
    image.write_zeroes(0, 1 << 20)
    assert clean(image)
    for name in ("s1", "s0", "s2", "s1"):
        image.apply_snapshot(image.find_snapshot(name))
        assert read(image) == states[name]
        assert clean(image)
        image.pwrite(b"after", 12345)
    image.delete_snapshot(image.find_snapshot("s1"))
    assert [snapshot.name for snapshot in image.snapshots()] == ["s0", "s2"]
    assert clean(image)
    for name in ("s0", "s2"):
        image.apply_snapshot(image.find_snapshot(name))
        assert read(image) == states[name]
        image.delete_snapshot(image.find_snapshot(name))
    assert clean(image)
    image.close()


def test_snapshot_that_narrow_counts_cannot_hold_changes_nothing(make_image: MakeImage) -> None:
    image = make_image(refcount_bits="1")
    image.pwrite(b"x" * 100_000, 0)
    with pytest.raises(ImageError, match="too narrow"):
        image.create_snapshot("no", date_ns=0)
    assert image.snapshots() == ()
    assert clean(image)
    image.close()


@pytest.mark.parametrize("options", [{}, {"cluster_size": "512"}, {"extended_l2": "on"}], ids=str)
def test_resize_keeps_data_and_shows_zeroes(make_image: MakeImage, options: dict[str, str]) -> None:
    image = make_image(size=1 << 20, **options)
    flat = bytearray(random.Random(1).randbytes(1 << 20))
    image.pwrite(flat, 0)
    for size in (700 * 1024 + 512, 3 << 20, 512, 64 << 20, 5 << 20):
        image.resize(size)
        flat = flat[:size] + bytes(max(0, size - len(flat)))
        assert read(image) == flat
        assert clean(image)
    image.close()


def test_growing_hides_a_longer_backing_file(make_image: MakeImage, tmp_path: Path) -> None:
    (tmp_path / "base.raw").write_bytes(b"B" * (1 << 20))
    image = make_image(size=512 * 1024, backing=BackingReference("base.raw", "raw"))
    image.resize(1 << 20)
    assert read(image) == b"B" * (512 * 1024) + bytes(512 * 1024)
    image.close()


def test_amend_changes_version_widths_and_flags(make_image: MakeImage, tmp_path: Path) -> None:
    image = make_image()
    data = random.Random(2).randbytes(500_000)
    image.pwrite(data, 4096)
    image.write_zeroes(1 << 20, 1 << 20)
    for options in ({"refcount_bits": 1}, {"refcount_bits": 64}, {"lazy_refcounts": True}, {"refcount_bits": 16},
                    {"lazy_refcounts": False}, {"compat": "v2"}, {"compat": "v3"}, {"size": 8 << 20}):  # fmt: skip
        amend(image, options)
        image.close()
        image = open_image(str(tmp_path / "disk.qcow2"), OpenSettings("qcow2", writable=True))
        assert read(image, 4096, len(data)) == data
        assert clean(image)
    assert image.size_bytes == 8 << 20
    with pytest.raises(ImageUnsupportedError, match="cluster_size"):
        amend(image, {"cluster_size": 4096})
    image.close()


def test_downgrade_writes_zero_clusters_over_a_backing_file(make_image: MakeImage, tmp_path: Path) -> None:
    (tmp_path / "base.raw").write_bytes(b"B" * (1 << 20))
    image = make_image(size=2 << 20, backing=BackingReference("base.raw", "raw"))
    image.write_zeroes(0, 2 << 20)
    amend(image, {"compat": "0.10"})
    assert image.header.version == 2
    assert read(image) == bytes(2 << 20)
    assert clean(image)
    image.close()


def damage(image: Image, offset: Any, value: Any) -> str:
    image.close()
    storage_path = image.storage.filename
    with open(storage_path, "r+b") as file:  # noqa: PTH123 - the test pokes bytes
        file.seek(offset)
        file.write(value)
    return storage_path


def test_check_finds_and_repairs_leaks_and_lost_counts(make_image: MakeImage) -> None:
    image = make_image()
    image.pwrite(b"x" * 200_000, 0)
    image.flush()
    block = image.meta.refcounts.table[0]
    path = damage(image, block + 2 * 5, b"\0\0\0\1\0\2")  # cluster 5 lost, cluster 7 leaked
    with open_image(path) as broken:
        result = broken.check()
        assert result.corruptions >= 1
        assert result.leaks >= 1
    with open_image(path, OpenSettings(writable=True, check_only=True)) as repaired:
        result = repaired.check(fix_leaks=True, fix_errors=True)
        assert (result.corruptions, result.leaks) == (0, 0)
        assert result.corruptions_fixed >= 1
    with open_image(path, OpenSettings(writable=True)) as good:
        assert read(good, 0, 200_000) == b"x" * 200_000
        assert clean(good)


def test_check_rebuilds_a_lost_refcount_table(make_image: MakeImage) -> None:
    image = make_image()
    data = random.Random(8).randbytes(400_000)
    image.pwrite(data, 100)
    image.flush()
    path = damage(image, image.meta.refcounts.table_offset, (1 << 50).to_bytes(8, "big"))
    with open_image(path, OpenSettings(writable=True, check_only=True)) as repaired:
        result = repaired.check(fix_leaks=True, fix_errors=True)
        assert (result.corruptions, result.leaks) == (0, 0)
    with open_image(path) as good:
        assert read(good, 100, len(data)) == data
        assert good.check().corruptions == 0


def add_bitmap(image: Image, name: str = "b0", granularity_bits: Any = 16, flags: Any = 2) -> None:
    meta = image.meta
    table, _ = meta.allocate(1, exact=True)
    meta.storage.pwrite(bytes(meta.cluster_size), table)
    entry = BitmapEntry(table, 1, flags, 1, granularity_bits, name, b"")
    data = build_bitmap_directory((entry,))
    directory, _ = meta.allocate(1, exact=True)
    meta.storage.pwrite(data, directory)
    meta.write_back()
    from pyhyve.support.records import replace

    meta.write_header(replace(meta.header, bitmaps=BitmapsExtension(1, len(data), directory), autoclear_features=1))


def test_auto_bitmap_records_writes(make_image: MakeImage, tmp_path: Path) -> None:
    image = make_image()
    add_bitmap(image)
    image.pwrite(b"x", 65536 * 3 + 5)
    assert describe_bitmaps(image.meta)[0]["flags"] == ["in-use", "auto"]
    image.write_zeroes(65536 * 9, 65536 * 2)
    image.close()
    with open_image(str(tmp_path / "disk.qcow2")) as again:
        assert describe_bitmaps(again.meta) == [{"flags": ["auto"], "name": "b0", "granularity": 65536}]
        (entry,) = load_directory(again.meta)
        where = load_bitmap_table(again.meta, entry)[0]
        assert again.storage.pread(8, where) == bytes((0b00001000, 0b00000110, 0, 0, 0, 0, 0, 0))
        assert again.check().leaks == 0


def test_bitmaps_are_resized_with_the_disk(make_image: MakeImage) -> None:
    image = make_image()
    add_bitmap(image)
    image.pwrite(b"x", 65536 * 3)
    image.pwrite(b"x", 65536 * 30)
    image.resize((8 << 30) + 512)
    image.pwrite(b"x", 8 << 30)
    image.close()
    path = image.storage.filename

    def dirty() -> list[int]:
        with open_image(path) as again:
            bits = load_bits(again.meta, load_directory(again.meta)[0])
            assert again.check().leaks == 0
        return [granule for granule in range(len(bits) * 8) if bits[granule >> 3] >> (granule & 7) & 1]

    assert dirty() == [3, 30, 131072]
    with open_image(path, OpenSettings(writable=True)) as again:
        again.resize(65536 * 30 + 512)
    assert dirty() == [3, 30]
    with open_image(path, OpenSettings(writable=True)) as again:
        again.resize(65536 * 30)
        again.resize(65536 * 40)
    assert dirty() == [3]


def test_bitmaps_are_added_merged_and_removed(make_image: MakeImage) -> None:
    image = make_image()
    changes = BitmapChanges(image.meta)
    changes.add("fine", 512)
    changes.add("coarse", 1 << 20, enabled=False)
    with pytest.raises(ImageError, match="already exists"):
        changes.add("fine")
    with pytest.raises(ImageError, match="power of 2"):
        changes.add("odd", 1000)
    with pytest.raises(ImageError, match="not found"):
        changes.clear("nothing")
    changes.commit()
    image.pwrite(b"x" * 1024, 1 << 20)
    changes = BitmapChanges(image.meta)
    changes.merge("coarse", "fine")
    changes.add("copy", 4096)
    changes.merge("copy", "coarse")
    changes.commit()
    assert clean(image)
    found = {entry.name: load_bits(image.meta, entry) for entry in load_directory(image.meta)}
    assert int.from_bytes(found["fine"], "little") == 0b11 << 2048
    assert found["coarse"] == b"\x02"
    assert int.from_bytes(found["copy"], "little") == 0xFF << 256 | ((1 << 256) - 1) << 256
    changes = BitmapChanges(image.meta)
    for name in found:
        changes.remove(name)
    changes.commit()
    assert image.header.bitmaps is None
    assert clean(image)
    image.close()


@pytest.mark.parametrize("options", [{}, {"compat": "v2"}, {"cluster_size": "512"}, {"extended_l2": "on"}], ids=str)
def test_snapshot_takes_the_machine_state_along(make_image: MakeImage, options: dict[str, str]) -> None:
    image = make_image(size=(1 << 20) + 512, **options)
    image.pwrite(b"disk" * 10_000, 0)
    states = {}
    for number, length in enumerate((100_000, 0, 3_000_001)):
        state = states[f"s{number}"] = random.Random(number).randbytes(length)
        for at in range(0, length, 70_000):
            image.pwrite_vm_state(state[at : at + 70_000], at)
        taken = image.create_snapshot(
            f"s{number}", date_ns=5, vm_clock_ns=7 * 10**9, vm_state_size_bytes=length, icount=number
        )
        assert (taken.vm_state_size_bytes, taken.vm_clock_ns, taken.icount) == (length, 7 * 10**9, number)
        assert clean(image)
    path = image.storage.filename
    image.close()
    for name, state in states.items():
        found = bytearray(len(state) + 1000)
        with open_image(path) as reader:
            reader.select_snapshot(reader.find_snapshot(name))
            reader.pread_vm_state_into(memoryview(found), 0)
        assert found == state + bytes(1000)
    with open_image(path, OpenSettings(writable=True)) as image:
        for name, state in states.items():
            found = bytearray(len(state) + 1000)
            image.apply_snapshot(image.find_snapshot(name))
            image.pread_vm_state_into(memoryview(found), 0)
            assert found == state + bytes(1000)
            assert clean(image)
        with suppress(ImageUnsupportedError):  # version 2 with snapshots cannot be resized
            image.resize(64 << 20)
            assert read(image, (1 << 20) + 512) == bytes((63 << 20) - 512)
            assert clean(image)
        for name in states:
            image.delete_snapshot(image.find_snapshot(name))
        assert clean(image)
        assert read(image, 0, 40_000) == b"disk" * 10_000


def test_machine_state_does_not_show_the_backing_image(make_image: MakeImage) -> None:
    below = make_image("below.qcow2", size=1 << 30)
    below.pwrite(b"below" * 100_000, 512 << 20)
    path = below.storage.filename
    below.close()
    image = make_image("top.qcow2", size=512 << 20, backing=BackingReference(path, "qcow2"))
    image.pwrite_vm_state(b"state", 1000)
    found = bytearray(3000)
    image.pread_vm_state_into(memoryview(found), 0)
    assert found == bytes(1000) + b"state" + bytes(1995)
    image.close()


def test_check_leaves_counts_far_past_the_end_alone(make_image: MakeImage, monkeypatch: pytest.MonkeyPatch) -> None:
    image = make_image(refcount_bits="1", cluster_size="16384")
    image.pwrite(b"x" * 100_000, 0)
    image.flush()
    counts = image.meta.refcounts
    counts.table[1:] = counts.table[:1] * (len(counts.table) - 1)  # a damaged table names one block 2048 times
    looked_at = []
    real = counts.block
    monkeypatch.setattr(counts, "block", lambda number: looked_at.append(number) or real(number))
    assert image.check().corruptions > 0
    assert max(looked_at) == 0
