"""A vhost-user back end: our devices' queues under a real guest driver in QEMU (docs/interop/vhost-user.rst there).

QEMU keeps the transport, shares guest memory and passes kicks and interrupts as eventfds; rings and requests are
handled by the same code as in our machines. One front end, one device; rings are handled on the given loop.
"""

from __future__ import annotations

import array
import ctypes
import mmap
import os
import socket
from enum import IntEnum
from struct import Struct, calcsize, iter_unpack, pack, unpack
from typing import TYPE_CHECKING

from pyhyve.backends.ioloop import READABLE, IoLoop
from pyhyve.devices.virtio.spec import Feature, Status
from pyhyve.devices.virtio.split import SplitQueue
from pyhyve.memory.guest import GuestMemory, MemoryRegion

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.devices.virtio.device import VirtioDevice
    from pyhyve.devices.virtio.queue import Virtqueue

_HEADER = Struct("<III")
_VERSION = 1
_REPLY = 4
_NEED_REPLY = 8
_NO_FD = 0x100
_PROTOCOL_FEATURES_BIT = 1 << 30
_PROTOCOL_MQ, _PROTOCOL_REPLY_ACK, _PROTOCOL_CONFIG = 1 << 0, 1 << 3, 1 << 9
_PROTOCOL = _PROTOCOL_MQ | _PROTOCOL_REPLY_ACK | _PROTOCOL_CONFIG
_MAX_FDS = 8
_NOT_SHARED = int(Feature.RING_RESET)


class Request(IntEnum):
    """Front-end message types."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    GET_CONFIG = 24
    SET_CONFIG = 25


class SharedGuestMemory(GuestMemory):
    """Guest memory that another process owns, mapped from its descriptors."""

    def __init__(self) -> None:
        super().__init__()
        self._user: list[tuple[int, int, int]] = []

    def replace(self, table: list[tuple[int, int, int, int]], fds: list[int]) -> None:
        """Map (gpa, size, user address, offset in the descriptor) ranges instead of what was mapped."""
        self.close()
        self._user = []
        for (gpa, size, user, offset), fd in sorted(zip(table, fds, strict=True)):
            mapping = mmap.mmap(fd, size + offset, mmap.MAP_SHARED)
            hva = ctypes.addressof(ctypes.c_char.from_buffer(mapping)) + offset
            view = memoryview(mapping)[offset:]
            self._regions.append(MemoryRegion(gpa, size, hva, readonly=False, name="shared", fd=fd, view=view))
            self._starts.append(gpa)
            self._maps[gpa] = (mapping, offset)
            self._user.append((user, size, gpa))

    def to_gpa(self, user_address: int) -> int:
        """Guest physical address of one in the front end's own space; an impossible one when there is none."""
        for user, size, gpa in self._user:
            if user <= user_address < user + size:
                return gpa + user_address - user
        return (1 << 64) - 4096


