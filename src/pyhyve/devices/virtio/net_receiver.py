"""Receive buffers taken ahead of the packets that will fill them, and bytes spread over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyhyve.devices.virtio.chain import DescriptorChain


class Receiver:
    """One receive queue: buffers taken from the ring ahead of the packets that will fill them."""

    __slots__ = ("capacity", "chains", "held", "reading", "views")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget the buffers."""
        self.chains: list[DescriptorChain] = []
        self.views: list[memoryview] = []
        self.capacity = 0
        self.held: bytes | None = None
        self.reading = False


def spread(data: memoryview, views: list[memoryview]) -> None:
    """Spread `data` over `views`, which hold at least as much."""
    for view in views:
        part = data[: len(view)]
        view[: len(part)] = part
        data = data[len(part) :]
        if not data:
            return


def store(views: list[memoryview], offset: int, data: bytes) -> None:
    """Store `data` at `offset` of the bytes that `views` make up together."""
    for view in views:
        if offset < len(view):
            part = data[: len(view) - offset]
            view[offset : offset + len(part)] = part
            data = data[len(part) :]
            if not data:
                return
            offset = 0
        else:
            offset -= len(view)
