"""The virtual socket device (VIRTIO 1.2, 5.10): streams between programs in the guest and Unix sockets of the host.

Data is read from a socket straight into the guest's buffers, and written straight from them. What a socket does not
take waits in the connection, within the credit that the guest was given. All sockets are served on the worker's
thread, with the device's lock held.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from contextlib import suppress
from struct import pack
from typing import TYPE_CHECKING, ClassVar

from pyhyve.backends.ioloop import READABLE
from pyhyve.devices.virtio.block_request import split_views
from pyhyve.devices.virtio.device import VirtioDevice
from pyhyve.devices.virtio.spec import (
    VSOCK_HEADER_BYTES,
    VSOCK_HOST_CID,
    VSOCK_SHUTDOWN_RECEIVE,
    VSOCK_SHUTDOWN_SEND,
    DeviceType,
    VsockOp,
    VsockType,
)
from pyhyve.devices.virtio.vsock_packet import BUFFER_BYTES, Connection, ConnectionState, VsockHeader, refusal
from pyhyve.state.errors import StateError
from pyhyve.state.record import U64, record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyhyve.backends.ioloop import IoLoop
    from pyhyve.backends.vsock import VsockListener
    from pyhyve.devices.virtio.chain import DescriptorChain
    from pyhyve.devices.virtio.queue import Virtqueue
    from pyhyve.memory.guest import GuestMemory

_RECEIVE, _TRANSMIT, _EVENT = range(3)
_QUEUE_SIZE = 128
_MAX_CONNECTIONS = 1024
_MAX_REPLIES = 256
"""Answers that wait for receive buffers; beyond that the device takes no packets (5.10.6.2)."""
_FIRST_HOST_PORT = 1 << 30
_PIECE_BYTES = 64 << 10
_TRANSPORT_RESET = bytes(4)
"""`struct virtio_vsock_event` (5.10.6.7)."""
_BOTH = VSOCK_SHUTDOWN_RECEIVE | VSOCK_SHUTDOWN_SEND
_GONE = select.EPOLLHUP | select.EPOLLERR
"""The host's program closed its socket, not just one direction of it."""


@record
class VirtioVsockState:
    """The guest's address. Connections do not outlive the process: the guest is told so."""

    cid: U64


