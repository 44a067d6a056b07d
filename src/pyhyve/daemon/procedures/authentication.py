"""How a client says who it is."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from pyhyve.daemon.dispatch import procedure
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.rpc.scram import MECHANISM, ScramError, ScramServer
from pyhyve.rpc.spec import Auth

if TYPE_CHECKING:
    from pyhyve.daemon.dispatch import Call

_log = logging.getLogger(__name__)


def _failed() -> LibvirtError:
    return LibvirtError(ErrorCode.AUTH_FAILED, ErrorDomain.RPC, "authentication failed")


@procedure("AUTH_LIST")
def auth_list(call: Call, args: Any) -> list[int]:
    """List the ways to authenticate."""
    return [Auth.NONE if call.connection.authenticated else Auth.SASL]


def _expects_sasl(call: Call) -> None:
    if call.connection.authenticated:
        msg = f"{call.procedure.name.lower()} was not asked for"
        raise LibvirtError(ErrorCode.AUTH_FAILED, ErrorDomain.RPC, msg)


@procedure("AUTH_SASL_INIT")
def auth_sasl_init(call: Call, args: Any) -> str:
    """List the mechanisms."""
    _expects_sasl(call)
    call.connection.sasl = ScramServer(call.daemon.users.find)
    return MECHANISM


def _data(args: Any) -> bytes:
    return bytes(number & 0xFF for number in args.data)


@procedure("AUTH_SASL_START")
def auth_sasl_start(call: Call, args: Any) -> tuple[int, int, list[int]]:
    """Take in the client's first message."""
    _expects_sasl(call)
    exchange = call.connection.sasl
    if exchange is None or args.mech != MECHANISM or args.nil:
        _log.warning("client %s: no %s exchange", call.connection.identity, MECHANISM)
        raise _failed()
    try:
        return 0, 0, list(exchange.first(_data(args)))
    except ScramError as error:
        raise _rejected(call, error) from error


@procedure("AUTH_SASL_STEP")
def auth_sasl_step(call: Call, args: Any) -> tuple[int, int, list[int]]:
    """Take in the client's final message."""
    _expects_sasl(call)
    exchange = call.connection.sasl
    if exchange is None or args.nil:
        raise _failed()
    try:
        answer = exchange.final(_data(args))
    except ScramError as error:
        raise _rejected(call, error) from error
    call.connection.become(exchange.user)
    return 1, 0, list(answer)


def _rejected(call: Call, error: ScramError) -> LibvirtError:
    """Log why; tell the client only that. The next attempt starts over."""
    _log.warning("client %s: %s", call.connection.identity, error)
    call.connection.sasl = None
    return _failed()


@procedure("AUTH_POLKIT")
def auth_polkit(call: Call, args: Any) -> int:
    """Refuse: it is never offered."""
    msg = "client tried to authenticate with polkit, which was not offered"
    raise LibvirtError(ErrorCode.AUTH_FAILED, ErrorDomain.RPC, msg)
