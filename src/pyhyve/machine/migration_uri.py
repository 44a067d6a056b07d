"""The streams that migration goes through, by their names: QEMU's `fd:`, `exec:`, `file:`, `unix:` and `tcp:`."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pyhyve.machine.saving import MappableSource
from pyhyve.state.errors import StateCancelledError, StateError
from pyhyve.state.live import GO, READY
from pyhyve.state.streams import FdSink, FdSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.state.streams import StateSource

_KINDS = ("fd", "exec", "file", "unix", "tcp")
_MAX_OFFSET = 1 << 62
_POLL_MS = 100
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4))
"""Seconds and probes after which a host that says nothing is taken for dead."""


@dataclass(frozen=True, slots=True)
class MigrationUri:
    """`kind` is one of the above. `fd` is a descriptor of ours (taken over) for `fd:`, else -1."""

    kind: str
    target: str
    fd: int = -1


def parse_uri(text: str, take_fd: Callable[[str], int | None]) -> MigrationUri:
    """The stream called `text`; `take_fd(name)` gives a descriptor that a client passed. Raises StateError."""
    kind, colon, target = text.partition(":")
    if not colon or kind not in _KINDS or not target:
        msg = "Parameter 'uri' expects a valid migration protocol"
        raise StateError(msg)
    if kind != "fd":
        return MigrationUri(kind, target)
    fd = take_fd(target)
    if fd is None and target.isascii() and target.isdigit():
        fd = int(target[:9])
        try:
            os.set_inheritable(fd, False)  # noqa: FBT003 - its only form
        except OSError as error:
            msg = f"fd:{target}: {error.strerror}"
            raise StateError(msg) from error
    if fd is None:
        msg = f"File descriptor named '{target}' has not been found"
        raise StateError(msg)
    return MigrationUri(kind, target, fd)


class Outgoing:
    """A stream to write to; leaving it closes it. `finish` makes what was written last, or raises."""

    def __init__(
        self,
        fd: int,
        sink: Callable[[int], FdSink],
        process: subprocess.Popen[bytes] | None = None,
        path: str = "",
        *,
        answers: bool = False,
    ) -> None:
        """Takes `fd` over; `path` is removed again unless `finish` is reached."""
        self._fd = fd
        self._process = process
        self._path = path
        self.sink = sink(fd)
        self.answers = answers
        """Whether the other end is a machine that can answer."""

    def __enter__(self) -> Self:
        return self

    def await_ready(self, is_cancelled: Callable[[], bool]) -> None:
        """Wait until the machine at the other end has the state. Raises StateError, also when it says no, OSError."""
        data = b""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while len(data) < len(READY):
            if is_cancelled():
                raise StateCancelledError
            if poll.poll(_POLL_MS):
                part = os.read(self._fd, len(READY) - len(data))
                data += part
                if not part or not READY.startswith(data):
                    msg = "the destination did not take the machine over"
                    raise StateError(msg)

    def say_go(self) -> None:
        """Leave the machine to the other end. Raises OSError when nobody is there."""
        os.write(self._fd, GO)

    def finish(self) -> None:
        """All is written. Raises OSError and StateError."""
        if self._path:
            os.fdatasync(self._fd)
        self._path = ""
        self._close_fd()
        _await(self._process)
        self._process = None

    def _close_fd(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __exit__(self, *_: object) -> None:
        self._close_fd()
        if self._path:
            with contextlib.suppress(OSError):
                Path(self._path).unlink()
        if self._process is not None:
            self._process.terminate()
            self._process.wait()


def _await(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None and process.wait():
        msg = f"the command ended with status {process.returncode}"
        raise StateError(msg)


class Incoming:
    """A stream to read from; leaving it closes it."""

    def __init__(self, source: Callable[[], StateSource], close: Callable[[], None]) -> None:
        """`source` may wait for whoever connects."""
        self.source = source
        self._close = close
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def of_command(cls, process: subprocess.Popen[bytes], fd: int) -> Self:
        """What `process` writes to `fd`."""
        made = cls(lambda: FdSource(fd), lambda: os.close(fd))
        made._process = process
        return made

    def __enter__(self) -> Self:
        return self

    def confirm(self, source: StateSource) -> None:
        """Tell the sender of `source` that the state is here, and wait for its word that the machine is ours.

        Raises StateError when that does not come, OSError.
        """
        fd = source.fd if isinstance(source, FdSource) else -1
        os.write(fd, READY)
        if source.read(len(GO)) != GO:
            msg = "the source keeps its machine"
            raise StateError(msg)

    def finish(self) -> None:
        """All was read."""

    def __exit__(self, *_: object) -> None:
        self._close()
        if self._process is not None:
            self._process.terminate()
            self._process.wait()


def open_outgoing(
    uri: MigrationUri,
    is_cancelled: Callable[[], bool],
    max_bandwidth: Callable[[], int] = lambda: 0,
    *,
    duplex: bool = False,
) -> Outgoing:
    """Open `uri` for writing, at most so many bytes per second where that is not 0. Raises OSError and StateError.

    `duplex` says that a socket that we were given goes both ways.
    """

    def sink(fd: int) -> FdSink:
        return FdSink(fd, is_cancelled, max_bandwidth)

    match uri.kind:
        case "fd":
            return Outgoing(uri.fd, sink, answers=_goes_both_ways(uri.fd, is_said=duplex))
        case "exec":
            read_end, write_end = os.pipe()
            try:
                process = subprocess.Popen(["/bin/sh", "-c", uri.target], stdin=read_end)
            except OSError:
                os.close(write_end)
                raise
            finally:
                os.close(read_end)
            return Outgoing(write_end, sink, process)
        case "file":
            return _outgoing_file(uri.target, sink)
        case _:
            with _connect(uri) as connection:
                return Outgoing(connection.detach(), sink, answers=True)


def _goes_both_ways(fd: int, *, is_said: bool) -> bool:
    """Whether what a descriptor leads to can answer: over TCP, and other sockets (not a tunnel) if it is said so."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return False
    with socket.socket(fileno=os.dup(fd)) as connection:
        is_tcp = connection.family in {socket.AF_INET, socket.AF_INET6} and connection.type == socket.SOCK_STREAM
        if is_tcp:
            _watch(connection)
        return is_tcp or is_said


