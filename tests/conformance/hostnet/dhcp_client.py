"""A DHCP client for tests (RFC 2131): `dhcp_client.py INTERFACE MAC COUNT` takes a lease and renews it COUNT times.

Renewals are unicast REQUESTs from the leased address, as a client in the RENEWING state sends them. Prints the address
and the number of renewals that were acknowledged with the same one.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import sys

_MAGIC = b"\x63\x82\x53\x63"
_DISCOVER, _OFFER, _REQUEST, _ACK = 1, 2, 3, 5
_TYPE, _REQUESTED, _SERVER = 53, 50, 54
_TIMEOUT_S = 60
_NOWHERE = ""
"""As an address to bind to: any."""
_NO_ADDRESS = bytes(4)


class Client:
    """One interface's client."""

    def __init__(self, interface: str, mac: str) -> None:
        self.mac = bytes.fromhex(mac.replace(":", ""))
        self.transaction = 1
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind((_NOWHERE, 68))
        self.socket.settimeout(_TIMEOUT_S)

    def ask(
        self, kind: int, to: str, address: str = "", options: dict[int, bytes] | None = None
    ) -> tuple[str, dict[int, bytes]]:
        """Send a message of type `kind`; the address and options of its answer."""
        self.transaction += 1
        head = struct.pack(
            ">BBBBIHH4s4s4s4s16s64s128s",
            *(1, 1, 6, 0, self.transaction, 0, 0 if address else 0x8000),
            *(socket.inet_aton(address) if address else _NO_ADDRESS, bytes(4), bytes(4), bytes(4), self.mac, b"", b""),
        )
        body = bytes((_TYPE, 1, kind))
        for number, value in (options or {}).items():
            body += bytes((number, len(value))) + value
        self.socket.sendto(head + _MAGIC + body + b"\xff", (to, 67))
        while True:
            answer = self.socket.recv(2048)
            if struct.unpack_from(">I", answer, 4)[0] == self.transaction:
                return socket.inet_ntoa(answer[16:20]), parse_options(answer[240:])


def parse_options(data: bytes) -> dict[int, bytes]:
    """Options by number."""
    found = {}
    at = 0
    while at < len(data) and data[at] != 0xFF:
        if not data[at]:
            at += 1
            continue
        found[data[at]] = data[at + 2 : at + 2 + data[at + 1]]
        at += 2 + data[at + 1]
    return found


def main() -> None:
    """Command line."""
    interface, mac, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    client = Client(interface, mac)
    broadcast = "255.255.255.255"
    offered, options = client.ask(_DISCOVER, broadcast)
    assert options[_TYPE] == bytes((_OFFER,)), options
    server = options[_SERVER]
    wish = {_REQUESTED: socket.inet_aton(offered), _SERVER: server}
    address, options = client.ask(_REQUEST, broadcast, options=wish)
    assert options[_TYPE] == bytes((_ACK,)), options
    subprocess.run(["ip", "addr", "add", f"{address}/24", "dev", interface], check=True)
    client.socket.close()
    client = Client(interface, mac)
    renewed = 0
    for _ in range(count):
        again, options = client.ask(_REQUEST, socket.inet_ntoa(server), address)
        assert options[_TYPE] == bytes((_ACK,)), options
        renewed += again == address
    sys.stdout.write(f"{address} {renewed}\n")


if __name__ == "__main__":
    main()
