"""Sockets that are asked again and again, waited for together, past the event loop's own bookkeeping.

asyncio takes some five microseconds to get from a readable socket to its function, a third of what most calls take.
Here all clients' sockets are in an epoll set of their own, and that set is one descriptor for the loop: as long as
clients keep it busy, each costs a look into a table, and everything else has its turn after :data:`TURN_S`.
"""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["TURN_S", "Readiness"]

TURN_S: Final = 0.0005
"""How long clients are served before everything else on the loop has its turn."""
_AT_ONCE: Final = 64


class Readiness:
    """Readers of many descriptors on one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._readers: dict[int, Callable[[], object]] = {}
        loop.add_reader(self._epoll, self._serve)

    def add(self, descriptor: int, reader: Callable[[], object]) -> None:
        """Have a function called whenever a descriptor is readable."""
        self._epoll.register(descriptor, select.EPOLLIN)
        self._readers[descriptor] = reader

    def remove(self, descriptor: int) -> None:
        """Call it no more. To be called before the descriptor is closed."""
        if self._readers.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def close(self) -> None:
        """Call nothing any more."""
        self._loop.remove_reader(self._epoll)
        self._readers.clear()
        self._epoll.close()

    def _serve(self) -> None:
        readers, poll = self._readers, self._epoll.poll
        until = time.perf_counter() + TURN_S
        while ready := poll(0, _AT_ONCE):
            for descriptor, _ in ready:
                reader = readers.get(descriptor)
                if reader is not None:  # not removed by one before it
                    reader()
            if time.perf_counter() > until or self._epoll.closed:
                return
