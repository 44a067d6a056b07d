"""The virtio block device (VIRTIO 1.2, 5.2).

Cached reads and buffered writes are done on the worker, between file and guest memory, a batch per notification.
What waits for the disk goes to a small pool and completes from there.
"""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from struct import pack
from time import perf_counter_ns
from typing import TYPE_CHECKING, ClassVar

from pyhyve.accel.api import QueueStatus
from pyhyve.backends.block import BlockError, BlockPool, BlockStatistics, RawFileBlock
from pyhyve.devices.error_policy import ErrorPolicy, Failure
from pyhyve.devices.virtio.block_request import (
    MAX_RANGE_SECTORS,
    MAX_SEGMENTS,
    in_bounds,
    parse_ranges,
    parse_request,
)
from pyhyve.devices.virtio.device import VirtioDevice, Worker
from pyhyve.devices.virtio.spec import (
    BLOCK_ID_BYTES,
    SECTOR_BYTES,
    BlockFeature,
    BlockRequestType,
    BlockStatus,
    DeviceType,
)
from pyhyve.devices.virtio.split import SplitQueue
from pyhyve.state.errors import StateError
from pyhyve.state.record import U64, record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyhyve.backends.block import BlockBackend
    from pyhyve.devices.virtio.block_request import BlockRequest
    from pyhyve.devices.virtio.queue import Virtqueue
    from pyhyve.memory.guest import GuestMemory

_LOG = logging.getLogger(__name__)
_IN = int(BlockRequestType.IN)
_OUT = int(BlockRequestType.OUT)
_OK = int(BlockStatus.OK)
_IOERR = int(BlockStatus.IOERR)
_UNSUPP = int(BlockStatus.UNSUPP)
_RANGE_TYPES = frozenset({int(BlockRequestType.DISCARD), int(BlockRequestType.WRITE_ZEROES)})
_COUNTERS = {
    _IN: ("rd_operations", "rd_total_time_ns", "failed_rd_operations"),
    _OUT: ("wr_operations", "wr_total_time_ns", "failed_wr_operations"),
    int(BlockRequestType.FLUSH): ("flush_operations", "flush_total_time_ns", "failed_flush_operations"),
}
"""Statistics by type of request: what counts it, its time, and its failure."""
_BUDGET, _UNUSUAL = int(QueueStatus.BUDGET), int(QueueStatus.UNUSUAL)
_WALKED_FIELDS = ("fd", "start_bytes", "capacity_sectors", "reads", "writes", "linger_us")
_LINGER_US = 60
"""How long the worker waits for more requests: a driver with many under way adds the next within it, without a kick,
and then hears of all of them at once. One with a single request is not served here, but for a trial now and then."""
_INLINE_WRITE_BYTES = 1 << 20
"""Larger buffered writes go to the pool, so that one request does not hold up the queue."""


@dataclass(frozen=True, slots=True)
class BlockOptions:
    """How the disk presents itself."""

    serial: str = ""
    queues: int = 1
    queue_size: int = 256
    logical_block_bytes: int = 512
    physical_block_bytes: int = 4096
    read_errors: ErrorPolicy = ErrorPolicy.REPORT
    write_errors: ErrorPolicy = ErrorPolicy.REPORT
    """Flushes, discards and zeroes included."""


@record
class VirtioBlockState:
    """What a disk keeps beside its queues."""

    capacity_sectors: U64
    writeback: bool


