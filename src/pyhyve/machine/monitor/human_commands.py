"""What the groups of commands of the monitor for people share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyhyve.machine.monitor.commands import MachineCommands


class HumanCommands:
    """Commands that become QMP's."""

    def __init__(self, commands: MachineCommands) -> None:
        self._commands = commands

    def _do(self, name: str, /, **arguments: Any) -> str:  # noqa: ANN401 - any JSON values
        """Carry out a QMP command that has nothing to show."""
        self._commands.execute(name, arguments)
        return ""
