"""The procedure table, by subject: facts of the protocol, one row a procedure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyhyve.rpc.table import (
    connection,
    domain,
    domain_jobs,
    domain_settings,
    drivers,
    events,
    network,
    node,
    storage,
)

if TYPE_CHECKING:
    from pyhyve.rpc.procedure import Procedure

ROWS: Final[tuple[Procedure, ...]] = (
    *connection.PROCEDURES,
    *domain.PROCEDURES,
    *domain_settings.PROCEDURES,
    *domain_jobs.PROCEDURES,
    *events.PROCEDURES,
    *network.PROCEDURES,
    *storage.PROCEDURES,
    *node.PROCEDURES,
    *drivers.PROCEDURES,
)
"""Every row: 443 of the main program, 7 of QEMU's, 1 of LXC's."""
