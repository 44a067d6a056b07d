"""Descriptors beside the bytes of a unix socket, as both ends receive them (`unix(7)`, SCM_RIGHTS)."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

from pyhyve.rpc.spec import FDS_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ANCILLARY_SIZE", "descriptors"]

ANCILLARY_SIZE: Final = socket.CMSG_SPACE(FDS_MAX * 4)
"""Bytes to offer `recvmsg` for them."""


def descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors that came with a message."""
    fds: list[int] = []
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.extend(memoryview(content)[: len(content) - len(content) % 4].cast("i"))
    return fds
