"""Virtqueues that the emulator's compiled code serves (`cpu.engine.virtqueue`); see `accel.api.WalkedQueue`."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from typing import TYPE_CHECKING

from pyhyve.accel.emulator_apic import EngineApicVectors
from pyhyve.cpu.engine.queue_layout import IOVEC, QUEUE, Gate
from pyhyve.cpu.engine.state import KICK_QUEUES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyhyve.accel.api import WalkedLayout
    from pyhyve.accel.emulator_sleep import SleepListener
    from pyhyve.accel.routes import MessageRoute
    from pyhyve.cpu.engine.vcpu import EngineVcpu
    from pyhyve.memory.guest import GuestMemory

_MAP_NORESERVE = 0x4000
_POSITION = struct.Struct("<4Q")
_RESULT = struct.Struct("<7Q")
_STANDS = struct.Struct("<3Q")
_GATE, _WANTS, _PATIENT, _QUIET_AT = (QUEUE.offset(name) >> 3 for name in ("gate", "wants", "patient", "quiet_at"))
_POSITION_AT = QUEUE.offset("next_avail")
_PARTS_AT = QUEUE.offset("parts")
_HELD_AT = QUEUE.offset("held")
_KINDS = ("send", "receive", "disk")


class EngineQueue:
    """One queue's structure and the kernels that serve it.

    Hot path: `run` is called for every kick and every batch of packets.
    """

    def __init__(self, engine: EngineVcpu) -> None:
        size = -(-QUEUE.size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self._map = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        self._view = memoryview(self._map)
        self._words = self._view[: QUEUE.offset("parts")].cast("Q")
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._run: dict[str, Callable[[int], None]] = {kind: engine.bind_with(f"queue.{kind}") for kind in _KINDS}
        self._close = engine.bind_with("queue.close")
        self._arrived = engine.bind_two("queue.arrived")
        self._result = ctypes.c_uint64()
        self._expected = 0
        self._listener: SleepListener | None = None
        self._listens_to = -1
        self._help_fd = -1
        self.can_open = False
        """Whether compiled code knows where it is kicked."""
        self.in_use = False

    def begin(self, **fields: int) -> None:
        """Serve the ring that `fields` describe; while closed."""
        self._view[:_PARTS_AT] = bytes(_PARTS_AT)
        self._expected = 0
        self.in_use = True
        self.set(**fields)

    def release(self) -> None:
        """Let another ring have the structure."""
        self.close()
        self.deafen()
        self.in_use = False

    def open(self, next_avail: int, next_used: int, published: int, *, patient: bool) -> None:
        """Let a vCPU that kicks, or sleeps, serve it."""
        if self.can_open:
            if next_avail != self._expected:
                self._forget_prepared()
            self._words[_PATIENT] = patient
            _POSITION.pack_into(self._view, _POSITION_AT, next_avail, next_used, published, 0)
            self._words[_WANTS] = self._words[_QUIET_AT] = 0
            self._words[_GATE] = Gate.OPEN

    def close(self) -> tuple[int, int, int, int] | None:
        """Have it back."""
        words = self._words
        if words[_GATE] == Gate.CLOSED:
            return None
        self._close(self.address)
        wants, words[_WANTS] = words[_WANTS], 0
        next_avail, next_used, published = _STANDS.unpack_from(self._view, _POSITION_AT)
        self._expected = next_avail
        return next_avail, next_used, published, wants

    def set(self, **fields: int) -> None:
        """Write fields."""
        for name, value in fields.items():
            self._words[QUEUE.offset(name) >> 3] = value

    def get(self, name: str) -> int:
        """Read a field."""
        return self._words[QUEUE.offset(name) >> 3]

    def run(
        self, kind: str, next_avail: int, next_used: int, published: int, in_flight: int
    ) -> tuple[int, int, int, int, int, int, int]:
        """Serve the queue."""
        view = self._view
        if next_avail != self._expected:
            self._forget_prepared()
        _POSITION.pack_into(view, _POSITION_AT, next_avail, next_used, published, in_flight)
        self._run[kind](self.address)
        result = _RESULT.unpack_from(view, _POSITION_AT)
        self._expected = result[0]
        return result

    def _forget_prepared(self) -> None:
        """Somebody else took buffers meanwhile: what was prepared is stale."""
        self.set(prepared=0, first=0, room=0, decision=0, undecided=0)

    def listen(self, route: MessageRoute) -> int | None:
        """Have a vCPU take packets while it sleeps."""
        vectors = route.vectors
        if not self.can_open or not isinstance(vectors, EngineApicVectors):
            return None
        if self._help_fd < 0:
            self._help_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        fd = self.get("fd")
        self.set(receives=1, target=vectors.engine_address, vector=route.vector)
        if not vectors.listener.add(fd, self.address, self._help_fd):
            self.set(target=0)
            return None
        self._listener, self._listens_to = vectors.listener, fd
        return self._help_fd

    def interrupt_by_itself(self, route: MessageRoute | None) -> bool:
        """Have vCPUs interrupt the driver of a send queue."""
        vectors = None if route is None else route.vectors
        if route is None or not self.can_open or not isinstance(vectors, EngineApicVectors):
            self.set(target=0)
            return route is None
        self.set(target=vectors.engine_address, vector=route.vector)
        return True

    def deafen(self) -> None:
        """Have no vCPU take packets."""
        if self._listener is not None:
            self._listener.remove(self._listens_to)
            self._listener = None
            self.set(target=0)

    def arrived(self) -> bool:
        """Take packets; for one thread at a time, beside vCPUs."""
        self._arrived(self.address, ctypes.addressof(self._result))
        return bool(self._result.value)

    def end(self) -> None:
        """Close what a vCPU might have used."""
        if self._help_fd >= 0:
            os.close(self._help_fd)
            self._help_fd = -1

    def first_bytes(self, count: int) -> bytes:
        """Start of the packet that waits for a decision."""
        base, length = struct.unpack_from("<2Q", self._view, _PARTS_AT + IOVEC.size_bytes * self.get("first"))
        return ctypes.string_at(base, min(count, length))

    def take_held(self) -> bytes:
        """The packet that waits for buffers."""
        length = self.get("held_bytes")
        self.set(held_bytes=0)
        return bytes(self._view[_HELD_AT : _HELD_AT + length])


class EngineQueues:
    """The queues of one machine. A queue's structure stays: compiled code may look at it at any time."""

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self._by_kick: dict[int, tuple[int, EngineQueue]] = {}
        """Queues whose kicks compiled code knows, with their number there, by the address."""
        self._replaced: list[EngineQueue] = []

    def walk(self, layout: WalkedLayout, vcpus: Sequence[EngineVcpu], tsc_hz: int) -> EngineQueue | None:
        """Serve a ring, whose areas must each be inside one region; else None."""
        hosts = []
        sizes = (16 * layout.size, 6 + 2 * layout.size, 6 + 8 * layout.size)
        for gpa, length in zip((layout.descriptor_gpa, layout.driver_gpa, layout.device_gpa), sizes, strict=True):
            region = self._memory.find(gpa)
            if region is None or gpa + length > region.gpa + region.size_bytes:
                return None
            hosts.append(region.hva + gpa - region.gpa)
        queue = self._place(layout.kick_gpa, vcpus)
        queue.begin(
            table=hosts[0],
            avail=hosts[1],
            used=hosts[2],
            used_gpa=layout.device_gpa,
            size=layout.size,
            ticks_per_us=tsc_hz // 1_000_000,
            event_index=layout.event_index,
            indirect=layout.indirect,
        )
        return queue

    def close(self) -> None:
        """Close descriptors; no vCPU runs any more, and no device uses its queues."""
        for queue in (*self._replaced, *(queue for _, queue in self._by_kick.values())):
            queue.end()

    def _place(self, kick_gpa: int | None, vcpus: Sequence[EngineVcpu]) -> EngineQueue:
        """A structure for a queue that is kicked there."""
        if kick_gpa is None:
            return EngineQueue(vcpus[0])
        number, known = self._by_kick.get(kick_gpa, (len(self._by_kick), None))
        if known is not None and not known.in_use:
            return known
        queue = EngineQueue(vcpus[0])
        if known is not None:
            # Its device is kicked elsewhere now, but may still use it.
            known.close()
            known.can_open = False
            self._replaced.append(known)
        if number < KICK_QUEUES:
            self._by_kick[kick_gpa] = (number, queue)
            queue.can_open = True
            for vcpu in vcpus:
                vcpu.set("kick_queue", queue.address, number)
                vcpu.set("kick_address", kick_gpa, number)
                vcpu.set("kick_count", max(vcpu.get("kick_count"), number + 1))
        return queue
