"""Saying who we are, in whatever way the daemon asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.client.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.rpc.scram import MECHANISM, ScramClient
from pyhyve.rpc.spec import Auth

if TYPE_CHECKING:
    from pyhyve.client.session import Session

__all__ = ["authenticate"]


def authenticate(session: Session, user: str | None, password: str | None) -> None:
    """Authenticate where the daemon asks for it. Raises LibvirtError."""
    ways = session.call("AUTH_LIST").types
    if not ways or Auth.NONE in ways:
        return
    if Auth.POLKIT in ways:
        session.call("AUTH_POLKIT")
        return
    if Auth.SASL not in ways:
        reason = f"the daemon asks for authentication of kinds {ways}, which this client does not speak"
        raise _failed(reason)
    if user is None or password is None:
        reason = "the daemon asks for a user's name and password, and none were given"
        raise _failed(reason)
    offered = session.call("AUTH_SASL_INIT").mechlist
    if MECHANISM not in offered.replace(",", " ").split():
        reason = f"the daemon offers {offered}, this client speaks {MECHANISM}"
        raise _failed(reason)
    try:
        exchange = ScramClient(user, password)
        answer = session.call("AUTH_SASL_START", MECHANISM, 0, _numbers(exchange.first()))
        answer = session.call("AUTH_SASL_STEP", 0, _numbers(exchange.final(_data(answer.data))))
        exchange.check(_data(answer.data))
        if not answer.complete:
            session.call("AUTH_SASL_STEP", 1, [])
    except ValueError as error:
        raise _failed(str(error)) from error


def _failed(reason: str) -> LibvirtError:
    return LibvirtError(ErrorCode.AUTH_FAILED, f"authentication failed: {reason}", ErrorDomain.AUTH)


def _numbers(data: bytes) -> list[int]:
    """Bytes as they travel: signed characters."""
    return [byte - 256 if byte > 127 else byte for byte in data]


def _data(numbers: list[int]) -> bytes:
    return bytes(number & 0xFF for number in numbers).rstrip(b"\0")