def _watch(connection: socket.socket) -> None:
    """Have the kernel notice that the other host is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _outgoing_file(target: str, sink: Callable[[int], FdSink]) -> Outgoing:
    """A file, written from an offset on; a new one is removed again when the state does not become complete."""
    path, offset = _path_and_offset(target)
    if not offset and not _is_special(path):
        # Another machine may still be mapping the old file: it must not change under it.
        with contextlib.suppress(FileNotFoundError):
            Path(path).unlink()
    is_new = not os.path.lexists(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if offset:
        os.lseek(fd, offset, os.SEEK_SET)
    return Outgoing(fd, sink, path=path if is_new else "")


def _is_special(path: str) -> bool:
    try:
        return not stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _path_and_offset(target: str) -> tuple[str, int]:
    path, comma, option = target.rpartition(",offset=")
    if not comma:
        return target, 0
    try:
        offset = int(option, 0)
    except ValueError:
        offset = -1
    if not 0 <= offset < _MAX_OFFSET:
        msg = f"file URI has bad offset {option}"
        raise StateError(msg)
    return path, offset


def _connect(uri: MigrationUri) -> socket.socket:
    if uri.kind == "unix":
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(uri.target)
        except OSError:
            connection.close()
            raise
        return connection
    connection = socket.create_connection(_host_and_port(uri.target))
    _watch(connection)
    return connection


def _host_and_port(target: str) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port[:6]) <= 0xFFFF):
        msg = f"tcp:{target}: not HOST:PORT"
        raise StateError(msg)
    return host.removeprefix("[").removesuffix("]"), int(port[:6])


def open_incoming(uri: MigrationUri) -> Incoming:
    """Open `uri` for reading, or listen there. Raises OSError and StateError."""
    match uri.kind:
        case "fd":
            return _incoming_fd(uri.fd)
        case "exec":
            read_end, write_end = os.pipe()
            try:
                process = subprocess.Popen(["/bin/sh", "-c", uri.target], stdin=subprocess.DEVNULL, stdout=write_end)
            except OSError:
                os.close(read_end)
                raise
            finally:
                os.close(write_end)
            return Incoming.of_command(process, read_end)
        case "file":
            path, offset = _path_and_offset(uri.target)
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            os.lseek(fd, offset, os.SEEK_SET)
            source = MappableSource(fd)
            return Incoming(lambda: source, source.close)
        case _:
            return _listen(uri)


def _incoming_fd(fd: int) -> Incoming:
    """A descriptor somebody gave us: read at once, for its owner may do with the file what he wants afterwards."""
    return Incoming(lambda: FdSource(fd), lambda: os.close(fd))


def _listen(uri: MigrationUri) -> Incoming:
    if uri.kind == "unix":
        listener = socket.socket(socket.AF_UNIX)
        address: str | tuple[str, int] = uri.target
    else:
        listener = socket.socket(socket.AF_INET6 if "[" in uri.target else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        address = _host_and_port(uri.target)
    try:
        listener.bind(address)
        listener.listen(1)
    except OSError:
        listener.close()
        raise
    connections: list[socket.socket] = []

    def accept() -> StateSource:
        connection, _ = listener.accept()
        connections.append(connection)
        if uri.kind == "tcp":
            _watch(connection)
        return FdSource(connection.fileno())

    def close() -> None:
        for each in (*connections, listener):
            each.close()
        if uri.kind == "unix":
            with contextlib.suppress(OSError):
                Path(uri.target).unlink()

    return Incoming(accept, close)
