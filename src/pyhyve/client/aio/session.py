"""The I/O around :class:`pyhyve.rpc.client.ClientProtocol` for asyncio: calls overlap, each waits for its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from pyhyve.client.dialing import VERIFIED, dial, tls_context
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
    from typing import Self

    from pyhyve.client.uri import Target

__all__ = ["Session", "StreamEvent"]

_RECEIVE_SIZE: Final = 256 << 10
StreamEvent = StreamData | StreamHole | StreamEnded | StreamFailed


class _StreamQueue:
    """What arrived on one stream, and who waits for more."""

    def __init__(self) -> None:
        self.events: deque[StreamEvent] = deque()
        self.arrived = asyncio.Event()

    def put(self, event: StreamEvent) -> None:
        """Take in what arrived."""
        self.events.append(event)
        self.arrived.set()


class Session:
    """A connected socket and the conversation on it, for one event loop."""

    def __init__(self, endpoint: socket.socket | None, streams: _Streams | None, timeout_s: float | None) -> None:
        """Use :meth:`open`."""
        self._socket = endpoint
        self._tls = streams
        self._timeout_s = timeout_s
        self._protocol = ClientProtocol()
        self._replies: dict[int, asyncio.Future[Replied]] = {}
        self._queues: dict[int, _StreamQueue] = {}
        self._events: asyncio.Queue[Pushed | None] = asyncio.Queue()
        self._broken: LibvirtError | None = None
        self._sending = asyncio.Lock()
        self._reader = asyncio.get_running_loop().create_task(self._read())

    @classmethod
    async def open(cls, target: Target, timeout_s: float | None = None) -> Self:
        """Connect. Waiting for an answer longer than ``timeout_s`` ends the connection. Raises LibvirtError."""
        try:
            if target.tls is not None and target.address is not None:
                context = await asyncio.to_thread(tls_context, target.tls)
                host, port = target.address
                opening = asyncio.open_connection(host, port, ssl=context, limit=_RECEIVE_SIZE)
                reader, writer = await asyncio.wait_for(opening, timeout_s)
                if await reader.read(1) != VERIFIED:
                    writer.close()
                    msg = "the daemon does not accept our certificate"
                    raise ConnectionRefusedError(msg)
                return cls(None, (reader, writer), timeout_s)
            endpoint = await asyncio.to_thread(dial, target, timeout_s)
        except (OSError, ValueError, ssl.SSLError) as error:
            raise LibvirtError(ErrorCode.SYSTEM_ERROR, f"cannot connect to the daemon: {error}") from error
        endpoint.setblocking(False)  # noqa: FBT003 - the socket module takes it by position
        return cls(endpoint, None, timeout_s)

    # -- calls --------------------------------------------------------------------------------------------------------

    async def call(self, name: str, *values: object) -> Any:
        """Call a procedure; return its answer's record. Raises LibvirtError."""
        return (await self.exchange(name, *values)).result

    async def exchange(self, name: str, *values: object, fds: Sequence[int] = ()) -> Replied:
        """Call a procedure; return the whole reply: record, serial, descriptors (the caller's to close)."""
        self._check()
        try:
            serial = self._protocol.call(procedure(name), *values, fds=fds)
        except (XdrError, FrameError) as error:
            raise LibvirtError(ErrorCode.INVALID_ARG, f"{name}: {error}") from error
        answer: asyncio.Future[Replied] = asyncio.get_running_loop().create_future()
        self._replies[serial] = answer
        await self._flush()
        try:
            return await asyncio.wait_for(answer, self._timeout_s)
        except TimeoutError:
            reason = f"{name} was not answered in {self._timeout_s} s"
            raise self._fail(reason) from None
        finally:
            self._replies.pop(serial, None)

    # -- events -------------------------------------------------------------------------------------------------------

    async def next_event(self, timeout_s: float | None = None) -> Pushed | None:
        """Return the next event of the daemon, waiting so long for one (None: without end). Raises LibvirtError."""
        if self._events.empty():
            self._check()
        try:
            event = await asyncio.wait_for(self._events.get(), timeout_s)
        except TimeoutError:
            return None
        if event is None:
            self._events.put_nowait(None)
            self._check()
        return event

    # -- streams ------------------------------------------------------------------------------------------------------

    async def open_stream(self, name: str, *values: object) -> tuple[int, Any]:
        """Call a procedure that opens a stream; return the stream's serial and the answer's record."""
        reply = await self.exchange(name, *values)
        self._queues.setdefault(reply.serial, _StreamQueue())
        return reply.serial, reply.result

    async def send_stream(self, serial: int, data: bytes) -> None:
        """Send data on a stream; what the daemon says of it meanwhile is kept."""
        self._check()
        self._protocol.send_stream(serial, data)
        await self._flush()

    async def end_stream(self, serial: int, *, abort: bool) -> None:
        """Finish or abort a stream and wait for the daemon's word. Raises LibvirtError where it failed."""
        self._check()
        queue = self._queues[serial]
        if not any(isinstance(event, StreamEnded | StreamFailed) for event in queue.events):
            (self._protocol.abort_stream if abort else self._protocol.finish_stream)(serial)
            await self._flush()
        while True:
            event = await self.receive_stream(serial)
            if isinstance(event, StreamEnded | StreamFailed):
                break
        del self._queues[serial]
        if isinstance(event, StreamFailed) and not abort:
            raise LibvirtError.from_message(event.error)

    async def receive_stream(self, serial: int) -> StreamEvent:
        """Return the next thing that arrives on a stream."""
        queue = self._queues[serial]
        while not queue.events:
            self._check()
            queue.arrived.clear()
            await queue.arrived.wait()
        return queue.events.popleft()

    # -- the socket ---------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._broken is not None:
            raise self._broken

    def _fail(self, reason: object) -> LibvirtError:
        if self._broken is None:
            self._broken = LibvirtError.lost(reason)
        for answer in self._replies.values():
            if not answer.done():
                answer.set_exception(self._broken)
        for queue in self._queues.values():
            queue.arrived.set()
        self._events.put_nowait(None)
        self._shut()
        return self._broken

    async def _flush(self) -> None:
        async with self._sending:
            try:
                for data, fds in self._protocol.data_to_send():
                    await self._send(data, fds)
            except OSError as error:
                raise self._fail(error) from error

    async def _send(self, data: bytes, fds: Sequence[int]) -> None:
        if self._tls is not None:
            self._tls[1].write(data)
            await self._tls[1].drain()
            return
        assert self._socket is not None  # noqa: S101 - one of the two is there
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._socket, data)
        for fd in fds:
            while True:
                try:
                    socket.send_fds(self._socket, [b"\0"], [fd])
                    break
                except BlockingIOError:
                    await self._until(loop.add_writer, loop.remove_writer)

    async def _until(self, add: Any, remove: Any) -> None:
        """Wait until the socket can be read or written."""
        ready = asyncio.Event()
        add(self._socket, ready.set)
        try:
            await ready.wait()
        finally:
            if self._socket is not None and self._socket.fileno() >= 0:  # closing it forgot it already
                remove(self._socket)

    async def _read(self) -> None:
        """Take in whatever comes, until the end."""
        try:
            while True:
                data, fds = await self._receive()
                if not data:
                    self._fail("the daemon closed it")
                    return
                for event in self._protocol.receive(data, fds):
                    self._keep(event)
                await self._flush()
        except (OSError, ProtocolViolation) as error:
            self._fail(error)
        except LibvirtError:
            return  # said already, to whoever waits

    async def _receive(self) -> tuple[bytes, list[int]]:
        if self._tls is not None:
            return await self._tls[0].read(_RECEIVE_SIZE), []
        assert self._socket is not None  # noqa: S101 - one of the two is there
        loop = asyncio.get_running_loop()
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(_RECEIVE_SIZE, ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC)
                break
            except BlockingIOError:
                await self._until(loop.add_reader, loop.remove_reader)
        return data, descriptors(ancillary)

    def _keep(self, event: Event) -> None:
        if isinstance(event, Replied | Failed):
            answer = self._replies.get(event.serial)
            if answer is None or answer.done():
                return
            if isinstance(event, Failed):
                answer.set_exception(LibvirtError.from_message(event.error))
            else:
                # A stream's first pieces may be in the same bytes as the answer that opens it.
                answer.set_result(event)
        elif isinstance(event, Pushed):
            self._events.put_nowait(event)
        elif isinstance(event, StreamData | StreamHole | StreamEnded | StreamFailed):
            self._queues.setdefault(event.serial, _StreamQueue()).put(event)

    @property
    def alive(self) -> bool:
        """Whether the connection still stands, as far as is known."""
        return self._broken is None

    def close(self) -> None:
        """Close the socket; further calls raise LibvirtError."""
        if self._broken is None:
            self._fail("it was closed")
        self._reader.cancel()

    def _shut(self) -> None:
        for fd in self._protocol.close():
            with contextlib.suppress(OSError):
                os.close(fd)
        if self._tls is not None:
            self._tls[1].close()
        if self._socket is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket)
            loop.remove_writer(self._socket)
            self._socket.close()


_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
