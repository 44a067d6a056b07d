"""A network card's end of a stream socket that waits for its peer (QEMU's `-netdev stream,server=on`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.backends.stream import FrameDecoder, FrameWriter, StreamNet, widen

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pyhyve.backends.ioloop import IoLoop


class ListeningStreamNet(StreamNet):
    """Serves one peer at a time; before it comes, and after it left, the card's cable is not plugged in."""

    def __init__(self, listener: socket.socket) -> None:
        """Takes over a socket that listens."""
        super().__init__(listener)
        self._listener = listener
        self.connected = False

    def start(self, loop: IoLoop, on_readable: Callable[[int], None], on_writable: Callable[[int], None]) -> None:
        """Serve on `loop`, and accept there."""
        super().start(loop, on_readable, on_writable)
        loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return
        with self._lock:
            if self.connected:
                peer.close()
                return
            if self._socket is not self._listener:
                self._socket.close()
            peer.settimeout(0)
            widen(peer)
            self._socket = peer
            self._decoder = FrameDecoder()
            self._writer = FrameWriter(peer)
            self.connected = True
        self._watch()

    def close(self) -> None:
        """Close both sockets; idempotent."""
        if self._loop is not None and self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener.fileno())
        super().close()
        self._listener.close()
