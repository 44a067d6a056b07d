"""Streams between a client's socket and a file: packets are made and taken apart on a thread, past the event loop.

The event loop lends one direction of the socket (:class:`Lease`) to a thread while a long run of stream packets is all
that passes there. The thread gives it back as soon as anything else comes, the loop wants it, the other side is not
ready for :data:`PATIENCE_MS`, or it worked for :data:`SLICE_S`: a slow client waits on the loop as any other does, and
holds no thread. What it gives back is whole: the rest of a packet half sent is sent first, and of one half taken in the
rest comes back as a packet of its own.

:func:`send_packets` and :func:`receive_packets` are what runs on the thread; :class:`Bypass` is for the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import struct
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from pyhyve.rpc.ancillary import ANCILLARY_SIZE, descriptors
from pyhyve.rpc.spec import FRAME_MAX, HEADER_SIZE, LENGTH_SIZE, STREAM_CHUNK

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor
    from typing import Protocol, TypeVar

    from pyhyve.rpc.server import ServerProtocol

    _Work = TypeVar("_Work")

    class Lender(Protocol):
        """What lends a socket."""

        def lend_input(self) -> Lease | None:
            """Stop reading and lend that direction; None where it cannot be lent now."""

        def return_input(self, *, lost: bool) -> None:
            """Read again, or note that the other side is gone."""

        def lend_output(self) -> Lease | None:
            """Queue what is sent, and lend that direction; None where it cannot be lent now."""

        def return_output(self, rest: memoryview, *, lost: bool) -> None:
            """Send the rest of a packet, then what was queued meanwhile; or note that the other side is gone."""


__all__ = ["Bypass", "Lease", "Received", "Sent", "receive_packets", "send_packets", "write"]

PATIENCE_MS: Final = 25
"""How long a thread waits for the other side before it gives the socket back."""
LEAST_RATE: Final = 16 << 20
"""Bytes a second below which a client does not get a thread's patience."""
SLICE_S: Final = 0.25
"""How long a thread works before others that wait for one have their turn."""
BUFFER_SIZE: Final = 256 << 10
"""Bytes taken in at once: what a client's socket holds, and what a processor's cache does."""
SEND_BUFFER_SIZE: Final = 1 << 20
"""Bytes the kernel may hold for a client while it is sent a file."""
_HEAD: Final = LENGTH_SIZE + HEADER_SIZE
_LENGTH: Final = struct.Struct(">I")
_VECTORS: Final = 512


@dataclass(slots=True, eq=False)
class Lease:
    """One direction of a socket, lent to a thread; ``wanted`` back as soon as can be."""

    endpoint: socket.socket
    wanted: bool = False


@dataclass(slots=True)
class Sent:
    """What became of sending: where to go on, what of the last packet is not sent yet, whether the client is gone."""

    offset: int
    rest: memoryview = field(default_factory=lambda: memoryview(b""))
    lost: bool = False
    ended: bool = False
    """The file has no more bytes."""
    error: OSError | None = None


@dataclass(slots=True)
class Received:
    """What became of receiving: where to go on, what came that is for the event loop, whether the client is gone."""

    offset: int
    rest: bytes = b""
    fds: Sequence[int] = ()
    lost: bool = False
    error: OSError | None = None


def send_packets(lease: Lease, header: bytes, descriptor: int, offset: int, end: int) -> Sent:
    """Send a part of a file as packets with this header (its first word, the length, is set for each)."""
    packet = memoryview(bytearray(_HEAD + STREAM_CHUNK))
    packet[:_HEAD] = header
    poller = select.poll()
    poller.register(lease.endpoint, select.POLLOUT)
    pace = _Pace(lease, offset)
    while offset < end and pace.may_go_on():
        try:
            size = os.preadv(descriptor, [packet[_HEAD : _HEAD + min(STREAM_CHUNK, end - offset)]], offset)
        except OSError as error:
            return Sent(offset, error=error)
        if not size:
            return Sent(offset, ended=True)
        offset += size
        _LENGTH.pack_into(packet, 0, _HEAD + size)
        rest = packet[: _HEAD + size]
        while rest:
            try:
                rest = rest[lease.endpoint.send(rest) :]
            except BlockingIOError:
                if not pace.may_wait(offset) or not poller.poll(PATIENCE_MS):
                    return Sent(offset, rest)
            except OSError:
                return Sent(offset, lost=True)
    return Sent(offset)


