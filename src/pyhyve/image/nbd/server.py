"""An NBD server for one image: one thread per connection, all of them on the same `Image`."""

from __future__ import annotations

import errno
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyhyve.image.contract import Image, ImageError
from pyhyve.image.nbd.connection import Connection
from pyhyve.image.nbd.protocol import (
    CHUNK_DONE,
    INFO_BLOCK_SIZE,
    INFO_EXPORT,
    INIT_MAGIC,
    MAX_OPTION_BYTES,
    MAX_PAYLOAD_BYTES,
    META_BASE_ALLOCATION,
    OPTION_HEADER,
    OPTION_MAGIC,
    REQUEST,
    REQUEST_MAGIC,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    STATE_HOLE,
    STATE_ZERO,
    STRUCTURED_REPLY,
    STRUCTURED_REPLY_MAGIC,
    Chunk,
    Command,
    CommandFlag,
    ExportFlag,
    HandshakeFlag,
    Info,
    NbdError,
    Option,
    Reply,
    option_reply,
    parse_go,
    parse_meta,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_ALLOCATION_ID = 1
_MAX_EXTENTS = 2048


@dataclass(frozen=True, slots=True)
class _Request:
    flags: int
    command: int
    cookie: int
    offset: int
    length: int


class Session:
    """One client: negotiation, then requests until it leaves."""

    def __init__(self, connection: Connection, image: Image, export: str) -> None:
        self._connection = connection
        self._image = image
        self._export = export
        self._structured = False
        self._allocation = False
        self._no_zeroes = False
        self._buffer = memoryview(bytearray(0))

    def run(self) -> None:
        """Serve until the client disconnects; NbdError when it breaks the protocol or goes away."""
        if self._negotiate():
            while self._serve_one():
                pass

    # --- negotiation ---

    def _negotiate(self) -> bool:
        connection = self._connection
        flags = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES
        connection.send(INIT_MAGIC + OPTION_MAGIC + flags.to_bytes(2, "big"))
        client_flags = int.from_bytes(connection.read(4), "big")
        if client_flags & ~int(flags):
            msg = "unknown client flags"
            raise NbdError(msg)
        self._no_zeroes = bool(client_flags & HandshakeFlag.NO_ZEROES)
        while True:
            magic, option, length = OPTION_HEADER.unpack(connection.read(OPTION_HEADER.size))
            if magic != OPTION_MAGIC or length > MAX_OPTION_BYTES:
                msg = "malformed option"
                raise NbdError(msg)
            data = connection.read(length)
            if option == Option.EXPORT_NAME:
                return self._export_name(data)
            if option == Option.ABORT:
                with suppress(NbdError):  # the client need not wait for this
                    connection.send(option_reply(option, Reply.ACK))
                return False
            if self._option(option, data):
                return True

    def _export_name(self, data: bytes) -> bool:
        """The old way in: no error replies, so a wrong name ends the connection."""
        if not self._is_ours(data.decode("utf-8", "replace")):
            return False
        padding = b"" if self._no_zeroes else bytes(124)
        self._connection.send(struct.pack(">QH", self._image.size_bytes, self._export_flags()) + padding)
        return True

    def _is_ours(self, name: str) -> bool:
        return name in {self._export, ""}

    def _option(self, option: int, data: bytes) -> bool:
        """Answer one option; True when transmission starts."""
        send = self._connection.send
        try:
            if option == Option.LIST:
                name = self._export.encode()
                send(option_reply(option, Reply.SERVER, struct.pack(">I", len(name)) + name))
                send(option_reply(option, Reply.ACK))
            elif option == Option.STRUCTURED_REPLY:
                self._structured = True
                send(option_reply(option, Reply.ACK))
            elif option in {Option.INFO, Option.GO}:
                name_text, wanted = parse_go(data)
                if not self._is_ours(name_text):
                    send(option_reply(option, Reply.ERR_UNKNOWN))
                    return False
                export = INFO_EXPORT.pack(Info.EXPORT, self._image.size_bytes, self._export_flags())
                send(option_reply(option, Reply.INFO, export))
                if Info.BLOCK_SIZE in wanted:
                    sizes = INFO_BLOCK_SIZE.pack(Info.BLOCK_SIZE, 1, 4096, MAX_PAYLOAD_BYTES)
                    send(option_reply(option, Reply.INFO, sizes))
                send(option_reply(option, Reply.ACK))
                return option == Option.GO
            elif option in {Option.LIST_META_CONTEXT, Option.SET_META_CONTEXT}:
                self._meta_context(option, data)
            else:
                send(option_reply(option, Reply.ERR_UNSUP))
        except NbdError as error:
            if not self._connection.socket.fileno() >= 0:
                raise
            send(option_reply(option, Reply.ERR_INVALID, str(error).encode()))
        return False

    def _meta_context(self, option: int, data: bytes) -> None:
        name, queries = parse_meta(data)
        send = self._connection.send
        if not self._is_ours(name):
            send(option_reply(option, Reply.ERR_UNKNOWN))
            return
        listing = option == Option.LIST_META_CONTEXT
        hit = any(query in {META_BASE_ALLOCATION, "base:"} for query in queries) or (listing and not queries)
        if not listing:
            self._allocation = hit and self._structured
        if hit:
            send(option_reply(option, Reply.META_CONTEXT, struct.pack(">I", _ALLOCATION_ID) + b"base:allocation"))
        send(option_reply(option, Reply.ACK))

    def _export_flags(self) -> int:
        flags = ExportFlag.HAS_FLAGS | ExportFlag.CAN_MULTI_CONN
        if self._image.readonly:
            return int(flags | ExportFlag.READ_ONLY)
        return int(
            flags | ExportFlag.SEND_FLUSH | ExportFlag.SEND_FUA | ExportFlag.SEND_TRIM | ExportFlag.SEND_WRITE_ZEROES
        )

    # --- transmission ---

    def _serve_one(self) -> bool:
        magic, flags, command, cookie, offset, length = REQUEST.unpack(self._connection.read(REQUEST.size))
        if magic != REQUEST_MAGIC:
            msg = "malformed request"
            raise NbdError(msg)
        if command == Command.DISCONNECT:
            return False
        request = _Request(flags, command, cookie, offset, length)
        payload = memoryview(b"")
        if command == Command.WRITE:
            if length > MAX_PAYLOAD_BYTES:
                msg = "a write is too large"
                raise NbdError(msg)
            payload = self._room(length)
            self._connection.read_into(payload)
        code = self._refusal(request)
        if not code:
            try:
                if self._perform(request, payload):
                    return True
            except (ImageError, OSError) as error:
                number = getattr(error, "errno", None)
                code = number if number in {errno.ENOSPC, errno.EPERM, errno.EINVAL} else errno.EIO
        self._reply(request, code)
        return True

    def _room(self, length: int) -> memoryview:
        if len(self._buffer) < length:
            self._buffer = memoryview(bytearray(length))
        return self._buffer[:length]

    def _refusal(self, request: _Request) -> int:
        """Error number of a request that is not even tried, or 0."""
        writes = {Command.WRITE, Command.TRIM, Command.WRITE_ZEROES}
        if self._image.readonly and request.command in writes:
            return errno.EPERM
        if request.command not in set(Command):
            return errno.EINVAL
        if request.offset + request.length > self._image.size_bytes and request.command != Command.FLUSH:
            return errno.ENOSPC if request.command in writes else errno.EINVAL
        if request.command == Command.READ and request.length > MAX_PAYLOAD_BYTES:
            return errno.EINVAL
        if request.command == Command.BLOCK_STATUS and (not self._allocation or not request.length):
            return errno.EINVAL
        return 0

    def _perform(self, request: _Request, payload: memoryview) -> bool:
        """Do it; True when the reply is sent already."""
        image, offset, length = self._image, request.offset, request.length
        match request.command:
            case Command.READ:
                data = self._room(length)
                image.pread_into(data, offset)
                self._send_data(request, data)
                return True
            case Command.BLOCK_STATUS:
                self._send_status(request)
                return True
            case Command.WRITE:
                image.pwrite(payload, offset)
            case Command.TRIM:
                image.discard(offset, length)
            case Command.WRITE_ZEROES:
                image.write_zeroes(offset, length, unmap=not request.flags & CommandFlag.NO_HOLE)
            case _:
                image.flush()
        if request.flags & CommandFlag.FUA:
            image.flush()
        return False

    def _reply(self, request: _Request, code: int) -> None:
        if self._structured and request.command in {Command.READ, Command.BLOCK_STATUS}:
            body = struct.pack(">IH", code, 0)
            self._connection.send(self._chunk_head(request, Chunk.ERROR, len(body)) + body)
        else:
            self._connection.send(SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, code, request.cookie))

    def _chunk_head(self, request: _Request, kind: Chunk, length: int) -> bytes:
        return STRUCTURED_REPLY.pack(STRUCTURED_REPLY_MAGIC, CHUNK_DONE, kind, request.cookie, length)

    def _send_data(self, request: _Request, data: memoryview) -> None:
        if not self._structured:
            self._connection.send(SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, 0, request.cookie), data)
        elif request.length:
            head = self._chunk_head(request, Chunk.OFFSET_DATA, 8 + len(data))
            self._connection.send(head + request.offset.to_bytes(8, "big"), data)
        else:
            self._connection.send(self._chunk_head(request, Chunk.NONE, 0))

    def _send_status(self, request: _Request) -> None:
        body = bytearray(struct.pack(">I", _ALLOCATION_ID))
        last_state, run = -1, 0
        count = 0
        for extent in self._image.map(request.offset, request.length):
            state = (0 if extent.data else STATE_HOLE) | (STATE_ZERO if extent.zero else 0)
            if state == last_state:
                run += extent.length
                continue
            if run:
                body += struct.pack(">II", run, last_state)
                count += 1
                if count == _MAX_EXTENTS or request.flags & CommandFlag.REQ_ONE:
                    run = 0
                    break
            last_state, run = state, extent.length
        if run:
            body += struct.pack(">II", run, last_state)
        self._connection.send(self._chunk_head(request, Chunk.BLOCK_STATUS, len(body)), bytes(body))


class NbdServer:
    """Listens and starts a `Session` thread for each client."""

    def __init__(self, listener: socket.socket, image: Image, export: str = "", *, persistent: bool = False) -> None:
        self._listener = listener
        self._image = image
        self._export = export
        self._persistent = persistent
        self._sessions: list[threading.Thread] = []

    def serve(self, on_error: Callable[[str], None]) -> None:
        """Accept clients until the first has left (or, when persistent, until the listener is closed)."""
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._session, args=(sock, on_error), daemon=True)
            thread.start()
            self._sessions = [old for old in self._sessions if old.is_alive()]
            self._sessions.append(thread)
            if not self._persistent:
                thread.join()
                return

    def _session(self, sock: socket.socket, on_error: Callable[[str], None]) -> None:
        connection = Connection(sock)
        try:
            Session(connection, self._image, self._export).run()
        except NbdError as error:
            if "closed the connection" not in str(error):
                on_error(str(error))
        finally:
            connection.close()
            if not self._image.readonly:
                with suppress(ImageError, OSError):
                    self._image.flush()

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()
