"""What a vCPU of the emulator listens to while it sleeps in HLT (`cpu.isa.x86.sleep`)."""

from __future__ import annotations

import os
import select
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from pyhyve.cpu.engine.state import LISTEN_QUEUES, Request

if TYPE_CHECKING:
    from pyhyve.cpu.engine.vcpu import EngineVcpu

_NONE = (1 << 64) - 1
_EVENTS = select.EPOLLIN | select.EPOLLET | select.EPOLLEXCLUSIVE
"""Exclusive: of all that wait for a descriptor the kernel wakes the first who sleeps, in the order they came."""


class SleepListener:
    """Descriptors of receive queues that one vCPU looks after while it sleeps; any thread."""

    def __init__(self, engine: EngineVcpu) -> None:
        self._engine = engine
        self._change_request = engine.bind_quick("x86.change_request")
        self._lock = threading.Lock()
        self._epoll: select.epoll | None = None
        self._wake_fd = -1

    def add(self, fd: int, queue: int, help_fd: int) -> bool:
        """Serve the queue whose structure is at address `queue` when `fd` is readable; False when there is no room.

        `help_fd` is signalled when that leaves something to do for the device. It must stay open as long as the vCPU.
        """
        engine = self._engine
        with self._lock:
            known = [engine.get("listen_fd", slot) for slot in range(engine.get("listen_count"))]
            slot = known.index(_NONE) if _NONE in known else len(known)
            if slot == LISTEN_QUEUES:
                return False
            epoll = self._epoll or self._begin()
            engine.set("listen_queue", queue, slot)
            engine.set("listen_help", help_fd, slot)
            engine.set("listen_fd", fd, slot)
            engine.set("listen_count", max(slot + 1, len(known)))
            try:
                epoll.register(fd, _EVENTS)
            except OSError:
                engine.set("listen_fd", _NONE, slot)
                return False
        return True

    def _begin(self) -> select.epoll:
        """Have the vCPU sleep on descriptors from now on."""
        epoll = self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        epoll.register(self._wake_fd, select.EPOLLIN | select.EPOLLET)
        self._engine.set("wake_fd", self._wake_fd)
        self._engine.set("poll_fd", epoll.fileno())
        # One that sleeps already looks up, and then sleeps the new way.
        self._change_request(Request.INTERRUPT, 0)
        return epoll

    def remove(self, fd: int) -> None:
        """Undo `add`, before `fd` is closed. The vCPU may be about to look at the queue a last time."""
        engine = self._engine
        with self._lock:
            for slot in range(engine.get("listen_count")):
                if engine.get("listen_fd", slot) == fd:
                    engine.set("listen_fd", _NONE, slot)
                    if self._epoll is not None:
                        with suppress(OSError):
                            self._epoll.unregister(fd)

    def close(self) -> None:
        """Close the descriptors; the vCPU runs no more."""
        with self._lock:
            self._engine.set("poll_fd", 0)
            self._engine.set("listen_count", 0)
            if self._epoll is not None:
                self._epoll.close()
                os.close(self._wake_fd)
                self._epoll = None
