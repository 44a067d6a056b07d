"""Errors of the host's devices."""

from __future__ import annotations

from typing import Final

from pyhyve.daemon.faults import Faults
from pyhyve.rpc.errors import ErrorDomain

__all__ = ["FAULTS"]

FAULTS: Final = Faults(ErrorDomain.NODEDEV)