class VirtioVsock(VirtioDevice):
    """A virtual socket device. Owns the listener: `close` closes it."""

    device_type: ClassVar[DeviceType] = DeviceType.VSOCK
    state_type: ClassVar = VirtioVsockState
    state_version: ClassVar = 1

    def __init__(self, memory: GuestMemory, loop: IoLoop, cid: int, listener: VsockListener) -> None:
        """`cid` is the guest's address; `loop` is the worker, on whose thread the sockets are served."""
        super().__init__(memory, loop, offered=0, queue_sizes=[_QUEUE_SIZE] * 3)
        self._loop = loop
        self._cid = cid
        self._listener = listener
        self._connections: dict[tuple[int, int], Connection] = {}
        self._replies: deque[VsockHeader] = deque()
        self._ready: deque[Connection] = deque()
        """Connections whose sockets have something for the guest, each once."""
        self._next_host_port = _FIRST_HOST_PORT
        self._lost_connections = False

    def start(self) -> None:
        """Begin to accept connections from the host."""
        self._listener.start(self._loop, self._client_arrived)

    def close(self) -> None:
        """Hang up everywhere; idempotent."""
        self.reset()
        self._listener.close()

    def save(self) -> VirtioVsockState:
        """The guest's address."""
        return VirtioVsockState(cid=self._cid)

    def load(self, state: VirtioVsockState) -> None:
        """The guest finds its connections gone; raises StateError for another address."""
        if state.cid != self._cid:
            msg = f"virtio vsock: the guest had the address {state.cid}, not {self._cid}"
            raise StateError(msg)
        self._lost_connections = True

    def resumed(self) -> None:
        """After a state was loaded, tell the driver that its connections are gone (5.10.6.7)."""
        ring = self.queues[_EVENT].ring
        if self._lost_connections and ring is not None and (chain := ring.pop()) is not None:
            self._lost_connections = False
            done = 0
            for view, (gpa, _) in zip(chain.writable, chain.writable_ranges, strict=True):
                part = _TRANSPORT_RESET[done : done + len(view)]
                view[: len(part)] = part
                self.dma.mark_written(gpa, len(part))
                done += len(part)
            ring.push(chain, done)
            self.publish(_EVENT, ring)

    # -- VirtioDevice -------------------------------------------------------------------------------------------------

    def config_space(self) -> bytes:
        """`struct virtio_vsock_config` (5.10.4)."""
        return pack("<Q", self._cid)

    def stopped(self) -> None:
        """Reset: no connection survives."""
        self._replies.clear()
        for connection in list(self._connections.values()):
            self._drop(connection)

    def is_blocked(self, index: int) -> bool:
        """The transmit queue waits while its answers do."""
        return index == _TRANSMIT and len(self._replies) >= _MAX_REPLIES

    def service(self, index: int, ring: Virtqueue) -> None:
        """Receive buffers wait for packets, the event queue's for a restored state."""
        if index == _TRANSMIT:
            super().service(index, ring)
            self._fill()
        elif index == _RECEIVE:
            self._fill()

    def handle_queue(self, index: int, ring: Virtqueue) -> None:
        """Act on the guest's packets."""
        while len(self._replies) < _MAX_REPLIES and (chain := ring.pop()) is not None:
            if chain.readable_bytes >= VSOCK_HEADER_BYTES:
                head, payload = split_views(chain.readable, VSOCK_HEADER_BYTES)
                self._act(VsockHeader.parse(head), payload, chain.readable_bytes - VSOCK_HEADER_BYTES)
            ring.push(chain, 0)

    # -- from the guest -----------------------------------------------------------------------------------------------

    def _act(self, header: VsockHeader, payload: Sequence[memoryview], size: int) -> None:
        """One packet of the guest; what does not fit together is answered with RST."""
        if header.source_cid != self._cid:
            return
        connection = self._connections.get((header.source_port, header.target_port))
        if header.op == VsockOp.RST:
            if connection is not None:
                self._drop(connection)
            return
        acceptable = header.target_cid == VSOCK_HOST_CID and header.type == VsockType.STREAM
        if connection is None or not acceptable:
            if header.op == VsockOp.REQUEST and acceptable:
                self._accept(header)
            else:
                self._replies.append(refusal(header))
            return
        connection.update_credit(header)
        match header.op:
            case VsockOp.RESPONSE if connection.state is ConnectionState.OFFERED:
                self._opened(connection)
            case VsockOp.RW if connection.state is ConnectionState.OPEN and header.length <= size:
                self._take_data(connection, payload, header.length)
            case VsockOp.SHUTDOWN if connection.state is ConnectionState.OPEN:
                self._guest_shuts_down(connection, header.flags)
            case VsockOp.CREDIT_UPDATE:
                pass
            case VsockOp.CREDIT_REQUEST:
                self._replies.append(connection.header(VsockOp.CREDIT_UPDATE))
            case _:
                self._refuse(connection)
                return
        if connection.credit:
            self._watch(connection)

    def _accept(self, header: VsockHeader) -> None:
        """The guest wants to reach a port of the host."""
        client = None
        if len(self._connections) < _MAX_CONNECTIONS:
            client = self._listener.connect(header.target_port)
        if client is None:
            self._replies.append(refusal(header))
            return
        connection = Connection(self._cid, header.source_port, header.target_port, client, ConnectionState.OPEN)
        connection.update_credit(header)
        self._connections[connection.key] = connection
        self._replies.append(connection.header(VsockOp.RESPONSE))
        self._watch(connection)

    def _opened(self, connection: Connection) -> None:
        """The guest accepted what the host asked for."""
        connection.state = ConnectionState.OPEN
        try:
            connection.socket.send(connection.greeting)
        except OSError:
            self._refuse(connection)

    def _take_data(self, connection: Connection, payload: Sequence[memoryview], length: int) -> None:
        """Write what the guest sent; keep what the socket does not take."""
        if length > BUFFER_BYTES - len(connection.pending) or not connection.guest_sends:
            # More than it was told there is room for.
            self._refuse(connection)
            return
        connection.received += length
        views = _first_bytes(payload, length)
        sent = 0
        if not connection.pending:
            try:
                sent = connection.socket.sendmsg(views) if length else 0
            except BlockingIOError:
                pass
            except OSError:
                self._refuse(connection)
                return
        self._count_written(connection, sent)
        if sent < length:
            for view in views:
                if sent < len(view):
                    connection.pending += view[sent:]
                    sent = 0
                else:
                    sent -= len(view)
            self._loop.add_writer(connection.socket.fileno(), self._locked(connection, self._flush))

    def _guest_shuts_down(self, connection: Connection, flags: int) -> None:
        if flags & VSOCK_SHUTDOWN_SEND:
            connection.guest_sends = False
        if flags & VSOCK_SHUTDOWN_RECEIVE:
            connection.guest_receives = False
            self._unwatch(connection)
            with suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RD)
        self._finish_shutdown(connection)

    def _finish_shutdown(self, connection: Connection) -> None:
        """Pass on the end of the guest's data; hang up when nothing can follow in either direction."""
        if connection.guest_sends or connection.pending:
            return
        if not connection.guest_receives or not connection.host_sends:
            self._refuse(connection)
            return
        with suppress(OSError):
            connection.socket.shutdown(socket.SHUT_WR)

    def _count_written(self, connection: Connection, count: int) -> None:
        connection.written = (connection.written + count) & 0xFFFFFFFF
        if connection.owes_credit:
            self._replies.append(connection.header(VsockOp.CREDIT_UPDATE))

    def _flush(self, connection: Connection) -> None:
        """The socket takes more of what the guest sent."""
        try:
            sent = connection.socket.send(connection.pending)
        except BlockingIOError:
            return
        except OSError:
            self._refuse(connection)
            return
        del connection.pending[:sent]
        self._count_written(connection, sent)
        if not connection.pending:
            self._loop.remove_writer(connection.socket.fileno())
            self._finish_shutdown(connection)

    # -- from the host ------------------------------------------------------------------------------------------------

    def _client_arrived(self, client: socket.socket, port: int) -> None:
        """A program on the host wants to reach `port` of the guest."""

        def offer() -> None:
            if not (self.is_running or self.is_suspended) or len(self._connections) >= _MAX_CONNECTIONS:
                client.close()
                return
            host_port = self._free_host_port(port)
            connection = Connection(self._cid, port, host_port, client, ConnectionState.OFFERED)
            connection.greeting = f"OK {host_port}\n".encode()
            self._connections[connection.key] = connection
            self._replies.append(connection.header(VsockOp.REQUEST))
            self._watch_for_end(connection)
            self._fill()

        self.run_locked(offer)

    def _free_host_port(self, guest_port: int) -> int:
        while True:
            port = self._next_host_port
            self._next_host_port = port + 1 if port < 0x7FFF_FFFF else _FIRST_HOST_PORT
            if (guest_port, port) not in self._connections:
                return port

    def _locked(self, connection: Connection, action: Callable[[Connection], None]) -> Callable[[], None]:
        """`action` for a descriptor's event: with the lock held, if the connection still stands."""

        def run() -> None:
            if connection.state is not ConnectionState.CLOSED:
                action(connection)
                self._fill()

        return lambda: self.run_locked(run)

    def _watch(self, connection: Connection) -> None:
        """Wait for data from the host's program, as long as the guest takes some."""
        if connection.reading or connection.queued or not connection.takes_data:
            return
        connection.reading = True
        readable = self._locked(connection, self._readable)
        self._loop.watch(connection.socket.fileno(), READABLE, lambda _events: readable())

    def _watch_for_end(self, connection: Connection) -> None:
        """Learn when the host's program goes, though no data is expected from it."""
        gone = self._locked(connection, self._program_gone)
        self._loop.watch(connection.socket.fileno(), _GONE, lambda _events: gone())

    def _program_gone(self, connection: Connection) -> None:
        """The host's program closed its socket: the guest may read what it got, and answers when it is done."""
        self._unwatch(connection)
        if connection.state is ConnectionState.OPEN:
            self._replies.append(connection.header(VsockOp.SHUTDOWN, flags=_BOTH))
        else:
            self._refuse(connection)

    def _unwatch(self, connection: Connection) -> None:
        connection.reading = False
        self._loop.unwatch(connection.socket.fileno())

    def _readable(self, connection: Connection) -> None:
        """Queue the connection for the guest's next buffers; watched again when it has been served."""
        self._unwatch(connection)
        self._queue(connection)

    def _queue(self, connection: Connection) -> None:
        connection.queued = True
        self._ready.append(connection)

    # -- to the guest -------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Put answers, then data, into the guest's receive buffers; with the lock held."""
        ring = self.queues[_RECEIVE].ring
        if ring is None or not self.is_running:
            return
        was_blocked = self.is_blocked(_TRANSMIT)
        ring.disable_notify()
        while self._has_something():
            chain = ring.pop()
            if chain is None:
                if ring.enable_notify():
                    ring.disable_notify()
                    continue
                break
            if chain.writable_bytes < VSOCK_HEADER_BYTES:
                ring.push(chain, 0)
            elif self._replies:
                self._store(ring, chain, self._replies.popleft())
            else:
                self._read_into(ring, chain, self._ready.popleft())
        self.publish(_RECEIVE, ring)
        if was_blocked and not self.is_blocked(_TRANSMIT):
            self.notify(_TRANSMIT)

    def _store(self, ring: Virtqueue, chain: DescriptorChain, header: VsockHeader, length: int = 0) -> None:
        """Complete a buffer that has `length` bytes of data behind the place for its header."""
        data = header.pack()
        left = VSOCK_HEADER_BYTES + length
        for view, (gpa, size) in zip(chain.writable, chain.writable_ranges, strict=True):
            if data:
                part = data[: len(view)]
                view[: len(part)] = part
                data = data[len(part) :]
            self.dma.mark_written(gpa, min(size, left))
            left -= min(size, left)
            if not left:
                break
        ring.push(chain, VSOCK_HEADER_BYTES + length)

    def _has_something(self) -> bool:
        """Whether there is something for the guest; forgets connections that no longer have."""
        while self._ready and not self._ready[0].takes_data:
            self._ready.popleft().queued = False
        return bool(self._replies or self._ready)

    def _read_into(self, ring: Virtqueue, chain: DescriptorChain, connection: Connection) -> None:
        """Read from a socket into a buffer of the guest."""
        connection.queued = False
        room = min(_PIECE_BYTES, chain.writable_bytes - VSOCK_HEADER_BYTES)
        if not room:
            ring.push(chain, 0)
            self._queue(connection)
            return
        room = min(room, connection.credit)
        if not room:
            # It goes on with the guest's next packet that says that there is room.
            self._store(ring, chain, connection.header(VsockOp.CREDIT_REQUEST))
            return
        views = _first_bytes(_skip_bytes(chain.writable, VSOCK_HEADER_BYTES), room)
        try:
            count = connection.socket.recvmsg_into(views)[0]
        except BlockingIOError:
            self._watch(connection)
            self._store(ring, chain, connection.header(VsockOp.CREDIT_UPDATE))
            return
        except OSError:
            count = -1
        if count > 0:
            connection.sent = (connection.sent + count) & 0xFFFFFFFF
            self._store(ring, chain, connection.header(VsockOp.RW, length=count), count)
            if count == room:
                self._queue(connection)
            else:
                self._watch(connection)
        elif count == 0 and connection.guest_sends:
            # The program may still read: a full close shows as a hang-up.
            connection.host_sends = False
            self._store(ring, chain, connection.header(VsockOp.SHUTDOWN, flags=VSOCK_SHUTDOWN_SEND))
            self._watch_for_end(connection)
        else:
            self._store(ring, chain, connection.header(VsockOp.RST))
            self._drop(connection)

    # -- ends ---------------------------------------------------------------------------------------------------------

    def _refuse(self, connection: Connection) -> None:
        """End a connection and tell the guest."""
        self._replies.append(connection.header(VsockOp.RST))
        self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        """End a connection without a word to the guest."""
        if connection.state is ConnectionState.CLOSED:
            return
        connection.state = ConnectionState.CLOSED
        del self._connections[connection.key]
        fd = connection.socket.fileno()
        self._loop.unwatch(fd)
        self._loop.remove_writer(fd)
        connection.socket.close()
        connection.pending.clear()
        if connection.queued:
            self._ready.remove(connection)


def _first_bytes(views: Sequence[memoryview], length: int) -> list[memoryview]:
    """Views of the first `length` bytes, of which there are as many."""
    found = []
    for view in views:
        if not length:
            break
        part = view[:length]
        found.append(part)
        length -= len(part)
    return found


def _skip_bytes(views: Sequence[memoryview], length: int) -> list[memoryview]:
    """Views of all but the first `length` bytes."""
    found = []
    for view in views:
        if length < len(view):
            found.append(view[length:])
            length = 0
        else:
            length -= len(view)
    return found
