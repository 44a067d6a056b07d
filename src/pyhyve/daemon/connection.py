"""One client: its calls are dispatched, its streams fed, its events sent.

The bytes come and go through a :class:`Link`, so that everything here is the same for every kind of socket and testable
without one. At most :data:`CALLS_MAX` calls of a client are served at the same time; more wait in its socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from pyhyve.daemon.access import AllowAll, denied_to_readers, extra_permissions, object_of, objects_in
from pyhyve.daemon.bulk import Bypass, write
from pyhyve.daemon.dispatch import Call, Encoded, Registered, Turn, registered
from pyhyve.daemon.errors import LibvirtError, api_name
from pyhyve.daemon.streams import INCOMING_MAX, Hole, Stream
from pyhyve.rpc.codec import XdrError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.rpc.frames import FrameError
from pyhyve.rpc.procedure import Trait
from pyhyve.rpc.server import (
    Called,
    ClientViolation,
    Pong,
    ServerProtocol,
    StreamAborted,
    StreamData,
    StreamFinished,
    StreamHole,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyhyve.daemon.access import Identity
    from pyhyve.daemon.bulk import Lease
    from pyhyve.daemon.daemon import Daemon
    from pyhyve.daemon.drivers.api import Driver
    from pyhyve.daemon.events import Registration
    from pyhyve.rpc.codec import Codec
    from pyhyve.rpc.procedures import Procedure
    from pyhyve.rpc.scram import ScramServer

__all__ = ["CALLS_MAX", "Connection", "Link"]

_log = logging.getLogger(__name__)

CALLS_MAX: Final = 16
"""Calls of one client that are served at the same time."""
UNREAD_MAX: Final = 1 << 20
"""Bytes a client may leave unread before its next calls wait in its socket."""
BACKLOG_MAX: Final = 64 << 20
"""Bytes of answers and events a client may leave unread before it is disconnected: two of the longest frames."""
PIECE_SIZE: Final = 1 << 20
"""Bytes of a file that are read at once for a client whose socket is no thread's (TLS)."""
_READ_ONLY_FLAG: Final = 1  # VIR_CONNECT_RO
_WITHOUT_DRIVER: Final = frozenset(
    {
        "AUTH_LIST",
        "AUTH_POLKIT",
        "AUTH_SASL_INIT",
        "AUTH_SASL_START",
        "AUTH_SASL_STEP",
        "CONNECT_CLOSE",
        "CONNECT_OPEN",
        "CONNECT_SUPPORTS_FEATURE",
    }
)
_WITHOUT_AUTHENTICATION: Final = frozenset(name for name in _WITHOUT_DRIVER if name.startswith("AUTH_"))


