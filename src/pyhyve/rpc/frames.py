"""Frames: length, header, payload, and the file descriptors that follow.

:class:`FrameReader` takes bytes (and descriptors) as they arrive and gives whole frames. A length that cannot be is an
error at once, before anything waits for it. After a frame with descriptors comes one dummy byte for each, to which the
sender attached it; the reader consumes those bytes and hands the descriptors over with their frame.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pyhyve.rpc.spec import FDS_MAX, FRAME_MAX, HEADER_SIZE, LENGTH_SIZE, PROTOCOL_VERSION, MessageType, Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Frame", "FrameError", "FrameReader"]

_HEADER: Final = struct.Struct(">IIIiIII")
_COUNT: Final = struct.Struct(">I")
_TYPES: Final = tuple(MessageType)
_STATUSES: Final = tuple(Status)
_WITH_FDS: Final = frozenset({MessageType.CALL_WITH_FDS, MessageType.REPLY_WITH_FDS})


class FrameError(ValueError):
    """Bytes that are no frame; the connection cannot go on."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message. ``fds`` are descriptors the receiver owns; only the ``*_WITH_FDS`` types have them."""

    program: int
    procedure: int
    type: MessageType
    serial: int
    status: Status = Status.OK
    payload: bytes = b""
    fds: tuple[int, ...] = ()
    version: int = PROTOCOL_VERSION

    def encode(self) -> bytes:
        """Return the bytes up to the dummy bytes of the descriptors; FrameError where it is too long.

        The sender then sends one more byte for each descriptor, with that descriptor attached.
        """
        count = b""
        if self.type in _WITH_FDS:
            if len(self.fds) > FDS_MAX:
                msg = f"{len(self.fds)} descriptors with one frame, at most {FDS_MAX} may"
                raise FrameError(msg)
            count = _COUNT.pack(len(self.fds))
        length = LENGTH_SIZE + HEADER_SIZE + len(count) + len(self.payload)
        if length > FRAME_MAX:
            msg = f"a frame of {length} bytes, at most {FRAME_MAX} may be sent"
            raise FrameError(msg)
        header = _HEADER.pack(length, self.program, self.version, self.procedure, self.type, self.serial, self.status)
        return b"".join((header, count, self.payload))


class FrameReader:
    """Turns what arrives into frames.

    Call :meth:`feed` with each piece received and the descriptors that came with it; it yields the frames that are
    complete. After FrameError the reader is of no more use. :meth:`close` returns descriptors nobody took.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._fds: deque[int] = deque()

    def feed(self, data: bytes, fds: Sequence[int] = ()) -> Iterator[Frame]:
        """Take in bytes; yield whole frames. Raises FrameError."""
        self._fds.extend(fds)
        if len(self._fds) > FDS_MAX:
            msg = "more descriptors than a frame may bring"
            raise FrameError(msg)
        self._buffer += data
        while (frame := self._next()) is not None:
            yield frame

    def close(self) -> list[int]:
        """Forget everything; return the descriptors that arrived without their frame, for closing."""
        left = list(self._fds)
        self._fds.clear()
        self._buffer.clear()
        return left

    def take_pending(self) -> bytes:
        """Return the bytes that wait for the rest of their frame, and forget them."""
        pending = bytes(self._buffer)
        self._buffer.clear()
        return pending

    @property
    def pending_size(self) -> int:
        """Bytes that wait for the rest of their frame."""
        return len(self._buffer)

    def _next(self) -> Frame | None:
        buffer = self._buffer
        if len(buffer) < LENGTH_SIZE:
            return None
        (length,) = _COUNT.unpack_from(buffer)
        if not LENGTH_SIZE + HEADER_SIZE <= length <= FRAME_MAX:
            msg = f"a frame cannot have {length} bytes"
            raise FrameError(msg)
        if len(buffer) < LENGTH_SIZE + HEADER_SIZE:
            return None
        _, program, version, procedure, kind, serial, status = _HEADER.unpack_from(buffer)
        if kind >= len(_TYPES) or status >= len(_STATUSES):
            msg = f"a frame of type {kind} and status {status} is none"
            raise FrameError(msg)
        if len(buffer) < length:
            return None
        start, fd_count = LENGTH_SIZE + HEADER_SIZE, 0
        if _TYPES[kind] in _WITH_FDS:
            if length < start + _COUNT.size:
                msg = "a frame with descriptors does not say how many"
                raise FrameError(msg)
            (fd_count,) = _COUNT.unpack_from(buffer, start)
            start += _COUNT.size
            if fd_count > FDS_MAX:
                msg = f"{fd_count} descriptors with one frame, at most {FDS_MAX} may be"
                raise FrameError(msg)
            if len(buffer) < length + fd_count:
                return None
            if len(self._fds) < fd_count:
                msg = "descriptors were announced and did not come"
                raise FrameError(msg)
        fds = tuple(self._fds.popleft() for _ in range(fd_count))
        payload = bytes(memoryview(buffer)[start:length])
        del buffer[: length + fd_count]
        return Frame(program, procedure, _TYPES[kind], serial, _STATUSES[status], payload, fds, version)
