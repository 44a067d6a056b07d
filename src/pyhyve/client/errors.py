"""The one exception of the client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.rpc.errors import ErrorCode, ErrorDomain, ErrorMessage

if TYPE_CHECKING:
    from typing import Self

__all__ = ["LibvirtError"]


class LibvirtError(Exception):
    """A call failed, or the connection did.

    ``code`` compares equal to an :class:`~pyhyve.rpc.errors.ErrorCode`; it is a plain number where the daemon is newer
    than this client. ``str()`` is the daemon's one-line message.
    """

    def __init__(self, code: int, message: str, domain: int = ErrorDomain.RPC) -> None:
        super().__init__(message)
        self.code = code
        self.domain = domain

    @classmethod
    def from_message(cls, error: ErrorMessage) -> Self:
        """Return the exception for a failed call."""
        return cls(error.code, error.message or "the daemon gave no reason", error.domain)

    @classmethod
    def lost(cls, reason: object) -> Self:
        """Return the exception for a connection that broke."""
        return cls(ErrorCode.RPC, f"the connection to the daemon is lost: {reason}")
