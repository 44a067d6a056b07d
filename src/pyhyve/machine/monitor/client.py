"""Descriptors that came with the request that is being carried out."""

from __future__ import annotations

import os
import threading
from collections import deque

from pyhyve.machine.monitor.errors import QmpError

_MAX_WAITING = 16
_LOCAL = threading.local()


class PassedDescriptors:
    """What one client sent and no command took yet, the oldest first."""

    def __init__(self) -> None:
        self._waiting: deque[int] = deque()

    def add(self, fds: list[int]) -> None:
        """Descriptors arrived; too many are closed."""
        for fd in fds:
            os.set_inheritable(fd, False)  # noqa: FBT003 - the system call's one argument
            self._waiting.append(fd)
        while len(self._waiting) > _MAX_WAITING:
            os.close(self._waiting.popleft())

    def take(self) -> int | None:
        """The oldest."""
        return self._waiting.popleft() if self._waiting else None

    def close(self) -> None:
        """The client is gone."""
        while self._waiting:
            os.close(self._waiting.popleft())


def serve(descriptors: PassedDescriptors | None) -> None:
    """Requests of this thread come from a client with these descriptors, until the next call."""
    _LOCAL.descriptors = descriptors


def take_descriptor() -> int:
    """The descriptor that came with the present request. Raises QmpError."""
    descriptors: PassedDescriptors | None = getattr(_LOCAL, "descriptors", None)
    fd = None if descriptors is None else descriptors.take()
    if fd is None:
        msg = "No file descriptor supplied via SCM_RIGHTS"
        raise QmpError(msg)
    return fd
