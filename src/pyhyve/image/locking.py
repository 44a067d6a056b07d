"""Image locks that QEMU understands: open-file-description locks on single bytes of the image file.

QEMU's file driver (block/file-posix.c) gives each block permission two bytes: a shared lock on `100 + bit` says "I use
this permission", one on `200 + bit` says "I do not let others use it". Whoever wants a permission tests that nobody
forbids it, and the other way round.
"""

from __future__ import annotations

import fcntl
import struct

from pyhyve.image.contract import ImageLockedError

_PERMISSION_BASE = 100
_UNSHARED_BASE = 200
_F_OFD_GETLK = 36
_F_OFD_SETLK = 37
_FLOCK = struct.Struct("hhqqi4x")


class Permission:
    """Block permissions by bit, as QEMU numbers them; plain numbers, so that short commands need not make flags."""

    CONSISTENT_READ = 1
    WRITE = 2
    WRITE_UNCHANGED = 4
    RESIZE = 8


_BIT_NAMES = ("consistent read", "write", "write unchanged", "resize")
READER = (Permission.CONSISTENT_READ, Permission.WRITE | Permission.RESIZE)
WRITER = (
    Permission.CONSISTENT_READ | Permission.WRITE | Permission.RESIZE,
    Permission.WRITE | Permission.RESIZE,
)


def lock_image(fd: int, filename: str, *, writable: bool) -> None:
    """Take the locks of a reader or a writer on `fd`; they last until its file description is closed.

    Raises ImageLockedError when another process holds the image in a conflicting way. A file system without locks is
    used without them, as QEMU does.
    """
    wanted, unshared = WRITER if writable else READER
    try:
        for bit in range(len(_BIT_NAMES)):
            if wanted & (1 << bit):
                _set_shared(fd, _PERMISSION_BASE + bit)
            if unshared & (1 << bit):
                _set_shared(fd, _UNSHARED_BASE + bit)
        for bit, name in enumerate(_BIT_NAMES):
            if wanted & (1 << bit) and _held_by_other(fd, _UNSHARED_BASE + bit):
                raise _conflict(name, filename)
            if unshared & (1 << bit) and _held_by_other(fd, _PERMISSION_BASE + bit):
                raise _conflict(name if name != "consistent read" else "shared", filename, shared=True)
    except (BlockingIOError, PermissionError) as error:  # EAGAIN and EACCES
        raise _conflict("write" if writable else "shared", filename) from error
    except OSError as error:
        import errno  # noqa: PLC0415 - would be felt in short commands

        if error.errno not in {errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise


def _conflict(name: str, filename: str, *, shared: bool = False) -> ImageLockedError:
    kind = f'shared "{name}"' if shared else f'"{name}"'
    return ImageLockedError(f"Failed to get {kind} lock: is another process using the image [{filename}]?")


def _set_shared(fd: int, start: int) -> None:
    fcntl.fcntl(fd, _F_OFD_SETLK, _FLOCK.pack(fcntl.F_RDLCK, 0, start, 1, 0))


def _held_by_other(fd: int, start: int) -> bool:
    answer = fcntl.fcntl(fd, _F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, 0, start, 1, 0))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
