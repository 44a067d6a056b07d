r"""The host's side of virtual sockets as Unix sockets, with the convention of Firecracker's hybrid vsock.

A program on the host that connects to PATH and writes `CONNECT PORT\n` is connected to that port of the guest, and
reads `OK HOSTPORT\n` once the guest has accepted. A program in the guest that connects to port P of the host reaches
whoever listens on the Unix socket PATH_P. No module of the host's kernel and no privilege is needed.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from pyhyve.backends.chardev_socket import listen_unix
from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pyhyve.backends.ioloop import IoLoop

_MAX_WORD_BYTES = 32
"""Longest first line of a client: `CONNECT 4294967295` and its end fit."""
_MAX_GREETERS = 128
"""Clients that have not said yet what they want."""
_BACKLOG = 64


class VsockError(UserError):
    """A virtual socket device that cannot be set up; one line for the user."""


class VsockListener:
    """Listens at `path`, reads each client's first line, and hands the client over. Everything runs on the loop."""

    def __init__(self, path: Path) -> None:
        """Bind `path`, replacing a stale socket; raises VsockError."""
        self.path = path
        self._loop: IoLoop | None = None
        self._on_client: Callable[[socket.socket, int], None] | None = None
        self._greeters: dict[int, tuple[socket.socket, bytearray]] = {}
        self._closed = False
        try:
            self._listener = listen_unix(path, _BACKLOG)
            self._listener.settimeout(0)
        except OSError as error:
            msg = f"vsock unix:{path}: {error.strerror or error}"
            raise VsockError(msg) from error

    def start(self, loop: IoLoop, on_client: Callable[[socket.socket, int], None]) -> None:
        """Begin to accept; `on_client(socket, port)` takes over a client that wants `port` of the guest."""
        self._loop, self._on_client = loop, on_client
        loop.add_reader(self._listener.fileno(), self._accept)

    def connect(self, port: int) -> socket.socket | None:
        """A connection to whoever serves `port` of the host; None when nobody does."""
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        client.settimeout(0)
        try:
            client.connect(f"{self.path}_{port}")
        except OSError:
            client.close()
            return None
        return client

    def close(self) -> None:
        """Stop listening, remove the socket, hang up on clients that still wait; idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._loop is not None:
            self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        for fd in list(self._greeters):
            self._forget(fd).close()
        with suppress(OSError):
            self.path.unlink()

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        if self._loop is None or len(self._greeters) >= _MAX_GREETERS:
            client.close()
            return
        client.settimeout(0)
        fd = client.fileno()
        self._greeters[fd] = (client, bytearray())
        self._loop.add_reader(fd, lambda: self._greet(fd))

    def _greet(self, fd: int) -> None:
        """Read a client's first line byte by byte: what follows belongs to the guest."""
        client, line = self._greeters[fd]
        while not line.endswith(b"\n") and len(line) < _MAX_WORD_BYTES:
            try:
                byte = client.recv(1)
            except BlockingIOError:
                return
            except OSError:
                byte = b""
            if not byte:
                break
            line += byte
        self._forget(fd)
        port = _wanted_port(bytes(line))
        if port is None or self._on_client is None:
            client.close()
        else:
            self._on_client(client, port)

    def _forget(self, fd: int) -> socket.socket:
        if self._loop is not None:
            self._loop.remove_reader(fd)
        return self._greeters.pop(fd)[0]


def _wanted_port(line: bytes) -> int | None:
    r"""The port in `CONNECT PORT\n`; None for anything else."""
    words = line.split()
    if not line.endswith(b"\n") or len(words) != 2 or words[0].upper() != b"CONNECT" or not words[1].isdigit():
        return None
    port = int(words[1])
    return port if port < 1 << 32 else None
