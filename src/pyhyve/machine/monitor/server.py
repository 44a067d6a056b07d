"""Listening sockets and clients of a monitor, on an I/O loop."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pyhyve.backends import chardev_socket
from pyhyve.backends.chardev import write_all
from pyhyve.backends.ioloop import HANGUP, READABLE, WRITABLE
from pyhyve.machine.monitor.client import PassedDescriptors
from pyhyve.support.errors import InputError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pyhyve.backends.ioloop import IoLoop

_LOG = logging.getLogger(__name__)
MAX_CLIENTS = 16
_MAX_DESCRIPTORS = 16
_READ_SIZE_BYTES = 2048
"""Small, so that the answers to one read's requests stay far below `_MAX_PENDING_BYTES`."""
_BUSY_BYTES = 1 << 16
"""With more than this on its way to a client, its next requests wait."""
_MAX_PENDING_BYTES = 16 << 20
"""A client that lets this much pile up is gone or broken: it is disconnected."""
_MAX_PORT = 0xFFFF


class Conversation(Protocol):
    """What happens with one client, without I/O."""

    def receive(self, data: bytes) -> None:
        """Take bytes from the client."""

    def event(self, message: bytes) -> None:
        """Pass on an event."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that listens. `path` is removed with it."""

    socket: socket.socket
    description: str
    """As QEMU writes it: `unix:PATH,server=on`."""
    label: str = "compat_monitor0"
    path: Path | None = None

    def close(self) -> None:
        """Stop listening."""
        self.socket.close()
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()


def listen_unix(path: Path, label: str = "compat_monitor0") -> Listener:
    """Listen at `path`, in place of a socket nobody listens on. Raises UserError."""
    try:
        listener = chardev_socket.listen_unix(path, MAX_CLIENTS)
    except OSError as error:
        msg = f"monitor unix:{path}: {error.strerror or error}"
        raise UserError(msg) from error
    listener.settimeout(0)
    return Listener(listener, f"unix:{path},server=on", label, path)


def listen_tcp(host: str, port: int, label: str = "compat_monitor0") -> Listener:
    """Listen on a TCP port; an empty `host` means every address. Raises UserError or InputError."""
    if not 0 <= port <= _MAX_PORT:
        msg = f"monitor tcp:{host}:{port}: the port is not in 0..{_MAX_PORT}"
        raise InputError(msg)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    except OSError as error:
        msg = f"monitor tcp:{host}:{port}: {error.strerror or error}"
        raise UserError(msg) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(MAX_CLIENTS)
    except OSError as error:
        listener.close()
        msg = f"monitor tcp:{host}:{port}: {error.strerror or error}"
        raise UserError(msg) from error
    shown = "[{}]:{}" if family == socket.AF_INET6 else "{}:{}"
    return Listener(listener, f"tcp:{shown.format(*listener.getsockname()[:2])},server=on", label)


def listen_descriptor(fd: int, label: str = "compat_monitor0") -> Listener:
    """Serve a socket that the parent process listens on already. Raises InputError."""
    try:
        listener = socket.socket(fileno=fd)
        listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        msg = f"monitor: file descriptor {fd} is not a socket"
        raise InputError(msg) from error
    if not listening:
        listener.detach()
        msg = f"monitor: the socket with file descriptor {fd} does not listen"
        raise InputError(msg)
    listener.settimeout(0)
    listener.set_inheritable(False)
    name = listener.getsockname()
    where = f"unix:{name}" if isinstance(name, str) else f"fd:{fd}"
    return Listener(listener, f"{where},server=on", label)


class Connection(Protocol):
    """The part of a connected socket that a client needs."""

    def fileno(self) -> int:
        """What to wait for."""

    def send(self, data: bytearray, /) -> int:
        """Send some of `data`; how much."""

    def recv(self, size: int, /) -> bytes:
        """What has arrived; empty at the end."""

    def close(self) -> None:
        """Release it."""


class Terminal:
    """Standard input and output as a connection; they stay open."""

    def fileno(self) -> int:
        """Standard input."""
        return 0

    def send(self, data: bytearray, /) -> int:
        """Write everything; may wait for the terminal."""
        write_all(1, bytes(data))
        return len(data)

    def recv(self, size: int, /) -> bytes:
        """Read what is there."""
        return os.read(0, size)

    def close(self) -> None:
        """Nothing to release."""


