"""The I/O thread: epoll over descriptors, and calls from other threads.

Backends and virtqueues run here, off the vCPU threads. KVM's ioeventfds are descriptors like any other (`watch`);
the translator's notifications arrive through `call_soon`.
"""

from __future__ import annotations

import heapq
import itertools
import os
import select
import threading
import time
from collections import deque

from pyhyve.backends.timerfd import TimerFd
from pyhyve.support.logs import late_logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_LOG = late_logger(__name__)

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT
EXCLUSIVE = select.EPOLLEXCLUSIVE
"""Beside READABLE: of all that wait for a descriptor in this way, the kernel wakes the first who sleeps."""
HANGUP = select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP


def _ignore(_ready: int) -> None:
    """For a descriptor that is no longer watched."""


_NOT_WATCHED = 0, _ignore


class IoLoop:
    """One thread that waits for descriptors and calls.

    `call_soon`, `watch`, `add_writer`, their opposites and `stop` may be called from any thread. A callback that raises
    is logged and the loop goes on: one broken backend must not stop the others.
    """

    def __init__(self, name: str = "io") -> None:
        self.name = name
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, READABLE)
        self._watches: dict[int, tuple[int, Callable[[int], None]]] = {}
        """The events to call for and what to call, by descriptor: made from the two below."""
        self._readers: dict[int, tuple[int, Callable[[int], None]]] = {}
        self._writers: dict[int, Callable[[], None]] = {}
        self._watch_lock = threading.Lock()
        self._later_lock = threading.Lock()
        self._calls: deque[Callable[[], None]] = deque()
        self._later: list[tuple[int, int, Callable[[], None]]] = []
        """Deadline, a number that keeps equal ones in order, and what to call: a heap."""
        self._later_count = itertools.count()
        self._timer: TimerFd | None = None
        self._awake = False
        self._stopping = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread; once."""
        self._thread = threading.Thread(target=self.run, name=f"pyhyve-{self.name}", daemon=True)
        self._thread.start()

    @property
    def thread_id(self) -> int:
        """The kernel's number of the thread; 0 before it started."""
        return 0 if self._thread is None else self._thread.native_id or 0

    def is_current(self) -> bool:
        """Whether the caller runs on this loop's thread."""
        return self._thread is threading.current_thread()

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run `callback` on the loop's thread, in the order of calls."""
        self._calls.append(callback)
        if not self._awake:
            # Two racing callers may both write; the loop reads the counter to zero at once.
            self._awake = True
            if not self._closed:
                os.eventfd_write(self._wake_fd, 1)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Run `callback` on the loop's thread once, `delay_s` from now; any thread."""
        deadline_ns = time.monotonic_ns() + int(delay_s * 1e9)
        with self._later_lock:
            if self._closed:
                return
            heapq.heappush(self._later, (deadline_ns, next(self._later_count), callback))
            if self._timer is None:
                self._timer = TimerFd()
                self.add_reader(self._timer.fd, self._expired)
            if self._later[0][0] == deadline_ns:
                self._timer.set(deadline_ns)

    @property
    def next_call_is_due(self) -> bool:
        """Whether the time of a delayed call has come."""
        return bool(self._later) and self._later[0][0] <= time.monotonic_ns()

    def _expired(self) -> None:
        """Run the calls that are due, and wait for the next."""
        due = []
        with self._later_lock:
            if self._timer is None:
                return
            self._timer.clear()
            now_ns = time.monotonic_ns()
            while self._later and self._later[0][0] <= now_ns:
                due.append(heapq.heappop(self._later)[2])
            if self._later:
                self._timer.set(self._later[0][0])
        for callback in due:
            try:
                callback()
            except Exception:  # noqa: BLE001 - see the class docstring
                _LOG.exception("%s: a delayed call failed", self.name)

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call `callback(ready events)` while any of `events` holds for `fd`; replaces an earlier watch of `fd`."""
        with self._watch_lock:
            self._readers[fd] = (events, callback)
            self._update(fd)

    def unwatch(self, fd: int) -> None:
        """Forget `fd`; idempotent. Call it before closing the descriptor."""
        with self._watch_lock:
            if self._readers.pop(fd, None) is not None:
                self._update(fd)

    def add_writer(self, fd: int, callback: Callable[[], None]) -> None:
        """Call `callback` while `fd` takes output, or has failed; beside a watch of `fd`."""
        with self._watch_lock:
            self._writers[fd] = callback
            self._update(fd)

    def remove_writer(self, fd: int) -> None:
        """Undo `add_writer`; idempotent. Call it before closing the descriptor."""
        with self._watch_lock:
            if self._writers.pop(fd, None) is not None:
                self._update(fd)

    def _update(self, fd: int) -> None:
        """Make the kernel's watch of `fd` what its reader and writer want; with the lock held."""
        reader, writer = self._readers.get(fd), self._writers.get(fd)
        before, _ = self._watches.get(fd, _NOT_WATCHED)
        known = fd in self._watches
        if reader is None and writer is None:
            if known:
                del self._watches[fd]
                if not self._closed:
                    self._epoll.unregister(fd)
            return
        events = (0 if reader is None else reader[0]) | (0 if writer is None else WRITABLE)
        # Before the kernel knows, for the thread may wake at once; events of an earlier watch are told by their bits.
        if reader is not None and writer is None:
            self._watches[fd] = events | HANGUP, reader[1]
        else:
            self._watches[fd] = events | HANGUP, lambda ready: self._dispatch(fd, ready)
        if known and (events | before) & EXCLUSIVE:  # the kernel lets nobody modify such a watch
            self._epoll.unregister(fd)
            known = False
        if known:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)

    def _dispatch(self, fd: int, ready: int) -> None:
        """Call the writer of `fd`, then its reader, if it is still watched for what happened."""
        writer = self._writers.get(fd)
        if writer is not None and ready & (WRITABLE | HANGUP):
            writer()
        reader = self._readers.get(fd)
        if reader is not None and ready & (reader[0] | HANGUP):
            reader[1](ready)

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """Call `callback` while `fd` is readable or hung up."""
        self.watch(fd, READABLE, lambda _events: callback())

    def remove_reader(self, fd: int) -> None:
        """Stop watching `fd`; nothing happens when it is not watched."""
        self.unwatch(fd)

    def run(self) -> None:
        """Serve until `stop`; `start` calls it on the thread it makes."""
        poll = self._epoll.poll
        calls = self._calls
        wake_fd = self._wake_fd
        while not self._stopping:
            for fd, events in poll():
                if fd == wake_fd:
                    os.eventfd_read(wake_fd)
                    continue
                wanted, watcher = self._watches.get(fd, _NOT_WATCHED)
                if events & wanted:
                    try:
                        watcher(events)
                    except Exception:  # noqa: BLE001 - see the class docstring
                        _LOG.exception("%s: a descriptor's handler failed", self.name)
            # Cleared before draining: a call added from here on wakes the loop again.
            self._awake = False
            for _ in range(len(calls)):
                try:
                    calls.popleft()()
                except Exception:  # noqa: BLE001 - see the class docstring
                    _LOG.exception("%s: a call failed", self.name)

    def run_pending(self) -> None:
        """Run the calls made so far on this thread: for a loop that was never started."""
        self._awake = False
        for _ in range(len(self._calls)):
            self._calls.popleft()()

    def run_ready(self) -> None:
        """Serve what is ready, without waiting and without catching errors: for a loop that was never started."""
        for fd, events in self._epoll.poll(0):
            if fd == self._wake_fd:
                os.eventfd_read(fd)
                continue
            wanted, watcher = self._watches.get(fd, _NOT_WATCHED)
            if events & wanted:
                watcher(events)

    def stop(self) -> None:
        """End the thread, wait for it (unless called from it) and close the descriptors; idempotent."""
        if self._closed:
            return
        self._stopping = True
        os.eventfd_write(self._wake_fd, 1)
        if self._thread is not None and not self.is_current():
            self._thread.join()
        with self._later_lock:
            self._closed = True
            self._later.clear()
            if self._timer is not None:
                self._timer.close()
                self._timer = None
        self._epoll.close()
        os.close(self._wake_fd)
        self._watches.clear()
        self._readers.clear()
        self._writers.clear()
        self._calls.clear()
