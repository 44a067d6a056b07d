"""The errors of networks, worded as libvirt words them."""

from __future__ import annotations

from uuid import UUID

from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain

__all__ = ["failed", "internal", "invalid", "no_network", "not_supported", "unsupported", "worded", "xml"]


def _made(code: ErrorCode, detail: str) -> LibvirtError:
    return LibvirtError(code, ErrorDomain.NETWORK, detail)


def worded(code: ErrorCode, text: str) -> LibvirtError:
    """An error whose code has no words of its own here."""
    error = _made(code, text)
    error.args = (text,)
    return error


def invalid(detail: str) -> LibvirtError:
    """Not in this state."""
    return _made(ErrorCode.OPERATION_INVALID, detail)


def failed(detail: str) -> LibvirtError:
    """It did not work."""
    return _made(ErrorCode.OPERATION_FAILED, detail)


def internal(detail: str) -> LibvirtError:
    """The host refused."""
    return _made(ErrorCode.INTERNAL_ERROR, detail)


def unsupported(detail: str) -> LibvirtError:
    """Not this configuration."""
    return _made(ErrorCode.CONFIG_UNSUPPORTED, detail)


def not_supported(detail: str) -> LibvirtError:
    """Not this operation."""
    return _made(ErrorCode.OPERATION_UNSUPPORTED, detail)


def xml(detail: str) -> LibvirtError:
    """A document that is none."""
    return _made(ErrorCode.XML_ERROR, detail)


def no_network(by: str, value: str | bytes) -> LibvirtError:
    """No such network."""
    shown = str(UUID(bytes=value)) if isinstance(value, bytes) else value
    return _made(ErrorCode.NO_NETWORK, f"no network with matching {by} '{shown}'")
