"""Crashes at any point: flushed bytes survive and the metadata is never corrupt.

Every write of an image goes through a recorder. A crash at record `k` leaves everything up to the last barrier before
`k`, and of what was written after it any subset of 512-byte sectors, in any order.
"""

from __future__ import annotations

import io
import json
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from pyhyve.image.contract import CreateRequest, OpenRequest
from pyhyve.image.opening import OpenSettings, open_image, parse_create_options
from pyhyve.image.qcow2.image import Qcow2Image
from pyhyve.image.registry import find_format
from pyhyve.image.storage import FileObjectStorage
from tests.conformance.image.conftest import qemu_img

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pyhyve.image.contract import Image
    from pyhyve.image.storage import Buffer, Storage

SIZE = 2 << 20
SECTOR = 512


@dataclass
class Recorder(FileObjectStorage):
    """A storage in memory that notes each write and barrier."""

    records: list[tuple[int, bytes] | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(io.BytesIO(), "recorder", writable=True)

    def pwrite(self, buffer: Buffer, offset: int) -> None:
        self.records.append((offset, bytes(buffer)))
        super().pwrite(buffer, offset)

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        self.pwrite(b"".join(buffers), offset)

    def flush(self) -> None:
        self.records.append(None)


@dataclass(frozen=True)
class Promise:
    """From record `since` on, `flat` is on disk, except where `touched` says that it was written again."""

    since: int
    flat: bytes
    touched: list[tuple[int, int]]


def no_sibling(_name: str, _writable: bool = False) -> Storage:
    raise FileNotFoundError


def record_work(format_name: str, options: dict[str, str], seed: int) -> tuple[Recorder, list[Promise]]:
    recorder, chance = Recorder(), random.Random(seed)
    image_format = find_format(format_name)
    assert image_format.create is not None
    image_format.create(CreateRequest(recorder, SIZE, parse_create_options(format_name, options), None, no_sibling))
    recorder.flush()
    image = image_format.open(OpenRequest(recorder, writable=True, open_sibling=no_sibling))
    flat = bytearray(SIZE)
    promises = [Promise(len(recorder.records), bytes(flat), [])]
    for _ in range(60):
        step(image, flat, chance, promises, recorder)
    return recorder, promises


def step(image: Image, flat: bytearray, chance: random.Random, promises: list[Promise], recorder: Recorder) -> None:
    cluster = image.cluster_size_bytes or SECTOR
    kind = chance.choice("wwwwzdccffs")
    offset = chance.randrange(SIZE)
    length = min(SIZE - offset, chance.choice([100, 4096, 70_000, 200_000]))
    if kind in "dc":
        offset = offset // cluster * cluster
        length = min(SIZE - offset, -(-length // cluster) * cluster)
    data = bytes(length)
    if kind == "f" or (kind == "s" and not isinstance(image, Qcow2Image)):
        image.flush()
        promises.append(Promise(len(recorder.records), bytes(flat), []))
        return
    if kind == "s" and isinstance(image, Qcow2Image):
        promises[-1].touched.append((0, SIZE))
        entries = image.snapshots()
        if len(entries) < 2:
            image.pwrite_vm_state(chance.randbytes(70_000), 0)
            image.create_snapshot(f"s{len(recorder.records)}", date_ns=1_000_000_002, vm_state_size_bytes=70_000)
        elif chance.random() < 0.5:
            image.delete_snapshot(entries[0])
        else:
            image.apply_snapshot(entries[0])
            view = memoryview(flat)
            image.pread_into(view, 0)
        promises.append(Promise(len(recorder.records), bytes(flat), []))
        return
    promises[-1].touched.append((offset, length))
    if kind == "w":
        data = chance.randbytes(length)
        image.pwrite(data, offset)
    elif kind == "z":
        image.write_zeroes(offset, length)
    elif kind == "d" and image.format_name == "qcow2":
        image.discard(offset, length)
    elif kind == "c":
        data = (chance.randbytes(16) * (length // 16 + 1))[:length]
        image.write_compressed(data, offset)
    else:
        return
    flat[offset : offset + length] = data


def crashed_file(records: list[tuple[int, bytes] | None], point: int, chance: random.Random) -> bytes:
    """What the disk may hold after a crash before record `point`."""
    barrier = max((at for at in range(point) if records[at] is None), default=0)
    disk = bytearray()

    def put(offset: int, data: bytes) -> None:
        if len(disk) < offset + len(data):
            disk.extend(bytes(offset + len(data) - len(disk)))
        disk[offset : offset + len(data)] = data

    loose: list[tuple[int, bytes]] = []
    for at in range(point):
        record = records[at]
        if record is None:
            continue
        offset, data = record
        if at < barrier:
            put(offset, data)
            continue
        start = 0
        while start < len(data):
            stop = min(len(data), start + SECTOR - (offset + start) % SECTOR)
            loose.append((offset + start, data[start:stop]))
            start = stop
    share = chance.choice([0.0, 0.3, 0.7, 1.0])
    for offset, data in loose:  # the same sector's writes keep their order, as in a disk's cache
        if chance.random() < share:
            put(offset, data)
    return bytes(disk)


def examine(path: Path, promise: Promise) -> None:
    """No corruption, and every promised byte."""
    with open_image(str(path)) as image:
        dirty = image.dirty
    done = qemu_img("check", "--output", "json", *(("-r", "all") if dirty else ()), str(path))
    if done.returncode != 63:
        assert done.returncode in {0, 3}, done.stdout + done.stderr
        assert not json.loads(done.stdout).get("corruptions")
    with open_image(str(path), OpenSettings()) as image:
        got = bytearray(SIZE)
        image.pread_into(memoryview(got), 0)
    expected = bytearray(promise.flat)
    for offset, length in promise.touched:
        expected[offset : offset + length] = got[offset : offset + length]
    assert got == expected


def crash(tmp_path: Path, format_name: str, options: dict[str, str], points: int) -> None:
    recorder, promises = record_work(format_name, options, seed=points)
    chance = random.Random(str(options))
    path = tmp_path / f"crashed.{format_name}"
    first = promises[0].since
    for _ in range(points):
        point = chance.randrange(first, len(recorder.records) + 1)
        path.write_bytes(crashed_file(recorder.records, point, chance))
        examine(path, [promise for promise in promises if promise.since <= point][-1])


CASES: list[tuple[str, dict[str, str]]] = [
    ("qcow2", {}),
    ("qcow2", {"cluster_size": "512"}),
    ("qcow2", {"cluster_size": "4096", "refcount_bits": "8"}),
    ("qcow2", {"extended_l2": "on"}),
    ("qcow2", {"lazy_refcounts": "on"}),
    ("qcow", {}),
]


@pytest.mark.parametrize(("format_name", "options"), CASES, ids=str)
def test_crash_loses_nothing_that_was_flushed(format_name: str, options: dict[str, str], tmp_path: Path) -> None:
    crash(tmp_path, format_name, options, 40)


@pytest.mark.slow
def test_a_thousand_crashes(tmp_path: Path) -> None:
    for format_name, options in CASES:
        crash(tmp_path, format_name, options, 1000 // len(CASES) + 1)
