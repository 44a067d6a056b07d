"""NBD messages (specification: doc/proto.md of the NetworkBlockDevice project). Bytes in, values out; no I/O."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from pyhyve.image.contract import ImageError
from pyhyve.support.enums import IntEnum, IntFlag

DEFAULT_PORT = 10809
INIT_MAGIC = b"NBDMAGIC"
OPTION_MAGIC = b"IHAVEOPT"
OPTION_REPLY_MAGIC = 0x0003E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF
MAX_PAYLOAD_BYTES = 32 * 1024 * 1024
MAX_OPTION_BYTES = 64 * 1024
MAX_NAME_BYTES = 4096
META_BASE_ALLOCATION = "base:allocation"

OPTION_HEADER = struct.Struct(">8sII")
OPTION_REPLY = struct.Struct(">QIII")
REQUEST = struct.Struct(">IHHQQI")
SIMPLE_REPLY = struct.Struct(">IIQ")
STRUCTURED_REPLY = struct.Struct(">IHHQI")
INFO_EXPORT = struct.Struct(">HQH")
INFO_BLOCK_SIZE = struct.Struct(">HIII")


class HandshakeFlag(IntFlag):
    """Flags of the handshake, both ways."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class Option(IntEnum):
    """Options the client asks for."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class Reply(IntEnum):
    """Answers to options; the top bit marks errors."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = (1 << 31) + 1
    ERR_POLICY = (1 << 31) + 2
    ERR_INVALID = (1 << 31) + 3
    ERR_PLATFORM = (1 << 31) + 4
    ERR_TLS_REQD = (1 << 31) + 5
    ERR_UNKNOWN = (1 << 31) + 6
    ERR_SHUTDOWN = (1 << 31) + 7
    ERR_TOO_BIG = (1 << 31) + 9


class Info(IntEnum):
    """Information items of INFO and GO."""

    EXPORT = 0
    BLOCK_SIZE = 3


class ExportFlag(IntFlag):
    """Transmission flags of an export."""

    HAS_FLAGS = 1
    READ_ONLY = 2
    SEND_FLUSH = 4
    SEND_FUA = 8
    SEND_TRIM = 32
    SEND_WRITE_ZEROES = 64
    SEND_DF = 128
    CAN_MULTI_CONN = 256


class Command(IntEnum):
    """Requests."""

    READ = 0
    WRITE = 1
    DISCONNECT = 2
    FLUSH = 3
    TRIM = 4
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class CommandFlag(IntFlag):
    """Flags of requests."""

    FUA = 1
    NO_HOLE = 2
    REQ_ONE = 8


class Chunk(IntEnum):
    """Types of structured reply chunks; the top bit marks errors."""

    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    ERROR = (1 << 15) + 1
    ERROR_OFFSET = (1 << 15) + 2


CHUNK_DONE = 1
STATE_HOLE = 1
STATE_ZERO = 2
CHUNK_ERROR_BIT = 1 << 15


class NbdError(ImageError):
    """The peer broke the protocol, refused, or went away."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where an export is: a unix socket path, or a host and port."""

    export: str
    path: str | None = None
    host: str = "localhost"
    port: int = DEFAULT_PORT


def parse_address(text: str) -> Address:
    """`nbd://host[:port]/export`, `nbd+unix:///export?socket=PATH`, or the old `nbd:unix:PATH` and `nbd:HOST:PORT`."""
    if text.startswith("nbd:") and not text.startswith("nbd://"):
        return _parse_old(text)
    parts = urlsplit(text)
    export = unquote(parts.path.removeprefix("/"))
    try:
        port = parts.port or DEFAULT_PORT
    except ValueError as error:
        msg = f"'{text}': the port is not a number from 1 to 65535"
        raise NbdError(msg) from error
    if parts.scheme == "nbd+unix":
        socket_path = parse_qs(parts.query).get("socket", [""])[0]
        if not socket_path:
            msg = f"'{text}': state the socket, as in nbd+unix:///export?socket=/run/nbd.sock"
            raise NbdError(msg)
        return Address(export, path=socket_path)
    if parts.scheme not in {"nbd", "nbd+tcp"}:
        msg = f"'{text}' is not an NBD address (nbd://, nbd+unix://)"
        raise NbdError(msg)
    return Address(export, host=parts.hostname or "localhost", port=port)


def _parse_old(text: str) -> Address:
    rest, _, export = text[len("nbd:") :].partition(":exportname=")
    if rest.startswith("unix:"):
        return Address(export, path=rest[len("unix:") :])
    host, _, port = rest.rpartition(":")
    if not host or not port.isdecimal():
        msg = f"'{text}': expected nbd:HOST:PORT or nbd:unix:PATH"
        raise NbdError(msg)
    return Address(export, host=host, port=int(port))


def option_request(option: Option, data: bytes = b"") -> bytes:
    """An option of the client."""
    return OPTION_HEADER.pack(OPTION_MAGIC, option, len(data)) + data


def option_reply(option: int, reply: int, data: bytes = b"") -> bytes:
    """An answer of the server."""
    return OPTION_REPLY.pack(OPTION_REPLY_MAGIC, option, reply, len(data)) + data


def go_data(export: str) -> bytes:
    """Data of INFO and GO: the export, asking for its block sizes."""
    name = export.encode()
    return struct.pack(">I", len(name)) + name + struct.pack(">HH", 1, Info.BLOCK_SIZE)


def parse_go(data: bytes) -> tuple[str, tuple[int, ...]]:
    """`(export, wanted items)`; NbdError when malformed."""
    try:
        (length,) = struct.unpack_from(">I", data)
        name = data[4 : 4 + length]
        (count,) = struct.unpack_from(">H", data, 4 + length)
        items = struct.unpack_from(f">{count}H", data, 6 + length)
    except struct.error as error:
        msg = "malformed INFO or GO option"
        raise NbdError(msg) from error
    if len(name) != length or len(data) != 6 + length + 2 * count:
        msg = "malformed INFO or GO option"
        raise NbdError(msg)
    return name.decode("utf-8", "replace"), items


def meta_data(export: str, *queries: str) -> bytes:
    """Data of LIST_META_CONTEXT and SET_META_CONTEXT."""
    name = export.encode()
    data = struct.pack(">I", len(name)) + name + struct.pack(">I", len(queries))
    for query in queries:
        data += struct.pack(">I", len(query)) + query.encode()
    return data


def parse_meta(data: bytes) -> tuple[str, tuple[str, ...]]:
    """`(export, queries)`; NbdError when malformed."""
    queries: list[str] = []
    try:
        (length,) = struct.unpack_from(">I", data)
        name = data[4 : 4 + length].decode("utf-8", "replace")
        at = 4 + length
        (count,) = struct.unpack_from(">I", data, at)
        at += 4
        for _ in range(count):
            (length,) = struct.unpack_from(">I", data, at)
            queries.append(data[at + 4 : at + 4 + length].decode("utf-8", "replace"))
            at += 4 + length
    except struct.error as error:
        msg = "malformed META_CONTEXT option"
        raise NbdError(msg) from error
    if at != len(data):
        msg = "malformed META_CONTEXT option"
        raise NbdError(msg)
    return name, tuple(queries)
