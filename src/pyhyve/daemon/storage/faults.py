"""The errors of storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyhyve.daemon.faults import Faults
from pyhyve.rpc.errors import ErrorCode, ErrorDomain

if TYPE_CHECKING:
    from pyhyve.daemon.errors import LibvirtError

__all__ = [
    "argument",
    "conflict",
    "failed",
    "internal",
    "invalid",
    "no_pool",
    "no_volume",
    "system",
    "unsupported",
    "xml",
]

_STORAGE: Final = Faults(ErrorDomain.STORAGE)
argument, failed, internal, invalid = _STORAGE.argument, _STORAGE.failed, _STORAGE.internal, _STORAGE.invalid
system, unsupported, xml = _STORAGE.system, _STORAGE.unsupported, _STORAGE.xml


def conflict(detail: str) -> LibvirtError:
    """There is a volume of that name already."""
    return _STORAGE.make(ErrorCode.STORAGE_VOL_EXIST, detail)


def no_pool(by: str, value: str | bytes) -> LibvirtError:
    """No such pool."""
    return _STORAGE.absent(ErrorCode.NO_STORAGE_POOL, "storage pool", by, value)


def no_volume(by: str, value: str) -> LibvirtError:
    """No such volume."""
    return _STORAGE.absent(ErrorCode.NO_STORAGE_VOL, "storage vol", by, value)
