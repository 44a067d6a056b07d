"""The errors of storage, worded as libvirt words them."""

from __future__ import annotations

from uuid import UUID

from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain

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


def _made(code: ErrorCode, detail: str) -> LibvirtError:
    return LibvirtError(code, ErrorDomain.STORAGE, detail)


def invalid(detail: str) -> LibvirtError:
    """Not in this state."""
    return _made(ErrorCode.OPERATION_INVALID, detail)


def failed(detail: str) -> LibvirtError:
    """It did not work."""
    return _made(ErrorCode.OPERATION_FAILED, detail)


def argument(detail: str) -> LibvirtError:
    """Not with this argument."""
    return _made(ErrorCode.INVALID_ARG, detail)


def unsupported(detail: str) -> LibvirtError:
    """Not this configuration."""
    return _made(ErrorCode.CONFIG_UNSUPPORTED, detail)


def internal(detail: str) -> LibvirtError:
    """A program on the host failed."""
    return _made(ErrorCode.INTERNAL_ERROR, detail)


def system(what: str, error: OSError) -> LibvirtError:
    """The kernel refused."""
    return _made(ErrorCode.SYSTEM_ERROR, f"{what}: {error.strerror or error}")


def xml(detail: str) -> LibvirtError:
    """A document that is none."""
    return _made(ErrorCode.XML_ERROR, detail)


def conflict(detail: str) -> LibvirtError:
    """There is one of that name already."""
    return _made(ErrorCode.STORAGE_VOL_EXIST, detail)


def no_pool(by: str, value: str | bytes) -> LibvirtError:
    """No such pool."""
    shown = str(UUID(bytes=value)) if isinstance(value, bytes) else value
    return _made(ErrorCode.NO_STORAGE_POOL, f"no storage pool with matching {by} '{shown}'")


def no_volume(by: str, value: str) -> LibvirtError:
    """No such volume."""
    return _made(ErrorCode.NO_STORAGE_VOL, f"no storage vol with matching {by} '{value}'")
