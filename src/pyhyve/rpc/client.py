"""A client's half of a conversation, without I/O: calls in, bytes out; bytes in, events out.

Calls may overlap: each has a serial, and :class:`Replied` or :class:`Failed` carries it back. What opens a stream
leaves it under the serial of the call. Pings are answered by themselves. Whoever owns the socket sends what
:meth:`ClientProtocol.data_to_send` returns, after every call of any other method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pyhyve.rpc.codec import XdrError, codec
from pyhyve.rpc.errors import ErrorMessage
from pyhyve.rpc.frames import Frame, FrameError, FrameReader
from pyhyve.rpc.procedure import Trait
from pyhyve.rpc.procedures import BY_NUMBER, Procedure
from pyhyve.rpc.spec import STREAM_CHUNK, Keepalive, MessageType, Program, Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "ClientProtocol",
    "Event",
    "Failed",
    "Pong",
    "ProtocolViolation",
    "Pushed",
    "Replied",
    "StreamData",
    "StreamEnded",
    "StreamFailed",
    "StreamHole",
]

_HOLE: Final = codec("length long, flags uint")
_REPLIES: Final = frozenset({MessageType.REPLY, MessageType.REPLY_WITH_FDS})
_STREAM: Final = Trait.UPLOAD | Trait.DOWNLOAD


class ProtocolViolation(Exception):  # noqa: N818 - what happened, in the protocol's own word
    """The peer sent what it may not; the connection is over."""


@dataclass(frozen=True, slots=True)
class Replied:
    """A call succeeded; ``result`` is a record with the fields of the procedure's answer."""

    serial: int
    result: Any
    fds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """A call failed."""

    serial: int
    error: ErrorMessage


@dataclass(frozen=True, slots=True)
class Pushed:
    """The daemon reports something of itself."""

    procedure: Procedure
    message: Any


