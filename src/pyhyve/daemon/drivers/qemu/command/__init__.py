"""The command line of a machine, from its definition: a pure function.

``command_line`` puts together what the modules of this package write, each about one subject. Source of what the
options mean: QEMU's documentation, "QEMU User Documentation" and "QEMU Block Drivers".
"""

from __future__ import annotations

from pyhyve.daemon.drivers.qemu.command.launch import Command, Launch
from pyhyve.daemon.drivers.qemu.command.line import command_line

__all__ = ["Command", "Launch", "command_line"]
