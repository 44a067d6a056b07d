"""Streams: one that a procedure opened, as its handler sees it.

A download ends with an empty piece, which :meth:`Stream.finish_sending` (or the end of the body) sends; an upload when
:meth:`Stream.read` returns nothing. Both sides are held back: writing waits while the client does not read, and a
client's connection is not read while a handler has :data:`INCOMING_MAX` bytes to take in.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pyhyve.daemon.connection import Connection

__all__ = ["INCOMING_MAX", "Hole", "Stream"]

INCOMING_MAX: Final = 4 << 20
"""Bytes of a stream that wait for its handler before the client is held back."""


class Hole(int):
    """A run of so many zero bytes in a sparse upload."""


class Stream:
    """One open stream. Its handler reads and writes; the connection feeds it."""

    def __init__(self, connection: Connection, serial: int) -> None:
        self._connection = connection
        self._serial = serial
        self._incoming: deque[bytes | Hole] = deque()
        self._arrived = asyncio.Event()
        self._ended = False
        self._sent_all = False
        self.incoming_size = 0
        self.task: asyncio.Task[None] | None = None

    # -- for the handler ----------------------------------------------------------------------------------------------

    async def read(self) -> bytes | Hole:
        """Return the next piece the client sent (a :class:`Hole` of a sparse upload); nothing once it has sent all."""
        while not self._incoming:
            if self._ended:
                return b""
            self._arrived.clear()
            await self._arrived.wait()
        piece = self._incoming.popleft()
        if not isinstance(piece, Hole):
            self.incoming_size -= len(piece)
        self._connection.stream_drained(self)
        return piece

    async def write(self, data: bytes) -> None:
        """Send data; returns once the client may be sent more."""
        if data:
            self._connection.send_stream(self._serial, data)
            await self._connection.drained()

    async def write_hole(self, length: int) -> None:
        """Send a run of zero bytes as such; only where the client asked for a sparse stream."""
        self._connection.send_hole(self._serial, length)
        await self._connection.drained()

    def finish_sending(self) -> None:
        """Tell the client that it has everything. Happens by itself when the handler of a download returns."""
        if not self._sent_all:
            self._sent_all = True
            self._connection.send_stream(self._serial, b"")

    async def wait_finished(self) -> None:
        """Wait until the client says that it is done."""
        while not self._ended:
            self._arrived.clear()
            await self._arrived.wait()

    @property
    def finished(self) -> bool:
        """Whether the client said that it is done."""
        return self._ended

    # -- for the connection -------------------------------------------------------------------------------------------

    def feed(self, piece: bytes | Hole) -> None:
        """Take in a piece from the client."""
        self._incoming.append(piece)
        if not isinstance(piece, Hole):
            self.incoming_size += len(piece)
        self._arrived.set()

    def end(self) -> None:
        """The client is done."""
        self._ended = True
        self._arrived.set()
