"""The virtio memory balloon (VIRTIO 1.2, 5.5): inflation, statistics, free page reporting.

Pages the guest gives up go back to the host; what they held is gone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from struct import Struct, pack
from typing import TYPE_CHECKING, ClassVar

from pyhyve.devices.virtio.device import VirtioDevice, Worker
from pyhyve.devices.virtio.spec import BALLOON_PAGE_BYTES, BalloonFeature, BalloonStat, DeviceType
from pyhyve.state.record import U32, record

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.devices.virtio.chain import DescriptorChain
    from pyhyve.devices.virtio.queue import Virtqueue
    from pyhyve.memory.guest import GuestMemory

_INFLATE, _DEFLATE, _STATS, _REPORTING = range(4)
_PAGE_SHIFT = 12
_MAX_PAGES_PER_BUFFER = 1 << 16
_STAT = Struct("<HQ")
_MAX_STATS = 64
_STAT_NAMES = {int(stat): stat.name.lower() for stat in BalloonStat}


@record
class VirtioBalloonState:
    """Wanted and actual size; statistics are asked for anew."""

    target_pages: U32
    actual_pages: U32


@dataclass(frozen=True, slots=True)
class BalloonOptions:
    """What is offered. Callbacks run with the device's lock held."""

    deflate_on_oom: bool = True
    free_page_reporting: bool = True
    on_statistics: Callable[[dict[str, int]], None] | None = None
    """Gets each report: values by lower-case name of the specification's tags."""
    on_change: Callable[[int], None] | None = None
    """Gets the bytes given up so far, whenever the guest says that they changed."""