class VirtioBlock(VirtioDevice):
    """A disk. Owns the backend: `close` closes it."""

    state_type: ClassVar = VirtioBlockState
    state_version: ClassVar = 1

    device_type: ClassVar[DeviceType] = DeviceType.BLOCK
    serves_kicks_at_once: ClassVar[bool] = True

    def __init__(
        self,
        memory: GuestMemory,
        worker: Worker,
        backend: BlockBackend,
        options: BlockOptions | None = None,
        *,
        on_failure: Callable[[Failure], None] | None = None,
    ) -> None:
        """`on_failure` is called off the vCPU threads; after one whose action is STOP, `retry` is expected."""
        self.options = options or BlockOptions()
        offered = (
            BlockFeature.SEG_MAX
            | BlockFeature.GEOMETRY
            | BlockFeature.BLK_SIZE
            | BlockFeature.TOPOLOGY
            | BlockFeature.FLUSH
            | BlockFeature.CONFIG_WCE
        )
        if backend.readonly:
            offered |= BlockFeature.RO
        else:
            offered |= BlockFeature.DISCARD | BlockFeature.WRITE_ZEROES
        if self.options.queues > 1:
            offered |= BlockFeature.MQ
        super().__init__(
            memory, worker, offered=int(offered), queue_sizes=[self.options.queue_size] * self.options.queues
        )
        self._backend = backend
        self._readonly = backend.readonly
        self._capacity = backend.size_bytes // SECTOR_BYTES
        self._pool = BlockPool()
        self._writeback = True
        self._on_failure = on_failure
        self._pending = 0
        self._idle = threading.Condition(self.lock)
        self._stopped_requests: list[tuple[int, Virtqueue, BlockRequest]] = []
        self._draining = 0
        self.statistics = BlockStatistics()

    @property
    def backend(self) -> BlockBackend:
        """What holds the disk's contents."""
        return self._backend

    # -- configuration ------------------------------------------------------------------------------------------------

    def config_space(self) -> bytes:
        """`struct virtio_blk_config` (5.2.4)."""
        options = self.options
        exponent = max(0, (options.physical_block_bytes // options.logical_block_bytes).bit_length() - 1)
        heads, sectors = 16, 63
        cylinders = min(self._capacity // (heads * sectors), 16383)
        align = max(1, options.logical_block_bytes // SECTOR_BYTES)
        return b"".join(
            (
                pack("<QII", self._capacity, 0, min(254, options.queue_size - 2)),
                pack("<HBB", cylinders, heads, sectors),
                pack("<I", options.logical_block_bytes),
                pack("<BBHI", exponent, 0, 1, 0),
                pack("<BxH", self._writeback, options.queues),
                pack("<III", MAX_RANGE_SECTORS, MAX_SEGMENTS, align),
                pack("<IIBxxx", MAX_RANGE_SECTORS, MAX_SEGMENTS, 1),
            )
        )

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Only `writeback` can be written (5.2.5.1), once CONFIG_WCE is negotiated."""
        if offset == 32 and self.has_feature(BlockFeature.CONFIG_WCE):
            self._writeback = bool(value & 1)

    @contextmanager
    def drained(self) -> Iterator[None]:
        """Inside the block no request is under way, and none begins; those that the error policy holds stay."""
        with self._idle:
            self._draining += 1
            while self._pending > len(self._stopped_requests):
                self._idle.wait()
        try:
            yield
        finally:
            with self.lock:
                self._draining -= 1
            for queue in self.queues:
                self.notify(queue.index)

    def use_backend(self, backend: BlockBackend) -> None:
        """Read and write another backend from now on; only while drained. The old one is the caller's."""
        self._backend = backend
        if self._capacity != backend.size_bytes // SECTOR_BYTES:
            self.resize()

    def resize(self) -> None:
        """The backend's size changed: tell the driver."""
        self._capacity = self._backend.size_bytes // SECTOR_BYTES
        self.run_locked(self.config_changed)

    def stopped(self) -> None:
        """Reset: the cache mode goes back to write-back."""
        self._writeback = True

    def quiesce(self) -> None:
        """Wait for requests in the pool; drop those that the error policy holds, unless their queue goes on."""
        with self._idle:
            kept = [entry for entry in self._stopped_requests if self._is_current(entry[0], entry[1])]
            self._pending -= len(self._stopped_requests) - len(kept)
            self._stopped_requests = kept
            while self._pending > len(self._stopped_requests):
                self._idle.wait()

    def drain(self) -> None:
        """Wait for requests in the pool; those that the error policy holds stay."""
        with self._idle:
            while self._pending > len(self._stopped_requests):
                self._idle.wait()

    def save(self) -> VirtioBlockState:
        """Size and cache mode; raises StateError while the error policy holds requests."""
        with self.lock:
            if self._stopped_requests:
                msg = "a disk waits for space on the host: make room and continue, then save"
                raise StateError(msg)
            return VirtioBlockState(capacity_sectors=self._capacity, writeback=self._writeback)

    def load(self, state: VirtioBlockState) -> None:
        """Take over the cache mode; raises StateError for a disk of another size."""
        if state.capacity_sectors != self._capacity:
            sizes = f"{state.capacity_sectors * SECTOR_BYTES} bytes, not {self._capacity * SECTOR_BYTES}"
            msg = f"virtio block: the disk had {sizes}"
            raise StateError(msg)
        self._writeback = state.writeback

    def _is_current(self, index: int, ring: Virtqueue) -> bool:
        """Whether the driver still waits for what it put into `ring`; with the lock held."""
        return self.is_running and self.queues[index].ring is ring

    def close(self) -> None:
        """Finish requests, end the pool and close the backend; idempotent."""
        self.reset()
        self._pool.close()
        self._backend.close()

    # -- requests -----------------------------------------------------------------------------------------------------

    def service(self, index: int, ring: Virtqueue) -> None:
        """Have the engine do what it can by itself, then the rest."""
        if self._draining or not self._walk(index, ring):
            super().service(index, ring)

    def _walk(self, index: int, ring: Virtqueue) -> bool:
        """Have the engine serve a queue; False when something is left for us."""
        walked = self.walked(index)
        backend = self._backend
        if walked is None or not isinstance(ring, SplitQueue) or not isinstance(backend, RawFileBlock):
            return False
        fd, start, nowait = backend.direct
        may_write = int(self._writeback and not self._readonly)
        fields = (fd, start, self._capacity, int(nowait), may_write, _LINGER_US if self._is_worker else 0)
        queue = self.queues[index]
        if queue.told != fields:
            queue.told = fields
            walked.set(**dict(zip(_WALKED_FIELDS, fields, strict=True)))
        began_ns = perf_counter_ns()
        status, wants = ring.walk(walked, "disk")
        statistics = self.statistics
        if reads := walked.get("read_count"):
            statistics.rd_operations += reads
            statistics.rd_bytes += walked.get("read_bytes")
            statistics.rd_total_time_ns += perf_counter_ns() - began_ns
        if writes := walked.get("write_count"):
            statistics.wr_operations += writes
            statistics.wr_bytes += walked.get("write_bytes")
            statistics.wr_highest_offset = max(statistics.wr_highest_offset, walked.get("write_end"))
            if not reads:
                statistics.wr_total_time_ns += perf_counter_ns() - began_ns
        if wants:
            self._signals |= 1 << index
        if status == _BUDGET:
            self.notify(index)
        return status != _UNUSUAL

    def handle_queue(self, index: int, ring: Virtqueue) -> None:
        """Do what needs no waiting here, hand the rest to the pool."""
        if self._draining:
            return
        backend = self._backend
        statistics = self.statistics
        mark_written = self.dma.mark_written
        while (chain := ring.pop()) is not None:
            request = parse_request(chain)
            kind = request.type
            if kind == _IN:
                length = request.writable_bytes
                if not length or not in_bounds(request.sector, length, self._capacity):
                    statistics.invalid_rd_operations += 1
                    self._finish(ring, request, _IOERR)
                elif backend.try_read(request.writable, request.sector * SECTOR_BYTES, length):
                    statistics.rd_operations += 1
                    statistics.rd_bytes += length
                    request.status[0] = _OK
                    for gpa, size in chain.writable_ranges:
                        mark_written(gpa, size)
                    ring.push(chain, length + 1)
                else:
                    self._submit(index, ring, request)
            elif kind == _OUT:
                length = request.readable_bytes
                if self._readonly or not length or not in_bounds(request.sector, length, self._capacity):
                    statistics.invalid_wr_operations += 1
                    self._finish(ring, request, _IOERR)
                elif length <= _INLINE_WRITE_BYTES and self._writeback:
                    self._write_now(index, ring, request)
                else:
                    self._submit(index, ring, request)
            elif kind == BlockRequestType.GET_ID:
                self._get_id(ring, request)
            elif kind == BlockRequestType.FLUSH or (kind in _RANGE_TYPES and not self._readonly):
                self._submit(index, ring, request)
            else:
                self._finish(ring, request, _UNSUPP)

    def _finish(self, ring: Virtqueue, request: BlockRequest, status: int, written_bytes: int = 0) -> None:
        """Store the status and give the chain back; with the lock held."""
        request.status[0] = status
        chain = request.chain
        if written_bytes or request.type == _IN:  # a read that fails may have brought something
            for gpa, size in chain.writable_ranges:
                self.dma.mark_written(gpa, size)
        else:
            gpa, size = chain.writable_ranges[-1]
            self.dma.mark_written(gpa + size - 1, 1)
        ring.push(chain, written_bytes + 1)

    def _get_id(self, ring: Virtqueue, request: BlockRequest) -> None:
        """The serial number, padded with zeroes (5.2.6)."""
        serial = self.options.serial.encode("ascii", "replace")[:BLOCK_ID_BYTES].ljust(BLOCK_ID_BYTES, b"\0")
        if request.writable_bytes < BLOCK_ID_BYTES:
            self._finish(ring, request, _IOERR)
            return
        done = 0
        for view in request.writable:
            part = serial[done : done + len(view)]
            view[: len(part)] = part
            done += len(part)
        self._finish(ring, request, _OK, BLOCK_ID_BYTES)

    def _write_now(self, index: int, ring: Virtqueue, request: BlockRequest) -> None:
        """Write into the page cache; with the lock held."""
        status: int | None = _OK
        try:
            self._perform(request)
        except BlockError as error:
            status = self._judge_failure(request, error)
        if status is None:
            self._pending += 1
            self._stopped_requests.append((index, ring, request))
        else:
            self._finish(ring, request, status)

    def _judge_failure(self, request: BlockRequest, error: BlockError) -> int | None:
        """Tell of a failed request; its status, or None when the error policy makes it wait. Any thread."""
        options = self.options
        is_read = request.type == _IN
        action = (options.read_errors if is_read else options.write_errors).action(error.code)
        _LOG.warning("block request at sector %d failed (%s): %s", request.sector, action.value, error)
        tell = self._on_failure
        if tell is not None:
            failure = Failure(error, is_read, action)
            self.worker.call_soon(lambda: tell(failure))
        if action is ErrorPolicy.STOP:
            return None
        return _OK if action is ErrorPolicy.IGNORE else _IOERR

    def _perform(self, request: BlockRequest) -> int:
        """Carry out a request and count it, or raise BlockError."""
        began_ns = perf_counter_ns()
        kind = request.type
        names = _COUNTERS.get(kind, ("unmap_operations", "unmap_total_time_ns", "failed_unmap_operations"))
        try:
            status = self._perform_uncounted(request)
        except BlockError:
            self._count(names[2], 1)
            raise
        self._count(names[0], 1)
        self._count(names[1], perf_counter_ns() - began_ns)
        return status

    def _count(self, name: str, amount: int) -> None:
        setattr(self.statistics, name, getattr(self.statistics, name) + amount)

    def _perform_uncounted(self, request: BlockRequest) -> int:
        backend = self._backend
        statistics = self.statistics
        kind = request.type
        offset = request.sector * SECTOR_BYTES
        if kind == _IN:
            backend.read(request.writable, offset)
            statistics.rd_bytes += request.writable_bytes
        elif kind == _OUT:
            backend.write(request.readable, offset)
            statistics.wr_bytes += request.readable_bytes
            statistics.wr_highest_offset = max(statistics.wr_highest_offset, offset + request.readable_bytes)
            if not self._writeback:
                backend.flush()
        elif kind == BlockRequestType.FLUSH:
            if not self._readonly:
                backend.flush()
        else:
            is_discard = kind == BlockRequestType.DISCARD
            segments = parse_ranges(request, self._capacity)
            if segments is None:
                return _IOERR
            if any(segment.flags & ~int(not is_discard) for segment in segments):
                # 5.2.6.2: unknown flags, and `unmap` in a discard, are unsupported.
                return _UNSUPP
            for segment in segments:
                start, length = segment.sector * SECTOR_BYTES, segment.sectors * SECTOR_BYTES
                if not length:
                    continue
                if is_discard:
                    backend.discard(start, length)
                    statistics.unmap_bytes += length
                else:
                    backend.write_zeroes(start, length, unmap=segment.unmap)
        return _OK

    # -- requests that wait -------------------------------------------------------------------------------------------

    def _submit(self, index: int, ring: Virtqueue, request: BlockRequest) -> None:
        """Hand a request to the pool; with the lock held."""
        self._pending += 1
        self._pool.submit(lambda: self._work(index, ring, request))

    def _work(self, index: int, ring: Virtqueue, request: BlockRequest) -> None:
        """Carry out a request on a thread of the pool and complete it."""
        status: int | None
        try:
            status = self._perform(request)
        except BlockError as error:
            status = self._judge_failure(request, error)
        with self._idle:
            if status is None and self._is_current(index, ring):
                self._stopped_requests.append((index, ring, request))
            else:
                self._complete(index, ring, request, _IOERR if status is None else status)
            self._idle.notify_all()
        self._deliver()

    def _complete(self, index: int, ring: Virtqueue, request: BlockRequest, status: int) -> None:
        """Give a pooled request back, unless its queue is gone; with the lock held."""
        self._pending -= 1
        if self._is_current(index, ring):
            done = request.writable_bytes if request.type == _IN and status == _OK else 0
            self._finish(ring, request, status, done)
            self.publish(index, ring)

    def resumed(self) -> None:
        """Try the requests again that the error policy stopped."""
        self._submit_stopped()

    def retry(self) -> None:
        """Try the requests again that the error policy stopped, without a pause in between."""
        with self.lock:
            self._submit_stopped()

    def _submit_stopped(self) -> None:
        stopped, self._stopped_requests = self._stopped_requests, []
        for index, ring, request in stopped:
            self._pool.submit(lambda i=index, r=ring, q=request: self._work(i, r, q))  # type: ignore[misc]
