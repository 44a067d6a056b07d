"""The host's side of the network benchmark, in a network namespace of its own: a bridge, taps, a server.

`python -m benchmarks.net_host MIB TAP...` makes them, prints the server's port, and serves until its input ends. A
connection's first byte says what it is for: `p` echoes, `r` sends, `s` swallows, `i` pings the caller and reports pings
per second.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time

BRIDGE = "br0"
ADDRESS = "10.9.0.1"
PINGS = 500
_PING_TIMEOUT_S = 5.0


def make_bridge(taps: list[str]) -> None:
    """A bridge with an address, and taps that stay."""
    commands = [
        "ip link set lo up",
        f"ip link add {BRIDGE} type bridge",
        f"ip addr add {ADDRESS}/24 dev {BRIDGE}",
        f"ip link set {BRIDGE} up",
    ]
    for tap in taps:
        commands += [f"ip tuntap add {tap} mode tap vnet_hdr", f"ip link set {tap} master {BRIDGE} up"]
    for command in commands:
        subprocess.run(command.split(), check=True)


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def pings_per_second(address: str) -> float:
    """Ping `address` again and again, each time after the answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.settimeout(_PING_TIMEOUT_S)
        payload = bytes(56)
        start = 0.0
        for number in range(PINGS + 1):
            if number == 1:
                start = time.perf_counter()  # the first one finds the neighbour
            head = struct.pack("!BBHHH", 8, 0, 0, os.getpid() & 0xFFFF, number)
            head = struct.pack("!BBHHH", 8, 0, checksum(head + payload), os.getpid() & 0xFFFF, number)
            raw.sendto(head + payload, (address, 0))
            while True:
                answer = raw.recv(2048)
                kind, _, _, identity, sequence = struct.unpack_from("!BBHHH", answer, (answer[0] & 15) * 4)
                if (kind, identity, sequence) == (0, os.getpid() & 0xFFFF, number):
                    break
        return PINGS / (time.perf_counter() - start)


def serve(connection: socket.socket, mib: int) -> None:
    """Do what the connection's first byte asks for."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection, contextlib.suppress(OSError):
        mode = connection.recv(1)
        if mode == b"p":
            while data := connection.recv(64):
                connection.sendall(data)
        elif mode == b"r":
            block = b"\x5a" * (1 << 20)
            for _ in range(mib):
                connection.sendall(block)
        elif mode == b"s":
            into = bytearray(1 << 20)
            while connection.recv_into(into):
                pass
            connection.sendall(b"k")
        elif mode == b"i":
            connection.sendall(f"{pings_per_second(connection.getpeername()[0]):.1f}\n".encode())


def main() -> None:
    """Command line."""
    mib = int(sys.argv[1])
    make_bridge(sys.argv[2:])
    listener = socket.create_server((ADDRESS, 0))

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection, mib), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
