"""An NBD export as `Storage`: any image format works on top of it."""

from __future__ import annotations

import errno
import os
import struct
import threading
from typing import TYPE_CHECKING

from pyhyve.image.contract import ImageError, ImageReadonlyError
from pyhyve.image.nbd.connection import Connection
from pyhyve.image.nbd.protocol import (
    CHUNK_DONE,
    CHUNK_ERROR_BIT,
    INFO_EXPORT,
    INIT_MAGIC,
    MAX_OPTION_BYTES,
    META_BASE_ALLOCATION,
    OPTION_MAGIC,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    REQUEST,
    REQUEST_MAGIC,
    SIMPLE_REPLY_MAGIC,
    STATE_ZERO,
    STRUCTURED_REPLY_MAGIC,
    Address,
    Chunk,
    Command,
    CommandFlag,
    ExportFlag,
    HandshakeFlag,
    Info,
    NbdError,
    Option,
    Reply,
    go_data,
    meta_data,
    option_request,
    parse_address,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyhyve.image.storage import Buffer

_READ_CHUNK_BYTES = 2 << 20
_STATUS_STEP_BYTES = 1 << 30


class NbdStorage:
    """A connected export. One lock orders the requests: there is one in flight at a time."""

    fd = None

    def __init__(self, connection: Connection, address: Address, filename: str, *, writable: bool) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._cookie = 0
        self._closed = False
        self._structured = False
        self._allocation_id: int | None = None
        self.filename = filename
        self._size = 0
        self._flags = 0
        self._negotiate(address)
        self.writable = writable
        if writable and self._flags & ExportFlag.READ_ONLY:
            msg = f"'{filename}': the server offers this export read-only"
            raise ImageReadonlyError(msg)

    @classmethod
    def connect(cls, text: str, *, writable: bool) -> NbdStorage:
        """Connect to an NBD address; NbdError says what failed."""
        address = parse_address(text)
        connection = Connection.connect(address)
        try:
            storage = cls(connection, address, text, writable=writable)
            connection.socket.settimeout(None)
        except BaseException:
            connection.close()
            raise
        return storage

    # --- negotiation ---

    def _negotiate(self, address: Address) -> None:
        connection = self._connection
        hello = connection.read(18)
        if hello[:8] != INIT_MAGIC or hello[8:16] != OPTION_MAGIC:
            msg = "the peer does not speak NBD (fixed newstyle)"
            raise NbdError(msg)
        flags = int.from_bytes(hello[16:18], "big")
        if not flags & HandshakeFlag.FIXED_NEWSTYLE:
            msg = "the NBD server is too old (no fixed newstyle negotiation)"
            raise NbdError(msg)
        connection.send((flags & (HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES)).to_bytes(4, "big"))
        self._structured = self._ask(Option.STRUCTURED_REPLY)[0] == Reply.ACK
        if self._structured:
            self._ask(Option.SET_META_CONTEXT, meta_data(address.export, META_BASE_ALLOCATION))
        reply, message = self._ask(Option.GO, go_data(address.export))
        if reply != Reply.ACK:
            reasons = {
                Reply.ERR_UNKNOWN: f"the server has no export '{address.export}'",
                Reply.ERR_TLS_REQD: "the server wants TLS, which is not supported",
                Reply.ERR_POLICY: "the server refuses this client",
            }
            msg = reasons.get(Reply(reply) if reply in set(Reply) else Reply.ERR_UNSUP, "the server refuses") + message
            raise NbdError(msg)

    def _ask(self, option: Option, data: bytes = b"") -> tuple[int, str]:
        """Send an option; returns the final answer and its text, keeping what INFO and META_CONTEXT tell."""
        self._connection.send(option_request(option, data))
        for _ in range(1024):
            magic, about, reply, length = OPTION_REPLY.unpack(self._connection.read(OPTION_REPLY.size))
            if magic != OPTION_REPLY_MAGIC or about != option or length > MAX_OPTION_BYTES:
                msg = "the NBD server broke the protocol during negotiation"
                raise NbdError(msg)
            body = self._connection.read(length)
            if reply == Reply.ACK or reply >= 1 << 31:
                text = body[:200].decode("utf-8", "replace")
                return reply, f": {text}" if text else ""
            if reply == Reply.INFO and len(body) >= 2 and int.from_bytes(body[:2], "big") == Info.EXPORT:
                if len(body) != INFO_EXPORT.size:
                    msg = "the NBD server broke the protocol during negotiation"
                    raise NbdError(msg)
                _, self._size, self._flags = INFO_EXPORT.unpack(body)
                if self._size >= 1 << 63:
                    msg = "the NBD export is too large"
                    raise NbdError(msg)
            elif reply == Reply.META_CONTEXT and body[4:] == META_BASE_ALLOCATION.encode():
                self._allocation_id = int.from_bytes(body[:4], "big")
        msg = "the NBD server sends answers without end"
        raise NbdError(msg)

    # --- requests ---

    def _request(
        self,
        command: Command,
        offset: int,
        length: int,
        *,
        flags: int = 0,
        payload: Sequence[Buffer] = (),
        into: memoryview | None = None,
    ) -> list[tuple[int, bytes]]:
        """One request; returns `(chunk type, payload)` of chunks other than data. ImageError on an error reply."""
        with self._lock:
            self._cookie += 1
            head = REQUEST.pack(REQUEST_MAGIC, flags, command, self._cookie, offset, length)
            self._connection.send(head, *(memoryview(part) for part in payload))
            chunks: list[tuple[int, bytes]] = []
            failure = 0
            for _ in range(1 << 20):
                magic = int.from_bytes(self._connection.read(4), "big")
                if magic == SIMPLE_REPLY_MAGIC:
                    failure, cookie = struct.unpack(">IQ", self._connection.read(12))
                    self._expect(cookie)
                    if not failure and into is not None:
                        self._connection.read_into(into)
                    break
                if magic != STRUCTURED_REPLY_MAGIC or not self._structured:
                    raise self._broken()
                done, kind, cookie, size = struct.unpack(">HHQI", self._connection.read(16))
                self._expect(cookie)
                failure = self._chunk(kind, size, offset, into, chunks) or failure
                if done & CHUNK_DONE:
                    break
        if failure:
            msg = f"NBD server: {os.strerror(failure)}"
            raise ImageError(msg) if failure != errno.ENOSPC else OSError(failure, os.strerror(failure))
        return chunks

    def _chunk(
        self, kind: int, size: int, offset: int, into: memoryview | None, chunks: list[tuple[int, bytes]]
    ) -> int:
        """Take one structured chunk; returns its error number or 0."""
        if kind == Chunk.OFFSET_DATA and into is not None and size >= 8:
            start = int.from_bytes(self._connection.read(8), "big") - offset
            if start < 0 or start + size - 8 > len(into):
                raise self._broken()
            self._connection.read_into(into[start : start + size - 8])
            return 0
        if size > MAX_OPTION_BYTES * 16:
            raise self._broken()
        body = self._connection.read(size)
        if kind & CHUNK_ERROR_BIT:
            return int.from_bytes(body[:4], "big") or errno.EIO
        if kind == Chunk.OFFSET_HOLE and into is not None and len(body) == 12:
            start, length = struct.unpack(">QI", body)
            start -= offset
            if start < 0 or start + length > len(into):
                raise self._broken()
            into[start : start + length] = bytes(length)
        else:
            chunks.append((kind, body))
        return 0

    def _expect(self, cookie: int) -> None:
        if cookie != self._cookie:
            raise self._broken()

    def _broken(self) -> NbdError:
        self._connection.close()
        return NbdError("the NBD server broke the protocol")

    # --- storage ---

    @property
    def size_bytes(self) -> int:
        """Size of the export."""
        return self._size

    def pread_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer`; zero past the end."""
        inside = max(0, min(len(buffer), self._size - offset))
        for at in range(0, inside, _READ_CHUNK_BYTES):
            part = buffer[at : min(inside, at + _READ_CHUNK_BYTES)]
            self._request(Command.READ, offset + at, len(part), into=part)
        if inside < len(buffer):
            buffer[inside:] = bytes(len(buffer) - inside)

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Fill several buffers."""
        for buffer in buffers:
            self.pread_into(buffer, offset)
            offset += len(buffer)

    def pread(self, length: int, offset: int) -> bytes:
        """Bytes, fewer at the end."""
        buffer = bytearray(max(0, min(length, self._size - offset)))
        self.pread_into(memoryview(buffer), offset)
        return bytes(buffer)

    def pwrite(self, buffer: Buffer, offset: int) -> None:
        """Store `buffer`; the export does not grow."""
        view = memoryview(buffer).cast("B")
        self._inside(offset, len(view))
        for at in range(0, len(view), _READ_CHUNK_BYTES):
            part = view[at : at + _READ_CHUNK_BYTES]
            self._request(Command.WRITE, offset + at, len(part), payload=(part,))

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Store several buffers."""
        for buffer in buffers:
            self.pwrite(buffer, offset)
            offset += len(buffer)

    def _inside(self, offset: int, length: int) -> None:
        if offset + length > self._size:
            raise OSError(errno.ENOSPC, "an NBD export cannot grow")

    def write_zeroes(self, offset: int, length: int, *, unmap: bool = True) -> None:
        """WRITE_ZEROES when the server has it, else zero bytes."""
        self._inside(offset, length)
        while length > 0:
            if self._flags & ExportFlag.SEND_WRITE_ZEROES:
                step = min(length, _STATUS_STEP_BYTES)
                self._request(Command.WRITE_ZEROES, offset, step, flags=0 if unmap else CommandFlag.NO_HOLE)
            else:
                step = min(length, _READ_CHUNK_BYTES)
                self.pwrite(bytes(step), offset)
            offset += step
            length -= step

    def discard(self, offset: int, length: int) -> None:
        """TRIM when the server has it."""
        length = min(length, self._size - offset)
        while length > 0 and self._flags & ExportFlag.SEND_TRIM:
            step = min(length, _STATUS_STEP_BYTES)
            self._request(Command.TRIM, offset, step)
            offset += step
            length -= step

    def truncate(self, size_bytes: int) -> None:
        """Only to what it is."""
        self._inside(size_bytes, 0)

    def allocate(self, offset: int, length: int) -> None:
        """Nothing to reserve."""
        self._inside(offset, length)

    def extents(self, start: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """Runs by BLOCK_STATUS; without it everything is data."""
        stop = start + length
        end = min(stop, self._size)
        while start < end and self._allocation_id is not None:
            step = min(end - start, _STATUS_STEP_BYTES)
            found = False
            for kind, body in self._request(Command.BLOCK_STATUS, start, step):
                if kind != Chunk.BLOCK_STATUS or int.from_bytes(body[:4], "big") != self._allocation_id:
                    continue
                for run, state in struct.iter_unpack(">II", body[4 : 4 + (len(body) - 4) // 8 * 8]):
                    run_inside = min(run, end - start)
                    if run_inside:
                        found = True
                        yield start, run_inside, not state & STATE_ZERO
                        start += run_inside
            if not found:
                break
        if start < end:
            yield start, end - start, True
            start = end
        if start < stop:
            yield start, stop - start, False

    def disk_usage_bytes(self) -> None:
        """Unknown: the server does not tell."""

    def flush(self) -> None:
        """FLUSH when the server has it."""
        if self.writable and self._flags & ExportFlag.SEND_FLUSH:
            self._request(Command.FLUSH, 0, 0)

    def close(self) -> None:
        """Say goodbye and close."""
        if self._closed:
            return
        self._closed = True
        try:
            self._connection.send(REQUEST.pack(REQUEST_MAGIC, 0, Command.DISCONNECT, 0, 0, 0))
        except NbdError:
            pass
        finally:
            self._connection.close()
