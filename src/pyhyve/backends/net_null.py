"""A network card's cable that leads nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.backends.net import Offload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyhyve.backends.ioloop import IoLoop


class NullNet:
    """Drops what is sent; nothing ever arrives."""

    queues = 1
    offloads = Offload.NONE

    def start(self, loop: IoLoop, on_readable: Callable[[int], None], on_writable: Callable[[int], None]) -> None:
        """Nothing to serve."""

    def set_header_bytes(self, count: int) -> None:
        """Headers are dropped with their packets."""

    def set_offloads(self, offloads: Offload) -> None:
        """No packet arrives."""

    def set_active_queues(self, count: int) -> None:
        """There is one."""

    def set_reading(self, queue: int, *, enabled: bool) -> None:
        """No packet arrives."""

    def send(self, queue: int, views: Sequence[memoryview], length: int) -> bool:
        """Drop it."""
        return True

    def receive(self, queue: int, views: Sequence[memoryview]) -> int:
        """No packet waits."""
        return 0

    def close(self) -> None:
        """Nothing to release."""
