"""Frames no honest client sends, and some one would: calls with any values, then damaged."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from pyhyve.rpc.codec import XdrError
from pyhyve.rpc.frames import Frame
from pyhyve.rpc.procedures import BY_NAME, BY_NUMBER
from pyhyve.rpc.spec import Keepalive, MessageType, Program, Status
from pyhyve.rpc.values import STRUCTURES, ParamType
from pyhyve.rpc.xdr_types import Type, parse_fields

if TYPE_CHECKING:
    import random

_ROWS: Final = tuple(BY_NUMBER.values())
_COMMON: Final = tuple(
    BY_NAME[name]
    for name in BY_NAME
    if name.startswith(("CONNECT_", "AUTH_", "NODE_", "DOMAIN_")) and "EVENT_" not in name[:13]
)
_NUMBERS: Final = (0, 1, 2, 3, 16, 255, 256, 1024, 16384, 65535, 2**31 - 1, -1, -2, -(2**31))
_WIDE: Final = (0, 1, 4096, 2**32 - 1, 2**32, 2**63 - 1, -1, -(2**63))
_TEXTS: Final = (
    "",
    "test",
    "default",
    "test:///default",
    "qemu:///system",
    "SCRAM-SHA-256",
    "vda",
    "x" * 300,
    "ä€\U0001f600",
    "../../etc/passwd",
    "<domain type='test'><name>f</name><memory>1</memory><os><type>hvm</type></os></domain>",
    "<domain><name>" + "y" * 4000 + "</name></domain>",
    "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
    "<a>" * 500,
    "%s%n\n\t",
)
_UUIDS: Final = (bytes(16), b"\xff" * 16, bytes.fromhex("6695eb01f6a443048f3a3ab9b4b1d1f2"), bytes(range(16)))
_RANGES: Final = {"int": 31, "uint": 32, "long": 63, "ulong": 64}
_HEADER: Final = struct.Struct(">IIIIIII")


def _number(base: str, rng: random.Random) -> int:
    bits = _RANGES[base]
    pool = _WIDE if bits > 32 else _NUMBERS
    value = rng.choice(pool) if rng.random() < 0.8 else rng.getrandbits(bits)
    low, high = (0, 2**bits - 1) if base.startswith("u") else (-(2**bits), 2**bits - 1)
    return min(max(value, low), high)


def _value(type_: Type, rng: random.Random) -> Any:
    if type_.optional:
        return None if rng.random() < 0.4 else _value(Type(type_.base), rng)
    if type_.most is not None:
        count = min(type_.most, rng.choice((0, 0, 1, 2, 5, 40)))
        if type_.base == "bytes":
            return rng.randbytes(count)
        return [_value(Type(type_.base), rng) for _ in range(count)]
    if type_.exactly is not None:
        return [_number(type_.base, rng) for _ in range(type_.exactly)]
    match type_.base:
        case "str":
            return rng.choice(_TEXTS)
        case "uuid":
            return rng.choice(_UUIDS)
        case "double":
            return rng.choice((0.0, 1.5, float("inf"), float("nan")))
        case "typed_param":
            kind = rng.choice(list(ParamType))
            value: Any = rng.choice(_TEXTS) if kind is ParamType.STRING else rng.choice((0, 1, 100))
            return (rng.choice(_TEXTS), kind, float(value) if kind is ParamType.DOUBLE else value)
        case base if base in _RANGES:
            return _number(base, rng)
        case base:
            return STRUCTURES[base][0](*(_value(field.type, rng) for field in parse_fields(STRUCTURES[base][1])))


def honest_call(rng: random.Random, serial: int) -> bytes:
    """A call of any procedure with values of the right types."""
    row = rng.choice(_COMMON if rng.random() < 0.7 else _ROWS)
    try:
        payload = row.args_codec.encode(*(_value(field.type, rng) for field in row.args_codec.fields))
    except XdrError:
        payload = rng.randbytes(rng.randrange(64))
    return Frame(row.program, row.number, MessageType.CALL, serial, payload=payload).encode()


def stream_piece(rng: random.Random, serial: int) -> bytes:
    """Data, a hole, the end or the abortion of a stream that may be there or not."""
    row = rng.choice((BY_NAME["STORAGE_VOL_UPLOAD"], BY_NAME["STORAGE_VOL_DOWNLOAD"], BY_NAME["DOMAIN_OPEN_CONSOLE"]))
    kind = rng.choice((MessageType.STREAM, MessageType.STREAM, MessageType.STREAM_HOLE))
    payload = rng.randbytes(rng.choice((0, 1, 12, 4096)))
    return Frame(row.program, row.number, kind, serial, rng.choice(list(Status)), payload).encode()


def _keepalive(rng: random.Random) -> bytes:
    return Frame(Program.KEEPALIVE, rng.choice(list(Keepalive)), MessageType.MESSAGE, 0).encode()


def damaged(rng: random.Random, frame: bytes) -> bytes:
    """The frame with something wrong."""
    data = bytearray(frame)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if not data:
            break
        where = rng.randrange(len(data))
        match rng.randrange(6):
            case 0:
                data[where] ^= 1 << rng.randrange(8)
            case 1:
                data[where] = rng.randrange(256)
            case 2:
                del data[where : where + rng.choice((1, 4, 16))]
            case 3:
                data[where:where] = rng.randbytes(rng.choice((1, 4, 16)))
            case 4:
                word = where & ~3
                data[word : word + 4] = rng.choice(
                    (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\x40\0\0")
                )
            case _:
                del data[where:]
    if rng.random() < 0.7 and len(data) >= _HEADER.size:
        data[:4] = len(data).to_bytes(4, "big")  # so that it is looked at, and not waited for
    return bytes(data)


def hostile_frame(rng: random.Random, serial: int) -> bytes:
    """One frame: four in ten honest, the rest damaged or made up."""
    chance = rng.random()
    if chance < 0.35:
        return honest_call(rng, serial)
    if chance < 0.8:
        return damaged(rng, honest_call(rng, serial))
    if chance < 0.9:
        return stream_piece(rng, rng.randrange(max(serial, 1)))
    if chance < 0.93:
        return _keepalive(rng)
    if chance < 0.97:
        return damaged(rng, stream_piece(rng, rng.randrange(max(serial, 1))))
    size = rng.choice((0, 4, 28, 40, 200))
    words = (size, rng.choice(list(Program)), 1, rng.randrange(500), rng.randrange(8), serial, rng.randrange(4))
    return _HEADER.pack(*words)[:size].ljust(size, b"\0") if size else rng.randbytes(rng.randrange(1, 64))
