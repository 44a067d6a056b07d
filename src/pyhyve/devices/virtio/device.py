"""What every virtio device shares: status, feature negotiation, queues, reset and failure (VIRTIO 1.2, 2 and 3).

A transport translates its registers into the calls of `VirtioDevice` and carries interrupts (`InterruptSink`).
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Protocol

from pyhyve.accel.api import WalkedLayout
from pyhyve.devices.virtio.chain import DmaSpace, VirtqueueError
from pyhyve.devices.virtio.packed import PackedQueue
from pyhyve.devices.virtio.queue import QueueLayout, RingFeatures
from pyhyve.devices.virtio.spec import NO_VECTOR, DeviceType, Feature, Status
from pyhyve.devices.virtio.split import SplitQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyhyve.accel.api import QueueWalker, WalkedQueue
    from pyhyve.accel.routes import MessageRoute
    from pyhyve.devices.virtio.queue import Virtqueue
    from pyhyve.memory.guest import GuestMemory

_LOG = logging.getLogger(__name__)
_RING_FEATURES = int(
    Feature.INDIRECT_DESC | Feature.EVENT_IDX | Feature.VERSION_1 | Feature.RING_PACKED | Feature.RING_RESET
)
_TRIAL_ROUNDS = 8
"""Rounds of the worker after which a queue's kicks are judged."""
_KICKS_AT_ONCE = 256
"""Kicks served at once before the worker is tried again."""
_ROUNDS = 8
"""Batches of one queue before the worker looks at others: a busy driver cannot keep it to itself."""


def _nowhere(_index: int) -> None:
    """There is no address of its own for a queue's kicks, and no known way of its interrupts."""


class InterruptSink(Protocol):
    """The transport's way to tell the driver something; any thread, never called with the device's lock held."""

    def queue_interrupt(self, index: int) -> None:
        """Queue `index` has used buffers."""

    def config_interrupt(self) -> None:
        """The configuration or the status changed."""


class Worker(Protocol):
    """Runs queue handlers off the vCPU threads."""

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run `callback` later, in order, on the worker's thread."""


class QueueState:
    """A queue as the transport's registers configure it; `ring` exists while it is enabled."""

    __slots__ = (
        "at_once_left",
        "descriptor_gpa",
        "device_gpa",
        "driver_gpa",
        "index",
        "kicked",
        "layout",
        "max_size",
        "ring",
        "rounds",
        "served",
        "size",
        "told",
        "vector",
        "walked",
        "was_offered",
    )

    def __init__(self, index: int, max_size: int) -> None:
        self.index = index
        self.at_once_left = self.rounds = self.served = 0
        self.max_size = max_size
        self.ring: Virtqueue | None = None
        self.kicked = False
        self.walked: WalkedQueue | None = None
        """The engine's way to serve the ring, once it was asked for one (`was_offered`)."""
        self.clear()

    def clear(self) -> None:
        """Back to the state after reset; the ring is dropped."""
        self.ring = None
        if self.walked is not None:
            self.walked.release()
        self.walked = None
        self.was_offered = False
        self.told: object = None
        """What the device last told the engine of this ring; its own business."""
        self.layout: QueueLayout | None = None
        self.size = self.max_size
        self.descriptor_gpa = self.driver_gpa = self.device_gpa = 0
        self.vector = NO_VECTOR


class DeviceHooks:
    """What a device may care about; by default it does not."""

    def check_features(self, features: int) -> bool:
        """Whether this set of offered features is acceptable together (FEATURES_OK)."""
        return True

    def write_config(self, offset: int, size: int, value: int) -> None:
        """The driver wrote device configuration space; most devices have nothing to write there."""

    def started(self) -> None:
        """The driver set DRIVER_OK; with the lock held."""

    def stopped(self) -> None:
        """The device was reset; with the lock held."""

    def is_blocked(self, index: int) -> bool:
        """Whether a queue cannot go on until its backend says so; with the lock held."""
        return False

    def queue_stopped(self, index: int) -> None:
        """A queue was reset: forget chains taken from it; with the lock held."""

    def serve_waiting(self) -> None:
        """Do what another thread waits for, with the lock held: a change of threads costs more than the work."""

    def quiesce(self) -> None:
        """Return when nothing outside the lock still uses guest memory."""

    def kick_fd(self, index: int) -> int | None:
        """An event descriptor that a kick of queue `index` may signal in place of `kick`; None for most devices."""
        return None

    def call_fd(self, index: int) -> int | None:
        """An event descriptor that is signalled for queue `index`'s interrupts; None for most devices."""
        return None

    def calls_routed(self, index: int, *, is_routed: bool) -> None:
        """Whether somebody else turns signals of `call_fd` into interrupts from now on."""

    def routes_changed(self) -> None:
        """What `queue_route` told may no longer hold; returns when nothing sends interrupts by it. Any thread."""

    def drain(self) -> None:
        """Return when the requests under way are finished; no new one begins meanwhile."""

    def give_back(self) -> None:
        """Return buffers taken ahead to their rings (`Virtqueue.unpop`), latest first; with the lock held."""

    def resumed(self) -> None:
        """The device goes on after `give_back`, or after its state was loaded; with the lock held."""


