"""A user and a network namespace of one's own, where making bridges and taps needs no root (user_namespaces(7))."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

CLONE_NEWUSER, CLONE_NEWNET = 0x1000_0000, 0x4000_0000
"""<linux/sched.h>"""
TUN_DEVICE = "/dev/net/tun"


def enter() -> None:
    """Move this process, which must have one thread only, into new namespaces where it is root.

    Raises UserError where the host does not allow that.
    """
    if not os.access(TUN_DEVICE, os.R_OK | os.W_OK):
        msg = f"{TUN_DEVICE}: no permission (an administrator may allow it: chmod 666 {TUN_DEVICE}, Debian's default)"
        raise UserError(msg)
    uid, gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET):
        reason = os.strerror(ctypes.get_errno())
        msg = (
            f"no user namespaces here: {reason} (sysctl kernel.unprivileged_userns_clone=1 may allow them; or be root)"
        )
        raise UserError(msg)
    try:
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1", encoding="ascii")
    except OSError as error:
        msg = f"no user namespaces here: {error.filename}: {error.strerror}"
        raise UserError(msg) from error


def network_namespace(pid: int | str = "self") -> int:
    """The number of a process's network namespace. Raises OSError when it is gone or someone else's."""
    return Path(f"/proc/{pid}/ns/net").stat().st_ino


def command_lines() -> Iterator[tuple[int, bytes]]:
    """Processes that name files as this one does (mount_namespaces(7)), and their words, each with a NUL at its end.

    Those of containers are left out: what they call by a name of ours is something else.
    """
    ours = Path("/proc/self/ns/mnt").stat().st_ino
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended, or it is someone else's
            if (path / "ns" / "mnt").stat().st_ino == ours:
                yield int(path.name), (path / "cmdline").read_bytes()