def receive_packets(
    lease: Lease,
    header: bytes,
    descriptor: int,
    offset: int,
    limit: int | None,
    pieces: Sequence[bytes],
    pending: bytes,
) -> Received:
    """Write pieces, then what comes in packets with this header (whatever its length word), to a file, up to ``limit``.

    ``pending`` is what was received behind the pieces, at most a part of a packet.
    """
    try:
        offset += write(descriptor, pieces, offset)
    except OSError as error:
        return Received(offset, pending, error=error)
    buffer = bytearray(max(BUFFER_SIZE, len(pending)))
    view = memoryview(buffer)
    view[: len(pending)] = pending
    scanner = _Scanner(view, header[LENGTH_SIZE:])
    filled = len(pending)
    poller = select.poll()
    poller.register(lease.endpoint, select.POLLIN)
    pace = _Pace(lease, offset)
    while True:
        views, position, foreign = scanner.scan(filled, None if limit is None else limit - offset)
        try:
            offset += write(descriptor, views, offset)
        except OSError as error:
            return Received(offset, scanner.rest(position, filled), error=error)
        if foreign or not pace.may_go_on():
            return Received(offset, scanner.rest(position, filled))
        tail = filled - position
        buffer[:tail] = buffer[position:filled]
        while True:
            try:
                size, ancillary, _, _ = lease.endpoint.recvmsg_into(
                    [view[tail:]], ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC
                )
                break
            except BlockingIOError:
                if not pace.may_wait(offset) or not poller.poll(PATIENCE_MS):
                    return Received(offset, scanner.rest(0, tail))
            except OSError:
                return Received(offset, scanner.rest(0, tail), lost=True)
        filled = tail + size
        if ancillary:
            return Received(offset, scanner.rest(0, filled), descriptors(ancillary))
        if not size:
            return Received(offset, scanner.rest(0, tail), lost=True)


class _Pace:
    """How long a thread may keep what it was lent."""

    def __init__(self, lease: Lease, offset: int) -> None:
        self._lease = lease
        self._offset = offset
        self._start = time.monotonic()

    def may_go_on(self) -> bool:
        """Whether there may be another piece."""
        return not self._lease.wanted and time.monotonic() - self._start < SLICE_S

    def may_wait(self, offset: int) -> bool:
        """Whether the other side, with which one is so far, is worth waiting for."""
        due = (time.monotonic() - self._start - PATIENCE_MS / 1000) * LEAST_RATE
        return self.may_go_on() and offset - self._offset >= due


class _Scanner:
    """Finds the payloads of packets that begin alike."""

    def __init__(self, view: memoryview, expected: bytes) -> None:
        self._view = view
        self._expected = expected
        self._left = 0
        """Bytes of the last packet that are still to come."""

    def scan(self, filled: int, most: int | None) -> tuple[list[memoryview], int, bool]:
        """Return the payloads, at most so many bytes, where they end, and whether something else follows."""
        view, pieces, position, total = self._view, [], 0, 0
        while True:
            if self._left:
                size = min(self._left, filled - position)
                if size:
                    pieces.append(view[position : position + size])
                position += size
                self._left -= size
            if filled - position < _HEAD:
                return pieces, position, False
            (length,) = _LENGTH.unpack_from(view, position)
            size = length - _HEAD
            total += size
            if (
                not _HEAD < length <= FRAME_MAX
                or view[position + LENGTH_SIZE : position + _HEAD] != self._expected
                or (most is not None and total > most)
            ):
                return pieces, position, True
            self._left = size
            position += _HEAD

    def rest(self, position: int, filled: int) -> bytes:
        """Return what is there from a position on, behind a header for what is left of a packet."""
        rest = bytes(self._view[position:filled])
        return _LENGTH.pack(_HEAD + self._left) + self._expected + rest if self._left else rest