class VhostUserBackend:
    """Serves one device on a listening unix socket. Call from a test; errors end the connection."""

    def __init__(self, path: str, loop: IoLoop, make_device: Callable[[SharedGuestMemory], VirtioDevice]) -> None:
        self.memory = SharedGuestMemory()
        self.device = make_device(self.memory)
        self.device.attach(self)
        self.interrupts = 0
        self._loop = loop
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(1)
        self._connection: socket.socket | None = None
        self._kick: dict[int, int] = {}
        self._call: dict[int, int] = {}
        self._base: dict[int, int] = {}
        self._addressed: set[int] = set()
        self._enabled: set[int] = set()
        loop.add_reader(self._listener.fileno(), self._accept)

    # -- interrupts (InterruptSink) -----------------------------------------------------------------------------------

    def queue_interrupt(self, index: int) -> None:
        """Signal the queue's eventfd."""
        fd = self._call.get(index)
        if fd is not None:
            self.interrupts += 1
            os.eventfd_write(fd, 1)

    def config_interrupt(self) -> None:
        """There is no channel for it here."""

    # -- messages -----------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        self._connection, _ = self._listener.accept()
        self._loop.add_reader(self._connection.fileno(), self._readable)

    def _readable(self) -> None:
        connection = self._connection
        if connection is None:
            return
        header, ancillary, _, _ = connection.recvmsg(_HEADER.size, socket.CMSG_SPACE(_MAX_FDS * 4))
        if len(header) < _HEADER.size:
            self._disconnect()
            return
        fds: list[int] = []
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(data[: len(data) // 4 * 4])
                fds += numbers
        request, flags, size = _HEADER.unpack(header)
        body = connection.recv(size, socket.MSG_WAITALL) if size else b""
        reply = self._handle(request, body, fds)
        if reply is None and flags & _NEED_REPLY:
            reply = bytes(8)
        if reply is not None:
            connection.sendall(_HEADER.pack(request, _VERSION | _REPLY, len(reply)) + reply)

    def _handle(self, request: int, body: bytes, fds: list[int]) -> bytes | None:
        """Act on a message; the reply's payload, if it has one."""
        device = self.device
        match request:
            case Request.GET_FEATURES:
                return pack("<Q", device.device_features & ~_NOT_SHARED | _PROTOCOL_FEATURES_BIT)
            case Request.SET_FEATURES:
                device.driver_features = unpack("<Q", body)[0] & ~_PROTOCOL_FEATURES_BIT
                device.status = int(Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK)
                device.is_running = True
            case Request.GET_PROTOCOL_FEATURES:
                return pack("<Q", _PROTOCOL)
            case Request.GET_QUEUE_NUM:
                return pack("<Q", len(device.queues))
            case Request.SET_MEM_TABLE:
                (count,) = unpack("<I4x", body[:8])
                table = list(iter_unpack("<QQQQ", body[8 : 8 + count * calcsize("<QQQQ")]))
                self.memory.replace(table, fds)
                device.dma.forget()
            case Request.SET_VRING_NUM | Request.SET_VRING_BASE:
                index, value = unpack("<II", body)
                if request == Request.SET_VRING_NUM:
                    device.queues[index].size = value
                else:
                    self._base[index] = value & 0xFFFF
            case Request.SET_VRING_ADDR:
                index, _, table_address, used, avail, _ = unpack("<IIQQQQ", body)
                queue = device.queues[index]
                queue.descriptor_gpa, queue.driver_gpa, queue.device_gpa = map(
                    self.memory.to_gpa, (table_address, avail, used)
                )
                self._addressed.add(index)
            case Request.SET_VRING_KICK | Request.SET_VRING_CALL:
                (value,) = unpack("<Q", body)
                self._set_descriptor(request, value & 0xFF, None if value & _NO_FD else fds[0])
            case Request.SET_VRING_ENABLE:
                index, enabled = unpack("<II", body)
                (self._enabled.add if enabled else self._enabled.discard)(index)
                self._start_queue(index)
            case Request.GET_VRING_BASE:
                index, _ = unpack("<II", body)
                return pack("<II", index, self._stop_queue(index))
            case Request.GET_CONFIG:
                offset, size, flags = unpack("<III", body[:12])
                data = device.config_space()[offset : offset + size].ljust(size, b"\0")
                return pack("<III", offset, size, flags) + data
            case Request.SET_CONFIG:
                offset, size, _ = unpack("<III", body[:12])
                device.write_config(offset, size, int.from_bytes(body[12 : 12 + size], "little"))
            case _:
                pass
        return None

    def _set_descriptor(self, request: int, index: int, fd: int | None) -> None:
        table = self._kick if request == Request.SET_VRING_KICK else self._call
        old = table.pop(index, None)
        if old is not None:
            self._loop.unwatch(old)
            os.close(old)
        if fd is None:
            return
        table[index] = fd
        if request == Request.SET_VRING_KICK:
            self._loop.watch(fd, READABLE, lambda _events: self._kicked(index, fd))
            self._start_queue(index)

    def _kicked(self, index: int, fd: int) -> None:
        os.eventfd_read(fd)
        self.device.process(index)

    def _start_queue(self, index: int) -> None:
        """Enable a queue once the front end has said everything about it."""
        if index not in self._addressed & self._enabled or index not in self._kick:
            return
        queue = self.device.queues[index]
        if queue.ring is None:
            self.device.enable_queue(index)
            ring: Virtqueue | None = queue.ring
            if isinstance(ring, SplitQueue):
                ring.resume_at(self._base.get(index, 0))

    def _stop_queue(self, index: int) -> int:
        ring = self.device.queues[index].ring
        position = ring.position if isinstance(ring, SplitQueue) else 0
        size = self.device.queues[index].size
        self.device.reset_queue(index)
        self.device.queues[index].size = size
        self._addressed.discard(index)
        self._set_descriptor(Request.SET_VRING_KICK, index, None)
        return position

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._loop.unwatch(self._connection.fileno())
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        """End the connection and stop listening."""
        self._disconnect()
        self._loop.unwatch(self._listener.fileno())
        self._listener.close()
        self.device.reset()
        for index in list(self._kick):
            self._set_descriptor(Request.SET_VRING_KICK, index, None)
        for index in list(self._call):
            self._set_descriptor(Request.SET_VRING_CALL, index, None)
        self.memory.close()
