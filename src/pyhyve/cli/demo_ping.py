"""ICMP echo from the host (RFC 792), so that the demo needs no `ping` program."""

from __future__ import annotations

import os
import socket
import struct
import time

ECHO_REQUEST, ECHO_REPLY = 8, 0
_HEADER = struct.Struct(">BBHHH")
_PAYLOAD = b"pyhyve demo echo"
_SHIFT = 16


def checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071) of `data`."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data[: len(data) & ~1]))
    if len(data) & 1:
        total += data[-1] << 8
    while total >> _SHIFT:
        total = (total & 0xFFFF) + (total >> _SHIFT)
    return total ^ 0xFFFF


def request(identifier: int, sequence: int) -> bytes:
    """An echo request."""
    unsummed = _HEADER.pack(ECHO_REQUEST, 0, 0, identifier, sequence) + _PAYLOAD
    return _HEADER.pack(ECHO_REQUEST, 0, checksum(unsummed), identifier, sequence) + _PAYLOAD


def is_reply(packet: bytes, identifier: int, sequence: int) -> bool:
    """Whether an IPv4 packet is the answer to `request`."""
    if not packet:
        return False
    body = packet[(packet[0] & 0xF) * 4 :]
    if len(body) < _HEADER.size:
        return False
    kind, _, _, found_identifier, found_sequence = _HEADER.unpack_from(body)
    return (kind, found_identifier, found_sequence) == (ECHO_REPLY, identifier, sequence)


def ping(address: str, count: int, timeout_s: float) -> float | None:
    """The mean round-trip time of `count` echoes in milliseconds; None when one got no answer in time.

    Raises OSError without the right to send them (CAP_NET_RAW).
    """
    identifier = os.getpid() & 0xFFFF
    total_s = 0.0
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as link:
        for sequence in range(count):
            start = time.monotonic()
            try:
                link.sendto(request(identifier, sequence), (address, 0))
            except OSError:
                return None
            while True:
                remaining_s = start + timeout_s - time.monotonic()
                if remaining_s <= 0:
                    return None
                link.settimeout(remaining_s)
                try:
                    packet, (sender, _) = link.recvfrom(65535)
                except OSError:
                    return None
                if sender == address and is_reply(packet, identifier, sequence):
                    break
            total_s += time.monotonic() - start
    return total_s * 1000 / count