def write(descriptor: int, pieces: Sequence[bytes | memoryview], offset: int) -> int:
    """Write pieces one behind the other; return how many bytes they have. Raises OSError."""
    start = offset
    for first in range(0, len(pieces), _VECTORS):
        some = pieces[first : first + _VECTORS]
        size = sum(map(len, some))
        written = os.pwritev(descriptor, some, offset)
        offset += written
        if written < size:  # a full disk says so at the next try
            for piece in _behind(some, written):
                view = piece
                while view:
                    written = os.pwrite(descriptor, view, offset)
                    offset += written
                    view = view[written:]
    return offset - start


def _behind(pieces: Sequence[bytes | memoryview], size: int) -> list[memoryview]:
    """Return pieces without their first so many bytes."""
    found = []
    for piece in pieces:
        if size < len(piece):
            found.append(memoryview(piece)[size:])
        size = max(size - len(piece), 0)
    return found


class Bypass:
    """The way past the event loop for one connection. Everything here happens on the loop."""

    def __init__(
        self,
        lender: Lender,
        protocol: ServerProtocol,
        receive: Callable[[bytes, Sequence[int]], None],
        threads: Executor,
    ) -> None:
        self._lender = lender
        self._protocol = protocol
        self._receive = receive
        self._threads = threads

    async def send(self, serial: int, descriptor: int, offset: int, end: int) -> Sent | None:
        """Send a part of a file, or the beginning of it, on a stream; None where it cannot be done now."""
        own = os.dup(descriptor)
        lease = self._lender.lend_output()
        if lease is None:
            os.close(own)
            return None
        work = partial(send_packets, lease, self._protocol.stream_header(serial))

        def over(sent: Sent | None) -> None:
            rest = memoryview(b"") if sent is None else sent.rest
            self._lender.return_output(rest, lost=sent is None or sent.lost)

        return await self._run(lease, work, own, (offset, end), over)

    async def receive(
        self, serial: int, descriptor: int, offset: int, limit: int | None, pieces: Sequence[bytes]
    ) -> Received | None:
        """Write pieces of a stream, and what comes behind them as long as it is at hand, to a file.

        None where that cannot be done now: then nothing was.
        """
        own = os.dup(descriptor)
        lease = self._lender.lend_input()
        if lease is None:
            os.close(own)
            return None
        work = partial(receive_packets, lease, self._protocol.stream_header(serial))

        def over(received: Received | None) -> None:
            if received is not None and (received.rest or received.fds):
                self._receive(received.rest, received.fds)
            self._lender.return_input(lost=received is None or received.lost)

        return await self._run(lease, work, own, (offset, limit, pieces, self._protocol.take_pending()), over)

    async def _run(
        self,
        lease: Lease,
        work: Callable[..., _Work],
        own: int,
        arguments: tuple[object, ...],
        over: Callable[[_Work | None], None],
    ) -> _Work:
        """Run work on a thread, with a descriptor of its own: who waits here may be cancelled, the thread is not."""

        def done(future: asyncio.Future[_Work]) -> None:
            os.close(own)
            over(None if future.cancelled() or future.exception() is not None else future.result())

        future = asyncio.get_running_loop().run_in_executor(self._threads, work, own, *arguments)
        future.add_done_callback(done)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            lease.wanted = True
            raise


def widen(endpoint: socket.socket) -> None:
    """Let the kernel hold more for a client: as much as is useful while a file is sent, or as much as it allows."""
    for option in (getattr(socket, "SO_SNDBUFFORCE", 32), socket.SO_SNDBUF):  # 32: asm-generic/socket.h
        with contextlib.suppress(OSError):
            endpoint.setsockopt(socket.SOL_SOCKET, option, SEND_BUFFER_SIZE)
            return
