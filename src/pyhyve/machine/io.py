"""The machine's side of the I/O thread: descriptors and timers whose callbacks need the machine lock."""

from __future__ import annotations

from pyhyve.backends.ioloop import HANGUP, READABLE
from pyhyve.backends.timerfd import TimerFd
from pyhyve.machine.clock import MonotonicClock, TimerQueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from pyhyve.backends.ioloop import IoLoop


class MachineLoop:
    """Readers (`backends.chardev.EventLoop`), clock and timers of one machine, on its I/O thread."""

    def __init__(self, io: IoLoop, lock: threading.RLock) -> None:
        """Callbacks run on `io`'s thread with `lock` held."""
        self._io = io
        self._lock = lock
        self.clock = MonotonicClock()
        self._timer_fd = TimerFd()
        self.timers = TimerQueue(self.clock.now_ns, self._program)
        io.watch(self._timer_fd.fd, READABLE, self._expired)

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """Call `callback` while `fd` is readable or at its end."""

        def ready(_events: int) -> None:
            with self._lock:
                callback()

        self._io.watch(fd, READABLE | HANGUP, ready)

    def remove_reader(self, fd: int) -> None:
        """Stop watching `fd`."""
        self._io.unwatch(fd)

    def add_writer(self, fd: int, callback: Callable[[], None]) -> None:
        """Call `callback` while `fd` takes output, or has failed."""

        def ready() -> None:
            with self._lock:
                callback()

        self._io.add_writer(fd, ready)

    def remove_writer(self, fd: int) -> None:
        """Stop waiting for `fd` to take output."""
        self._io.remove_writer(fd)

    def close(self) -> None:
        """Stop the timers; idempotent."""
        self._io.unwatch(self._timer_fd.fd)
        self._timer_fd.close()

    def _program(self, deadline_ns: int | None) -> None:
        self._timer_fd.set(None if deadline_ns is None else self.clock.start_ns + deadline_ns)

    def _expired(self, _events: int) -> None:
        with self._lock:
            self._timer_fd.clear()
            self.timers.run_due()