class Link(Protocol):
    """The socket of a client."""

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Queue bytes, and descriptors to send after them, each on a byte of its own (they are closed once sent)."""

    def pause(self) -> None:
        """Stop reading."""

    def resume(self) -> None:
        """Read again."""

    def close(self) -> None:
        """Close once everything is sent, or the client does not take it."""

    @property
    def unsent_size(self) -> int:
        """Bytes that are queued."""

    async def drained(self) -> None:
        """Wait until little is queued. Returns at once when the socket is gone."""

    async def emptied(self) -> None:
        """Wait until nothing is queued. Returns at once when the socket is gone."""

    def lend_input(self) -> Lease | None:
        """Stop reading and lend that direction of the socket; None where it cannot be lent now."""

    def return_input(self, *, lost: bool) -> None:
        """Read again, or note that the client is gone."""

    def lend_output(self) -> Lease | None:
        """Queue what is sent, and lend that direction; None where it cannot be lent now."""

    def return_output(self, rest: memoryview, *, lost: bool) -> None:
        """Send the rest of a packet, then what was queued meanwhile; or note that the client is gone."""


class Connection:
    """State of one client. Everything happens on the event loop."""

    def __init__(
        self, daemon: Daemon, link: Link, identity: Identity, *, read_only: bool = False, secure: bool = True
    ) -> None:
        self.daemon = daemon
        self.identity = identity
        self.read_only = read_only
        self.secure = secure
        """Nobody can listen to or change what is said: a unix socket, or TLS."""
        self.authenticated = True
        self.registrations: dict[int, Registration] = {}
        self.watches_close = False
        self._closers: list[Callable[[Connection], None]] = []
        self.keepalive = False
        """The client answers pings."""
        self.sasl: ScramServer | None = None
        """The authentication under way."""
        self._link = link
        self._driver: Driver | None = None
        self._protocol = ServerProtocol()
        self._bypass = Bypass(link, self._protocol, self.receive, daemon.stream_threads)
        self._streams: dict[int, Stream] = {}
        self._admitted: dict[Procedure, Registered] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._paused = False
        self._postponed: deque[Called] = deque()
        self._careful = True
        self.closed = False
        self.silent_pings = 0
        daemon.connections.add(self)

    # -- for handlers -------------------------------------------------------------------------------------------------

    @property
    def driver(self) -> Driver:
        """The driver this connection was opened to. Raises LibvirtError where it was not."""
        if self._driver is None:
            raise LibvirtError(ErrorCode.INTERNAL_ERROR, ErrorDomain.RPC, "connection not open")
        return self._driver

    @property
    def opened(self) -> bool:
        """Whether it was opened to a driver."""
        return self._driver is not None

    def open(self, driver: Driver, flags: int) -> None:
        """Open it to a driver."""
        self._driver = driver
        self.read_only = self.read_only or bool(flags & _READ_ONLY_FLAG)
        self.forget_admissions()

    def on_close(self, function: Callable[[Connection], None]) -> None:
        """Have a function called once the client closed what it opened, or is gone."""
        self._closers.append(function)

    def _call_closers(self) -> None:
        closers, self._closers = self._closers, []
        for function in closers:
            function(self)

    def close_driver(self) -> None:
        """Close what was opened; the socket stays."""
        self._call_closers()
        self.daemon.events.drop(self)
        self.forget_admissions()
        self._driver = None

    def become(self, user: str | None) -> None:
        """Note who the client turned out to be."""
        self.identity = replace(self.identity, sasl=user)
        self.authenticated = True
        self.sasl = None
        self.forget_admissions()

    def allows(self, permission: str, name: str = "", uuid: bytes = b"") -> bool:
        """Whether the policy grants this client a permission, on an object or (no name) on some."""
        return self.daemon.policy.allows(self.identity, permission, name, uuid)

    @property
    def restricted(self) -> bool:
        """Whether there is a policy at all."""
        return type(self.daemon.policy) is not AllowAll

    def require(self, permission: str, name: str = "", uuid: bytes = b"") -> None:
        """Raise LibvirtError where the policy does not grant a permission."""
        if self.restricted and not self.allows(permission, name, uuid):
            kind, _, wanted = permission.partition(":")
            msg = f"'{kind.replace('_', '-')}' denied '{wanted.replace('_', '-')}' access"
            raise LibvirtError(ErrorCode.ACCESS_DENIED, ErrorDomain.ACCESS, msg)

    def push(self, row: Procedure, *values: object) -> None:
        """Send an event. Raises XdrError where the values do not fit the table."""
        if not self.closed:
            self._protocol.push(row, *values)
            self._flush()

    def ping(self) -> None:
        """Ask whether the client is still there, if it understands and we listen."""
        if not self.keepalive or self._paused or self.closed:
            return
        self.silent_pings += 1
        self._protocol.ping()
        self._flush()

    # -- from the link ------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Take in what arrived."""
        self.silent_pings = 0
        if not fds and not self._postponed and self._protocol.calls_waiting < CALLS_MAX:
            called = self._protocol.receive_call(data)
            if called is not None:
                if not self._careful and self._answer_now(called):
                    return
                self._serve(called)
                self._flush()
                if self._link.unsent_size > UNREAD_MAX:
                    self._balance()
                return
        try:
            for event in self._protocol.receive(data, fds):
                if isinstance(event, Called):
                    if self._postponed or self._protocol.calls_waiting > CALLS_MAX:
                        self._postponed.append(event)
                    else:
                        self._serve(event)
                elif not isinstance(event, Pong):
                    self._feed(event)
        except ClientViolation as error:
            _log.warning("client %s: %s", self.identity, error)
            self.close(str(error))
            return
        _close_fds(self._protocol.unclaimed_fds())
        self._flush()
        self._balance()

    def writable(self) -> None:
        """Little is queued any more."""
        if self._paused:
            self._balance()

    def lost(self) -> None:
        """The socket is gone: give up what was under way."""
        if self.closed:
            return
        self.closed = True
        self._call_closers()
        self.daemon.connections.discard(self)
        self.daemon.events.drop(self)
        for called in self._postponed:
            _close_fds(called.fds)
        self._postponed.clear()
        _close_fds(self._protocol.close())
        for stream in self._streams.values():
            if stream.task is not None:
                stream.task.cancel()
        # Calls under way are not cancelled: half a definition helps nobody. Their answers go nowhere.

    def close(self, reason: str) -> None:
        """Close the connection."""
        _log.debug("closing client %s: %s", self.identity, reason)
        self.lost()
        self._link.close()

    def _flush(self) -> None:
        if self.closed:
            for _, fds in self._protocol.data_to_send():
                _close_fds(fds)
            return
        for data, fds in self._protocol.data_to_send():
            self._link.send(data, fds)
        if self._link.unsent_size > BACKLOG_MAX:
            _log.warning("client %s does not read: disconnected", self.identity)
            self.close("it does not read")

    def _balance(self) -> None:
        """Read from the client, or not."""
        too_much = (
            bool(self._postponed)
            or self._protocol.calls_waiting > CALLS_MAX
            or self._link.unsent_size > UNREAD_MAX
            or any(stream.incoming_size > INCOMING_MAX for stream in self._streams.values())
        )
        if too_much != self._paused and not self.closed:
            self._paused = too_much
            (self._link.pause if too_much else self._link.resume)()

    # -- calls --------------------------------------------------------------------------------------------------------

    def _serve(self, called: Called) -> None:
        row = called.procedure
        try:
            entry = self._admitted.get(row) or self._admit(row)
            if self._careful:
                self._check(row, called.arguments)
            call = Call(self, row, called.fds)
            if entry.waits:
                task = self.daemon.loop.create_task(self._serve_waiting(entry, call, called), name=row.name)
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                return
            result = entry.handler(call, called.arguments)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is answered
            self._fail(called, error)
        else:
            self._reply(entry, call, called, result)

    def _answer_now(self, called: Called) -> bool:
        """Serve a call in the shortest way, if it is one that can be; else nothing was done."""
        row = called.procedure
        entry = self._admitted.get(row)
        if entry is None or not entry.quick or self._paused:
            return False
        try:
            result = entry.handler(Call(self, row), called.arguments)
            if type(result) is Encoded:
                payload = result.payload
            elif entry.answer_fields == 1:
                payload = entry.encode(result)
            else:
                payload = entry.encode(*(() if result is None else result))
            data = None if self.closed else self._protocol.answer_now(called, payload)
            if data is not None:
                self._link.send(data)
                if self._link.unsent_size > UNREAD_MAX:
                    self._balance()
                return True
            if not self.closed:
                self._protocol.reply_encoded(called, payload)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is answered
            self._fail(called, error)
        self._flush()
        self._balance()
        return True

    async def _serve_waiting(self, entry: Registered, call: Call, called: Called) -> None:
        try:
            result = await entry.handler(call, called.arguments)
            if entry.item_codec is not None and isinstance(result, list):
                if self._careful and self.daemon.policy.by_object:
                    result = self._shown(entry.row, result)
                result = Encoded(await _encode_in_pieces(entry.row, entry.item_codec, result))
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is answered
            self._fail(called, error)
        else:
            self._reply(entry, call, called, result)
        self._flush()
        while self._postponed and self._protocol.calls_waiting - len(self._postponed) < CALLS_MAX:
            self._serve(self._postponed.popleft())
            self._flush()
        self._balance()

    def _admit(self, row: Procedure) -> Registered:
        """Return a procedure's handler, if this client may call it. Raises LibvirtError."""
        if not self.authenticated and row.name not in _WITHOUT_AUTHENTICATION:
            raise LibvirtError(ErrorCode.RPC, ErrorDomain.RPC, "authentication required")
        entry = registered(row)
        if self._driver is None and row.name not in _WITHOUT_DRIVER:
            raise LibvirtError(ErrorCode.INTERNAL_ERROR, ErrorDomain.RPC, "connection not open")
        for permission in row.permissions:
            self.require(permission)
        if self._driver is not None:
            self._admitted[row] = entry
        return entry

    def forget_admissions(self) -> None:
        """Ask the policy again from the next call on."""
        self._admitted.clear()
        self._careful = self.read_only or not isinstance(self.daemon.policy, AllowAll)

    def _check(self, row: Procedure, args: Any) -> None:
        """Raise LibvirtError where what a call says makes it one this client may not make."""
        if self.read_only and (reason := denied_to_readers(row, args, api_name(row.name))) is not None:
            raise LibvirtError(ErrorCode.OPERATION_DENIED, ErrorDomain.NONE, reason)
        for permission in extra_permissions(row, args):
            self.require(permission)
        if self.daemon.policy.by_object:
            needed = (*row.permissions, *extra_permissions(row, args))
            for kind, name, uuid in objects_in(args):
                true_name = self.daemon.object_name(self.driver, kind, uuid) or name
                for permission in needed:
                    if permission.startswith(f"{kind}:"):
                        self.require(permission, true_name, uuid)

    def _shown(self, row: Procedure, result: Any) -> Any:
        """Return an answer without the objects this client may not know of; LibvirtError where it is about one."""
        if isinstance(result, list):
            return [item for item in result if self._may_see(item)]
        if (found := object_of(result)) is not None:
            if not self._may_see(result):
                self.require(f"{found[0]}:getattr", found[1], found[2])
            return result
        if type(result) is tuple and result and isinstance(result[0], list) and row.name.startswith("CONNECT_LIST_ALL"):
            items = [item for item in result[0] if self._may_see(item)]
            return (items, len(items), *result[2:]) if result[0] else result
        return result

    def _may_see(self, item: object) -> bool:
        found = object_of(item)
        return found is None or self.allows(f"{found[0]}:getattr", found[1], found[2])

    def _reply(self, entry: Registered, call: Call, called: Called, result: Any) -> None:
        if called.fds:
            _close_fds(called.fds)
        if self.closed:
            _close_fds(call.reply_fds)
            return
        try:
            if self._careful and self.daemon.policy.by_object:
                result = self._shown(entry.row, result)
            if isinstance(result, Encoded):
                self._protocol.reply_encoded(called, result.payload)
            elif entry.answer_fields == 1:
                self._protocol.reply(called, result, fds=call.reply_fds)
            else:
                self._protocol.reply(called, *(() if result is None else result), fds=call.reply_fds)
        except (XdrError, FrameError, TypeError, LibvirtError) as error:
            _close_fds(call.reply_fds)
            self._fail(called, error, closed=True)
            return
        if entry.streams:
            self._open_stream(entry.row, call, called.serial)

    def _fail(self, called: Called, error: Exception, *, closed: bool = False) -> None:
        if not closed:
            _close_fds(called.fds)
        if self.closed:
            return
        self._protocol.fail(called, _explained(called, error).message())

    # -- streams ------------------------------------------------------------------------------------------------------

    def _open_stream(self, row: Procedure, call: Call, serial: int) -> None:
        stream = Stream(self, serial)
        self._streams[serial] = stream
        stream.task = self.daemon.loop.create_task(self._serve_stream(row, call, stream, serial), name=row.name)

    async def _serve_stream(self, row: Procedure, call: Call, stream: Stream, serial: int) -> None:
        try:
            if call.stream_body is None:
                msg = f"{row.name} opens a stream and does not serve it"
                raise LibvirtError(ErrorCode.INTERNAL_ERROR, ErrorDomain.STREAMS, msg)
            await call.stream_body(stream)
            if Trait.DOWNLOAD in row.traits:
                stream.finish_sending()
            await stream.wait_finished()
        except asyncio.CancelledError:
            return
        except Exception as error:  # noqa: BLE001 - whatever a handler raises breaks its stream off
            if serial in self._streams and not self.closed:
                del self._streams[serial]
                self._protocol.fail_stream(serial, _explained_stream(row, error).message())
        else:
            if serial in self._streams and not self.closed:
                del self._streams[serial]
                self._protocol.end_stream(serial)
        self._flush()
        self._balance()

    def _feed(self, event: StreamData | StreamHole | StreamFinished | StreamAborted) -> None:
        stream = self._streams.get(event.serial)
        if stream is None:
            return
        if isinstance(event, StreamData):
            stream.feed(event.data)
        elif isinstance(event, StreamHole):
            stream.feed(Hole(max(event.length, 0)))
        elif isinstance(event, StreamFinished):
            stream.end()
        else:
            del self._streams[event.serial]
            if stream.task is not None:
                stream.task.cancel()
            self._protocol.end_stream(event.serial)

    def send_stream(self, serial: int, data: bytes) -> None:
        """Send a piece of a stream, unless it is over."""
        if serial in self._streams and not self.closed:
            self._protocol.send_stream(serial, data)
            self._flush()

    def send_hole(self, serial: int, length: int) -> None:
        """Send a hole of a stream, unless it is over."""
        if serial in self._streams and not self.closed:
            self._protocol.send_hole(serial, length)
            self._flush()

    async def drained(self) -> None:
        """Wait until the client may be sent more."""
        await self._link.drained()

    async def send_file(self, serial: int, descriptor: int, offset: int, end: int) -> int:
        """Send a part of a file on a stream; see :meth:`Stream.send_file`."""
        await self._link.emptied()
        if serial not in self._streams or self.closed:
            return offset
        sent = await self._bypass.send(serial, descriptor, offset, end)
        if sent is None:
            size = min(PIECE_SIZE, end - offset)
            data = await self.daemon.run_blocking(os.pread, descriptor, size, offset)
            self.send_stream(serial, data) if data else None
            await self._link.drained()
            return offset + len(data)
        if sent.error is not None:
            raise sent.error
        return sent.offset

    async def store(
        self, serial: int, descriptor: int, offset: int, limit: int | None, pieces: Sequence[bytes], *, only: bool
    ) -> int:
        """Write pieces of a stream to a file, and unless ``only`` they what comes next; see :meth:`Stream.store`."""
        received = None
        if not (only or self._paused or self._postponed or serial not in self._streams or self.closed):
            received = await self._bypass.receive(serial, descriptor, offset, limit, pieces)
        if received is None:
            return offset + await self.daemon.run_blocking(write, descriptor, pieces, offset)
        if received.error is not None:
            raise received.error
        return received.offset

    def stream_drained(self, stream: Stream) -> None:
        """A handler took in a piece."""
        if self._paused and stream.incoming_size <= INCOMING_MAX:
            self._balance()


