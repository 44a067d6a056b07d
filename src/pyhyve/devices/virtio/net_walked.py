"""Data queues of a network card that the engine serves in compiled code (`accel.api.WalkedQueue`).

While nobody has the device's lock they go further: a vCPU that kicks a send queue serves it by itself, and one that
sleeps takes the packets of a receive queue whose interrupts are for it.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from typing import TYPE_CHECKING

from pyhyve.accel.api import QueueStatus
from pyhyve.backends.ioloop import READABLE
from pyhyve.backends.net import MAX_FRAME_BYTES, PacketDescriptors
from pyhyve.devices.virtio.device import VirtioDevice
from pyhyve.devices.virtio.gated_lock import GatedLock
from pyhyve.devices.virtio.spec import NET_HEADER_BYTES
from pyhyve.devices.virtio.split import SplitQueue

if TYPE_CHECKING:
    from pyhyve.accel.api import WalkedQueue
    from pyhyve.backends.ioloop import IoLoop
    from pyhyve.backends.net import NetBackend
    from pyhyve.devices.virtio.chain import DescriptorChain
    from pyhyve.devices.virtio.net_control import ReceiveFilter
    from pyhyve.devices.virtio.net_receiver import Receiver
    from pyhyve.devices.virtio.queue import Virtqueue

_RUNS = 64
"""Packets in a row that the filter is asked about."""
_NO_ADDRESS = (1 << 64) - 1
"""More than an Ethernet address has bits."""


def _start_of(walked: WalkedQueue) -> bytes:
    """What the filter needs of the packet that waits for a decision."""
    return walked.first_bytes(NET_HEADER_BYTES + 18)[NET_HEADER_BYTES:]


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
    _loop: IoLoop | None

    def _prepare_walks(self) -> None:
        """Once, when the backend is known."""
        self._descriptors = self._backend if isinstance(self._backend, PacketDescriptors) else None
        self._open: dict[int, tuple[SplitQueue, WalkedQueue]] = {}
        """Queues that vCPUs serve by themselves while nobody has the lock."""
        self._routed: dict[int, WalkedQueue] = {}
        """Send queues among them whose interrupts are sent there too."""
        self._seen: dict[int, tuple[int, int]] = {}
        """How far those had come when the timer last looked, and what they had to tell then."""
        self._helped: dict[int, tuple[WalkedQueue, int]] = {}
        """Receive queues among them, with the descriptor by which vCPUs ask for the worker."""
        gated = GatedLock(self._reclaim, self._hand_out)
        self.lock, self._bare_lock = gated, gated.bare  # type: ignore[assignment]  # it is used like a Lock

    def _forget_walk(self, index: int) -> None:
        """The queue stopped; with the lock held."""
        self._deafen(index)
        self._open.pop(index, None)
        self._routed.pop(index, None)

    @abstractmethod
    def _sent(self, index: int, ring: Virtqueue, before: int, *, wants: bool) -> None:
        """Packets were given back since `published` was `before`; whether the driver `wants` an interrupt for them."""

    @abstractmethod
    def _readable(self, pair: int) -> None:
        """Packets wait; on the loop's thread."""

    def _reclaim(self) -> None:
        """Have the open queues to ourselves; just after the lock was taken."""
        for index in self._open:
            self._close_walk(index)

    def _close_walk(self, index: int) -> None:
        """Have one of them; with the lock held."""
        opened = self._open.get(index)
        position = None if opened is None else opened[1].close()
        if opened is None or position is None:
            return
        ring, walked = opened
        before = ring.published
        *stands, wants = position
        ring.taken_back(*stands)
        if wants and index & 1:
            self._sent(index, ring, before, wants=True)
        elif wants:
            self._signals |= 1 << index
        if not index & 1 and walked.get("undecided"):
            walked.set(undecided=0, decision=int(self.filter.accepts(_start_of(walked))))

    def _hand_out(self) -> None:
        """Let vCPUs serve the open queues again; just before the lock is given up."""
        for index in self._open:
            self._open_walk(index)

    def _open_walk(self, index: int) -> None:
        """One of them; with the lock held."""
        opened = self._open.get(index)
        if opened is None or not self.is_running or not self.link_up or self.is_suspended:
            return
        ring, walked = opened
        if self.queues[index].ring is ring and (index & 1 or self._is_as_told(index)):
            walked.open(*ring.stands, patient=self._timer_runs)

    def _is_as_told(self, index: int) -> bool:
        """Whether the engine may go on with a receive queue as it was told."""
        receiver = self._receivers[index >> 1]
        idle = receiver.reading and not receiver.chains and receiver.held is None
        rule = self.filter
        return idle and self.queues[index].told == (self._wanted_bytes, rule.own if rule.active else None)

    def _let_listen(self, index: int, ring: SplitQueue, walked: WalkedQueue) -> None:
        """Have the vCPU that a receive queue's interrupts are for take its packets, where their way is known."""
        if index in self._helped or self._loop is None:
            return
        route = self.queue_route(index)
        if route is None or not route.while_valid(self.routes_changed):
            return
        help_fd = walked.listen(route)
        if help_fd is None:
            return

        def help_out(_events: int) -> None:
            os.eventfd_read(help_fd)
            self._readable(index >> 1)

        self._helped[index] = (walked, help_fd)
        self._open[index] = (ring, walked)
        self._loop.watch(help_fd, READABLE, help_out)
        # Anew, so that the vCPU has precedence.
        self._backend.set_reading(index >> 1, enabled=False)
        self._backend.set_reading(index >> 1, enabled=True)

    def _deafen(self, index: int) -> None:
        """Undo `_let_listen`; with the lock held, and the queue taken back. Idempotent."""
        helped = self._helped.pop(index, None)
        if helped is not None:
            walked, help_fd = helped
            walked.deafen()
            del self._open[index]
            if self._loop is not None:
                self._loop.unwatch(help_fd)

    def _let_interrupt(self, index: int, walked: WalkedQueue) -> None:
        """Have vCPUs send a send queue's interrupts, where their way is known; with the queue closed."""
        if index not in self._routed:
            route = self.queue_route(index)
            if route is not None and route.while_valid(self.routes_changed) and walked.interrupt_by_itself(route):
                self._routed[index] = walked

    def routes_changed(self) -> None:
        """Interrupts may go elsewhere: the device sends them until their way is known again."""
        with self.lock:
            for index in list(self._helped):
                self._deafen(index)
            for walked in self._routed.values():
                walked.interrupt_by_itself(None)
            self._routed.clear()
        self._deliver()

    def _is_looked_after(self) -> bool:
        """Whether vCPUs still send by themselves, and tell the drivers in time; any thread, without lock."""
        seen = self._seen
        routed = list(self._routed.items())
        self._seen = {index: (walked.get("next_used"), walked.get("quiet_at")) for index, walked in routed}
        late = any(now[1] and now[1] == seen.get(index, now)[1] for index, now in self._seen.items())
        return self._seen != seen and not late

    def _takes_arrivals(self, pair: int) -> bool:
        """Have packets that wait taken without the lock; False when that is for the device."""
        helped = self._helped.get(2 * pair)
        return helped is not None and helped[0].arrived()

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
            self._let_interrupt(index, walked)
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
            walked.set(decision=int(rule.accepts(_start_of(walked))))
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
        if status == QueueStatus.DONE:
            self._let_listen(index, ring, walked)
        return True

    def _stop_reading(self, pair: int) -> None:
        """Leave packets where they are until the driver's next buffer brings a kick."""
        receiver = self._receivers[pair]
        self._deafen(2 * pair)
        if receiver.reading:
            receiver.reading = False
            self._backend.set_reading(pair, enabled=False)
