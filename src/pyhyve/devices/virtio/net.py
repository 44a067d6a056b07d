"""The virtio network device (VIRTIO 1.2, 5.1).

Packets go between the backend and guest buffers as views: with mergeable receive buffers, one packet is read straight
into as many chains as it needs. Hot path: `_receive` and `handle_queue`.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import pack
from typing import TYPE_CHECKING, Annotated, ClassVar

from pyhyve.backends.net import MAX_FRAME_BYTES, NetBackend, Offload
from pyhyve.devices.virtio.chain import VirtqueueError
from pyhyve.devices.virtio.net_control import ReceiveFilter, ReceiveFilterState, run_command
from pyhyve.devices.virtio.net_receiver import Receiver, spread, store
from pyhyve.devices.virtio.net_walked import WalkedNet
from pyhyve.devices.virtio.spec import (
    NET_HEADER_BYTES,
    NET_LEGACY_HEADER_BYTES,
    NET_STATUS_ANNOUNCE,
    NET_STATUS_LINK_UP,
    DeviceType,
    Feature,
    NetFeature,
)
from pyhyve.state.errors import StateError
from pyhyve.state.record import U16, U64, Size, record

if TYPE_CHECKING:
    from pyhyve.backends.ioloop import IoLoop
    from pyhyve.devices.virtio.chain import DescriptorChain
    from pyhyve.devices.virtio.device import Worker
    from pyhyve.devices.virtio.queue import Virtqueue
    from pyhyve.memory.guest import GuestMemory

_GUEST_OFFLOADS = (
    (NetFeature.GUEST_CSUM, Offload.CSUM),
    (NetFeature.GUEST_TSO4, Offload.TSO4),
    (NetFeature.GUEST_TSO6, Offload.TSO6),
    (NetFeature.GUEST_ECN, Offload.ECN),
    (NetFeature.GUEST_UFO, Offload.UFO),
)
_HOST_OFFLOADS = (
    (NetFeature.CSUM, Offload.CSUM),
    (NetFeature.HOST_TSO4, Offload.TSO4),
    (NetFeature.HOST_TSO6, Offload.TSO6),
    (NetFeature.HOST_ECN, Offload.ECN),
    (NetFeature.HOST_UFO, Offload.UFO),
)
GUEST_OFFLOAD_BITS = sum(int(bit) for bit, _ in _GUEST_OFFLOADS)
_LARGE_PACKET_BITS = int(NetFeature.GUEST_TSO4 | NetFeature.GUEST_TSO6 | NetFeature.GUEST_UFO)
_RECEIVE_BUDGET = 64
_ONE_BUFFER = (1).to_bytes(2, "little")
_QUIET_S = 0.0005
"""Shortest time, and half of the longest, until a driver hears of sent packets that it does not look for by itself."""
_REST_S = 0.02
"""As long, at most, where vCPUs tell the driver by themselves, should one do nothing else for so long."""
_MAX_VIEWS = 1000
"""Most parts of a packet: under UIO_MAXIOV, with room for a prefix."""


@dataclass(frozen=True, slots=True)
class NetOptions:
    """How the card presents itself. `mac` is 6 bytes; `mtu` 0 says nothing about it."""

    mac: bytes
    mtu: int = 0
    queue_size: int = 256


@record
class VirtioNetState:
    """What a card keeps beside its queues. A packet on its way into the guest is lost, as on a wire."""

    mac: Annotated[bytes, Size(6)]
    link_up: bool
    announce: bool
    active_pairs: U16
    guest_offloads: U64
    filter: ReceiveFilterState


class _Quiet:
    """Sent packets that the driver has not been told of: since which position of its ring, and whether for a while."""

    __slots__ = ("is_old", "since")

    def __init__(self, since: int) -> None:
        self.since = since
        self.is_old = False


class VirtioNet(WalkedNet):
    """A network card. Owns the backend: `close` closes it."""

    device_type: ClassVar[DeviceType] = DeviceType.NET
    state_type: ClassVar = VirtioNetState
    state_version: ClassVar = 1
    serves_kicks_at_once: ClassVar[bool] = True

    def __init__(self, memory: GuestMemory, worker: Worker, backend: NetBackend, options: NetOptions) -> None:
        offered = (
            NetFeature.MAC
            | NetFeature.STATUS
            | NetFeature.MRG_RXBUF
            | NetFeature.CTRL_VQ
            | NetFeature.CTRL_RX
            | NetFeature.CTRL_RX_EXTRA
            | NetFeature.CTRL_VLAN
            | NetFeature.CTRL_MAC_ADDR
            | NetFeature.GUEST_ANNOUNCE
            | NetFeature.SPEED_DUPLEX
        )
        if options.mtu:
            offered |= NetFeature.MTU
        pairs = backend.queues
        if pairs > 1:
            offered |= NetFeature.MQ
        for bits in (_GUEST_OFFLOADS, _HOST_OFFLOADS):
            for bit, offload in bits:
                if offload in backend.offloads:
                    offered |= bit
        if backend.offloads:
            offered |= NetFeature.CTRL_GUEST_OFFLOADS
        super().__init__(memory, worker, offered=int(offered), queue_sizes=[options.queue_size] * (2 * pairs) + [64])
        self._options = options
        self._backend = backend
        self._pairs = pairs
        self.active_pairs = 1
        self.link_up = True
        self._announce = False
        self._receivers = [Receiver() for _ in range(pairs)]
        self._stalled: list[DescriptorChain | None] = [None] * pairs
        self._scratch = memoryview(bytearray(NET_HEADER_BYTES + MAX_FRAME_BYTES))
        self._mergeable = False
        self._header_bytes = NET_HEADER_BYTES
        self._wanted_bytes = 0
        self._guest_offloads = 0
        self.filter = ReceiveFilter(options.mac)
        self._loop: IoLoop | None = None
        self._arrived: int | None = None
        """Pair whose packets wait for whoever has the lock."""
        self._quiet: dict[int, _Quiet] = {}
        """Send queues whose driver was not yet told of used buffers."""
        self._timer_runs = False
        self._prepare_walks()

    def start(self, loop: IoLoop) -> None:
        """Begin to take packets; `loop` is the device's worker."""
        self._loop = loop
        self._backend.start(loop, self._readable, self._writable)

    def close(self) -> None:
        """Reset and close the backend; idempotent."""
        self.reset()
        self._backend.close()

    def save(self) -> VirtioNetState:
        """Link, address, filter and offloads."""
        with self.lock:
            return VirtioNetState(
                mac=self.filter.mac,
                link_up=self.link_up,
                announce=self._announce,
                active_pairs=self.active_pairs,
                guest_offloads=self._guest_offloads,
                filter=self.filter.save(),
            )

    def load(self, state: VirtioNetState) -> None:
        """Take over link, address, filter and offloads; raises StateError when there are fewer queues."""
        if not 1 <= state.active_pairs <= self._pairs:
            msg = f"virtio net: the guest uses {state.active_pairs} pairs of queues, this card has {self._pairs}"
            raise StateError(msg)
        with self.lock:
            self.link_up, self._announce = state.link_up, state.announce
            self.active_pairs = state.active_pairs
            self._guest_offloads = state.guest_offloads & GUEST_OFFLOAD_BITS
            self.filter = ReceiveFilter(state.mac)
            self.filter.load(state.filter)

    def give_back(self) -> None:
        """Buffers that wait for packets, and a packet that the backend did not take."""
        for pair, receiver in enumerate(self._receivers):
            ring = self.queues[2 * pair].ring
            self._deafen(2 * pair)
            if receiver.reading:
                # At once: a call that waits for the worker could undo what `resume` begins.
                self._backend.set_reading(pair, enabled=False)
            if ring is not None:
                for chain in reversed(receiver.chains):
                    ring.unpop(chain)
            held = receiver.held
            receiver.clear()
            walked = self.queues[2 * pair].walked
            receiver.held = held or None if walked is None else walked.take_held() or held
            stalled, self._stalled[pair] = self._stalled[pair], None
            ring = self.queues[2 * pair + 1].ring
            if stalled is not None and ring is not None:
                ring.unpop(stalled)

        for index in self._quiet:
            self._signals |= 1 << index
        self._quiet.clear()

    def resumed(self) -> None:
        """Tell the backend what was negotiated."""
        self._negotiated()
        self.apply_guest_offloads(self._guest_offloads)
        self._backend.set_active_queues(self.active_pairs)

    def set_link(self, *, up: bool) -> None:
        """Plug the cable in, or pull it."""

        def change() -> None:
            if self.link_up != up:
                self.link_up = up
                self.config_changed()

        self.run_locked(change)

    def announce(self) -> None:
        """Have the guest announce itself to its network (5.1.6.5.4), as after a migration."""

        def change() -> None:
            if self.has_feature(NetFeature.GUEST_ANNOUNCE):
                self._announce = True
                self.config_changed()

        self.run_locked(change)

    # -- VirtioDevice -------------------------------------------------------------------------------------------------

    def config_space(self) -> bytes:
        """`struct virtio_net_config` (5.1.4). Speed is 10 Gb/s, full duplex."""
        status = (NET_STATUS_LINK_UP if self.link_up else 0) | (NET_STATUS_ANNOUNCE if self._announce else 0)
        return self.filter.mac + pack("<HHHIB", status, self._pairs, self._options.mtu, 10000, 1)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """A legacy driver sets the MAC address here."""
        if offset + size <= 6 and not self.has_feature(Feature.VERSION_1):
            mac = bytearray(self.filter.mac)
            mac[offset : offset + size] = value.to_bytes(size, "little")
            self.filter.mac = bytes(mac)

    def check_features(self, features: int) -> bool:
        """Bits that need others (5.1.3.1)."""
        needs = (
            (NetFeature.GUEST_TSO4, NetFeature.GUEST_CSUM),
            (NetFeature.GUEST_TSO6, NetFeature.GUEST_CSUM),
            (NetFeature.GUEST_UFO, NetFeature.GUEST_CSUM),
            (NetFeature.HOST_TSO4, NetFeature.CSUM),
            (NetFeature.HOST_TSO6, NetFeature.CSUM),
            (NetFeature.HOST_UFO, NetFeature.CSUM),
            (NetFeature.CTRL_RX, NetFeature.CTRL_VQ),
            (NetFeature.CTRL_VLAN, NetFeature.CTRL_VQ),
            (NetFeature.GUEST_ANNOUNCE, NetFeature.CTRL_VQ),
            (NetFeature.MQ, NetFeature.CTRL_VQ),
            (NetFeature.CTRL_MAC_ADDR, NetFeature.CTRL_VQ),
        )
        return all(features & need for bit, need in needs if features & bit)

    def started(self) -> None:
        """Apply the negotiated features to the backend; reading begins when buffers are there."""
        self._negotiated()
        self.apply_guest_offloads(self.driver_features)
        self._backend.set_active_queues(1)
        for index in range(0, 2 * self._pairs, 2):
            self.notify(index)

    def _negotiated(self) -> None:
        modern = self.has_feature(Feature.VERSION_1)
        self._mergeable = self.has_feature(NetFeature.MRG_RXBUF)
        self._header_bytes = NET_HEADER_BYTES if modern or self._mergeable else NET_LEGACY_HEADER_BYTES
        self._backend.set_header_bytes(self._header_bytes)

    def apply_guest_offloads(self, bits: int) -> None:
        """What packets may leave to the guest, as feature bits; with the lock held."""
        self._guest_offloads = bits & GUEST_OFFLOAD_BITS
        offloads = Offload.NONE
        for bit, offload in _GUEST_OFFLOADS:
            if bits & bit:
                offloads |= offload
        self._backend.set_offloads(offloads)
        large = self._mergeable or bits & _LARGE_PACKET_BITS
        self._wanted_bytes = self._header_bytes + (MAX_FRAME_BYTES if large else max(self._options.mtu, 1500) + 18)

    def stopped(self) -> None:
        """Reset: one pair, the original address, everything received."""
        self.active_pairs = 1
        self._announce = False
        self.filter = ReceiveFilter(self._options.mac)

    def queue_stopped(self, index: int) -> None:
        """Forget the buffers taken from a queue."""
        pair = index >> 1
        self._forget_walk(index)
        if pair < self._pairs:
            if index & 1:
                self._stalled[pair] = None
                self._quiet.pop(index, None)
            else:
                receiver = self._receivers[pair]
                if receiver.reading:
                    # At once: a call that waits for the worker could undo what the next driver's first kick begins.
                    self._backend.set_reading(pair, enabled=False)
                receiver.clear()

    def is_blocked(self, index: int) -> bool:
        """A send queue whose backend takes no more packets."""
        return index < 2 * self._pairs and self._stalled[index >> 1] is not None

    def service(self, index: int, ring: Virtqueue) -> None:
        """Receive queues hold their buffers until packets come."""
        if index < 2 * self._pairs and not index & 1:
            self._receive(index >> 1)
        elif index == 2 * self._pairs or not self._walk_sent(index, ring):
            super().service(index, ring)

    def handle_queue(self, index: int, ring: Virtqueue) -> None:
        """Send packets, or run control commands."""
        if index == 2 * self._pairs:
            while (chain := ring.pop()) is not None:
                written = run_command(self, chain)
                if written:
                    self.dma.mark_written(chain.writable_ranges[0][0], written)
                ring.push(chain, written)
            return
        pair = index >> 1
        send = self._backend.send
        header_bytes = self._header_bytes
        chain = self._stalled[pair]
        if chain is None:
            chain = ring.pop()
        self._stalled[pair] = None
        while chain is not None:
            length = chain.readable_bytes
            if (
                header_bytes < length <= header_bytes + MAX_FRAME_BYTES
                and len(chain.readable) <= _MAX_VIEWS
                and self.link_up
                and not send(pair, chain.readable, length)
            ):
                self._stalled[pair] = chain
                return
            ring.push(chain, 0)
            chain = ring.pop()

    def publish(self, index: int, ring: Virtqueue) -> None:
        """Tell the driver of used buffers; of sent packets only when it may wait for that.

        A driver frees what was sent when it sends more, and (Linux's) when packets arrive: most interrupts for sent
        packets would come just before such a moment. So they are held back while the ring has room.
        """
        if not index & 1 or index >= 2 * self._pairs or self._loop is None:
            super().publish(index, ring)
            return
        before = ring.published
        self._sent(index, ring, before, wants=ring.flush())

    def _sent(self, index: int, ring: Virtqueue, before: int, *, wants: bool) -> None:
        """Packets were given back since `published` was `before`; whether the driver `wants` an interrupt for them."""
        loop = self._loop
        quiet = self._quiet.get(index)
        if quiet is not None and not ring.wants_interrupt(quiet.since):
            quiet = None
            del self._quiet[index]
        if quiet is None:
            if not wants:
                return
            quiet = self._quiet[index] = _Quiet(before)
        if loop is None or ring.published_since(quiet.since) > ring.size >> 2:
            del self._quiet[index]
            self._signals |= 1 << index
        elif not self._timer_runs:
            self._timer_runs = True
            loop.call_later(_QUIET_S, self._look_for_quiet)

    def _look_for_quiet(self) -> None:
        """Tell of sent packets that were there at the last look already; on the loop's thread."""
        loop = self._loop
        if loop is not None and not self._quiet and self._is_looked_after():
            # The timer only runs on so that no vCPU need start it again.
            loop.call_later(_REST_S, self._look_for_quiet)
            return

        def look() -> None:
            self._timer_runs = False
            for index, quiet in list(self._quiet.items()):
                ring = self.queues[index].ring
                if ring is None or not ring.wants_interrupt(quiet.since):
                    del self._quiet[index]
                elif quiet.is_old:
                    del self._quiet[index]
                    self._signals |= 1 << index
                else:
                    quiet.is_old = True
            if loop is not None and (self._quiet or self._is_looked_after()):
                self._timer_runs = True
                loop.call_later(_QUIET_S if self._quiet else _REST_S, self._look_for_quiet)

        self.run_locked(look)

    # -- control commands (see net_control) ---------------------------------------------------------------------------

    def set_pairs(self, count: int) -> bool:
        """Use `count` pairs of queues; False when there are not as many."""
        if not 1 <= count <= self._pairs or not self.has_feature(NetFeature.MQ):
            return False
        self.active_pairs = count
        self._backend.set_active_queues(count)
        return True

    def acknowledge_announce(self) -> None:
        """The guest announced itself."""
        self._announce = False

    # -- packets from the backend -------------------------------------------------------------------------------------

    def _readable(self, pair: int) -> None:
        """Packets wait; on the loop's thread."""
        if self._takes_arrivals(pair):
            return
        # A kick that has the lock may be faster: then its vCPU hears of the packets at once.
        self._arrived = pair
        with self._bare_lock:
            self._close_walk(2 * pair)
            try:
                self.serve_waiting()
                failed = ""
            except VirtqueueError as error:
                failed = str(error)
            self._open_walk(2 * pair)
        if failed:
            self.run_locked(lambda: self.fail(failed))
        self._deliver()

    def serve_waiting(self) -> None:
        """Take packets that wait, unless somebody has done so meanwhile; with the lock held."""
        pair, self._arrived = self._arrived, None
        if pair is not None:
            self._receive(pair)

    def _writable(self, pair: int) -> None:
        """A stalled backend takes packets again."""
        self.notify(2 * pair + 1)

    def _refill(self, receiver: Receiver, ring: Virtqueue, wanted: int) -> None:
        """Take buffers until a longest packet fits (mergeable), or one."""
        if not self._mergeable and receiver.chains:
            return
        limit = _MAX_VIEWS - len(receiver.views) if self._mergeable else 1
        found = ring.pop_room(wanted - receiver.capacity, limit)
        views = [view for chain in found for view in chain.writable]
        if len(receiver.views) + len(views) <= _MAX_VIEWS and all(
            chain.writable_bytes > self._header_bytes for chain in found
        ):
            receiver.chains += found
            receiver.views += views
            receiver.capacity += sum(chain.writable_bytes for chain in found)
            return
        for index, chain in enumerate(found):
            if len(receiver.views) >= _MAX_VIEWS:
                # Buffers of many small parts.
                for later in reversed(found[index:]):
                    ring.unpop(later)
                return
            if chain.writable_bytes <= self._header_bytes:
                # No packet fits: hand it back empty.
                ring.push(chain, 0)
                continue
            receiver.chains.append(chain)
            receiver.views += chain.writable
            receiver.capacity += chain.writable_bytes

    def _receive(self, pair: int) -> None:
        """Move packets into receive buffers until one side runs out; with the lock held."""
        ring = self.queues[2 * pair].ring
        if ring is None or not self.is_running:
            self._stop_reading(pair)  # or the loop would call again and again
            return
        receiver = self._receivers[pair]
        if self._walk_received(pair, ring, receiver):
            return
        backend = self._backend
        wanted = self._wanted_bytes
        ring.disable_notify()
        for _ in range(_RECEIVE_BUDGET):
            if receiver.capacity < wanted:
                self._refill(receiver, ring, wanted)
            if receiver.capacity >= wanted and receiver.held is None:
                length = backend.receive(pair, receiver.views[:_MAX_VIEWS])
                if not length:
                    break
                self._consume(ring, receiver, length)
                continue
            if receiver.held is None and receiver.chains:
                # A long packet might not fit: take it aside.
                length = backend.receive(pair, [self._scratch])
                if not length:
                    break
                receiver.held = bytes(self._scratch[:length])
            if receiver.held is None or not self._place_held(ring, receiver):
                self.publish(2 * pair, ring)
                if not ring.enable_notify():
                    self._stop_reading(pair)
                    return
                ring.disable_notify()
        else:
            # There may be more that no event will tell of: let others go first.
            self.notify(2 * pair)
        self.publish(2 * pair, ring)
        if not receiver.reading:
            receiver.reading = True
            backend.set_reading(pair, enabled=True)

    def _place_held(self, ring: Virtqueue, receiver: Receiver) -> bool:
        """Deliver the packet that was taken aside, or drop it if it can never fit; False to wait for more buffers."""
        held = receiver.held or b""
        if len(held) > receiver.capacity:
            if self._mergeable and ring.in_flight < ring.size and len(receiver.views) < _MAX_VIEWS:
                return False
        else:
            spread(memoryview(held), receiver.views)
            self._consume(ring, receiver, len(held))
        receiver.held = None
        return True

    def _note_dropped(self, receiver: Receiver, length: int) -> None:
        """A packet of `length` bytes is in buffers that the driver does not get."""
        done = 0
        for gpa, size in (part for chain in receiver.chains for part in chain.writable_ranges):
            if done >= length:
                break
            self.dma.mark_dirty(gpa, size)
            done += size

    def _consume(self, ring: Virtqueue, receiver: Receiver, length: int) -> None:
        """Give back the buffers that hold a packet of `length` bytes, unless the filter does not want it."""
        header_bytes = self._header_bytes
        first = receiver.views[0]
        if self.filter.active and (len(first) < 24 or first[header_bytes : header_bytes + 6] != self.filter.own):
            head = bytes(first[header_bytes : header_bytes + 18])
            if len(head) < 18:
                head = b"".join(bytes(view[:64]) for view in receiver.views[:32])[header_bytes : header_bytes + 18]
            if not self.filter.accepts(head):
                self._note_dropped(receiver, length)
                return
        if not self.link_up:
            self._note_dropped(receiver, length)
            return
        mark_written = self.dma.mark_written
        chain = receiver.chains[0]
        if length <= len(first) and len(chain.writable) == 1 and header_bytes == NET_HEADER_BYTES:
            # One buffer of one part: by far the most packets.
            first[10:12] = _ONE_BUFFER
            del receiver.chains[0]
            del receiver.views[0]
            receiver.capacity -= len(first)
            mark_written(chain.writable_ranges[0][0], length)
            ring.push(chain, length)
            return
        count = parts = room = 0
        for chain in receiver.chains:
            room += chain.writable_bytes
            parts += len(chain.writable)
            count += 1
            if room >= length:
                break
        used = receiver.chains[:count]
        if header_bytes == NET_HEADER_BYTES:
            if len(first) >= NET_HEADER_BYTES:
                first[10:12] = count.to_bytes(2, "little")
            else:
                store(receiver.views, 10, count.to_bytes(2, "little"))
        del receiver.chains[:count]
        del receiver.views[:parts]
        receiver.capacity -= room
        ring.push_filled(used, length)
        start = end = -1
        for chain in used:
            for gpa, part in chain.writable_ranges:
                if gpa != end:
                    # Drivers cut many buffers out of one run of pages: tell of it once.
                    if end > start:
                        mark_written(start, end - start)
                    start = gpa
                end = gpa + part
        mark_written(start, end - start)
