"""CRC-32C (Castagnoli), the checksum of VHDX headers, tables and log entries.

These structures are mostly zero at their end, so trailing zeroes are advanced over by operators for powers of two
bytes; the rest takes eight bytes a step.
"""

from __future__ import annotations

import struct
from functools import cache

_POLYNOMIAL = 0x82F63B78  # reflected
_MASK = 0xFFFFFFFF


@cache
def _tables() -> tuple[tuple[int, ...], ...]:
    """Table n advances a byte over n zero bytes."""
    first = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
        first.append(crc)
    tables = [tuple(first)]
    for _ in range(7):
        tables.append(tuple(first[crc & 0xFF] ^ crc >> 8 for crc in tables[-1]))
    return tuple(tables)


@cache
def _zero_operator(power: int) -> tuple[int, ...]:
    """The linear map of 2**power zero bytes, as the images of the 32 single bits."""
    if power == 0:
        table = _tables()[0]
        return tuple(table[1 << bit & 0xFF] ^ 1 << bit >> 8 for bit in range(32))
    half = _zero_operator(power - 1)
    return tuple(_apply(half, column) for column in half)


def _apply(operator: tuple[int, ...], crc: int) -> int:
    result = 0
    bit = 0
    while crc:
        if crc & 1:
            result ^= operator[bit]
        crc >>= 1
        bit += 1
    return result


def _advance_zeroes(crc: int, count: int) -> int:
    power = 0
    while count:
        if count & 1:
            crc = _apply(_zero_operator(power), crc)
        count >>= 1
        power += 1
    return crc


def crc32c(data: bytes) -> int:
    """CRC-32C of `data`."""
    t0, t1, t2, t3, t4, t5, t6, t7 = _tables()
    body = data.rstrip(b"\0")
    body += bytes(-len(body) % 8) if len(body) + 8 <= len(data) else b""
    crc = _MASK
    whole = len(body) & ~7
    for low, high in struct.iter_unpack("<II", body[:whole]):
        low ^= crc  # noqa: PLW2901 - the step in place
        crc = (
            t7[low & 0xFF] ^ t6[low >> 8 & 0xFF] ^ t5[low >> 16 & 0xFF] ^ t4[low >> 24]
            ^ t3[high & 0xFF] ^ t2[high >> 8 & 0xFF] ^ t1[high >> 16 & 0xFF] ^ t0[high >> 24]
        )  # fmt: skip
    for byte in body[whole:]:
        crc = t0[(crc ^ byte) & 0xFF] ^ crc >> 8
    return _advance_zeroes(crc, len(data) - len(body)) ^ _MASK
