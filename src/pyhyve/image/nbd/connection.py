"""A stream socket with exact reads."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from pyhyve.image.nbd.protocol import Address, NbdError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Connection:
    """Owns one connected socket. Every failure is an NbdError."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    @classmethod
    def connect(cls, address: Address, timeout_s: float = 30) -> Connection:
        """Connect to a server."""
        try:
            if address.path is not None:
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                sock.settimeout(timeout_s)
                try:
                    sock.connect(address.path)
                except BaseException:
                    sock.close()
                    raise
            else:
                sock = socket.create_connection((address.host, address.port), timeout_s)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            where = address.path or f"{address.host}:{address.port}"
            msg = f"Failed to connect to '{where}': {error.strerror or error}"
            raise NbdError(msg) from error
        return cls(sock)

    def read(self, length: int) -> bytes:
        """Exactly `length` bytes."""
        buffer = bytearray(length)
        self.read_into(memoryview(buffer))
        return bytes(buffer)

    def read_into(self, view: memoryview) -> None:
        """Fill `view`."""
        try:
            while view:
                done = self.socket.recv_into(view)
                if not done:
                    msg = "the NBD peer closed the connection"
                    raise NbdError(msg)
                view = view[done:]
        except OSError as error:
            msg = f"NBD connection failed: {error.strerror or error}"
            raise NbdError(msg) from error

    def send(self, *parts: bytes | memoryview) -> None:
        """Send everything."""
        pending: Sequence[memoryview] = [memoryview(part).cast("B") for part in parts if len(part)]
        try:
            while pending:
                done = self.socket.sendmsg(pending)
                rest: list[memoryview] = []
                for part in pending:
                    if done >= len(part):
                        done -= len(part)
                    else:
                        rest.append(part[done:])
                        done = 0
                pending = rest
        except OSError as error:
            msg = f"NBD connection failed: {error.strerror or error}"
            raise NbdError(msg) from error

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()
