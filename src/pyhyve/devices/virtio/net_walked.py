"""Data queues of a network card that the engine serves in compiled code (`accel.api.WalkedQueue`).

Send queues go further: while nobody has the device's lock, a vCPU that kicks one serves it by itself.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from pyhyve.accel.api import QueueStatus
from pyhyve.backends.net import MAX_FRAME_BYTES, PacketDescriptors
from pyhyve.devices.virtio.device import VirtioDevice
from pyhyve.devices.virtio.gated_lock import GatedLock
from pyhyve.devices.virtio.spec import NET_HEADER_BYTES
from pyhyve.devices.virtio.split import SplitQueue

if TYPE_CHECKING:
    from pyhyve.accel.api import WalkedQueue
    from pyhyve.backends.net import NetBackend
    from pyhyve.devices.virtio.chain import DescriptorChain
    from pyhyve.devices.virtio.net_control import ReceiveFilter
    from pyhyve.devices.virtio.net_receiver import Receiver
    from pyhyve.devices.virtio.queue import Virtqueue

_RUNS = 64
"""Packets in a row that the filter is asked about."""
_NO_ADDRESS = (1 << 64) - 1
"""More than an Ethernet address has bits."""


class WalkedNet(VirtioDevice):
    """The engine's part of a card; what it needs to know of the rest is declared here."""

    link_up: bool
    filter: ReceiveFilter
    _backend: NetBackend
    _header_bytes: int
    _mergeable: bool
    _wanted_bytes: int
    _stalled: list[DescriptorChain | None]
    _receivers: list[Receiver]
    _timer_runs: bool

    def _prepare_walks(self) -> None:
        """Once, when the backend is known."""
        self._descriptors = self._backend if isinstance(self._backend, PacketDescriptors) else None
        self._open: dict[int, tuple[SplitQueue, WalkedQueue]] = {}
        """Send queues that vCPUs serve by themselves while nobody has the lock."""
        gated = GatedLock(self._reclaim, self._hand_out)
        self.lock, self._bare_lock = gated, gated.bare  # type: ignore[assignment]  # it is used like a Lock

    def _forget_walk(self, index: int) -> None:
        """The queue stopped."""
        self._open.pop(index, None)

    @abstractmethod
    def _sent(self, index: int, ring: Virtqueue, before: int, *, wants: bool) -> None:
        """Packets were given back since `published` was `before`; whether the driver `wants` an interrupt for them."""

    def _reclaim(self) -> None:
        """Have the open queues to ourselves; just after the lock was taken."""
        for index, (ring, walked) in self._open.items():
            position = walked.close()
            if position is not None:
                before = ring.published
                *stands, wants = position
                ring.taken_back(*stands)
                if wants:
                    self._sent(index, ring, before, wants=True)

    def _hand_out(self) -> None:
        """Let vCPUs serve the open queues again; just before the lock is given up."""
        if self._open and self.is_running and self.link_up and not self.is_suspended:
            for index, (ring, walked) in self._open.items():
                if self.queues[index].ring is ring:
                    walked.open(*ring.stands, patient=self._timer_runs)

    def _walked_data(self, index: int, wanted_bytes: int, own: bytes | None = None) -> WalkedQueue | None:
        """The engine's way to serve a data queue, if there is one.

        The longest packet has `wanted_bytes`; `own` is the one address whose packets the filter need not be asked about
        (empty when there is none), or None when everything is received.
        """
        walked = self.walked(index)
        if walked is None or self._descriptors is None or self._header_bytes != NET_HEADER_BYTES or not self.link_up:
            return None
        queue = self.queues[index]
        if queue.told != (wanted_bytes, own):
            queue.told = (wanted_bytes, own)
            walked.set(
                fd=self._descriptors.packet_fd(index >> 1),
                wanted_bytes=wanted_bytes,
                filtered=own is not None,
                own_address=int.from_bytes(own, "little") if own else _NO_ADDRESS,
            )
        return walked

    def _walk_sent(self, index: int, ring: Virtqueue) -> bool:
        """Have the engine send what a queue holds; False when something is left for us."""
        walked = self._walked_data(index, self._header_bytes + MAX_FRAME_BYTES)
        if walked is None or not isinstance(ring, SplitQueue) or self._stalled[index >> 1] is not None:
            return False
        before = ring.published
        status, wants = ring.walk(walked, "send")
        self._sent(index, ring, before, wants=bool(wants))
        if status == QueueStatus.BUDGET:
            self.notify(index)
        elif status == QueueStatus.DONE:
            self._open[index] = (ring, walked)
        return status != QueueStatus.UNUSUAL

    def _walk_received(self, pair: int, ring: Virtqueue, receiver: Receiver) -> bool:
        """Have the engine move packets into the driver's buffers; False when it cannot."""
        if receiver.chains or receiver.held is not None or not self._mergeable or not isinstance(ring, SplitQueue):
            return False
        index = 2 * pair
        rule = self.filter
        walked = self._walked_data(index, self._wanted_bytes, rule.own if rule.active else None)
        if walked is None:
            return False
        status = int(QueueStatus.FILTER)
        for _ in range(_RUNS):
            status, wants = ring.walk(walked, "receive")
            if wants:
                self._signals |= 1 << index
            if status != QueueStatus.FILTER:
                break
            start = walked.first_bytes(NET_HEADER_BYTES + 18)[NET_HEADER_BYTES:]
            walked.set(decision=int(rule.accepts(start)))
        if status == QueueStatus.UNUSUAL:
            receiver.held = walked.take_held() or None
            return False
        if status == QueueStatus.NO_BUFFERS:
            self._stop_reading(pair)
            return True
        if status != QueueStatus.DONE:
            # There may be more that no event will tell of: let others go first.
            self.notify(index)
        if not receiver.reading:
            receiver.reading = True
            self._backend.set_reading(pair, enabled=True)
        return True

    def _stop_reading(self, pair: int) -> None:
        """Leave packets where they are until the driver's next buffer brings a kick."""
        receiver = self._receivers[pair]
        if receiver.reading:
            receiver.reading = False
            self._backend.set_reading(pair, enabled=False)
