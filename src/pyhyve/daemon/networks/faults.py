"""The errors of networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyhyve.daemon.faults import Faults
from pyhyve.rpc.errors import ErrorCode, ErrorDomain

if TYPE_CHECKING:
    from pyhyve.daemon.errors import LibvirtError

__all__ = ["failed", "internal", "invalid", "no_network", "not_supported", "unsupported", "worded", "xml"]

_NETWORK: Final = Faults(ErrorDomain.NETWORK)
failed, internal, invalid, worded = _NETWORK.failed, _NETWORK.internal, _NETWORK.invalid, _NETWORK.worded
not_supported, unsupported, xml = _NETWORK.not_supported, _NETWORK.unsupported, _NETWORK.xml


def no_network(by: str, value: str | bytes) -> LibvirtError:
    """No such network."""
    return _NETWORK.absent(ErrorCode.NO_NETWORK, "network", by, value)
