"""The block device through its queues (VIRTIO 1.2, 5.2)."""

from __future__ import annotations

import errno
import os
import struct
import time
from typing import TYPE_CHECKING

import pytest

from pyhyve.backends.block import BlockError, open_backend
from pyhyve.devices.error_policy import ErrorPolicy, Failure
from pyhyve.devices.virtio.block import BlockOptions, VirtioBlock
from pyhyve.devices.virtio.spec import BlockFeature, BlockRequestType, BlockStatus, Feature, Status
from pyhyve.image.opening import OpenSettings, open_image
from pyhyve.testing.virtio_driver import Segment, SplitDriverQueue, Used, VirtioDriver
from pyhyve.testing.virtio_driver_transport import MiniMachine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from pyhyve.accel.api import QueueWalker
    from pyhyve.backends.block import BlockBackend
    from pyhyve.memory.guest import GuestMemory

SECTORS = 2048
PATTERN = bytes(range(256)) * 2
IN, OUT, FLUSH = BlockRequestType.IN, BlockRequestType.OUT, BlockRequestType.FLUSH
RANGES = (BlockRequestType.DISCARD, BlockRequestType.WRITE_ZEROES)


class FailingBackend:
    """A disk whose host cannot do what `error` says until it is cleared."""

    size_bytes = SECTORS * 512
    readonly = False

    def __init__(self, code: int) -> None:
        self.error: int | None = code
        self.calls = 0

    def _call(self) -> None:
        self.calls += 1
        if self.error is not None:
            raise BlockError(self.error, os.strerror(self.error))

    def try_read(self, views: Sequence[memoryview], offset: int, length: int) -> bool:
        return False

    def read(self, views: Sequence[memoryview], offset: int) -> None:
        self._call()

    def write(self, views: Sequence[memoryview], offset: int) -> None:
        self._call()

    def flush(self) -> None:
        self._call()

    def discard(self, offset: int, length: int) -> None:
        self._call()

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        self._call()

    def close(self) -> None:
        pass


