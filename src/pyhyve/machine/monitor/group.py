"""What the groups of commands have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyhyve.machine.hardware.hardware import Hardware
    from pyhyve.machine.inventory import Inventory
    from pyhyve.machine.machine import Machine
    from pyhyve.machine.monitor.commands import MachineCommands


class CommandGroup:
    """Commands of one area: methods named as the commands, with underscores, arguments as keywords.

    A command with a boxed or an open set of arguments takes them as one dictionary. Methods raise QmpError and
    ChangeError; what they return becomes the reply.
    """

    def __init__(self, commands: MachineCommands) -> None:
        self._commands = commands

    @property
    def machine(self) -> Machine:
        """The machine."""
        return self._commands.machine

    @property
    def inventory(self) -> Inventory:
        """What it consists of."""
        return self._commands.inventory

    @property
    def hardware(self) -> Hardware:
        """What may be added to it."""
        return self._commands.inventory.hardware