@dataclass(frozen=True, slots=True)
class StreamData:
    """A piece of a stream; empty: the daemon has sent all."""

    serial: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamHole:
    """So many zero bytes in a sparse stream."""

    serial: int
    length: int


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The daemon confirmed that the stream is finished or aborted."""

    serial: int


@dataclass(frozen=True, slots=True)
class StreamFailed:
    """The daemon broke the stream off."""

    serial: int
    error: ErrorMessage


@dataclass(frozen=True, slots=True)
class Pong:
    """The daemon answered a ping."""


Event = Replied | Failed | Pushed | StreamData | StreamHole | StreamEnded | StreamFailed | Pong


class ClientProtocol:
    """State of one connection: which calls wait, which streams are open."""

    def __init__(self) -> None:
        self._reader = FrameReader()
        self._serial = 0
        self._waiting: dict[int, Procedure] = {}
        self._streams: dict[int, Procedure] = {}
        self._out: list[tuple[bytes, tuple[int, ...]]] = []
        self._unclaimed: list[int] = []

    # -- calls --------------------------------------------------------------------------------------------------------

    def call(self, row: Procedure, *values: object, fds: Sequence[int] = ()) -> int:
        """Queue a call; return its serial. XdrError, FrameError where the values do not fit; nothing is queued then."""
        self._serial += 1
        kind = MessageType.CALL_WITH_FDS if fds else MessageType.CALL
        payload = row.args_codec.encode(*values)
        self._send(Frame(row.program, row.number, kind, self._serial, payload=payload, fds=tuple(fds)))
        self._waiting[self._serial] = row
        return self._serial

    def ping(self) -> None:
        """Queue a keepalive ping."""
        self._send(Frame(Program.KEEPALIVE, Keepalive.PING, MessageType.MESSAGE, 0))

    # -- streams ------------------------------------------------------------------------------------------------------

    def send_stream(self, serial: int, data: bytes) -> None:
        """Queue data on an open stream, cut into packets."""
        for start in range(0, len(data), STREAM_CHUNK):
            self._send_stream(serial, Status.CONTINUE, data[start : start + STREAM_CHUNK])

    def send_hole(self, serial: int, length: int) -> None:
        """Queue a hole on a sparse stream."""
        row = self._streams[serial]
        payload = _HOLE.encode(length, 0)
        self._send(Frame(row.program, row.number, MessageType.STREAM_HOLE, serial, Status.CONTINUE, payload))

    def finish_stream(self, serial: int) -> None:
        """Say that all was sent; :class:`StreamEnded` confirms."""
        self._send_stream(serial, Status.OK, b"")

    def abort_stream(self, serial: int) -> None:
        """Break the stream off; :class:`StreamEnded` confirms."""
        self._send_stream(serial, Status.ERROR, b"")

    def _send_stream(self, serial: int, status: Status, data: bytes) -> None:
        row = self._streams.get(serial)
        if row is None:
            return  # the daemon broke it off, which was told as StreamFailed
        self._send(Frame(row.program, row.number, MessageType.STREAM, serial, status, data))

    # -- bytes --------------------------------------------------------------------------------------------------------

    def _send(self, frame: Frame) -> None:
        self._out.append((frame.encode(), frame.fds))

    def data_to_send(self) -> list[tuple[bytes, tuple[int, ...]]]:
        """Return what to send: bytes, and the descriptors to send after them, each on a byte of its own."""
        out, self._out = self._out, []
        return out

    def receive(self, data: bytes, fds: Sequence[int] = ()) -> Iterator[Event]:
        """Take in bytes; yield what they mean. Raises ProtocolViolation."""
        try:
            for frame in self._reader.feed(data, fds):
                event = self._event(frame)
                if event is not None:
                    yield event
        except (FrameError, XdrError) as error:
            msg = f"the daemon broke the protocol: {error}"
            raise ProtocolViolation(msg) from error

    def close(self) -> list[int]:
        """Forget everything; return descriptors to close."""
        self._waiting.clear()
        self._streams.clear()
        unclaimed, self._unclaimed = self._unclaimed, []
        return [*unclaimed, *self._reader.close()]

    def _event(self, frame: Frame) -> Event | None:
        if frame.program == Program.KEEPALIVE:
            return self._keepalive(frame)
        if frame.type in _REPLIES:
            return self._reply(frame)
        if frame.type is MessageType.MESSAGE:
            row = BY_NUMBER.get((frame.program, frame.procedure))
            if row is None or Trait.EVENT not in row.traits:
                return None  # a newer daemon's event, never asked for
            return Pushed(row, row.args_codec.decode(frame.payload))
        if frame.type in {MessageType.STREAM, MessageType.STREAM_HOLE}:
            return self._stream(frame)
        msg = f"the daemon sent a {frame.type.name.lower()}"
        raise ProtocolViolation(msg)

    def _keepalive(self, frame: Frame) -> Event | None:
        if frame.procedure == Keepalive.PING:
            self._send(Frame(Program.KEEPALIVE, Keepalive.PONG, MessageType.MESSAGE, 0))
            return None
        return Pong()

    def _reply(self, frame: Frame) -> Event:
        row = self._waiting.pop(frame.serial, None)
        if row is None:
            msg = f"the daemon answered call {frame.serial}, which was not made"
            raise ProtocolViolation(msg)
        if frame.status is Status.ERROR:
            self._unclaimed.extend(frame.fds)
            return Failed(frame.serial, ErrorMessage.decode(frame.payload))
        result = row.ret_codec.decode(frame.payload)
        if row.traits & _STREAM:
            self._streams[frame.serial] = row
        return Replied(frame.serial, result, frame.fds)

    def _stream(self, frame: Frame) -> Event | None:
        if frame.serial not in self._streams:
            return None  # data under way when the stream was broken off
        if frame.status is Status.ERROR:
            del self._streams[frame.serial]
            return StreamFailed(frame.serial, ErrorMessage.decode(frame.payload))
        if frame.type is MessageType.STREAM_HOLE:
            return StreamHole(frame.serial, _HOLE.decode(frame.payload).length)
        if frame.status is Status.OK:
            del self._streams[frame.serial]
            return StreamEnded(frame.serial)
        return StreamData(frame.serial, frame.payload)
