"""The state that every virtio device has: what was negotiated and where each queue stands (VIRTIO 1.2, 2).

A device is saved while it is suspended (`VirtioDevice.suspend`): no request is under way, and buffers taken ahead are
back in their rings. So positions are all that a ring needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pyhyve.devices.virtio.chain import VirtqueueError
from pyhyve.devices.virtio.packed import PackedQueue
from pyhyve.devices.virtio.queue import QueueLayout, RingFeatures, RingState
from pyhyve.devices.virtio.spec import Feature, Status
from pyhyve.devices.virtio.split import SplitQueue
from pyhyve.state.errors import StateError
from pyhyve.state.record import U8, U16, U32, U64, record

if TYPE_CHECKING:
    from pyhyve.devices.virtio.device import QueueState, VirtioDevice
    from pyhyve.devices.virtio.queue import Virtqueue


@record
class EnabledRingState:
    """A ring that is in use: where its parts are and how far the device has come."""

    size: U32
    descriptor_gpa: U64
    driver_gpa: U64
    device_gpa: U64
    legacy: bool
    position: RingState


@record
class VirtioQueueState:
    """The registers of one queue, and its ring while it is enabled."""

    size: U16
    descriptor_gpa: U64
    driver_gpa: U64
    device_gpa: U64
    vector: U16
    ring: EnabledRingState | None


@record
class VirtioState:
    """What was negotiated, and the queues."""

    device_type: U32
    driver_features: U64
    status: U8
    config_generation: U8
    config_vector: U16
    queues: tuple[VirtioQueueState, ...]


class VirtioSaver:
    """`Saveable` of the common part of a virtio device."""

    state_type: ClassVar = VirtioState
    state_version: ClassVar = 1

    def __init__(self, device: VirtioDevice) -> None:
        self._device = device

    def save(self) -> VirtioState:
        """Negotiated features and queues; raises StateError when a request is under way."""
        device = self._device
        with device.lock:
            return VirtioState(
                device_type=int(device.device_type),
                driver_features=device.driver_features,
                status=int(device.status),
                config_generation=device.config_generation,
                config_vector=device.config_vector,
                queues=tuple(self._save_queue(queue) for queue in device.queues),
            )

    def _save_queue(self, queue: QueueState) -> VirtioQueueState:
        ring = None
        if queue.ring is not None and queue.layout is not None:
            if queue.ring.in_flight:
                msg = f"virtio {self._device.device_type.name.lower()}: requests wait in queue {queue.index}"
                raise StateError(msg)
            layout = queue.layout
            ring = EnabledRingState(
                size=layout.size,
                descriptor_gpa=layout.descriptor_gpa,
                driver_gpa=layout.driver_gpa,
                device_gpa=layout.device_gpa,
                legacy=layout.legacy,
                position=queue.ring.save(),
            )
        return VirtioQueueState(
            size=queue.size,
            descriptor_gpa=queue.descriptor_gpa,
            driver_gpa=queue.driver_gpa,
            device_gpa=queue.device_gpa,
            vector=queue.vector,
            ring=ring,
        )

    def load(self, state: VirtioState) -> None:
        """Take over queues and features of a suspended device; raises StateError when it offers less than was used."""
        device = self._device
        name = f"virtio {device.device_type.name.lower()}"
        if state.device_type != device.device_type or len(state.queues) != len(device.queues):
            msg = f"{name}: the state is of a device of type {state.device_type} with {len(state.queues)} queues"
            raise StateError(msg)
        missing = state.driver_features & ~(device.device_features | device.held_back)
        if state.status & Status.FEATURES_OK and missing:
            bits = ", ".join(str(bit) for bit in range(64) if missing >> bit & 1)
            msg = f"{name}: the guest uses features that this host does not offer (bits {bits})"
            raise StateError(msg)
        device.reset()
        with device.lock:
            device.driver_features = state.driver_features
            device.status = state.status
            device.config_generation = state.config_generation
            device.config_vector = state.config_vector
            for queue, saved in zip(device.queues, state.queues, strict=True):
                self._load_queue(queue, saved)
            device.loaded(is_running=bool(state.status & Status.DRIVER_OK and not state.status & Status.NEEDS_RESET))

    def _load_queue(self, queue: QueueState, saved: VirtioQueueState) -> None:
        device = self._device
        queue.size = saved.size
        queue.descriptor_gpa, queue.driver_gpa = saved.descriptor_gpa, saved.driver_gpa
        queue.device_gpa, queue.vector = saved.device_gpa, saved.vector
        if saved.ring is None:
            return
        ring = saved.ring
        layout = QueueLayout(ring.size, ring.descriptor_gpa, ring.driver_gpa, ring.device_gpa, legacy=ring.legacy)
        features = RingFeatures(
            packed=device.has_feature(Feature.RING_PACKED) and not layout.legacy,
            event_index=device.has_feature(Feature.EVENT_IDX),
            indirect=device.has_feature(Feature.INDIRECT_DESC),
        )
        try:
            if layout.size > queue.max_size:
                msg = f"a ring of {layout.size} entries"
                raise VirtqueueError(msg)
            made: Virtqueue = (PackedQueue if features.packed else SplitQueue)(device.dma, layout, features)
            made.load(ring.position)
        except VirtqueueError as error:
            msg = f"virtio {device.device_type.name.lower()}: queue {queue.index}: {error}"
            raise StateError(msg) from error
        queue.ring, queue.layout = made, layout
