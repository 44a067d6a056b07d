"""What all objects of a connection have in common: a session, and how the daemon knows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from uuid import UUID

if TYPE_CHECKING:
    from pyhyve.client.session import Session

__all__ = ["Identified", "Managed"]


class NamedRef(Protocol):
    """A reference with a name."""

    @property
    def name(self) -> str:
        """The name."""


class IdentifiedRef(NamedRef, Protocol):
    """A reference with a name and a UUID."""

    @property
    def uuid(self) -> bytes:
        """The UUID's 16 bytes."""


_Ref = TypeVar("_Ref", bound=NamedRef)
_IdentifiedRef = TypeVar("_IdentifiedRef", bound=IdentifiedRef)


class Managed(Generic[_Ref]):
    """An object known by its name."""

    def __init__(self, session: Session, ref: _Ref) -> None:
        self._session = session
        self.ref = ref

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    @property
    def name(self) -> str:
        """Its name."""
        return self.ref.name

    def _call(self, name: str, *values: object) -> Any:  # noqa: ANN401 - a record with the answer's fields
        return self._session.call(name, self.ref, *values)


class Identified(Managed[_IdentifiedRef]):
    """An object known by its UUID. Two are equal where they stand for the same one."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self.uuid}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.ref.uuid == other.ref.uuid

    def __hash__(self) -> int:
        return hash(self.ref.uuid)

    @property
    def uuid(self) -> UUID:
        """Its UUID."""
        return UUID(bytes=self.ref.uuid)
