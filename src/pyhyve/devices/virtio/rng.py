"""The virtio entropy device (VIRTIO 1.2, 5.4)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar

from pyhyve.devices.virtio.device import VirtioDevice, Worker
from pyhyve.devices.virtio.spec import DeviceType

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.devices.virtio.queue import Virtqueue
    from pyhyve.memory.guest import GuestMemory

MAX_REQUEST_BYTES = 1 << 16
"""Most bytes given for one buffer: the device may fill a buffer in part (5.4.6.1)."""


class VirtioRng(VirtioDevice):
    """Randomness for the guest; `source(n)` gives up to `n` bytes and defaults to the host's generator."""

    device_type: ClassVar[DeviceType] = DeviceType.RNG

    def __init__(self, memory: GuestMemory, worker: Worker, *, source: Callable[[int], bytes] = os.urandom) -> None:
        super().__init__(memory, worker, offered=0, queue_sizes=[64])
        self._source = source

    def config_space(self) -> bytes:
        """The device has none."""
        return b""

    def handle_queue(self, index: int, ring: Virtqueue) -> None:
        """Fill each buffer."""
        while (chain := ring.pop()) is not None:
            done = 0
            for view, (gpa, _) in zip(chain.writable, chain.writable_ranges, strict=True):
                part = min(len(view), MAX_REQUEST_BYTES - done)
                if not part:
                    break
                data = self._source(part)
                view[: len(data)] = data
                self.dma.mark_written(gpa, len(data))
                done += len(data)
                if len(data) < part:
                    break
            ring.push(chain, done)