class Disk:
    """A block device with a started driver."""

    def __init__(
        self,
        backend: BlockBackend,
        options: BlockOptions | None = None,
        *,
        packed: bool = False,
        features: int | None = None,
        on_failure: Callable[[Failure], None] | None = None,
        make_walker: Callable[[GuestMemory], QueueWalker] | None = None,
        chosen_packed: bool | None = None,
    ) -> None:
        self.machine = MiniMachine()
        self.device = VirtioBlock(self.machine.memory, self.machine.loop, backend, options, on_failure=on_failure)
        self.device.choose_rings(packed=chosen_packed)
        if make_walker is not None:
            self.device.use_walker(make_walker(self.machine.memory))
        self.transport = self.machine.plug_pci(self.device)
        self.driver = VirtioDriver(self.transport, self.machine.allocator)
        if features is None:
            features = self.transport.read_features()
        self.driver.start(features if packed else features & ~int(Feature.RING_PACKED))

    def submit(self, kind: int, sector: int, data: bytes | int = b"", *, queue: int = 0) -> tuple[Segment, Segment]:
        """Queue a request; its data and status parts."""
        header = self.driver.buffer(struct.pack("<IIQ", kind, 0, sector))
        status = self.driver.buffer(1)
        self.machine.memory.write(status.gpa, b"\xee")
        part = self.driver.buffer(data) if data else header
        self.driver.submit(queue, [header, part, status] if data else [header, status])
        return part, status

    def wait(self, queue: int = 0) -> Used:
        """Run the worker until a request completes."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            self.machine.run()
            used = self.driver.queues[queue].poll()
            if used is not None:
                return used
            time.sleep(0.0005)
        msg = "the request never completed"
        raise TimeoutError(msg)

    def request(self, kind: int, sector: int, data: bytes | int = b"", *, queue: int = 0) -> tuple[int, bytes]:
        """Run a request; its status and the data part."""
        part, status = self.submit(kind, sector, data, queue=queue)
        self.wait(queue)
        return self.driver.read(status)[0], self.driver.read(part)

    def close(self) -> None:
        self.device.close()
        self.machine.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(SECTORS * 512))
    return path


def raw_backend(path: Path, *, writable: bool = True) -> BlockBackend:
    return open_backend(open_image(str(path), OpenSettings(format_name="raw", writable=writable)))


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def disk(path: Path, request: pytest.FixtureRequest) -> Iterator[Disk]:
    disk = Disk(raw_backend(path), BlockOptions(serial="S123", queues=2), packed=request.param)
    yield disk
    disk.close()


def test_written_data_reads_back(disk: Disk, path: Path) -> None:
    assert disk.request(OUT, 7, PATTERN)[0] == BlockStatus.OK
    assert disk.request(IN, 7, 512) == (BlockStatus.OK, PATTERN)
    assert disk.request(IN, 6, 1536)[1] == bytes(512) + PATTERN + bytes(512)
    assert disk.request(FLUSH, 0)[0] == BlockStatus.OK
    assert path.read_bytes()[7 * 512 : 8 * 512] == PATTERN


def test_used_length_counts_data_and_status(disk: Disk) -> None:
    disk.submit(IN, 0, 1024)
    assert disk.wait().written_bytes == 1025
    disk.submit(OUT, 0, PATTERN)
    assert disk.wait().written_bytes == 1


def test_second_queue_works(disk: Disk) -> None:
    assert disk.request(OUT, 1, PATTERN, queue=1)[0] == BlockStatus.OK
    assert disk.request(IN, 1, 512, queue=1)[1] == PATTERN
    assert disk.transport.read_config(34, 2) == 2


def test_identity_is_padded(disk: Disk) -> None:
    assert disk.request(BlockRequestType.GET_ID, 0, 20) == (BlockStatus.OK, b"S123".ljust(20, b"\0"))
    assert disk.request(BlockRequestType.GET_ID, 0, 19)[0] == BlockStatus.IOERR


@pytest.mark.parametrize(
    ("kind", "sector", "data"),
    [
        (IN, SECTORS, 512),
        (IN, SECTORS - 1, 1024),
        (IN, (1 << 64) - 1, 512),
        (IN, 0, 100),
        (OUT, SECTORS, bytes(512)),
        (OUT, 0, bytes(511)),
        (IN, 0, b""),
        (OUT, 0, b""),
    ],
)
def test_bad_range_is_an_io_error(disk: Disk, kind: int, sector: int, data: bytes | int) -> None:
    assert disk.request(kind, sector, data)[0] == BlockStatus.IOERR
    assert disk.request(IN, 0, 512)[0] == BlockStatus.OK


def test_unknown_request_is_unsupported(disk: Disk) -> None:
    assert disk.request(99, 0, 512)[0] == BlockStatus.UNSUPP


@pytest.mark.parametrize("kind", RANGES)
def test_ranges_are_zeroed_and_freed(disk: Disk, path: Path, kind: int) -> None:
    disk.request(OUT, 0, bytes([5]) * 65536)
    disk.request(FLUSH, 0)
    before = path.stat().st_blocks
    flags = 1 if kind == BlockRequestType.WRITE_ZEROES else 0
    ranges = struct.pack("<QII", 0, 64, flags) + struct.pack("<QII", 72, 8, flags)
    assert disk.request(kind, 0, ranges)[0] == BlockStatus.OK
    data = disk.request(IN, 0, 65536)[1]
    assert data[: 64 * 512] == bytes(64 * 512)
    assert data[64 * 512 : 72 * 512] == bytes([5]) * 8 * 512
    assert data[72 * 512 : 80 * 512] == bytes(8 * 512)
    assert path.stat().st_blocks < before


@pytest.mark.parametrize("kind", RANGES)
@pytest.mark.parametrize(
    ("ranges", "status"),
    [
        (struct.pack("<QII", SECTORS, 1, 0), BlockStatus.IOERR),
        (struct.pack("<QII", (1 << 64) - 1, 0xFFFFFFFF, 0), BlockStatus.IOERR),
        (struct.pack("<QII", 0, 1, 2), BlockStatus.UNSUPP),
        (struct.pack("<QII", 0, 1, 0)[:15], BlockStatus.IOERR),
        (struct.pack("<QII", 0, 1, 0) * 257, BlockStatus.IOERR),
        (struct.pack("<QII", 0, 0, 0), BlockStatus.OK),
    ],
)
def test_bad_ranges_are_refused(disk: Disk, kind: int, ranges: bytes, status: int) -> None:
    assert disk.request(kind, 0, ranges)[0] == status


def test_discard_with_unmap_is_unsupported(disk: Disk) -> None:
    assert disk.request(BlockRequestType.DISCARD, 0, struct.pack("<QII", 0, 1, 1))[0] == BlockStatus.UNSUPP


def test_readonly_disk_refuses_writes(path: Path) -> None:
    disk = Disk(raw_backend(path, writable=False))
    assert disk.transport.read_features() & BlockFeature.RO
    assert not disk.transport.read_features() & BlockFeature.DISCARD
    assert disk.request(OUT, 0, PATTERN)[0] == BlockStatus.IOERR
    assert disk.request(RANGES[0], 0, struct.pack("<QII", 0, 1, 0))[0] == BlockStatus.UNSUPP
    assert disk.request(FLUSH, 0)[0] == BlockStatus.OK
    assert disk.request(IN, 0, 512)[0] == BlockStatus.OK
    disk.close()


def test_any_layout_is_accepted(disk: Disk) -> None:
    """5.2.6.4: framing is the driver's choice."""
    driver = disk.driver
    header = driver.buffer(struct.pack("<IIQ", OUT, 0, 3) + PATTERN[:100])
    pieces = [header, driver.buffer(PATTERN[100:]), driver.buffer(1)]
    driver.submit(0, pieces)
    disk.wait()
    assert driver.read(pieces[2]) == b"\0"
    cut = struct.pack("<IIQ", IN, 0, 3)
    into = [driver.buffer(100), driver.buffer(413)]
    driver.submit(0, [driver.buffer(cut[:5]), driver.buffer(cut[5:]), *into])
    disk.wait()
    assert driver.read(into[0]) + driver.read(into[1]) == PATTERN + b"\0"


