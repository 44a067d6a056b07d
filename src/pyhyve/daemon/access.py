"""Who may do what."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["AllowAll", "Identity", "Policy"]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client is, as far as its socket and its authentication tell."""

    transport: str
    """One of unix, tcp, tls."""
    uid: int | None = None
    gid: int | None = None
    pid: int | None = None
    user: str | None = None
    groups: Sequence[str] = field(default=())
    sasl: str | None = None
    certificate: str | None = None
    """Distinguished name of the client's certificate."""


class Policy(Protocol):
    """Decides."""

    def allows(self, identity: Identity, permission: str, name: str, uuid: bytes) -> bool:
        """Whether a client has a permission (``object:permission``) on an object, or (no name) on some object."""


class AllowAll:
    """Whoever may connect may do everything: the socket's mode decides."""

    def allows(self, identity: Identity, permission: str, name: str, uuid: bytes) -> bool:
        """Allow."""
        return True
