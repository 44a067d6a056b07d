"""A network card whose data queues a vhost back end serves; control queue, negotiation and state stay here."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from pyhyve.backends.ioloop import READABLE
from pyhyve.backends.net import NetError
from pyhyve.backends.vhost import Vring
from pyhyve.devices.virtio.net import NetOptions, VirtioNet
from pyhyve.devices.virtio.queue import RingState
from pyhyve.devices.virtio.spec import Feature, NetFeature
from pyhyve.memory.guest import GuestAddressError

if TYPE_CHECKING:
    from pyhyve.backends.ioloop import IoLoop
    from pyhyve.backends.net import NetBackend
    from pyhyve.backends.vhost import VhostBackend
    from pyhyve.devices.virtio.queue import QueueLayout, Virtqueue
    from pyhyve.memory.guest import GuestMemory

_LOG = logging.getLogger(__name__)
_DATA_FEATURES = int(
    Feature.INDIRECT_DESC
    | Feature.EVENT_IDX
    | Feature.VERSION_1
    | Feature.RING_PACKED
    | Feature.RING_RESET
    | NetFeature.MRG_RXBUF
)
"""What only whoever serves the rings can promise."""


class VhostNet(VirtioNet):
    """As `VirtioNet`, with `vhost` in its place on the data queues between DRIVER_OK and the next stop.

    `backend` still owns the tap and its settings. Kicks are event descriptors (`kick_fd`) that an engine can signal by
    itself; interrupts come back on others, which the worker turns into the device's own.
    """

    writes_unseen = True
    """Nobody marks the pages that the back end writes: while somebody wants to know, it has no queues."""

    def __init__(
        self, memory: GuestMemory, worker: IoLoop, backend: NetBackend, options: NetOptions, vhost: VhostBackend
    ) -> None:
        super().__init__(memory, worker, backend, options)
        self.device_features &= ~(_DATA_FEATURES & ~vhost.features)
        self._memory = memory
        self._event_loop = worker
        self._vhost = vhost
        self._data_queues = 2 * backend.queues
        self._kicks = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(self._data_queues)]
        self._calls = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(self._data_queues)]
        self._serving: set[int] = set()

    def kick_fd(self, index: int) -> int | None:
        """What a write to queue `index`'s notification address may signal instead of `kick`."""
        return self._kicks[index] if index < self._data_queues else None

    def call_fd(self, index: int) -> int | None:
        """What is signalled when the back end wants to interrupt for queue `index`."""
        return self._calls[index] if index < len(self._calls) else None

    def calls_routed(self, index: int, *, is_routed: bool) -> None:
        """Leave the calls of queue `index` to the engine, or listen to them here."""
        if is_routed:
            self.worker.call_soon(lambda: self._ignore(index))
        else:
            self.worker.call_soon(lambda: self._listen(index))

    def start(self, loop: IoLoop) -> None:
        """Listen for interrupts."""
        super().start(loop)
        for index in range(self._data_queues):
            self._listen(index)

    def _ignore(self, index: int) -> None:
        if index < len(self._calls):
            self._event_loop.unwatch(self._calls[index])

    def _listen(self, index: int) -> None:
        if index < len(self._calls):
            fd = self._calls[index]
            self._event_loop.watch(fd, READABLE, lambda _events: self._called(index, fd))

    def _called(self, index: int, fd: int) -> None:
        try:
            os.eventfd_read(fd)
        except BlockingIOError:
            return
        interrupts = self._interrupts
        if interrupts is not None and index in self._serving:
            interrupts.queue_interrupt(index)

    def close(self) -> None:
        """Stop and give everything up; idempotent."""
        super().close()
        self._vhost.close()
        for fd in (*self._kicks, *self._calls):
            self._event_loop.unwatch(fd)
            os.close(fd)
        self._kicks, self._calls = [], []

    # -- VirtioDevice -------------------------------------------------------------------------------------------------

    def started(self) -> None:
        """Hand the data queues over."""
        super().started()
        self._hand_over()

    def resumed(self) -> None:
        """Hand them over again, from where they stopped."""
        super().resumed()
        self._hand_over()

    def service(self, index: int, ring: Virtqueue) -> None:
        """Pass a kick on."""
        if index in self._serving:
            os.eventfd_write(self._kicks[index], 1)
        else:
            super().service(index, ring)

    def quiesce(self) -> None:
        """Take the queues back; where they stand does not matter any more."""
        self._take_back()
        super().quiesce()

    def drain(self) -> None:
        """Take the queues back, and go on from where they stand."""
        reached = self._take_back()
        with self.lock:
            for index, base in reached.items():
                ring = self.queues[index].ring
                if ring is not None:
                    ring.load(RingState(available=base, used=base))
        super().drain()

    def _hand_over(self) -> None:
        """With the lock held. A back end that refuses, or may not, leaves the queues to the device model."""
        if self._memory.dirty is not None:
            self.worker.call_soon(self._watch_kicks)
            return
        try:
            self._vhost.prepare(self.driver_features, self._memory.regions)
            for index in range(self._data_queues):
                queue = self.queues[index]
                if queue.ring is None or queue.layout is None:
                    continue
                self._vhost.start(index, self._vring(index, queue.layout, queue.ring.save().available))
                self._serving.add(index)
        except (NetError, GuestAddressError) as error:
            _LOG.warning("virtio net: %s; packets take the slow way", error)
            self._take_back()
            self.worker.call_soon(self._watch_kicks)
            return
        self.worker.call_soon(self._unwatch_kicks)
        for index in self._serving:
            os.eventfd_write(self._kicks[index], 1)

    def _watch_kicks(self) -> None:
        """Serve kicks here; on the worker's thread."""
        for index, fd in enumerate(self._kicks):
            self._event_loop.watch(fd, READABLE, lambda _events, index=index, fd=fd: self._kicked(index, fd))  # type: ignore[misc]

    def _unwatch_kicks(self) -> None:
        for fd in self._kicks:
            self._event_loop.unwatch(fd)

    def _kicked(self, index: int, fd: int) -> None:
        try:
            os.eventfd_read(fd)
        except BlockingIOError:
            return
        self.process(index)

    def _take_back(self) -> dict[int, int]:
        reached = {index: self._vhost.stop(index) for index in sorted(self._serving)}
        self._serving.clear()
        return reached

    def _vring(self, index: int, layout: QueueLayout, base: int) -> Vring:
        size = layout.size
        return Vring(
            size=size,
            descriptors_hva=self._hva(layout.descriptor_gpa, 16 * size),
            available_hva=self._hva(layout.driver_gpa, 6 + 2 * size),
            used_hva=self._hva(layout.device_gpa, 6 + 8 * size),
            base=base,
            kick_fd=self._kicks[index],
            call_fd=self._calls[index],
        )

    def _hva(self, gpa: int, length: int) -> int:
        """Our address of guest memory. Raises GuestAddressError."""
        region = self._memory.find(gpa)
        if region is None or gpa + length > region.gpa + region.size_bytes:
            msg = f"a ring at {gpa:#x}+{length:#x} is not in memory"
            raise GuestAddressError(msg)
        return region.hva + gpa - region.gpa