def test_many_segments_in_one_request(disk: Disk) -> None:
    header = disk.driver.buffer(struct.pack("<IIQ", IN, 0, 0))
    parts = [disk.driver.buffer(512) for _ in range(60)]
    disk.request(OUT, 0, b"".join(bytes([n]) * 512 for n in range(60)))
    disk.driver.submit(0, [header, *parts, disk.driver.buffer(1)])
    assert disk.wait().written_bytes == 60 * 512 + 1
    assert [disk.driver.read(part)[0] for part in parts] == list(range(60))


def test_batch_of_32_costs_one_interrupt(disk: Disk) -> None:
    for n in range(32):
        header = disk.driver.buffer(struct.pack("<IIQ", IN, 0, n))
        disk.driver.queues[0].add([header, disk.driver.buffer(512), disk.driver.buffer(1)])
    disk.request(IN, 0, 512)  # the file is in the page cache from here on
    disk.machine.messages.clear()
    for _ in range(32):
        disk.wait()
    for n in range(32):
        header = disk.driver.buffer(struct.pack("<IIQ", IN, 0, n))
        disk.driver.queues[0].add([header, disk.driver.buffer(512), disk.driver.buffer(1)])
    disk.transport.notify(0)
    for _ in range(32):
        disk.wait()
    assert len(disk.machine.messages) == 1


@pytest.mark.parametrize("missing", ["header", "status"])
def test_request_without_header_or_status_breaks_the_device(disk: Disk, missing: str) -> None:
    header = disk.driver.buffer(struct.pack("<IIQ", FLUSH, 0, 0)[: 15 if missing == "header" else 16])
    disk.driver.submit(0, [header, disk.driver.buffer(1)] if missing == "header" else [header])
    disk.machine.run()
    assert disk.transport.read_status() & Status.NEEDS_RESET


