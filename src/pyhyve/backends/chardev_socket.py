"""A socket as a character device: listening for one client at a time, or connected as a client."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from pyhyve.backends.chardev import NO_LIMIT, ChannelReceiver, InputPump

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from pyhyve.backends.chardev import EventLoop, Receiver

_PENDING_LIMIT = 1 << 20


class SocketChardev:
    """One peer at a time; output while nobody is connected is dropped, as on a line without a partner.

    With `listener`, peers come and go; otherwise `peer` is the only one. `path` is removed with the listener. A device
    that can wait (`ChannelReceiver`) loses nothing while a peer is there.
    """

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
        if self._peer is None:
            return
        first = not self._pending
        self._pending += data
        if self._channel is None and len(self._pending) > _PENDING_LIMIT:
            del self._pending[: len(self._pending) - _PENDING_LIMIT]
        if first:
            self._send()
            if self._pending and self._loop is not None:
                self._loop.add_writer(self._peer.fileno(), self._writable)

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
        self._pending.clear()
        self._pump = InputPump(peer.fileno(), self._loop, self._receiver, ended=self._hang_up, filter_=bytes)
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
        self._pending.clear()
        self._waits_for_room = False
        if self._channel is not None:
            self._channel.peer_changed()
            self._channel.output_possible()
