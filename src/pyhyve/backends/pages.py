"""Giving guest memory back to the host."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2


@functools.cache
def _fallocate() -> Any:  # noqa: ANN401 - a foreign function
    function = ctypes.CDLL(None, use_errno=True).fallocate
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return function


def release_pages(fd: int, offset: int, length: int) -> bool:
    """Punch a hole: the range reads as zero and takes no memory. False when the host cannot."""
    return bool(_fallocate()(fd, _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE, offset, length) == 0)