def test_configuration_describes_the_disk(disk: Disk) -> None:
    read = disk.transport.read_config
    assert read(0, 4) | read(4, 4) << 32 == SECTORS
    assert read(12, 4) > 0
    assert read(20, 4) == 512
    assert read(24, 1) == 3
    assert read(32, 1) == 1
    assert len(disk.device.config_space()) == 60
    assert read(36, 4) > 0
    assert read(56, 1) == 1


def test_write_through_can_be_chosen(disk: Disk) -> None:
    disk.transport.write_config(32, 1, 0)
    assert disk.transport.read_config(32, 1) == 0
    assert disk.request(OUT, 0, PATTERN)[0] == BlockStatus.OK
    assert disk.request(IN, 0, 512)[1] == PATTERN


def test_shrunken_file_reads_as_zero_and_takes_writes(disk: Disk, path: Path) -> None:
    os.truncate(path, 512)
    assert disk.request(IN, 100, 512) == (BlockStatus.OK, bytes(512))
    assert disk.request(OUT, 100, PATTERN)[0] == BlockStatus.OK
    assert disk.request(IN, 100, 512)[1] == PATTERN


def test_host_error_reaches_the_guest() -> None:
    disk = Disk(FailingBackend(errno.EIO))
    for kind, data in ((IN, 512), (OUT, PATTERN), (FLUSH, b""), (RANGES[0], struct.pack("<QII", 0, 1, 0))):
        assert disk.request(kind, 0, data)[0] == BlockStatus.IOERR  # type: ignore[arg-type]
    disk.close()


class Troubled:
    """A disk whose backend fails, with what it tells."""

    def __init__(self, code: int, options: BlockOptions) -> None:
        self.failures: list[Failure] = []
        self.backend = FailingBackend(code)
        self.disk = Disk(self.backend, options, on_failure=self.failures.append)

    def fail(self, kind: int, data: bytes | int) -> tuple[Segment, Segment]:
        """Submit a request and wait until it has failed."""
        before = len(self.failures)
        parts = self.disk.submit(kind, 0, data)
        deadline = time.monotonic() + 60
        while len(self.failures) == before and time.monotonic() < deadline:
            self.disk.machine.run()
            time.sleep(0.0005)
        assert len(self.failures) == before + 1
        return parts


@pytest.mark.parametrize("writeback", [True, False])
@pytest.mark.parametrize("policy", [ErrorPolicy.ENOSPC, ErrorPolicy.STOP])
def test_full_disk_stops_and_retries_without_loss(policy: ErrorPolicy, *, writeback: bool) -> None:
    troubled = Troubled(errno.ENOSPC, BlockOptions(write_errors=policy))
    disk, backend = troubled.disk, troubled.backend
    disk.transport.write_config(32, 1, int(writeback))
    _, status = troubled.fail(OUT, PATTERN)
    failure = troubled.failures[0]
    assert (failure.error.code, failure.is_read, failure.action) == (errno.ENOSPC, False, ErrorPolicy.STOP)
    assert disk.driver.queues[0].poll() is None
    backend.error = None
    disk.device.retry()
    disk.wait()
    assert disk.driver.read(status) == b"\0"
    assert backend.calls >= 2
    disk.close()


def test_policies_for_reading_and_writing_differ() -> None:
    options = BlockOptions(read_errors=ErrorPolicy.STOP, write_errors=ErrorPolicy.IGNORE)
    troubled = Troubled(errno.EIO, options)
    disk = troubled.disk
    for kind, data in ((OUT, PATTERN), (FLUSH, b""), (RANGES[1], struct.pack("<QII", 0, 1, 0))):
        assert disk.request(kind, 0, data)[0] == BlockStatus.OK
    _, status = troubled.fail(IN, 512)
    assert disk.driver.queues[0].poll() is None
    troubled.backend.error = None
    disk.device.retry()
    assert disk.wait().written_bytes == 513
    assert disk.driver.read(status) == b"\0"
    assert [failure.action for failure in troubled.failures] == [ErrorPolicy.IGNORE] * 3 + [ErrorPolicy.STOP]
    disk.close()


