"""Finding procedures by name and by number."""

from __future__ import annotations

from typing import Final

from pyhyve.rpc.procedure import Procedure
from pyhyve.rpc.spec import Program
from pyhyve.rpc.table import ROWS

__all__ = ["BY_NAME", "BY_NUMBER", "Procedure", "procedure"]

BY_NUMBER: Final[dict[tuple[int, int], Procedure]] = {(row.program, row.number): row for row in ROWS}
"""Rows by (program, number)."""

BY_NAME: Final[dict[str, Procedure]] = {
    row.name if row.program is Program.REMOTE else f"{row.program.name}_{row.name}": row for row in ROWS
}
"""Rows by name; those of a driver's own program carry its name in front (``QEMU_DOMAIN_MONITOR_COMMAND``)."""


def procedure(name: str) -> Procedure:
    """Return the row of that name; KeyError where there is none."""
    return BY_NAME[name]
