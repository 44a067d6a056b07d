"""Ethernet frames over a stream socket, each after its length in four big-endian bytes.

The format of QEMU's `-netdev stream` and `-netdev socket`, and of passt. Frames carry no virtio-net header: it is
left out on sending and zero on receiving, so nothing can be left undone in a packet.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from pyhyve.backends.ioloop import HANGUP, READABLE, WRITABLE
from pyhyve.backends.net import MAX_FRAME_BYTES, Offload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pyhyve.backends.ioloop import IoLoop

_PREFIX_BYTES = 4
_RECEIVE_BYTES = 1 << 18
_PENDING_LIMIT_BYTES = 1 << 20
_SOCKET_BUFFER_BYTES = 1 << 22
_SO_SNDBUFFORCE = 32
"""<asm-generic/socket.h>: past the administrator's limit, for root."""


class FrameError(Exception):
    """The peer sent a length that no frame has."""


class FrameDecoder:
    """Splits a stream into frames. No I/O: fill `space()`, then `advance`, then iterate `frames`."""

    def __init__(self) -> None:
        self._buffer = bytearray(_RECEIVE_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0

    def space(self) -> memoryview:
        """Where the next bytes go; at least a longest frame's worth once complete frames were taken."""
        if self._start == self._end:
            self._start = self._end = 0
        elif len(self._buffer) - self._end < MAX_FRAME_BYTES + _PREFIX_BYTES and self._start:
            kept = self._end - self._start
            self._view[:kept] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, kept
        return self._view[self._end :]

    def advance(self, count: int) -> None:
        """`count` bytes were put into `space`."""
        self._end += count

    def next_frame(self) -> memoryview | None:
        """The next complete frame, valid until `space` is called; FrameError when the stream is not one of frames."""
        start = self._start
        if self._end - start < _PREFIX_BYTES:
            return None
        length = int.from_bytes(self._view[start : start + _PREFIX_BYTES], "big")
        if not 0 < length <= MAX_FRAME_BYTES:
            msg = f"frame of {length} bytes"
            raise FrameError(msg)
        end = start + _PREFIX_BYTES + length
        if end > self._end:
            return None
        self._start = end
        return self._view[start + _PREFIX_BYTES : end]

    def frames(self) -> Iterator[memoryview]:
        """All complete frames."""
        while (frame := self.next_frame()) is not None:
            yield frame


class FrameWriter:
    """Sends frames on a non-blocking socket and keeps the rest of one that did not fit."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._pending: deque[bytes] = deque()
        self.pending_bytes = 0

    def send(self, views: Sequence[memoryview | bytes], length: int) -> None:
        """Send a frame of `length` bytes, or queue what the socket does not take; raises OSError when it is broken."""
        prefix = length.to_bytes(_PREFIX_BYTES, "big")
        if self._pending:
            self._keep(prefix, views, 0)
            return
        try:
            sent = self._socket.sendmsg((prefix, *views))
        except BlockingIOError:
            sent = 0
        if sent != length + _PREFIX_BYTES:
            self._keep(prefix, views, sent)

    def _keep(self, prefix: bytes, views: Sequence[memoryview | bytes], sent: int) -> None:
        data = b"".join((prefix, *views))[sent:]
        self._pending.append(data)
        self.pending_bytes += len(data)

    def flush(self) -> bool:
        """Send what waits; whether everything is gone. Raises OSError when the socket is broken."""
        while self._pending:
            data = self._pending[0]
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                return False
            self.pending_bytes -= sent
            if sent < len(data):
                self._pending[0] = data[sent:]
                return False
            self._pending.popleft()
        return True


def skip_header(views: Sequence[memoryview], count: int) -> list[memoryview]:
    """Views without their first `count` bytes."""
    first = views[0]
    if len(first) == count:
        return list(views[1:])
    if len(first) > count:
        return [first[count:], *views[1:]]
    return skip_header(views[1:], count - len(first)) if len(views) > 1 else []


def scatter(data: bytes | memoryview, views: Sequence[memoryview], skip: int) -> bool:
    """Put `skip` zero bytes, then `data`, into `views`; False when it does not fit."""
    first = views[0]
    if len(first) >= skip + len(data):
        first[:skip] = bytes(skip)
        first[skip : skip + len(data)] = data
        return True
    if sum(map(len, views)) < skip + len(data):
        return False
    source = memoryview(data)
    for view in views:
        zeroes = min(skip, len(view))
        view[:zeroes] = bytes(zeroes)
        skip -= zeroes
        part = source[: len(view) - zeroes]
        view[zeroes : zeroes + len(part)] = part
        source = source[len(part) :]
        if not source and not skip:
            break
    return True


def widen(connection: socket.socket) -> None:
    """Give a socket large buffers: passt drops what does not fit at once, and its TCP then waits for a timeout."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF, _SO_SNDBUFFORCE):
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER_BYTES)


