"""A daemon's half of a conversation, without I/O: bytes in, calls out; answers in, bytes out.

A call this version cannot serve (an unknown program, procedure, or arguments that are none) is answered with an error
here, as libvirtd does, and the connection goes on; bytes that are no frame end it. Who may call what is the caller's
decision: :class:`Called` carries the procedure with its traits and permissions. ``calls_waiting`` counts the calls
without an answer, so that the owner of the socket can stop reading from a client that asks for too much at once.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pyhyve.rpc.codec import XdrError, codec
from pyhyve.rpc.errors import ErrorCode, ErrorDomain, ErrorMessage
from pyhyve.rpc.frames import Frame, FrameError, FrameReader
from pyhyve.rpc.procedure import Trait
from pyhyve.rpc.procedures import BY_NUMBER, Procedure
from pyhyve.rpc.spec import (
    FRAME_MAX,
    HEADER_SIZE,
    LENGTH_SIZE,
    PROTOCOL_VERSION,
    STREAM_CHUNK,
    Keepalive,
    MessageType,
    Program,
    Status,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "Called",
    "ClientViolation",
    "Pong",
    "ServerProtocol",
    "StreamAborted",
    "StreamData",
    "StreamFinished",
    "StreamHole",
]

_HOLE: Final = codec("length long, flags uint")
_HEADER: Final = struct.Struct(">IIIiIII")
_HEADER_END: Final = LENGTH_SIZE + HEADER_SIZE
_CALLS: Final = frozenset({MessageType.CALL, MessageType.CALL_WITH_FDS})
_REPLY: Final = int(MessageType.REPLY)
_PROGRAMS: Final = frozenset(map(int, Program))
_OPENS_STREAM: Final = frozenset(row for row in BY_NUMBER.values() if row.traits & (Trait.UPLOAD | Trait.DOWNLOAD))
_SERIAL_AT, _SERIAL_END = 20, 24
"""Where in a frame its serial number is."""
_SAID_MAX: Final = 1024
_SAID_SIZE: Final = 192
_said: Final[dict[bytes, tuple[Procedure, Any]]] = {}
"""Short calls without their serial numbers, and what they say. What bytes say depends on nothing else."""
_CALLABLE: Final = {key: row for key, row in BY_NUMBER.items() if Trait.EVENT not in row.traits}


class ClientViolation(Exception):  # noqa: N818 - what happened, in the protocol's own word
    """The client sent what is no frame, or a frame only a daemon may send; the connection is over."""


@dataclass(slots=True)
class Called:
    """A client calls; ``arguments`` is a record with the procedure's argument fields.

    Not frozen, since one is made for every call and a frozen one takes three times as long to make.
    """

    procedure: Procedure
    serial: int
    arguments: Any
    fds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StreamData:
    """A piece of a stream the client uploads; empty: it has sent all it reads."""

    serial: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamHole:
    """So many zero bytes in a sparse upload."""

    serial: int
    length: int


@dataclass(frozen=True, slots=True)
class StreamFinished:
    """The client is done with a stream; :meth:`ServerProtocol.end_stream` confirms."""

    serial: int


@dataclass(frozen=True, slots=True)
class StreamAborted:
    """The client gave a stream up; :meth:`ServerProtocol.end_stream` confirms."""

    serial: int


@dataclass(frozen=True, slots=True)
class Pong:
    """The client answered a ping."""


Event = Called | StreamData | StreamHole | StreamFinished | StreamAborted | Pong


class ServerProtocol:
    """State of one client's connection."""

    def __init__(self) -> None:
        self._reader = FrameReader()
        self._streams: dict[int, Procedure] = {}
        self._out: list[tuple[bytes, tuple[int, ...]]] = []
        self._unclaimed: list[int] = []
        self.calls_waiting = 0

    # -- answers ------------------------------------------------------------------------------------------------------

    def reply(self, called: Called, *values: object, fds: Sequence[int] = ()) -> None:
        """Answer a call. XdrError, FrameError where the values do not fit: then nothing was sent, fail it instead."""
        self.reply_encoded(called, called.procedure.ret_codec.encode(*values), fds)

    def reply_encoded(self, called: Called, payload: bytes, fds: Sequence[int] = ()) -> None:
        """Answer a call with what :attr:`Procedure.ret_codec` made of the values. FrameError where it is too long."""
        row = called.procedure
        length = _HEADER_END + len(payload)
        if fds or length > FRAME_MAX:
            kind = MessageType.REPLY_WITH_FDS if fds else MessageType.REPLY
            self._send(Frame(row.program, row.number, kind, called.serial, payload=payload, fds=tuple(fds)))
        else:
            header = _HEADER.pack(length, row.program, PROTOCOL_VERSION, row.number, _REPLY, called.serial, 0)
            self._out.append((header + payload, ()))
        self.calls_waiting -= 1
        if row in _OPENS_STREAM:
            self._streams[called.serial] = row

    def answer_now(self, called: Called, payload: bytes) -> bytes | None:
        """Return the bytes that answer a call, for sending at once; None where others have to be sent first.

        Of calls whose answers bring neither descriptors nor open a stream.
        """
        row = called.procedure
        length = _HEADER_END + len(payload)
        if self._out or length > FRAME_MAX:
            return None
        self.calls_waiting -= 1
        return _HEADER.pack(length, row.program, PROTOCOL_VERSION, row.number, _REPLY, called.serial, 0) + payload

    def fail(self, called: Called, error: ErrorMessage) -> None:
        """Answer a call with an error."""
        self._fail(called.procedure.program, called.procedure.number, called.serial, error)
        self.calls_waiting -= 1

    def push(self, row: Procedure, *values: object) -> None:
        """Send an event. XdrError where the values do not fit."""
        payload = row.args_codec.encode(*values)
        self._send(Frame(row.program, row.number, MessageType.MESSAGE, 0, payload=payload))

    def ping(self) -> None:
        """Queue a keepalive ping."""
        self._send(Frame(Program.KEEPALIVE, Keepalive.PING, MessageType.MESSAGE, 0))

    def _fail(self, program: int, number: int, serial: int, error: ErrorMessage) -> None:
        self._send(Frame(program, number, MessageType.REPLY, serial, Status.ERROR, error.encode()))

    # -- streams ------------------------------------------------------------------------------------------------------

    def send_stream(self, serial: int, data: bytes) -> None:
        """Queue data on an open stream, cut into packets; no data at all says that everything was sent."""
        for start in range(0, len(data) or 1, STREAM_CHUNK):
            self._send_stream(serial, Status.CONTINUE, data[start : start + STREAM_CHUNK])

    def send_hole(self, serial: int, length: int) -> None:
        """Queue a hole on a sparse download."""
        row = self._streams[serial]
        payload = _HOLE.encode(length, 0)
        self._send(Frame(row.program, row.number, MessageType.STREAM_HOLE, serial, Status.CONTINUE, payload))

    def end_stream(self, serial: int) -> None:
        """Confirm that a stream is finished or aborted."""
        self._send_stream(serial, Status.OK, b"")
        del self._streams[serial]

    def fail_stream(self, serial: int, error: ErrorMessage) -> None:
        """Break a stream off."""
        self._send_stream(serial, Status.ERROR, error.encode())
        del self._streams[serial]

    def stream_header(self, serial: int) -> bytes:
        """Return what an open stream's packets with data begin with, either way, but for the length word."""
        row = self._streams[serial]
        kind, status = MessageType.STREAM, Status.CONTINUE
        return _HEADER.pack(0, row.program, PROTOCOL_VERSION, row.number, kind, serial, status)

    def _send_stream(self, serial: int, status: Status, data: bytes) -> None:
        row = self._streams[serial]
        self._send(Frame(row.program, row.number, MessageType.STREAM, serial, status, data))

    # -- bytes --------------------------------------------------------------------------------------------------------

    def _send(self, frame: Frame) -> None:
        self._out.append((frame.encode(), frame.fds))

    def data_to_send(self) -> list[tuple[bytes, tuple[int, ...]]]:
        """Return what to send: bytes, and the descriptors to send after them, each on a byte of its own."""
        out, self._out = self._out, []
        return out

    def receive(self, data: bytes, fds: Sequence[int] = ()) -> Iterator[Event]:
        """Take in bytes; yield what they mean. Raises ClientViolation."""
        try:
            for frame in self._reader.feed(data, fds):
                event = self._event(frame)
                if event is not None:
                    yield event
        except (FrameError, XdrError) as error:
            msg = f"the client broke the protocol: {error}"
            raise ClientViolation(msg) from error

    def receive_call(self, data: bytes) -> Called | None:
        """Take in bytes that are one whole call and nothing else, as nearly all that arrives is.

        None: they are not, and nothing was taken in; :meth:`receive` does it. Clients ask the same again and again:
        what a short call says, all but its serial number, is remembered.
        """
        if self._reader.pending_size or len(data) < _HEADER_END:
            return None
        said = None
        if len(data) < _SAID_SIZE:
            said = data[:_SERIAL_AT] + data[_SERIAL_END:]
            known = _said.get(said)
            if known is not None:
                self.calls_waiting += 1
                return Called(known[0], int.from_bytes(data[_SERIAL_AT:_SERIAL_END], "big"), known[1])
        length, program, version, number, kind, serial, status = _HEADER.unpack_from(data)
        row = _CALLABLE.get((program, number))
        if length != len(data) or kind or status or version != PROTOCOL_VERSION or row is None:
            return None
        try:
            arguments = row.args_codec.decode(data, _HEADER_END)
        except XdrError:
            return None
        if said is not None:
            _remember(said, row, arguments)
        self.calls_waiting += 1
        return Called(row, serial, arguments)

    def take_pending(self) -> bytes:
        """Return the beginning of a frame whose rest did not come yet, and forget it: :meth:`receive` it again."""
        return self._reader.take_pending()

    def unclaimed_fds(self) -> list[int]:
        """Return the descriptors of calls that were answered here; close them after each :meth:`receive`."""
        unclaimed, self._unclaimed = self._unclaimed, []
        return unclaimed

    def close(self) -> list[int]:
        """Forget everything; return descriptors to close."""
        self._streams.clear()
        return [*self.unclaimed_fds(), *self._reader.close()]

    @property
    def open_streams(self) -> Sequence[int]:
        """Serials of the streams that are open."""
        return tuple(self._streams)

    def _event(self, frame: Frame) -> Event | None:
        if frame.program == Program.KEEPALIVE:
            if frame.procedure == Keepalive.PING:
                self._send(Frame(Program.KEEPALIVE, Keepalive.PONG, MessageType.MESSAGE, 0))
                return None
            return Pong()
        if frame.type in _CALLS:
            return self._call(frame)
        if frame.type in {MessageType.STREAM, MessageType.STREAM_HOLE}:
            return self._stream(frame)
        msg = f"the client sent a {frame.type.name.lower()}"
        raise ClientViolation(msg)

    def _call(self, frame: Frame) -> Event | None:
        row = _CALLABLE.get((frame.program, frame.procedure))
        reason = ""
        if frame.version != PROTOCOL_VERSION or frame.program not in _PROGRAMS:
            reason = f"Cannot find program {frame.program} version {frame.version}"
        elif row is None:
            reason = f"unknown procedure: {frame.procedure}"
        elif frame.status is not Status.OK:
            reason = f"Unexpected message status {int(frame.status)}"
        if row is not None and not reason:
            try:
                arguments = row.args_codec.decode(frame.payload)
            except XdrError as undecodable:
                reason = f"Unable to decode message payload: {undecodable}"
            else:
                self.calls_waiting += 1
                return Called(row, frame.serial, arguments, frame.fds)
        error = ErrorMessage(ErrorCode.RPC, ErrorDomain.RPC, reason)
        self._fail(frame.program, frame.procedure, frame.serial, error)
        self._unclaimed.extend(frame.fds)
        return None

    def _stream(self, frame: Frame) -> Event | None:
        if frame.serial not in self._streams:
            return None  # data under way when the stream was broken off
        if frame.type is MessageType.STREAM_HOLE:
            return StreamHole(frame.serial, _HOLE.decode(frame.payload).length)
        if frame.status is Status.CONTINUE:
            return StreamData(frame.serial, frame.payload)
        return StreamFinished(frame.serial) if frame.status is Status.OK else StreamAborted(frame.serial)


def _remember(said: bytes, row: Procedure, arguments: Any) -> None:  # noqa: ANN401 - a record with any fields
    """Remember what a question says, unless it could be changed by whoever is given it.

    No other call: it may bring a password.
    """
    if Trait.READ not in row.traits:
        return
    try:
        hash(arguments)
    except TypeError:
        return
    if len(_said) >= _SAID_MAX:
        _said.clear()
    _said[said] = row, arguments
