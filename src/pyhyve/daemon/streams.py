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

    async def send_file(self, descriptor: int, offset: int, end: int) -> int:
        """Send a part of a file, or the beginning of it; return where the rest begins.

        Where that is ``offset`` again the file has no more bytes, or nobody reads any more. Raises OSError.
        """
        return await self._connection.send_file(self._serial, descriptor, offset, end)

    async def store(self, piece: bytes, descriptor: int, offset: int, limit: int | None) -> int:
        """Write a piece that was read, and what follows as long as it is at hand, to a file.

        Returns where the next piece belongs. What would reach beyond ``limit`` is left to :meth:`read`, as holes are.
        Raises OSError.
        """
        pieces, end = [piece], offset + len(piece)
        while self._incoming and not isinstance(following := self._incoming[0], Hole):
            end += len(following)
            if limit is not None and end > limit:
                break
            self._incoming.popleft()
            self.incoming_size -= len(following)
            pieces.append(following)
        self._connection.stream_drained(self)
        only = bool(self._incoming) or self._ended
        return await self._connection.store(self._serial, descriptor, offset, limit, pieces, only=only)

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
