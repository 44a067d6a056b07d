"""A client's socket on the event loop: bytes (and on a unix socket descriptors) in and out, never waiting."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import deque
from typing import TYPE_CHECKING, Final

from pyhyve.rpc.spec import FDS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from pyhyve.daemon.connection import Connection

__all__ = ["SocketLink", "TransportLink"]

_RECEIVE_SIZE: Final = 256 << 10
_arena: Final = memoryview(bytearray(_RECEIVE_SIZE))
"""Where every socket of the one event loop receives: a fresh buffer of this size each time costs more than a call."""
_ANCILLARY_SIZE: Final = socket.CMSG_SPACE(FDS_MAX * 4)
LOW_WATER: Final = 1 << 20
"""Bytes queued below which a stream goes on sending."""
LINGER_S: Final = 10.0
"""How long a connection that was closed here may take to take in what is queued for it."""


class SocketLink:
    """One unix socket. :meth:`start` it with its connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, endpoint: socket.socket) -> None:
        endpoint.settimeout(0)
        self._loop = loop
        self._socket = endpoint
        self._connection: Connection | None = None
        self._out: deque[tuple[memoryview, Sequence[int]]] = deque()
        self._size = 0
        self._reading = False
        self._writing = False
        self._closing = False
        self._gone = False
        self._drained = asyncio.Event()
        self._drained.set()

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
        if not self._out and not fds:
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
        self._write_more()

    def _queue(self, piece: memoryview, fds: Sequence[int]) -> None:
        self._out.append((piece, fds))
        self._size += len(piece)
        if self._size > LOW_WATER:
            self._drained.clear()

    def _write_more(self) -> None:
        try:
            while self._out:
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
        if bool(self._out) != self._writing:
            self._writing = bool(self._out)
            if self._writing:
                self._loop.add_writer(self._socket, self._write_more)
            else:
                self._loop.remove_writer(self._socket)
        if self._closing and not self._out:
            self._finish()

    async def drained(self) -> None:
        """Wait until little is queued."""
        if self._size > LOW_WATER and not self._gone:
            await self._drained.wait()

    # -- in -----------------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Stop reading."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._socket)

    def resume(self) -> None:
        """Read."""
        if not self._reading and not self._gone and not self._closing:
            self._reading = True
            self._loop.add_reader(self._socket, self._readable)

    def _readable(self) -> None:
        fds: list[int] = []
        try:
            size, ancillary, _, _ = self._socket.recvmsg_into([_arena], _ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC)
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds.extend(memoryview(content)[: len(content) - len(content) % 4].cast("i"))
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
        self.pause()
        self._closing = True
        if self._out:
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
        self.pause()
        self._gone = True
        if self._writing:
            self._loop.remove_writer(self._socket)
        for _, fds in self._out:
            _close_fds(fds)
        self._out.clear()
        self._drained.set()
        self._socket.close()


class TransportLink(asyncio.Protocol):
    """One TCP socket, plain or with TLS, on asyncio's own transport.

    ``started`` is called once the socket stands (TLS: the certificate is verified); it returns the connection to serve,
    or None to hang up.
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

    def close(self) -> None:
        """Close once everything is sent, or after :data:`LINGER_S`."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()
            asyncio.get_running_loop().call_later(LINGER_S, self._transport.abort)


def _close_fds(fds: Sequence[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