class StreamNet:
    """A network card's end of a connected stream socket. Owns the socket."""

    queues = 1
    offloads = Offload.NONE

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(0)
        widen(connection)
        self._socket = connection
        self._decoder = FrameDecoder()
        self._writer = FrameWriter(connection)
        self._header_bytes = 12
        self._loop: IoLoop | None = None
        self._on_readable: Callable[[int], None] | None = None
        self._on_writable: Callable[[int], None] | None = None
        self._reading = False
        self._stalled = False
        self.connected = True
        # The card calls on any thread while the loop's thread flushes what waits.
        self._lock = threading.RLock()

    def start(self, loop: IoLoop, on_readable: Callable[[int], None], on_writable: Callable[[int], None]) -> None:
        """Serve on `loop`."""
        self._loop, self._on_readable, self._on_writable = loop, on_readable, on_writable

    def set_header_bytes(self, count: int) -> None:
        """Length of the header to leave out."""
        self._header_bytes = count

    def set_offloads(self, offloads: Offload) -> None:
        """Frames are always complete."""

    def set_active_queues(self, count: int) -> None:
        """There is one."""

    def set_reading(self, queue: int, *, enabled: bool) -> None:
        """Read, or leave packets in the socket."""
        if enabled and not self._reading and self._on_readable is not None and self._loop is not None:
            # Frames already read raise no event of the socket.
            callback = self._on_readable
            self._loop.call_soon(lambda: callback(queue))
        self._reading = enabled
        self._watch()

    def _watch(self) -> None:
        if self._loop is None:
            return
        with self._lock:
            if not self.connected:
                return
            events = (READABLE if self._reading else 0) | (WRITABLE if self._writer.pending_bytes else 0)
            if events:
                self._loop.watch(self._socket.fileno(), events, self._ready)
            else:
                self._loop.unwatch(self._socket.fileno())

    def _ready(self, events: int) -> None:
        if events & WRITABLE or (events & HANGUP and self._writer.pending_bytes):
            with self._lock:
                try:
                    emptied = self._writer.flush()
                except OSError:
                    self._disconnect()
                    return
                if emptied:
                    self._watch()
                go_on = emptied and self._stalled
                if go_on:
                    self._stalled = False
            if go_on and self._on_writable is not None:
                self._on_writable(0)
        if events & (READABLE | HANGUP) and self._on_readable is not None:
            self._on_readable(0)

    def _disconnect(self) -> None:
        """The peer is gone: the card stays, as with its cable pulled."""
        with self._lock:
            if not self.connected:
                return
            if self._loop is not None:
                self._loop.unwatch(self._socket.fileno())
            self.connected = False
            if self._stalled and self._on_writable is not None:
                self._stalled = False
                self._on_writable(0)

    def send(self, queue: int, views: Sequence[memoryview], length: int) -> bool:
        """Send a frame; False while more than a megabyte waits."""
        length -= self._header_bytes
        with self._lock:
            if not self.connected:
                return True
            if self._writer.pending_bytes > _PENDING_LIMIT_BYTES:
                self._stalled = True
                return False
            if not 0 < length <= MAX_FRAME_BYTES:
                return True
            try:
                self._writer.send(skip_header(views, self._header_bytes), length)
            except OSError:
                self._disconnect()
                return True
            if self._writer.pending_bytes:
                self._watch()
        return True

    def receive(self, queue: int, views: Sequence[memoryview]) -> int:
        """Take one frame; one that does not fit is dropped."""
        while self.connected:
            try:
                frame = self._decoder.next_frame()
                if frame is None:
                    count = self._socket.recv_into(self._decoder.space())
                    if not count:
                        self._disconnect()
                        return 0
                    self._decoder.advance(count)
                    continue
            except BlockingIOError:
                return 0
            except (OSError, FrameError):
                self._disconnect()
                return 0
            if scatter(frame, views, self._header_bytes):
                return len(frame) + self._header_bytes
        return 0

    def close(self) -> None:
        """Close the socket; idempotent."""
        self._disconnect()
        self._socket.close()
