"""Where a state goes and comes from: descriptors, whether files or pipes."""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING, Protocol

from pyhyve.state.errors import StateCancelledError, StateTruncatedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_IOV_MAX = 1024
_WRITE_BYTES = 1 << 20
_POLL_MS = 100
_CREDIT_S = 0.1
"""How much of a limit that was not used may be made up for."""


class StateSink(Protocol):
    """Takes a state from its first byte to its last."""

    start: int
    """Where in its file the state begins; 0 for a pipe."""

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`; raises OSError."""

    def skip_zeros(self, size_bytes: int) -> None:
        """Append zeros; raises OSError."""

    def finish(self) -> None:
        """The state is complete; raises OSError."""


class StateSource(Protocol):
    """Gives a state from its first byte to its last."""

    def read(self, size_bytes: int) -> bytes:
        """The next bytes, fewer only at the end; raises OSError."""

    def read_into(self, views: Sequence[memoryview]) -> None:
        """Fill `views` with what follows. Raises StateError at the end, OSError."""


class FdSink:
    """Writes to a descriptor; in a file, zeros become holes. Whoever reads a pipe may take his time."""

    def __init__(
        self,
        fd: int,
        is_cancelled: Callable[[], bool] = lambda: False,
        max_bandwidth: Callable[[], int] = lambda: 0,
    ) -> None:
        """StateCancelledError is raised once `is_cancelled` says so.

        `max_bandwidth` gives bytes a second, or 0 for no limit; it may change at any time.
        """
        self._fd = fd
        self._is_cancelled = is_cancelled
        self._max_bandwidth = max_bandwidth
        self._due_s = time.monotonic()
        self.written_bytes = 0
        self.can_seek: bool
        """Whether it is a file, into which zeros need not be written."""
        try:
            self.start = os.lseek(fd, 0, os.SEEK_CUR)
            self.can_seek = True
        except OSError:
            self.start = 0
            self.can_seek = False
            os.set_blocking(fd, False)  # so that a reader who sleeps cannot keep us from being cancelled

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`."""
        view = memoryview(data)
        while view:
            if self._is_cancelled():
                raise StateCancelledError
            limit = self._max_bandwidth()
            if limit and (early_s := self._due_s - time.monotonic()) > 0:
                # A new limit counts at once, not when the old one would have let go.
                time.sleep(min(early_s, _POLL_MS / 1000))
                self._due_s = min(self._due_s, time.monotonic() + _WRITE_BYTES / limit)
                continue
            try:
                done = os.write(self._fd, view[: min(_WRITE_BYTES, max(limit // 10, 4096)) if limit else _WRITE_BYTES])
                view = view[done:]
                self.written_bytes += done
                now = time.monotonic()
                self._due_s = max(self._due_s, now - _CREDIT_S) + done / limit if limit else now
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll(_POLL_MS)

    def skip_zeros(self, size_bytes: int) -> None:
        """Append zeros."""
        if self.can_seek:
            os.lseek(self._fd, size_bytes, os.SEEK_CUR)
        else:
            self.write(bytes(size_bytes))

    def finish(self) -> None:
        """Let a file end where the state does, also when that is in a hole."""
        if self.can_seek:
            end = os.lseek(self._fd, 0, os.SEEK_CUR)
            if os.fstat(self._fd).st_size < end:
                os.ftruncate(self._fd, end)


class FdSource:
    """Reads from a descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def read(self, size_bytes: int) -> bytes:
        """The next bytes."""
        parts = []
        while size_bytes:
            part = os.read(self.fd, min(size_bytes, 1 << 20))
            if not part:
                break
            parts.append(part)
            size_bytes -= len(part)
        return b"".join(parts)

    def read_into(self, views: Sequence[memoryview]) -> None:
        """Fill `views`."""
        waiting = [view for view in views if view]
        while waiting:
            done = os.readv(self.fd, waiting[:_IOV_MAX])
            if not done:
                raise StateTruncatedError
            while waiting and done >= len(waiting[0]):
                done -= len(waiting.pop(0))
            if done:
                waiting[0] = waiting[0][done:]
