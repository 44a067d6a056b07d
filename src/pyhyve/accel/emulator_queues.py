"""Virtqueues that the emulator's compiled code serves (`cpu.engine.virtqueue`); see `accel.api.WalkedQueue`."""

from __future__ import annotations

import ctypes
import mmap
import struct
from typing import TYPE_CHECKING

from pyhyve.cpu.engine.queue_layout import IOVEC, QUEUE

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.cpu.engine.vcpu import EngineVcpu
    from pyhyve.memory.guest import GuestMemory

_MAP_NORESERVE = 0x4000
_POSITION = struct.Struct("<4Q")
_RESULT = struct.Struct("<7Q")
_POSITION_AT = QUEUE.offset("next_avail")
_PARTS_AT = QUEUE.offset("parts")
_HELD_AT = QUEUE.offset("held")
_KINDS = ("send", "receive", "disk")


class EngineQueue:
    """One queue's structure and the kernels that serve it.

    Hot path: `run` is called for every kick and every batch of packets.
    """

    def __init__(self, engine: EngineVcpu, **fields: int) -> None:
        """Serve the ring that `fields` describe."""
        size = -(-QUEUE.size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self._map = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        self._view = memoryview(self._map)
        self._words = self._view[: QUEUE.offset("parts")].cast("Q")
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._run: dict[str, Callable[[int], None]] = {kind: engine.bind_with(f"queue.{kind}") for kind in _KINDS}
        self._expected = 0
        self.set(**fields)

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
            # Somebody else took buffers meanwhile: what was prepared is stale.
            self.set(prepared=0, first=0, room=0)
        _POSITION.pack_into(view, _POSITION_AT, next_avail, next_used, published, in_flight)
        self._run[kind](self._address)
        result = _RESULT.unpack_from(view, _POSITION_AT)
        self._expected = result[0]
        return result

    def first_bytes(self, count: int) -> bytes:
        """Start of the packet that waits for a decision."""
        base, length = struct.unpack_from("<2Q", self._view, _PARTS_AT + IOVEC.size_bytes * self.get("first"))
        return ctypes.string_at(base, min(count, length))

    def take_held(self) -> bytes:
        """The packet that waits for buffers."""
        length = self.get("held_bytes")
        self.set(held_bytes=0)
        return bytes(self._view[_HELD_AT : _HELD_AT + length])


def walk_queue(
    engine: EngineVcpu,
    tsc_hz: int,
    memory: GuestMemory,
    size: int,
    addresses: tuple[int, int, int],
    *,
    event_index: bool,
    indirect: bool,
) -> EngineQueue | None:
    """The queue with its areas at these guest physical addresses; None when one is not inside one region."""
    hosts = []
    for gpa, length in zip(addresses, (16 * size, 6 + 2 * size, 6 + 8 * size), strict=True):
        region = memory.find(gpa)
        if region is None or gpa + length > region.gpa + region.size_bytes:
            return None
        hosts.append(region.hva + gpa - region.gpa)
    return EngineQueue(
        engine,
        table=hosts[0],
        avail=hosts[1],
        used=hosts[2],
        used_gpa=addresses[2],
        size=size,
        ticks_per_us=tsc_hz // 1_000_000,
        event_index=event_index,
        indirect=indirect,
    )
