"""Event descriptors that KVM signals when the guest writes somewhere, and the thread that answers them."""

from __future__ import annotations

import os
import select
import threading

from pyhyve.support.logs import late_logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_LOG = late_logger(__name__)


class NotifyThread:
    """Calls each callback when its event descriptor is signalled; the thread starts with the first one."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._stop, select.EPOLLIN)
        self._thread: threading.Thread | None = None

    def add(self, callback: Callable[[], None]) -> int:
        """A new event descriptor that leads to `callback`."""
        event_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._callbacks[event_fd] = callback
        self._epoll.register(event_fd, select.EPOLLIN)
        if self._thread is None:
            self._thread = threading.Thread(target=self._main, name="pyhyve-kvm-notify", daemon=True)
            self._thread.start()
        return event_fd

    def remove(self, event_fd: int) -> None:
        """Close a descriptor that `add` made."""
        if self._callbacks.pop(event_fd, None) is not None:
            self._epoll.unregister(event_fd)
            os.close(event_fd)

    def close(self) -> None:
        """End the thread and close everything; idempotent."""
        if self._stop < 0:
            return
        os.eventfd_write(self._stop, 1)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        for event_fd in list(self._callbacks):
            self.remove(event_fd)
        self._epoll.close()
        os.close(self._stop)
        self._stop = -1

    def _main(self) -> None:
        while True:
            for event_fd, _ in self._epoll.poll():
                if event_fd == self._stop:
                    return
                callback = self._callbacks.get(event_fd)
                if callback is None:
                    continue
                try:
                    os.eventfd_read(event_fd)
                    callback()
                except BlockingIOError:
                    continue  # somebody else took the event
                except Exception:  # noqa: BLE001 - one device's fault must not silence the others
                    _LOG.exception("a notification handler failed")
