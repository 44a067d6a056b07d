"""A small writer of ACPI machine language (ACPI 6.5, chapter 20) and of resource descriptors (6.4)."""

from __future__ import annotations

import struct

from pyhyve.support.enums import IntFlag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_NAME_OP, _BYTE, _WORD, _DWORD, _STRING, _QWORD = b"\x08", b"\x0a", b"\x0b", b"\x0c", b"\x0d", b"\x0e"
_SCOPE_OP, _BUFFER_OP, _PACKAGE_OP, _DEVICE_OP = b"\x10", b"\x11", b"\x12", b"\x5b\x82"
_NAME_BYTES = 4


def name_segment(name: str) -> bytes:
    r"""A name such as `_HID` or `\_SB`, padded with underscores (20.2.2); raises ValueError when too long."""
    root = name.startswith("\\")
    segment = name[1:] if root else name
    if not 1 <= len(segment) <= _NAME_BYTES:
        msg = f"AML name {name!r}"
        raise ValueError(msg)
    return (b"\\" if root else b"") + segment.ljust(_NAME_BYTES, "_").encode("ascii")


def package_length(body_bytes: int) -> bytes:
    """PkgLength for a body of so many bytes, counting itself (20.2.4)."""
    if body_bytes + 1 < 1 << 6:
        return bytes([body_bytes + 1])
    for extra in (1, 2, 3):
        total = body_bytes + 1 + extra
        if total < 1 << (4 + 8 * extra):
            return bytes([extra << 6 | total & 0xF]) + (total >> 4).to_bytes(extra, "little")
    msg = f"AML package of {body_bytes} bytes"
    raise ValueError(msg)


def _block(opcode: bytes, body: bytes) -> bytes:
    return opcode + package_length(len(body)) + body


def integer(value: int) -> bytes:
    """The shortest integer constant."""
    if value in {0, 1}:
        return bytes([value])
    for prefix, size in ((_BYTE, 1), (_WORD, 2), (_DWORD, 4), (_QWORD, 8)):
        if value < 1 << (8 * size):
            return prefix + value.to_bytes(size, "little")
    msg = f"AML integer {value:#x}"
    raise ValueError(msg)


def string(value: str) -> bytes:
    """A string constant."""
    return _STRING + value.encode("ascii") + b"\0"


def eisa_id(value: str) -> bytes:
    """A compressed EISA identifier such as PNP0A03 (19.6.34)."""
    letters = [ord(letter) - 0x40 for letter in value[:3]]
    number = letters[0] << 26 | letters[1] << 21 | letters[2] << 16 | int(value[3:], 16)
    return _DWORD + number.to_bytes(4, "big")


def buffer(data: bytes) -> bytes:
    """A buffer with its contents."""
    return _block(_BUFFER_OP, integer(len(data)) + data)


def package(elements: Iterable[bytes]) -> bytes:
    """A package of encoded elements."""
    items = list(elements)
    return _block(_PACKAGE_OP, bytes([len(items)]) + b"".join(items))


def named(name: str, value: bytes) -> bytes:
    """`Name (name, value)`."""
    return _NAME_OP + name_segment(name) + value


def scope(name: str, *terms: bytes) -> bytes:
    """`Scope (name) {terms}`."""
    return _block(_SCOPE_OP, name_segment(name) + b"".join(terms))


def device(name: str, *terms: bytes) -> bytes:
    """`Device (name) {terms}`."""
    return _block(_DEVICE_OP, name_segment(name) + b"".join(terms))


ARG0, ARG1, ARG3, LOCAL0 = b"\x68", b"\x69", b"\x6b", b"\x60"
SERIALIZED = 8
"""Added to a method's arguments: one call at a time, as methods that make names need it."""


def path(*names: str) -> bytes:
    """An absolute path of several names (20.2.2)."""
    segments = b"".join(name_segment(name) for name in names)
    prefix = {1: b"", 2: b"\x2e"}.get(len(names), b"\x2f" + bytes([len(names)]))
    return b"\\" + prefix + segments


def method(name: str, arguments: int, *terms: bytes) -> bytes:
    """`Method (name, arguments) {terms}`, not serialized unless SERIALIZED is in `arguments`."""
    return _block(b"\x14", name_segment(name) + bytes([arguments]) + b"".join(terms))


def port_region(name: str, base: int, length: int) -> bytes:
    """`OperationRegion (name, SystemIO, base, length)` (20.2.5.2)."""
    return b"\x5b\x80" + name_segment(name) + b"\x01" + integer(base) + integer(length)


def dword_fields(region: str, *names: str) -> bytes:
    """`Field (region, DWordAcc, NoLock, WriteAsZeros)` of consecutive 32-bit fields."""
    fields = b"".join(name_segment(name) + bytes([32]) for name in names)
    return _block(b"\x5b\x81", name_segment(region) + b"\x43" + fields)


