"""A client's socket on the event loop: bytes (and on a unix socket descriptors) in and out, never waiting."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import deque
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.bulk import Lease, widen
from pyhyve.rpc.ancillary import ANCILLARY_SIZE, descriptors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from pyhyve.daemon.connection import Connection
    from pyhyve.daemon.readiness import Readiness

__all__ = ["SocketLink", "TransportLink"]

_RECEIVE_SIZE: Final = 256 << 10
_SMALL: Final = 4096
"""Bytes of a piece that is kept together with others: an answer to most calls, an event."""
_arena: Final = memoryview(bytearray(_RECEIVE_SIZE))
"""Where every socket of the one event loop receives: a fresh buffer of this size each time costs more than a call."""
LOW_WATER: Final = 1 << 20
"""Bytes queued below which a stream goes on sending."""
LINGER_S: Final = 10.0
"""How long a connection that was closed here may take to take in what is queued for it."""


class SocketLink:
    """One socket, a unix one or (where descriptors cannot be passed) another. :meth:`start` it with its connection."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        readiness: Readiness,
        endpoint: socket.socket,
        *,
        passes_descriptors: bool = True,
    ) -> None:
        endpoint.settimeout(0)
        self._passes_descriptors = passes_descriptors
        self._loop = loop
        self._readiness = readiness
        self._socket = endpoint
        self._connection: Connection | None = None
        self._out: deque[tuple[memoryview, Sequence[int]]] = deque()
        self._tail = bytearray()
        """Small pieces behind those in ``_out``, in one: events for a client that does not read cost no more than they
        are long."""
        self._size = 0
        self._paused = True
        self._reading = False
        self._writing = False
        self._lent_input: Lease | None = None
        self._lent_output: Lease | None = None
        self._wide = False
        self._closing = False
        self._gone = False
        self._drained = asyncio.Event()
        self._drained.set()
        self._emptied = asyncio.Event()
        self._emptied.set()

    def start(self, connection: Connection) -> None:
        """Serve a connection."""
        self._connection = connection
        self.resume()

    # -- out ----------------------------------------------------------------------------------------------------------

    @property
    def unsent_size(self) -> int:
        """Bytes that are queued."""
        return self._size

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send now what the socket takes, and the rest as it does."""
        if self._gone or self._closing:
            _close_fds(fds)
            return
        if fds and not self._passes_descriptors:
            _close_fds(fds)
            fds = ()
        if not self._size and not fds and self._lent_output is None:
            try:
                sent = self._socket.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                self._lose()
                return
            if sent == len(data):
                return
            self._queue(memoryview(data)[sent:], ())
        else:
            self._queue(memoryview(data), ())
            for fd in fds:
                self._queue(memoryview(b"\0"), (fd,))
        if not self._writing:
            self._write_more()

    def _queue(self, piece: memoryview, fds: Sequence[int]) -> None:
        if not fds and len(piece) < _SMALL and len(self._tail) < _RECEIVE_SIZE:
            self._tail += piece
        else:
            self._seal()
            self._out.append((piece, fds))
        self._size += len(piece)
        self._emptied.clear()
        if self._size > LOW_WATER:
            self._drained.clear()

    def _seal(self) -> None:
        if self._tail:
            self._out.append((memoryview(self._tail), ()))
            self._tail = bytearray()

    def _write_more(self) -> None:
        if self._lent_output is not None:
            self._lent_output.wanted = True
            return
        try:
            while self._size:
                if not self._out:
                    self._seal()
                piece, fds = self._out[0]
                if fds:
                    sent = socket.send_fds(self._socket, [piece], list(fds))
                    _close_fds(fds)
                else:
                    sent = self._socket.send(piece)
                self._size -= sent
                if sent == len(piece):
                    self._out.popleft()
                else:
                    self._out[0] = (piece[sent:], ())
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._lose()
            return
        if self._size <= LOW_WATER and not self._drained.is_set():
            self._drained.set()
            if self._connection is not None and not self._closing:
                self._loop.call_soon(self._connection.writable)
        if not self._size:
            self._emptied.set()
        if bool(self._size) != self._writing:
            self._writing = bool(self._size)
            if self._writing:
                self._loop.add_writer(self._socket, self._write_more)
            else:
                self._loop.remove_writer(self._socket)
        if self._closing and not self._size:
            self._finish()

    async def drained(self) -> None:
        """Wait until little is queued."""
        if self._size > LOW_WATER and not self._gone:
            await self._drained.wait()

    async def emptied(self) -> None:
        """Wait until nothing is queued."""
        if not self._gone:
            await self._emptied.wait()

    def lend_output(self) -> Lease | None:
        """Queue what is sent, and lend the sending; None while something is queued, or the client is gone."""
        if self._size or self._gone or self._closing or self._lent_output is not None:
            return None
        if not self._wide:
            self._wide = True
            widen(self._socket)
        self._lent_output = Lease(self._socket)
        return self._lent_output

    def return_output(self, rest: memoryview, *, lost: bool) -> None:
        """Send the rest of a packet, then what was queued meanwhile; or note that the client is gone."""
        self._lent_output = None
        if self._gone:
            self._close_when_free()
        elif lost:
            self._lose()
        else:
            if rest:
                self._out.appendleft((rest, ()))
                self._size += len(rest)
                self._emptied.clear()
            self._write_more()

    # -- in -----------------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Stop reading."""
        self._paused = True
        self._read_or_not()

    def resume(self) -> None:
        """Read."""
        self._paused = False
        self._read_or_not()

    def _read_or_not(self) -> None:
        if self._paused and self._lent_input is not None:
            self._lent_input.wanted = True
        reading = not (self._paused or self._gone or self._closing or self._lent_input is not None)
        if reading != self._reading:
            self._reading = reading
            if reading:
                self._readiness.add(self._socket.fileno(), self._readable)
            else:
                self._readiness.remove(self._socket.fileno())

    def lend_input(self) -> Lease | None:
        """Stop reading and lend it; None while it is not read, or the client is gone."""
        if not self._reading:
            return None
        lease = self._lent_input = Lease(self._socket)
        self._read_or_not()
        return lease

    def return_input(self, *, lost: bool) -> None:
        """Read again, or note that the client is gone."""
        self._lent_input = None
        if self._gone:
            self._close_when_free()
        elif lost:
            self._lose()
        else:
            self._read_or_not()

    def _readable(self) -> None:
        fds: list[int] = []
        try:
            size, ancillary, _, _ = self._socket.recvmsg_into([_arena], ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC)
            if ancillary:
                fds = descriptors(ancillary)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            size = 0
        if not size:
            _close_fds(fds)
            self._lose()
        elif self._connection is not None:
            self._connection.receive(bytes(_arena[:size]), fds)

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close once everything is sent, or after :data:`LINGER_S`."""
        if self._gone or self._closing:
            return
        self._closing = True
        self.pause()
        if self._size or self._lent_output is not None:
            self._loop.call_later(LINGER_S, self._finish)
        else:
            self._finish()

    def _lose(self) -> None:
        self._finish()
        if self._connection is not None:
            self._connection.lost()

    def _finish(self) -> None:
        if self._gone:
            return
        self._gone = True
        self.pause()
        if self._writing:
            self._loop.remove_writer(self._socket)
        for _, fds in self._out:
            _close_fds(fds)
        self._out.clear()
        self._tail.clear()
        self._size = 0
        self._drained.set()
        self._emptied.set()
        self._close_when_free()

    def _close_when_free(self) -> None:
        """Close the socket, unless a thread still has it: then end the connection, which the thread notices."""
        lent = [lease for lease in (self._lent_input, self._lent_output) if lease is not None]
        for lease in lent:
            lease.wanted = True
        if not lent:
            self._socket.close()
            return
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class TransportLink(asyncio.Protocol):
    """One TCP socket with TLS, on asyncio's own transport.

    ``started`` is called once the certificate is verified; it returns the connection to serve, or None to hang up.
    """

    def __init__(self, started: Callable[[TransportLink], Connection | None]) -> None:
        self._started = started
        self._connection: Connection | None = None
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def peer(self) -> str:
        """Address of the client."""
        address = self._extra("peername")
        return f"{address[0]}:{address[1]}" if address else "?"

    @property
    def certificate(self) -> Any:
        """The client's certificate, as :mod:`ssl` gives it."""
        return self._extra("peercert") or {}

    def _extra(self, name: str) -> Any:
        return None if self._transport is None else self._transport.get_extra_info(name)

    # -- called by the transport --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket stands."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker: a stream server's
        self._transport = transport
        transport.set_write_buffer_limits(LOW_WATER)
        if (endpoint := transport.get_extra_info("socket")) is not None:
            endpoint.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = self._started(self)
        if self._connection is None:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Bytes arrived."""
        if self._connection is not None:
            self._connection.receive(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._writable.set()
        if self._connection is not None:
            self._connection.lost()

    def pause_writing(self) -> None:
        """Much is queued."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Little is queued."""
        self._writable.set()
        if self._connection is not None:
            self._connection.writable()

    # -- called by the connection -------------------------------------------------------------------------------------

    @property
    def unsent_size(self) -> int:
        """Bytes that are queued."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send; descriptors cannot travel here and are dropped."""
        _close_fds(fds)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def pause(self) -> None:
        """Stop reading."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read."""
        if self._transport is not None:
            self._transport.resume_reading()

    async def drained(self) -> None:
        """Wait until little is queued."""
        await self._writable.wait()

    async def emptied(self) -> None:
        """Wait until little is queued: what is queued here is nobody else's to know."""
        await self._writable.wait()

    def lend_input(self) -> Lease | None:
        """Never: the bytes are asyncio's."""
        return None

    def return_input(self, *, lost: bool) -> None:
        """Nothing was lent."""

    def lend_output(self) -> Lease | None:
        """Never, ditto."""
        return None

    def return_output(self, rest: memoryview, *, lost: bool) -> None:
        """Nothing was lent."""

    def close(self) -> None:
        """Close once everything is sent, or after :data:`LINGER_S`."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()
            asyncio.get_running_loop().call_later(LINGER_S, self._transport.abort)


def _close_fds(fds: Sequence[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
