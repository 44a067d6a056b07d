"""The I/O around :class:`pyhyve.rpc.client.ClientProtocol`: one socket, calls one at a time, events kept for later."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from pyhyve.client.dialing import dial
from pyhyve.client.errors import LibvirtError
from pyhyve.rpc.ancillary import ANCILLARY_SIZE, descriptors
from pyhyve.rpc.client import (
    ClientProtocol,
    Event,
    Failed,
    ProtocolViolation,
    Pushed,
    Replied,
    StreamData,
    StreamEnded,
    StreamFailed,
    StreamHole,
)
from pyhyve.rpc.codec import XdrError
from pyhyve.rpc.errors import ErrorCode
from pyhyve.rpc.frames import FrameError
from pyhyve.rpc.procedures import procedure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.client.uri import Target

__all__ = ["Session", "StreamEvent"]

_RECEIVE_SIZE: Final = 256 << 10

StreamEvent = StreamData | StreamHole | StreamEnded | StreamFailed


class Session:
    """A connected socket and the conversation on it. Methods may be called from any thread."""

    def __init__(self, target: Target, timeout_s: float | None = None) -> None:
        """Connect. Waiting for an answer longer than ``timeout_s`` ends the connection. Raises LibvirtError."""
        try:
            self._socket = dial(target, timeout_s)
        except (OSError, ValueError) as error:
            raise LibvirtError(ErrorCode.SYSTEM_ERROR, f"cannot connect to the daemon: {error}") from error
        self._unix = self._socket.family == socket.AF_UNIX
        self._protocol = ClientProtocol()
        self._lock = threading.RLock()
        self._replies: dict[int, Replied | Failed] = {}
        self._streams: dict[int, deque[StreamEvent]] = {}
        self._events: deque[Pushed] = deque()
        self._broken: LibvirtError | None = None

    # -- calls --------------------------------------------------------------------------------------------------------

    def call(self, name: str, *values: object) -> Any:  # noqa: ANN401 - a record with the answer's fields
        """Call a procedure; return its answer's record. Raises LibvirtError."""
        return self.exchange(name, *values).result

    def exchange(self, name: str, *values: object, fds: Sequence[int] = ()) -> Replied:
        """Call a procedure; return the whole reply: record, serial, descriptors (the caller's to close)."""
        row = procedure(name)
        with self._lock:
            self._check()
            try:
                serial = self._protocol.call(row, *values, fds=fds)
            except (XdrError, FrameError) as error:
                raise LibvirtError(ErrorCode.INVALID_ARG, f"{name}: {error}") from error
            self._flush()
            while serial not in self._replies:
                self._receive()
            reply = self._replies.pop(serial)
        if isinstance(reply, Failed):
            raise LibvirtError.from_message(reply.error)
        return reply

    # -- events -------------------------------------------------------------------------------------------------------

    def next_event(self, timeout_s: float | None = None) -> Pushed | None:
        """Return the next event of the daemon, waiting so long for one (None: without end)."""
        with self._lock:
            while not self._events:
                self._check()
                if not self._readable(timeout_s):
                    return None
                self._receive()
            return self._events.popleft()

    def _readable(self, timeout_s: float | None) -> bool:
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))

    # -- streams ------------------------------------------------------------------------------------------------------

    def open_stream(self, name: str, *values: object) -> tuple[int, Any]:
        """Call a procedure that opens a stream; return the stream's serial and the answer's record."""
        with self._lock:
            reply = self.exchange(name, *values)
            self._streams.setdefault(reply.serial, deque())
            return reply.serial, reply.result

    def send_stream(self, serial: int, data: bytes) -> None:
        """Send data on a stream; what the daemon says of it meanwhile is kept."""
        with self._lock:
            self._check()
            self._protocol.send_stream(serial, data)
            self._flush()

    def end_stream(self, serial: int, *, abort: bool) -> None:
        """Finish or abort a stream and wait for the daemon's word. Raises LibvirtError where it failed."""
        with self._lock:
            self._check()
            queue = self._streams[serial]
            if not any(isinstance(event, StreamEnded | StreamFailed) for event in queue):
                (self._protocol.abort_stream if abort else self._protocol.finish_stream)(serial)
                self._flush()
            while True:
                while not queue:
                    self._receive()
                event = queue.popleft()
                if isinstance(event, StreamEnded | StreamFailed):
                    break
            del self._streams[serial]
        if isinstance(event, StreamFailed) and not abort:
            raise LibvirtError.from_message(event.error)

    def receive_stream(self, serial: int) -> StreamEvent:
        """Return the next thing that arrives on a stream."""
        with self._lock:
            queue = self._streams[serial]
            while not queue:
                self._check()
                self._receive()
            return queue.popleft()

    # -- the socket ---------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._broken is not None:
            raise self._broken

    def _fail(self, reason: object) -> LibvirtError:
        self._broken = LibvirtError.lost(reason)
        self.close()
        return self._broken

    def _flush(self) -> None:
        try:
            for data, fds in self._protocol.data_to_send():
                self._socket.sendall(data)
                for fd in fds:
                    socket.send_fds(self._socket, [b"\0"], [fd])
        except OSError as error:
            raise self._fail(error) from error

    def _receive(self) -> None:
        self._check()
        fds: list[int] = []
        try:
            if self._unix:
                data, ancillary, _, _ = self._socket.recvmsg(_RECEIVE_SIZE, ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC)
                fds = descriptors(ancillary)
            else:
                data = self._socket.recv(_RECEIVE_SIZE)
            if not data:
                reason = "the daemon closed it"
                raise self._fail(reason)
            for event in self._protocol.receive(data, fds):
                self._keep(event)
        except (OSError, ProtocolViolation) as error:
            raise self._fail(error) from error
        self._flush()

    def _keep(self, event: Event) -> None:
        if isinstance(event, Replied | Failed):
            self._replies[event.serial] = event
        elif isinstance(event, Pushed):
            self._events.append(event)
        elif isinstance(event, StreamData | StreamHole | StreamEnded | StreamFailed):
            self._streams.setdefault(event.serial, deque()).append(event)

    @property
    def alive(self) -> bool:
        """Whether the connection still stands, as far as is known."""
        return self._broken is None

    def close(self) -> None:
        """Close the socket; further calls raise LibvirtError."""
        if self._broken is None:
            self._broken = LibvirtError.lost("it was closed")
        for fd in self._protocol.close():
            with contextlib.suppress(OSError):
                os.close(fd)
        self._socket.close()
