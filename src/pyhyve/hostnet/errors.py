"""Errors of host networks: one line each."""

from __future__ import annotations

import errno

from pyhyve.support.errors import UserError


class HostNetError(UserError):
    """Something about the host's networks that cannot be done; the message says what helps."""


def explain(what: str, code: int, text: str) -> HostNetError:
    """The error for a system call or netlink request that failed with `code`."""
    if code in {errno.EPERM, errno.EACCES}:
        return HostNetError(f"{what}: no permission (run as root; --net user and demo --rootless work without)")
    return HostNetError(f"{what}: {text}")
