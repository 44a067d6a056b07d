"""A host timer that is a descriptor (timerfd_create(2))."""

from __future__ import annotations

import ctypes
import os
import time

_NS = 1_000_000_000
_TFD_NONBLOCK = os.O_NONBLOCK
_TFD_CLOEXEC = os.O_CLOEXEC
_TFD_TIMER_ABSTIME = 1


class _Itimerspec(ctypes.Structure):
    """`struct itimerspec` of timerfd_settime(2)."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class TimerFd:
    """A timerfd on CLOCK_MONOTONIC: epoll's own timeout has only millisecond steps."""

    def __init__(self) -> None:
        """Create it; raises OSError."""
        libc = ctypes.CDLL(None, use_errno=True)
        self._settime = libc.timerfd_settime
        self._settime.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.POINTER(_Itimerspec), ctypes.c_void_p)
        self._spec = _Itimerspec()
        self._pointer = ctypes.pointer(self._spec)
        self.fd: int = libc.timerfd_create(time.CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

    def set(self, monotonic_ns: int | None) -> None:
        """Become readable at `monotonic_ns` of `time.monotonic_ns`, or never."""
        if self.fd < 0:
            return
        spec = self._spec
        spec.value_s, spec.value_ns = (0, 0) if monotonic_ns is None else divmod(max(monotonic_ns, 1), _NS)
        self._settime(self.fd, _TFD_TIMER_ABSTIME, self._pointer, None)

    def clear(self) -> None:
        """Acknowledge an expiry."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Close the descriptor; idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