def store(source: bytes, target: bytes) -> bytes:
    """`Store (source, target)`."""
    return b"\x70" + source + target


def if_bits(value: bytes, mask: int, *terms: bytes) -> bytes:
    """`If (And (value, mask)) {terms}`."""
    return _block(b"\xa0", b"\x7b" + value + integer(mask) + b"\x00" + b"".join(terms))


def dword_field_of(buffer_term: bytes, index: int, name: str) -> bytes:
    """`CreateDWordField (buffer_term, index, name)`."""
    return b"\x8a" + buffer_term + integer(index) + name_segment(name)


def and_into(value: bytes, mask: int, target: bytes) -> bytes:
    """`And (value, mask, target)`."""
    return b"\x7b" + value + integer(mask) + target


def or_into(value: bytes, bits: int, target: bytes) -> bytes:
    """`Or (value, bits, target)`."""
    return b"\x7d" + value + integer(bits) + target


def equal(first: bytes, second: bytes) -> bytes:
    """`LEqual (first, second)`."""
    return b"\x93" + first + second


def unless(condition: bytes, *terms: bytes) -> bytes:
    """`If (LNot (condition)) {terms}`."""
    return _block(b"\xa0", b"\x92" + condition + b"".join(terms))


def if_else(condition: bytes, then: bytes, otherwise: bytes) -> bytes:
    """`If (condition) {then} Else {otherwise}`."""
    return _block(b"\xa0", condition + then) + _block(b"\xa1", otherwise)


def give_back(value: bytes) -> bytes:
    """`Return (value)`."""
    return b"\xa4" + value


def notify(name: str, value: bytes) -> bytes:
    """`Notify (name, value)`."""
    return b"\x86" + name_segment(name) + value


def notify_at(target: bytes, value: bytes) -> bytes:
    """`Notify (target, value)` of an object elsewhere."""
    return b"\x86" + target + value


def call(name: bytes, *arguments: bytes) -> bytes:
    """A call of a method."""
    return name + b"".join(arguments)


def resources(*descriptors: bytes) -> bytes:
    """A resource template: descriptors and the end tag, without a checksum."""
    return buffer(b"".join(descriptors) + b"\x79\x00")


class SpaceType(IntFlag):
    """Resource types of address space descriptors (6.4.3.5)."""

    MEMORY = 0
    IO = 1
    BUS = 2


_PRODUCER_FIXED = 0x0C
"""Minimum and maximum fixed, positive decode, the range is passed on to children."""
_MEMORY_READ_WRITE = 0x01
_MEMORY_CACHEABLE = 0x03
_IO_ENTIRE_RANGE = 0x03


def io_ports(base: int, count: int) -> bytes:
    """Fixed ports, 16 bits decoded (6.4.2.5)."""
    return b"\x47\x01" + struct.pack("<HHBB", base, base, 1, count)


def irq(number: int) -> bytes:
    """An edge-triggered, active-high ISA interrupt (6.4.2.1)."""
    return b"\x22" + struct.pack("<H", 1 << number)


def interrupt(gsi: int) -> bytes:
    """A level-triggered, active-high interrupt of its consumer's own (6.4.3.6)."""
    return b"\x89" + struct.pack("<HBBI", 6, 0x01, 1, gsi)


def fixed_memory(base: int, length: int) -> bytes:
    """A fixed range of 32-bit memory, read and write (6.4.3.4)."""
    return b"\x86" + struct.pack("<HBII", 9, 1, base, length)


def word_space(kind: SpaceType, first: int, last: int) -> bytes:
    """Bus numbers or ports passed on to children (6.4.3.5.3)."""
    flags = _IO_ENTIRE_RANGE if kind is SpaceType.IO else 0
    return b"\x88" + struct.pack("<HBBBHHHHH", 13, kind, _PRODUCER_FIXED, flags, 0, first, last, 0, last - first + 1)


def dword_memory(first: int, last: int, *, cacheable: bool = False) -> bytes:
    """32-bit memory passed on to children (6.4.3.5.2)."""
    flags = _MEMORY_CACHEABLE if cacheable else _MEMORY_READ_WRITE
    return b"\x87" + struct.pack("<HBBBIIIII", 23, 0, _PRODUCER_FIXED, flags, 0, first, last, 0, last - first + 1)


def qword_memory(first: int, last: int) -> bytes:
    """64-bit memory passed on to children (6.4.3.5.1)."""
    return b"\x8a" + struct.pack(
        "<HBBBQQQQQ", 43, 0, _PRODUCER_FIXED, _MEMORY_CACHEABLE, 0, first, last, 0, last - first + 1
    )