def test_policy_for_a_full_disk_reports_other_errors() -> None:
    troubled = Troubled(errno.EIO, BlockOptions(write_errors=ErrorPolicy.ENOSPC))
    assert troubled.disk.request(OUT, 0, PATTERN)[0] == BlockStatus.IOERR
    troubled.disk.machine.run()
    assert troubled.failures[0].action is ErrorPolicy.REPORT
    troubled.disk.close()


def test_request_that_fails_again_waits_again() -> None:
    troubled = Troubled(errno.ENOSPC, BlockOptions(write_errors=ErrorPolicy.STOP))
    disk = troubled.disk
    troubled.fail(OUT, PATTERN)
    for turn in range(2, 5):
        disk.device.retry()
        deadline = time.monotonic() + 60
        while len(troubled.failures) < turn and time.monotonic() < deadline:
            disk.machine.run()
            time.sleep(0.0005)
        assert len(troubled.failures) == turn
    assert disk.driver.queues[0].poll() is None
    troubled.backend.error = None
    disk.device.retry()
    disk.wait()
    disk.close()


def test_stopped_request_is_tried_again_after_a_pause() -> None:
    troubled = Troubled(errno.ENOSPC, BlockOptions(write_errors=ErrorPolicy.ENOSPC))
    disk = troubled.disk
    _, status = troubled.fail(OUT, PATTERN)
    disk.device.suspend()
    troubled.backend.error = None
    disk.device.resume()
    disk.wait()
    assert disk.driver.read(status) == b"\0"
    disk.close()


def test_reset_drops_stopped_requests() -> None:
    troubled = Troubled(errno.EIO, BlockOptions(write_errors=ErrorPolicy.STOP))
    troubled.fail(OUT, PATTERN)
    troubled.disk.transport.write_status(0)
    troubled.disk.device.retry()
    assert troubled.disk.device._pending == 0
    troubled.disk.close()


def test_reset_of_one_queue_keeps_what_waits_in_another() -> None:
    troubled = Troubled(errno.EIO, BlockOptions(queues=2, write_errors=ErrorPolicy.STOP))
    disk = troubled.disk
    troubled.fail(OUT, PATTERN)
    disk.transport.reset_queue(1)
    troubled.backend.error = None
    disk.device.retry()
    disk.wait()
    disk.close()


def test_reset_waits_for_requests_under_way(disk: Disk) -> None:
    for turn in range(50):
        disk.driver.start()
        for n in range(4):
            disk.submit(FLUSH if n & 1 else OUT, n, b"" if n & 1 else PATTERN)
        disk.machine.run()
        disk.transport.write_status(0)
        assert disk.device._pending == 0, turn


def test_writeback_feature_bits_do_not_confuse_old_drivers(path: Path) -> None:
    disk = Disk(raw_backend(path), features=int(Feature.VERSION_1))
    assert disk.request(OUT, 0, PATTERN)[0] == BlockStatus.OK
    queue = disk.driver.queues[0]
    assert isinstance(queue, SplitDriverQueue)
    assert not queue.indirect
    disk.close()


def test_lone_requests_are_served_at_once_and_batches_by_the_worker(disk: Disk) -> None:
    queue = disk.device.queues[0]
    for _ in range(8):
        disk.request(IN, 0, 512)
    assert queue.at_once_left
    disk.submit(IN, 0, 512)
    assert disk.driver.queues[0].poll() is not None
    for _ in range(queue.at_once_left):
        disk.request(IN, 0, 512)
    for _ in range(8):
        for _ in range(4):
            header = disk.driver.buffer(struct.pack("<IIQ", IN, 0, 0))
            disk.driver.queues[0].add([header, disk.driver.buffer(512), disk.driver.buffer(1)])
        disk.transport.notify(0)
        assert disk.driver.queues[0].poll() is None
        for _ in range(4):
            disk.wait()
    assert not queue.at_once_left
    disk.submit(IN, 0, 512)
    assert disk.driver.queues[0].poll() is None
    disk.wait()
