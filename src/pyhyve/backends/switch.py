"""A learning Ethernet switch over a unix socket: machines on one host talk to each other without root.

Ports speak the format of `stream`, so QEMU (`-netdev stream,addr.type=unix,addr.path=…`) can be plugged in as well.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pyhyve.backends.ioloop import HANGUP, READABLE, WRITABLE, IoLoop
from pyhyve.backends.net import NetError
from pyhyve.backends.stream import FrameDecoder, FrameError, FrameWriter, StreamNet

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_PORTS = 256
_MAX_ADDRESSES = 4096
_PORT_QUEUE_BYTES = 1 << 22
_READS_PER_EVENT = 4
_MAC_BYTES = 6


class AddressTable:
    """Which port a MAC address was last seen on, up to a limit; the oldest go first."""

    def __init__(self, limit: int = _MAX_ADDRESSES) -> None:
        self._limit = limit
        self._ports: dict[bytes, int] = {}

    def learn(self, mac: bytes, port: int) -> None:
        """Remember the sender of a frame; group addresses are nobody's."""
        if mac[0] & 1 or self._ports.get(mac) == port:
            return
        self._ports.pop(mac, None)
        if len(self._ports) >= self._limit:
            del self._ports[next(iter(self._ports))]
        self._ports[mac] = port

    def find(self, mac: bytes) -> int | None:
        """The port of `mac`, None for a group address or one never seen."""
        return self._ports.get(mac)

    def forget(self, port: int) -> None:
        """A port went away."""
        self._ports = {mac: other for mac, other in self._ports.items() if other != port}


class _Port:
    """One connection."""

    def __init__(self, number: int, connection: socket.socket) -> None:
        self.number = number
        self.connection = connection
        self.decoder = FrameDecoder()
        self.writer = FrameWriter(connection)


class FrameSwitch:
    """Listens at a path and forwards frames between its connections."""

    def __init__(self, path: str, *, on_empty: Callable[[], None] | None = None) -> None:
        """Bind `path`, replacing a socket nobody listens on; raises NetError.

        `on_empty` is called when the last connection goes.
        """
        self.path = path
        self._on_empty = on_empty
        self._ports: dict[int, _Port] = {}
        self._next = 0
        self._addresses = AddressTable()
        self._loop: IoLoop | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            _remove_stale(path)
            self._listener.bind(path)
            self._listener.listen(16)
        except OSError as error:
            self._listener.close()
            msg = f"switch {path}: {error.strerror or error}"
            raise NetError(msg) from error
        self._listener.settimeout(0)

    def start(self, loop: IoLoop) -> None:
        """Serve on `loop`."""
        self._loop = loop
        loop.add_reader(self._listener.fileno(), self._accept)

    @property
    def ports(self) -> int:
        """Connections now."""
        return len(self._ports)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        if len(self._ports) >= _MAX_PORTS or self._loop is None:
            connection.close()
            return
        connection.settimeout(0)
        port = _Port(self._next, connection)
        self._next += 1
        self._ports[port.number] = port
        self._loop.watch(connection.fileno(), READABLE, lambda events: self._ready(port, events))

    def _watch(self, port: _Port) -> None:
        if self._loop is not None:
            events = READABLE | (WRITABLE if port.writer.pending_bytes else 0)
            self._loop.watch(port.connection.fileno(), events, lambda ready: self._ready(port, ready))

    def _ready(self, port: _Port, events: int) -> None:
        try:
            if events & WRITABLE and port.writer.flush():
                self._watch(port)
            if events & (READABLE | HANGUP):
                self._read(port)
        except (OSError, FrameError):
            self._drop(port)

    def _read(self, port: _Port) -> None:
        """Forward what a port sent; OSError or FrameError when the port is to be dropped."""
        for _ in range(_READS_PER_EVENT):
            try:
                count = port.connection.recv_into(port.decoder.space())
            except BlockingIOError:
                return
            if not count:
                raise ConnectionResetError
            port.decoder.advance(count)
            for frame in port.decoder.frames():
                self._forward(port, frame)

    def _forward(self, source: _Port, frame: memoryview) -> None:
        if len(frame) < 2 * _MAC_BYTES:
            return
        self._addresses.learn(bytes(frame[_MAC_BYTES : 2 * _MAC_BYTES]), source.number)
        target = self._addresses.find(bytes(frame[:_MAC_BYTES]))
        if target is not None:
            if target != source.number and target in self._ports:
                self._send(self._ports[target], frame)
            return
        for port in list(self._ports.values()):
            if port is not source:
                self._send(port, frame)

    def _send(self, port: _Port, frame: memoryview) -> None:
        """Send to a port; a slow one loses frames, as a switch with a full queue does."""
        if port.writer.pending_bytes > _PORT_QUEUE_BYTES:
            return
        try:
            port.writer.send((frame,), len(frame))
        except OSError:
            self._drop(port)
            return
        if port.writer.pending_bytes:
            self._watch(port)

    def _drop(self, port: _Port) -> None:
        if self._ports.pop(port.number, None) is None:
            return
        if self._loop is not None:
            self._loop.unwatch(port.connection.fileno())
        port.connection.close()
        self._addresses.forget(port.number)
        if not self._ports and self._on_empty is not None:
            self._on_empty()

    def close(self) -> None:
        """Disconnect everyone and remove the socket; idempotent."""
        self._on_empty = None
        for port in list(self._ports.values()):
            self._drop(port)
        if self._listener.fileno() >= 0:
            if self._loop is not None:
                self._loop.unwatch(self._listener.fileno())
            self._listener.close()
            with suppress(OSError):
                Path(self.path).unlink()


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on; OSError when somebody does, or it is something else."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):  # noqa: PTH116 - the type bits, without a Path
            raise FileExistsError(17, "exists and is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
    raise OSError(98, "another switch listens there")


def connect_switch(path: str) -> StreamNet:
    """A network card's cable into the switch (or QEMU) that listens at `path`; raises NetError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        msg = f"switch {path}: {error.strerror or error} (is it running?)"
        raise NetError(msg) from error
    return StreamNet(connection)