class VirtioBalloon(VirtioDevice):
    """The balloon. Statistics and reporting queues exist whether or not the driver wants them."""

    device_type: ClassVar[DeviceType] = DeviceType.BALLOON
    state_type: ClassVar = VirtioBalloonState
    state_version: ClassVar = 1

    def __init__(self, memory: GuestMemory, worker: Worker, options: BalloonOptions | None = None) -> None:
        self._options = options or BalloonOptions()
        offered = BalloonFeature.STATS_VQ
        if self._options.deflate_on_oom:
            offered |= BalloonFeature.DEFLATE_ON_OOM
        if self._options.free_page_reporting:
            offered |= BalloonFeature.PAGE_REPORTING
        super().__init__(memory, worker, offered=int(offered), queue_sizes=[128, 128, 64, 64])
        self._memory = memory
        self._target_pages = 0
        self._actual_pages = 0
        self._held: DescriptorChain | None = None
        self.statistics: dict[str, int] = {}
        """The latest report."""
        self.updated_s = 0
        """When it came, in seconds since 1970; 0 for never."""

    def save(self) -> VirtioBalloonState:
        """Wanted and actual size."""
        return VirtioBalloonState(target_pages=self._target_pages, actual_pages=self._actual_pages)

    def load(self, state: VirtioBalloonState) -> None:
        """Take over both sizes."""
        self._target_pages, self._actual_pages = state.target_pages, state.actual_pages

    def give_back(self) -> None:
        """The buffer held for statistics."""
        held, self._held = self._held, None
        for queue in self.queues[_STATS:]:
            if held is not None and self._queue_role(queue.index) == _STATS and queue.ring is not None:
                queue.ring.unpop(held)

    # -- for the monitor ----------------------------------------------------------------------------------------------

    @property
    def target_bytes(self) -> int:
        """Memory the guest is asked to give up."""
        return self._target_pages * BALLOON_PAGE_BYTES

    @property
    def actual_bytes(self) -> int:
        """Memory the guest says it gave up."""
        return self._actual_pages * BALLOON_PAGE_BYTES

    def set_target(self, size_bytes: int) -> None:
        """Ask the guest to give up `size_bytes` (whole pages); it does so in its own time."""
        self._target_pages = min(max(size_bytes, 0) // BALLOON_PAGE_BYTES, 0xFFFFFFFF)
        self.run_locked(self.config_changed)

    def request_statistics(self) -> None:
        """Ask the driver for a fresh report: hand its buffer back (5.5.6.3)."""
        self.run_locked(self._return_statistics_buffer)

    # -- VirtioDevice -------------------------------------------------------------------------------------------------

    def config_space(self) -> bytes:
        """`struct virtio_balloon_config` (5.5.4)."""
        return pack("<IIII", self._target_pages, self._actual_pages, 0, 0)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """The driver reports how many pages it gave up."""
        if offset == 4 and size == 4 and value != self._actual_pages:
            self._actual_pages = value
            if self._options.on_change is not None:
                self._options.on_change(self.actual_bytes)

    def stopped(self) -> None:
        """Reset: the guest has its memory again."""
        self._actual_pages = 0
        self._held = None

    def queue_stopped(self, index: int) -> None:
        """Forget the buffer held for statistics."""
        if self._queue_role(index) == _STATS:
            self._held = None

    def _queue_role(self, index: int) -> int:
        """What queue `index` is for: queues of features that were not negotiated are not counted (5.5.2)."""
        if index < _STATS:
            return index
        roles = []
        if self.has_feature(BalloonFeature.STATS_VQ):
            roles.append(_STATS)
        if self.has_feature(BalloonFeature.PAGE_REPORTING):
            roles.append(_REPORTING)
        return roles[index - _STATS] if index - _STATS < len(roles) else -1

    def handle_queue(self, index: int, ring: Virtqueue) -> None:
        """Act on each buffer by the queue's role."""
        role = self._queue_role(index)
        while (chain := ring.pop()) is not None:
            if role == _INFLATE:
                self._inflate(chain)
            elif role == _REPORTING:
                for gpa, length in chain.writable_ranges:
                    self._release(gpa, length)
            elif role == _STATS:
                self._take_statistics(ring, chain)
                continue
            ring.push(chain, 0)

    def _inflate(self, chain: DescriptorChain) -> None:
        """Release the pages whose numbers the buffer lists, neighbours together."""
        data = b"".join(bytes(view[: 4 * _MAX_PAGES_PER_BUFFER]) for view in chain.readable[:4])
        data = data[: len(data) & ~3][: 4 * _MAX_PAGES_PER_BUFFER]
        start = end = -1
        for frame in sorted(memoryview(data).cast("I")):
            if frame == end:
                end += 1
            elif frame > end:
                self._release(start << _PAGE_SHIFT, (end - start) << _PAGE_SHIFT)
                start, end = frame, frame + 1
        self._release(start << _PAGE_SHIFT, (end - start) << _PAGE_SHIFT)

    def _release(self, gpa: int, length: int) -> None:
        """Give a range of RAM back to the host; whatever is not RAM in full is left alone."""
        if length <= 0:
            return
        start = -(-gpa // BALLOON_PAGE_BYTES) * BALLOON_PAGE_BYTES
        end = (gpa + length) & -BALLOON_PAGE_BYTES
        if end > start:
            self._memory.release(start, end - start)

    def _take_statistics(self, ring: Virtqueue, chain: DescriptorChain) -> None:
        """Read a report and hold its buffer until the next one is wanted."""
        data = b"".join(bytes(view[: _MAX_STATS * _STAT.size]) for view in chain.readable[:4])
        data = data[: min(len(data), _MAX_STATS * _STAT.size) // _STAT.size * _STAT.size]
        self.statistics = {_STAT_NAMES[tag]: value for tag, value in _STAT.iter_unpack(data) if tag in _STAT_NAMES}
        if self._held is not None:
            ring.push(self._held, 0)
        self._held = chain
        self.updated_s = int(time.time())
        if self._options.on_statistics is not None:
            self._options.on_statistics(self.statistics)

    def _return_statistics_buffer(self) -> None:
        if not self.is_running or self._held is None:
            return
        for queue in self.queues[_STATS:]:
            if self._queue_role(queue.index) == _STATS and queue.ring is not None:
                queue.ring.push(self._held, 0)
                self._held = None
                self.publish(queue.index, queue.ring)
                return
