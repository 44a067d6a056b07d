"""How a client says who it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.daemon.dispatch import procedure
from pyhyve.rpc.spec import Auth

if TYPE_CHECKING:
    from pyhyve.daemon.dispatch import Call


@procedure("AUTH_LIST")
def auth_list(call: Call, args: Any) -> list[int]:
    """List the ways to authenticate."""
    return [Auth.NONE]