class VirtioDevice(DeviceHooks, ABC):
    """A device without its transport. `offered` are the features of its type; those of rings are added."""

    device_type: ClassVar[DeviceType]
    serves_kicks_at_once: ClassVar[bool] = False
    """Whether `kick` may handle a queue on the vCPU's own thread: nothing in it waits, and any thread may do it."""

    def __init__(
        self, memory: GuestMemory, worker: Worker, *, offered: int, queue_sizes: Sequence[int], packed: bool = True
    ) -> None:
        """`queue_sizes` are the largest sizes, one per queue; `packed` offers packed rings too."""
        self.dma = DmaSpace(memory)
        self.worker = worker
        self.device_features = offered | (_RING_FEATURES if packed else _RING_FEATURES & ~int(Feature.RING_PACKED))
        self.driver_features = 0
        self.status = 0
        self.is_running = False
        """Between DRIVER_OK and the next reset, failure excepted; not while suspended."""
        self.is_suspended = False
        self._runs_when_resumed = False
        self.config_generation = 0
        self.config_vector = NO_VECTOR
        self.queues = [QueueState(index, size) for index, size in enumerate(queue_sizes)]
        self.lock = self._bare_lock = threading.Lock()
        self._walker: QueueWalker | None = None
        self._wants_packed: bool | None = None
        self.held_back = 0
        """Features that the device can serve, and offers nobody unasked: a saved state may come with them."""
        self.kick_address: Callable[[int], int | None] = _nowhere
        """Guest physical address whose writes kick a queue, where the transport has one."""
        self.queue_route: Callable[[int], MessageRoute | None] = _nowhere
        """The way that a queue's interrupts take, where the transport knows; it may be asked with the lock held."""
        self._is_worker = False
        """Whether it is the worker that has the lock, so that no vCPU waits."""
        self._interrupts: InterruptSink | None = None
        self._signals = 0
        self._config_signal = False

    # -- for transports -----------------------------------------------------------------------------------------------

    def attach(self, interrupts: InterruptSink) -> None:
        """Connect the transport; once, before the machine runs."""
        self._interrupts = interrupts

    def choose_rings(self, *, packed: bool | None = None, event_index: bool = True, indirect: bool = True) -> None:
        """Offer these kinds of rings, as far as the device has them; before a transport carries it.

        With `packed` None they are offered where the device's own code serves the queues.
        """
        offered = {Feature.RING_PACKED: packed is not False, Feature.EVENT_IDX: event_index}
        offered[Feature.INDIRECT_DESC] = indirect
        for feature, is_offered in offered.items():
            if not is_offered:
                self.device_features &= ~int(feature)
        self._wants_packed = packed

    @property
    def offers_packed(self) -> bool:
        """Whether drivers may have packed rings."""
        return bool(self.device_features & Feature.RING_PACKED)

    def use_walker(self, walker: QueueWalker) -> None:
        """Let the engine serve queues by itself; once, before the machine runs.

        It walks split rings only, so packed ones, which are faster for devices that do not, are offered only if chosen;
        the device's own code serves those.
        """
        self._walker = walker
        if not self._wants_packed:
            self.held_back = self.device_features & int(Feature.RING_PACKED)
            self.device_features &= ~int(Feature.RING_PACKED)

    def has_feature(self, bit: int) -> bool:
        """Whether the driver accepted every feature of `bit`."""
        return self.driver_features & bit == bit

    def write_driver_features(self, select: int, value: int) -> None:
        """The driver accepts features `32 * select` and up; ignored once FEATURES_OK or DRIVER_OK is set."""
        if select > 1 or self.status & (Status.FEATURES_OK | Status.DRIVER_OK):
            return
        shift = 32 * select
        self.driver_features = self.driver_features & ~(0xFFFFFFFF << shift) | (value & 0xFFFFFFFF) << shift

    def write_status(self, value: int, *, legacy: bool = False) -> None:
        """The driver wrote the status field: 0 resets, other values may only add bits (2.1.1)."""
        if value == 0:
            self.reset()
            return
        with self.lock:
            new = value & 0xFF & ~int(Status.NEEDS_RESET) | self.status
            added = new & ~self.status
            if added & Status.FEATURES_OK and not self._accepts_features():
                new &= ~int(Status.FEATURES_OK)
            if added & Status.DRIVER_OK and not legacy and not new & Status.FEATURES_OK:
                # 3.1.1: a driver that goes on after its features were refused.
                new &= ~int(Status.DRIVER_OK)
            if legacy and added & Status.DRIVER_OK:
                self.driver_features &= self.device_features
            self.status = int(new)
            started = bool(added & new & Status.DRIVER_OK)
            if started:
                self.is_running = not new & Status.NEEDS_RESET
                self.started()
        if started:
            for queue in self.queues:
                if queue.ring is not None:
                    self.notify(queue.index)
        self._deliver()

    def _accepts_features(self) -> bool:
        features = self.driver_features
        if features & ~self.device_features or not features & Feature.VERSION_1:
            return False
        return self.check_features(features)

    def enable_queue(self, index: int, *, legacy_layout: QueueLayout | None = None) -> None:
        """Map the ring of queue `index` from its registers (or a legacy layout); a bad one fails the device."""
        with self.lock:
            queue = self.queues[index]
            if queue.ring is not None or self.status & Status.NEEDS_RESET:
                return
            layout = legacy_layout or QueueLayout(queue.size, queue.descriptor_gpa, queue.driver_gpa, queue.device_gpa)
            features = RingFeatures(
                packed=self.has_feature(Feature.RING_PACKED) and legacy_layout is None,
                event_index=self.has_feature(Feature.EVENT_IDX),
                indirect=self.has_feature(Feature.INDIRECT_DESC),
            )
            try:
                ring = (PackedQueue if features.packed else SplitQueue)(self.dma, layout, features)
                ring.enable_notify()
                queue.ring, queue.layout = ring, layout
            except VirtqueueError as error:
                self.fail(f"queue {index}: {error}")
        self._deliver()
        if self.is_running:
            self.notify(index)

    def reset_queue(self, index: int) -> None:
        """Stop one queue and forget its buffers (2.6.1)."""
        with self.lock:
            self.queues[index].ring = None
        self.quiesce()
        with self.lock:
            self.queues[index].clear()
            self.queue_stopped(index)

    def reset(self) -> None:
        """Back to the state before the driver's first access; returns when no request is under way."""
        with self.lock:
            self.status = 0
            self.is_running = self._runs_when_resumed = False
        self.quiesce()
        with self.lock:
            for queue in self.queues:
                if queue.ring is not None:
                    queue.ring = None
                    self.queue_stopped(queue.index)
                queue.clear()
            self.driver_features = 0
            self.config_vector = NO_VECTOR
            self._signals = 0
            self._config_signal = False
            self.stopped()

    def suspend(self) -> None:
        """Stand still: finish what is under way and leave guest memory alone until `resume`. vCPUs must stand still.

        Not for the worker's thread: it may wait for it. Idempotent.
        """
        with self.lock:
            if self.is_suspended:
                return
            self.is_suspended = True
        self.drain()
        with self.lock:
            self._runs_when_resumed, self.is_running = self.is_running, False
            self.give_back()
            for queue in self.queues:
                if queue.ring is not None:
                    self.publish(queue.index, queue.ring)
        self._deliver()

    def resume(self) -> None:
        """Go on after `suspend`, or after a state was loaded; idempotent."""
        with self.lock:
            if not self.is_suspended:
                return
            self.is_suspended = False
            self.is_running = self._runs_when_resumed
            if self.is_running:
                self.resumed()
        if self.is_running:
            for queue in self.queues:
                if queue.ring is not None:
                    self.notify(queue.index)
        self._deliver()

    def loaded(self, *, is_running: bool) -> None:
        """The common state was loaded; with the lock held. The device stays suspended.

        An interrupt may have been on its way when the state was saved: each queue gets one more, which does no harm.
        """
        self.is_suspended = True
        self._runs_when_resumed = is_running
        if is_running:
            self._signals = sum(1 << queue.index for queue in self.queues if queue.ring is not None)

    def notify(self, index: int) -> None:
        """The driver kicked queue `index`: have the worker look at it. Any thread."""
        if index < len(self.queues):
            queue = self.queues[index]
            if not queue.kicked:
                queue.kicked = True
                self.worker.call_soon(lambda: self.process(index))

    def kick(self, index: int) -> None:
        """The driver kicked queue `index` through a register, so its vCPU waits: serve it at once where that is cheap.

        Two changes of threads cost many times what one cached request does; a driver that keeps many requests under
        way gains more from a worker that collects them meanwhile. So kicks are served here only while the worker
        found one request at a time; now and then it gets a few to see whether that still holds.
        """
        if index >= len(self.queues):
            return
        queue = self.queues[index]
        if not queue.at_once_left or not self.lock.acquire(blocking=False):
            self.notify(index)
            return
        try:
            queue.at_once_left -= 1
            self._serve(queue)
            self.serve_waiting()
        except VirtqueueError as error:
            self.fail(str(error))
        finally:
            self.lock.release()
        self._deliver()

    def process(self, index: int) -> None:
        """Handle what queue `index` holds, then interrupt if the driver wants it. On the worker's thread."""
        queue = self.queues[index]
        queue.kicked = False
        with self.lock:
            ring = queue.ring
            before = 0 if ring is None else ring.popped
            self._is_worker = True
            self._serve(queue)
            self._is_worker = False
            if ring is not None and self.serves_kicks_at_once:
                self._judge(queue, ring.popped - before)
        self._deliver()

    def _judge(self, queue: QueueState, served: int) -> None:
        """Count a round of the worker; after some, decide who serves the next kicks."""
        queue.rounds += 1
        queue.served += served
        if queue.rounds == _TRIAL_ROUNDS:
            queue.at_once_left = _KICKS_AT_ONCE if queue.served <= _TRIAL_ROUNDS * 3 // 2 else 0
            queue.rounds = queue.served = 0

    def _serve(self, queue: QueueState) -> None:
        """Service a queue that is running; with the lock held."""
        ring = queue.ring
        if ring is None or not self.is_running or self.is_suspended:
            return
        try:
            self.service(queue.index, ring)
        except VirtqueueError as error:
            self.fail(f"queue {queue.index}: {error}")

    def read_config(self, offset: int, size: int) -> int:
        """Device configuration space; all ones past its end."""
        data = self.config_space()[offset : offset + size]
        return int.from_bytes(data.ljust(size, b"\xff"), "little")

    # -- for devices --------------------------------------------------------------------------------------------------

    @abstractmethod
    def config_space(self) -> bytes:
        """Device configuration space as it is now."""

    def service(self, index: int, ring: Virtqueue) -> None:
        """Empty a queue in batches; with the lock held. Queues that wait for data replace this."""
        ring.disable_notify()
        for _ in range(_ROUNDS):
            self.handle_queue(index, ring)
            self.publish(index, ring)
            if self.is_blocked(index) or not ring.enable_notify():
                return
            ring.disable_notify()
        self.notify(index)

    def walked(self, index: int) -> WalkedQueue | None:
        """The engine's way to serve queue `index`, if there is one; with the lock held."""
        queue = self.queues[index]
        if not queue.was_offered and self._walker is not None:
            queue.was_offered = True
            layout = queue.layout
            if layout is not None and isinstance(queue.ring, SplitQueue):
                queue.walked = self._walker.walk_queue(
                    WalkedLayout(
                        size=layout.size,
                        descriptor_gpa=layout.descriptor_gpa,
                        driver_gpa=layout.driver_gpa,
                        device_gpa=layout.device_gpa,
                        event_index=self.has_feature(Feature.EVENT_IDX),
                        indirect=self.has_feature(Feature.INDIRECT_DESC),
                        kick_gpa=self.kick_address(index),
                    )
                )
        return queue.walked

    @abstractmethod
    def handle_queue(self, index: int, ring: Virtqueue) -> None:
        """Pop and push everything there is; with the lock held. VirtqueueError fails the device."""

    def publish(self, index: int, ring: Virtqueue) -> None:
        """Flush `ring` and remember whether the driver wants an interrupt; with the lock held."""
        if ring.flush():
            self._signals |= 1 << index

    def fail(self, reason: str) -> None:
        """Ask the driver for a reset (2.1.2); with the lock held. Queues stay still until then."""
        if self.status & Status.NEEDS_RESET:
            return
        _LOG.warning("virtio %s: %s", self.device_type.name.lower(), reason)
        self.status |= int(Status.NEEDS_RESET)
        self.is_running = False
        self._config_signal = bool(self.status & Status.DRIVER_OK)

    def config_changed(self) -> None:
        """Tell the driver that device configuration space differs; with the lock held."""
        self.config_generation = (self.config_generation + 1) & 0xFF
        self._config_signal = bool(self.status & Status.DRIVER_OK)

    def run_locked(self, action: Callable[[], None]) -> None:
        """Run `action` with the lock held, turn VirtqueueError into failure, then raise interrupts."""
        with self.lock:
            try:
                action()
            except VirtqueueError as error:
                self.fail(str(error))
        self._deliver()

    def _deliver(self) -> None:
        """Raise interrupts remembered while the lock was held."""
        if not self._signals and not self._config_signal:
            return
        with self._bare_lock:
            signals, self._signals = self._signals, 0
            config, self._config_signal = self._config_signal, False
        interrupts = self._interrupts
        if interrupts is None:
            return
        while signals:
            index = (signals & -signals).bit_length() - 1
            signals &= signals - 1
            interrupts.queue_interrupt(index)
        if config:
            interrupts.config_interrupt()
