"""Which QEMU this stands for, and which machines and processors there are by its names."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

from pyhyve.machine.config import Board

if TYPE_CHECKING:
    from pyhyve.machine.config import MachineConfig

COMPATIBLE_VERSION = {"major": 7, "minor": 2, "micro": 0}
"""The version of QEMU whose schema ours is a part of."""
MACHINE_TYPE = "pc-i440fx-7.2"
MACHINE_ALIAS = "pc"
MICROVM_MACHINE = "microvm"
Q35_MACHINE = "pc-q35-7.2"
Q35_ALIAS = "q35"
NONE_MACHINE = "none"


def machine_type(config: MachineConfig) -> str:
    """QEMU's name for what a machine is."""
    if config.is_empty:
        return NONE_MACHINE
    return {Board.MICROVM: MICROVM_MACHINE, Board.Q35: Q35_MACHINE}.get(config.board, MACHINE_TYPE)


def version_info() -> dict[str, Any]:
    """What `query-version` and the greeting tell."""
    try:
        ours = metadata.version("pyhyve")
    except metadata.PackageNotFoundError:
        ours = "(not installed)"
    return {"qemu": COMPATIBLE_VERSION, "package": f"pyhyve {ours}"}