async def _encode_in_pieces(row: Procedure, item_codec: Codec, items: Sequence[object]) -> bytes:
    """Encode a long list, letting others have their turn. Items may be encoded already. Raises XdrError."""
    most = row.ret_codec.fields[0].type.most or 0
    if len(items) > most:
        msg = f"more than {most} items"
        raise XdrError(msg)
    pieces = [len(items).to_bytes(4, "big")]
    turn = Turn()
    for item in items:
        pieces.append(item.payload if isinstance(item, Encoded) else item_codec.encode(item))
        await turn.over()
    return b"".join(pieces)


def _explained(called: Called, error: Exception) -> LibvirtError:
    """Return the error to answer a call with."""
    if isinstance(error, LibvirtError):
        return error
    _log.error("%s failed", called.procedure.name, exc_info=error)
    return LibvirtError(ErrorCode.INTERNAL_ERROR, ErrorDomain.NONE, f"{type(error).__name__}: {error}")


def _explained_stream(row: Procedure, error: Exception) -> LibvirtError:
    if isinstance(error, LibvirtError):
        return error
    if isinstance(error, OSError):
        return LibvirtError(ErrorCode.SYSTEM_ERROR, ErrorDomain.STREAMS, f"{row.name}: {error}")
    _log.error("stream of %s failed", row.name, exc_info=error)
    return LibvirtError(ErrorCode.INTERNAL_ERROR, ErrorDomain.STREAMS, f"{type(error).__name__}: {error}")


def _close_fds(fds: Sequence[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
