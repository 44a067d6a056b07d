"""Issuing ioctls, with errors that name the request."""

from __future__ import annotations

import ctypes
import os
from fcntl import ioctl

from pyhyve.kvm.abi import Ioctl


class KvmError(OSError):
    """The kernel refused a request; `errno` says why and the text names the ioctl."""


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong)
_libc.tgkill.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int)

_INT_MAX = 2**31 - 1
_COPY_LIMIT_BYTES = 1024
"""`fcntl.ioctl` refuses longer immutable arguments."""


def call(fd: int, request: int, argument: bytes | bytearray | int = 0, *, what: str = "") -> int:
    """Issue `request` and return its result; a bytearray is filled in place. Raises KvmError."""
    try:
        if isinstance(argument, int):
            if argument == 0:
                return ioctl(fd, request)
            if argument > _INT_MAX:  # fcntl.ioctl takes a C int
                return _call_wide(fd, request, argument)
            return ioctl(fd, request, argument)
        if isinstance(argument, bytearray):
            return int(ioctl(fd, request, argument, True))  # noqa: FBT003
        if len(argument) > _COPY_LIMIT_BYTES:
            return int(ioctl(fd, request, bytearray(argument), True))  # noqa: FBT003
        ioctl(fd, request, argument)
        return 0
    except OSError as error:
        name = what or f"KVM_{Ioctl(request).name}"
        raise KvmError(error.errno, f"{name}: {error.strerror}") from error


def _call_wide(fd: int, request: int, argument: int) -> int:
    result: int = _libc.ioctl(fd, request, argument)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def kick_thread(native_id: int, signal_number: int) -> None:
    """Send a signal to one thread of this process; a thread that has ended is no error.

    `signal.pthread_kill` is not safe on a thread that may have ended (pthread_kill(3)), tgkill(2) is.
    """
    _libc.tgkill(os.getpid(), native_id, signal_number)
