"""Streams: a console, a screenshot, a volume's content, for asyncio.

Made from :mod:`pyhyve.client.stream` by ``scripts/make_async_client.py``: change that one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyhyve.client.errors import LibvirtError
from pyhyve.rpc.client import StreamData, StreamFailed, StreamHole

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from pyhyve.client.aio.session import Session
__all__ = ["Stream"]
_ZEROS: Final = bytes(1 << 20)


class Stream:
    """An open stream. As a context manager it is finished when the block ends, aborted when it fails."""

    def __init__(self, session: Session, serial: int) -> None:
        self._session = session
        self._serial = serial
        self._ended = False
        self._hole = 0
        self._closed = False

    async def send(self, data: bytes) -> None:
        """Send data. Raises LibvirtError where the connection is lost; a failed write shows in :meth:`finish`."""
        await self._session.send_stream(self._serial, data)

    async def receive(self) -> bytes:
        """Return the next piece; empty where nothing more comes. Holes read as zeros. Raises LibvirtError."""
        if self._hole:
            size = min(self._hole, len(_ZEROS))
            self._hole -= size
            return _ZEROS[:size]
        if self._ended:
            return b""
        event = await self._session.receive_stream(self._serial)
        if isinstance(event, StreamHole):
            self._hole = max(event.length, 0)
            return await self.receive()
        if isinstance(event, StreamData) and event.data:
            return event.data
        self._ended = True
        if isinstance(event, StreamFailed):
            self._closed = True
            raise LibvirtError.from_message(event.error)
        return b""

    async def read_all(self, limit_bytes: int) -> bytes:
        """Return everything up to the end; ValueError where it is more than the limit."""
        pieces, size = ([], 0)
        while piece := (await self.receive()):
            size += len(piece)
            if size > limit_bytes:
                msg = f"the stream has more than {limit_bytes} bytes"
                raise ValueError(msg)
            pieces.append(piece)
        return b"".join(pieces)

    async def finish(self) -> None:
        """Say that all is done and wait for the daemon's word. Raises LibvirtError where something failed."""
        if not self._closed:
            self._closed = True
            await self._session.end_stream(self._serial, abort=False)

    async def abort(self) -> None:
        """Break it off."""
        if not self._closed:
            self._closed = True
            await self._session.end_stream(self._serial, abort=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.finish()
        else:
            await self.abort()
