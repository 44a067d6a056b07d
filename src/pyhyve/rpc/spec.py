"""Numbers of libvirt's wire protocol, as libvirt 9.0 has them.

Source: libvirt's internals documentation (RPC infrastructure) and its public headers.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

LENGTH_SIZE: Final = 4
"""Bytes of the word with a frame's length, which counts itself."""
HEADER_SIZE: Final = 24
"""Bytes of the header behind the length."""
FRAME_MAX: Final = (32 << 20) + LENGTH_SIZE
"""Bytes of a frame at most, its length word included."""
PAYLOAD_MAX: Final = (32 << 20) - HEADER_SIZE
"""Bytes behind the header at most."""
FDS_MAX: Final = 32
"""File descriptors with one frame at most."""
STREAM_CHUNK: Final = 262_120
"""Bytes in a stream packet that every version accepts."""
PROTOCOL_VERSION: Final = 1
"""Version of each program."""


class Program(IntEnum):
    """Programs: sets of procedures."""

    REMOTE = 0x20008086
    QEMU = 0x20008087
    LXC = 0x20008088
    KEEPALIVE = 0x6B656570


class MessageType(IntEnum):
    """What a frame is."""

    CALL = 0
    REPLY = 1
    MESSAGE = 2
    STREAM = 3
    CALL_WITH_FDS = 4
    REPLY_WITH_FDS = 5
    STREAM_HOLE = 6


class Status(IntEnum):
    """How it went; of a stream, whether more comes."""

    OK = 0
    ERROR = 1
    CONTINUE = 2


class Keepalive(IntEnum):
    """Procedures of the keepalive program."""

    PING = 1
    PONG = 2


class Auth(IntEnum):
    """Ways to authenticate."""

    NONE = 0
    SASL = 1
    POLKIT = 2


class Feature(IntEnum):
    """Features asked about with CONNECT_SUPPORTS_FEATURE."""

    MIGRATION_V1 = 1
    REMOTE = 2
    MIGRATION_V2 = 3
    MIGRATION_P2P = 4
    MIGRATION_DIRECT = 5
    MIGRATION_V3 = 6
    MIGRATE_CHANGE_PROTECTION = 7
    FD_PASSING = 8
    TYPED_PARAM_STRING = 9
    PROGRAM_KEEPALIVE = 10
    XML_MIGRATABLE = 11
    MIGRATION_OFFLINE = 12
    MIGRATION_PARAMS = 13
    REMOTE_EVENT_CALLBACK = 14
    REMOTE_CLOSE_CALLBACK = 15
    NETWORK_UPDATE_HAS_CORRECT_ORDER = 16


class ErrorLevel(IntEnum):
    """How bad an error is."""

    NONE = 0
    WARNING = 1
    ERROR = 2
