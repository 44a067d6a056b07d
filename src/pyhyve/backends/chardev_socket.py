"""A socket as a character device: listening for one peer at a time, or connected to one."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

from pyhyve.backends.chardev import NO_LIMIT, ChannelReceiver, ChardevError, InputPump

if TYPE_CHECKING:
    from pathlib import Path

    from pyhyve.backends.chardev import EventLoop, Receiver

_BACKLOG = 1
_PENDING_LIMIT = 1 << 20


class SocketChardev:
    """One peer at a time; output while nobody is connected is dropped, as on a line without a partner.

    With `listener`, peers come and go; otherwise `peer` is the only one. `path` is removed with the listener. A device
    that can wait (`ChannelReceiver`) loses nothing while a peer is there.
    """

    keeps_output: ClassVar[bool] = False
    """Whether output waits for the next peer, the newest up to a limit. Not that of a `ChannelReceiver`, whose guest
    knows that nobody is there."""

    def __init__(
        self,
        description: str,
        *,
        listener: socket.socket | None = None,
        peer: socket.socket | None = None,
        path: Path | None = None,
    ) -> None:
        """Takes the sockets over. `description` is what a monitor shows."""
        self.description = description
        self._listener = listener
        self._path = path
        self._first = peer
        self._peer: socket.socket | None = None
        self._pump: InputPump | None = None
        self._loop: EventLoop | None = None
        self._receiver: Receiver | None = None
        self._channel: ChannelReceiver | None = None
        self._pending = bytearray()
        self._waits_for_room = False
        self._closed = False

    @property
    def connected(self) -> bool:
        """Whether somebody is there."""
        return self._peer is not None or self._first is not None

    @property
    def _waits_for_peer(self) -> bool:
        return self.keeps_output and self._channel is None

    @property
    def output_room(self) -> int:
        """What the limit leaves, while there is a peer to wait for."""
        room = NO_LIMIT if self._peer is None else max(0, _PENDING_LIMIT - len(self._pending))
        if not room:
            self._waits_for_room = True
        return room

    def start(self, loop: EventLoop, receiver: Receiver) -> None:
        """Begin to accept, or to read; again for another receiver."""
        again = self._loop is not None
        self._loop, self._receiver = loop, receiver
        self._channel = receiver if isinstance(receiver, ChannelReceiver) else None
        if again:
            self._hang_up()
        if self._listener is not None:
            self._listener.settimeout(0)
            loop.add_reader(self._listener.fileno(), self._accept)
        if self._first is not None:
            first, self._first = self._first, None
            self._attach(first)

    def write(self, data: bytes) -> None:
        """Send; what the peer does not take at once waits."""
        if self._peer is None and not self._waits_for_peer:
            return
        first = not self._pending
        self._pending += data
        if self._channel is None and len(self._pending) > _PENDING_LIMIT:
            del self._pending[: len(self._pending) - _PENDING_LIMIT]
        if first:
            self._send_or_wait()

    def resume(self) -> None:
        """The receiver has room again."""
        if self._pump is not None:
            self._pump.resume()

    def close(self) -> None:
        """Disconnect and stop listening; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._channel = None
        self._hang_up()
        if self._first is not None:
            self._first.close()
            self._first = None
        if self._listener is not None:
            if self._loop is not None:
                self._loop.remove_reader(self._listener.fileno())
            self._listener.close()
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink()

    def _attach(self, peer: socket.socket) -> None:
        if self._loop is None or self._receiver is None:
            return
        peer.settimeout(0)
        self._peer = peer
        self._pump = InputPump(peer.fileno(), self._loop, self._receiver, ended=self._hang_up, filter_=bytes)
        self._send_or_wait()
        if self._channel is not None:
            self._channel.peer_changed()

    def _accept(self) -> None:
        if self._listener is None:
            return
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return
        if self._peer is not None:
            peer.close()
            return
        self._attach(peer)

    def _send(self) -> bool:
        """Send what the peer takes; False when it is gone."""
        if self._peer is not None:
            try:
                del self._pending[: self._peer.send(self._pending)]
            except BlockingIOError:
                pass
            except OSError:
                return False
        return True

    def _send_or_wait(self) -> None:
        """Send what the peer takes; a failure shows when the loop tries the rest."""
        if self._pending:
            self._send()
            if self._pending and self._peer is not None and self._loop is not None:
                self._loop.add_writer(self._peer.fileno(), self._writable)

    def _writable(self) -> None:
        """The peer takes more, or is gone."""
        if not self._send():
            self._hang_up()
            return
        if not self._pending and self._peer is not None and self._loop is not None:
            self._loop.remove_writer(self._peer.fileno())
        if self._waits_for_room and 2 * len(self._pending) < _PENDING_LIMIT:
            self._waits_for_room = False
            if self._channel is not None:
                self._channel.output_possible()

    def _hang_up(self) -> None:
        peer, pump = self._peer, self._pump
        self._peer = self._pump = None
        if pump is not None:
            pump.stop()
        if peer is None:
            return
        if self._loop is not None:
            self._loop.remove_writer(peer.fileno())
        peer.close()
        if not self._waits_for_peer:
            self._pending.clear()
        self._waits_for_room = False
        if self._channel is not None:
            self._channel.peer_changed()
            self._channel.output_possible()


class UnixChardev(SocketChardev):
    """Listens on a Unix socket; output while nobody is connected is kept for the first client."""

    keeps_output = True

    def __init__(self, path: Path | None, *, fd: int | None = None, label: str = "console") -> None:
        """Bind `path`, replacing a stale socket, or take over the listening descriptor `fd`; raises ChardevError."""
        where = f"unix:{path}" if fd is None else f"fd:{fd}"
        try:
            listener = listen_unix(path) if fd is None else socket.socket(fileno=fd)
        except OSError as error:
            msg = f"{label} {where}: {error.strerror or error}"
            raise ChardevError(msg) from error
        super().__init__(where, listener=listener, path=path)


def listen_unix(path: Path | None, backlog: int = _BACKLOG) -> socket.socket:
    """A socket that listens at `path`, in the place of a stale one; raises OSError."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        if path is not None:
            remove_stale_socket(path)
            listener.bind(str(path))
        listener.listen(backlog)
    except OSError:
        listener.close()
        raise
    return listener


def remove_stale_socket(path: Path) -> None:
    """Remove the socket at `path` when nobody listens on it; raises OSError when somebody does."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    msg = "another program listens there"
    raise OSError(msg)
