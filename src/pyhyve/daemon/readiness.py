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
        self._left: list[tuple[int, int]] = []
        """What was ready when the turn was over."""
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
        self._left.clear()
        self._epoll.close()

    def _serve(self) -> None:
        readers, poll, clock = self._readers, self._epoll.poll, time.perf_counter
        until = clock() + TURN_S
        while not self._epoll.closed:
            # Those that were left come first: epoll would go on with the first again, if it asks fast enough.
            ready, self._left = self._left or poll(0, _AT_ONCE), []
            if not ready:
                return
            for number, (descriptor, _) in enumerate(ready, 1):
                reader = readers.get(descriptor)
                if reader is not None:  # not removed by one before it
                    reader()
                if clock() > until:
                    self._left = ready[number:]
                    return