class _Client:
    def __init__(self, server: MonitorServer, connection: Connection) -> None:
        self._server = server
        self._connection = connection
        self._pending = bytearray()
        self._open = True
        self._events = READABLE
        self._descriptors = PassedDescriptors()
        self.conversation: Conversation = server.converse(self.send, self._descriptors)
        if self._open:
            self._watch()

    @property
    def is_open(self) -> bool:
        """Whether the connection stands."""
        return self._open

    def send(self, data: bytes) -> None:
        """Send what fits now and keep the rest."""
        if not self._open:
            return
        self._pending += data
        self._flush()
        if len(self._pending) > _MAX_PENDING_BYTES:
            _LOG.debug("a monitor's client does not read: disconnected")
            self.close()

    def close(self) -> None:
        """Disconnect."""
        if not self._open:
            return
        self._open = False
        self._server.loop.unwatch(self._connection.fileno())
        self._connection.close()
        self._descriptors.close()
        self._server.forget(self)

    def _watch(self) -> None:
        self._events = (READABLE if len(self._pending) <= _BUSY_BYTES else 0) | (WRITABLE if self._pending else 0)
        try:
            self._server.loop.watch(self._connection.fileno(), self._events | HANGUP, self._ready)
        except PermissionError:  # a file or /dev/null as standard input: nobody is there
            self.close()

    def _flush(self) -> None:
        try:
            sent = self._connection.send(self._pending)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        del self._pending[:sent]

    def _ready(self, events: int) -> None:
        if events & WRITABLE and self._pending:
            self._flush()
        if self._open and events & READABLE and self._events & READABLE:
            self._read()
        elif self._open and events & HANGUP:
            self.close()
        if self._open:
            self._watch()

    def _receive(self) -> bytes:
        """What has arrived; descriptors that came with it are kept for the command that takes them."""
        connection = self._connection
        if not isinstance(connection, socket.socket) or connection.family != socket.AF_UNIX:
            return connection.recv(_READ_SIZE_BYTES)
        data, fds, _, _ = socket.recv_fds(connection, _READ_SIZE_BYTES, _MAX_DESCRIPTORS)
        if fds:
            self._descriptors.add(fds)
        return data

    def _read(self) -> None:
        try:
            data = self._receive()
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.conversation.receive(data)
        else:
            self.close()


class MonitorServer:
    """Accepts clients on one listener; every method runs on the loop's thread, except the constructor.

    Without a listener it serves whom `connect` brings.
    """

    def __init__(
        self,
        loop: IoLoop,
        listener: Listener | None,
        converse: Callable[[Callable[[bytes], None], PassedDescriptors], Conversation],
    ) -> None:
        """`converse(send, descriptors)` begins the conversation with a new client."""
        self.on_clients: Callable[[bool], None] | None = None
        """Called with whether anybody is connected, when that changes."""
        self.loop = loop
        self.listener = listener
        self.converse = converse
        self._clients: list[_Client] = []

    @property
    def has_clients(self) -> bool:
        """Whether somebody is connected."""
        return bool(self._clients)

    def start(self) -> None:
        """Begin to accept."""
        if self.listener is not None:
            self.loop.add_reader(self.listener.socket.fileno(), self._accept)

    def event(self, message: bytes) -> None:
        """Tell every client."""
        for client in list(self._clients):
            client.conversation.event(message)

    def close(self) -> None:
        """Disconnect everyone and stop listening."""
        for client in list(self._clients):
            client.close()
        if self.listener is not None:
            self.loop.remove_reader(self.listener.socket.fileno())
            self.listener.close()

    def forget(self, client: _Client) -> None:
        """A client is gone."""
        if client in self._clients:
            self._clients.remove(client)
            if not self._clients and self.on_clients is not None:
                self.on_clients(False)  # noqa: FBT003 - the hook's one argument

    def _accept(self) -> None:
        if self.listener is None:
            return
        try:
            connection, _ = self.listener.socket.accept()
        except OSError:
            return
        if len(self._clients) >= MAX_CLIENTS:
            connection.close()
            return
        connection.settimeout(0)
        self.connect(connection)

    def connect(self, connection: Connection) -> None:
        """Serve a client that is connected already."""
        client = _Client(self, connection)
        if client.is_open:
            self._clients.append(client)
            if self.on_clients is not None:
                self.on_clients(True)  # noqa: FBT003 - the hook's one argument
