"""Commands on the monitor itself, and descriptors that clients pass."""

from __future__ import annotations

import os
from typing import Any

from pyhyve.machine.monitor import client
from pyhyve.machine.monitor.errors import QmpError
from pyhyve.machine.monitor.group import CommandGroup
from pyhyve.machine.monitor.introspection import describe
from pyhyve.machine.monitor.versions import version_info
from pyhyve.machine.notices import ShutdownCause


class ControlCommands(CommandGroup):
    """What the monitor says about itself."""

    def query_version(self) -> dict[str, Any]:
        """The version of QEMU that this stands for, and our own."""
        return version_info()

    def query_commands(self) -> list[dict[str, Any]]:
        """Names of all commands."""
        return [{"name": name} for name in self._commands.schema.commands]

    def query_qmp_schema(self) -> list[dict[str, Any]]:
        """The schema."""
        return describe(self._commands.schema)

    def query_command_line_options(self, option: str | None = None) -> list[dict[str, Any]]:
        """Options of the command line and their parameters."""
        from pyhyve.machine.monitor.command_line import OPTIONS  # noqa: PLC0415 - few clients ask

        if option is not None and option not in OPTIONS:
            msg = f"invalid option name: {option}"
            raise QmpError(msg)
        return [
            {
                "option": name,
                "parameters": [{"name": key, "type": kind} for key, kind in parameters.items()],
            }
            for name, parameters in OPTIONS.items()
            if option in {None, name}
        ]

    def quit(self) -> None:
        """End the machine."""
        self.machine.request_stop(ShutdownCause.HOST_QMP_QUIT)

    def human_monitor_command(self, command_line: str, cpu_index: int | None = None) -> str:
        """Carry out a line of the monitor for people."""
        from pyhyve.machine.monitor.human import HumanMonitor  # noqa: PLC0415 - few sessions use it

        human = HumanMonitor(self._commands)
        if cpu_index is not None:
            human.select_cpu(cpu_index)
        return human.execute(command_line)

    # -- descriptors --------------------------------------------------------------------------------------------------

    def getfd(self, fdname: str) -> None:
        """Name the descriptor that came with the command."""
        self.hardware.descriptors.name(fdname, client.take_descriptor())

    def closefd(self, fdname: str) -> None:
        """Close a named descriptor."""
        self.hardware.descriptors.close_name(fdname)

    def add_fd(self, fdset_id: int | None = None, opaque: str | None = None) -> dict[str, Any]:
        """Put the descriptor that came with the command into a set."""
        fd = client.take_descriptor()
        number = self.hardware.descriptors.add_to_set(fdset_id, fd, opaque)
        return {"fdset-id": number, "fd": fd}

    def remove_fd(self, fdset_id: int, fd: int | None = None) -> None:
        """Close descriptors of a set."""
        self.hardware.descriptors.remove_from_set(fdset_id, fd)

    def query_fdsets(self) -> list[dict[str, Any]]:
        """All sets."""
        return self.hardware.descriptors.describe_sets()


def close_descriptors(fds: list[int]) -> None:
    """Close what nobody took."""
    for fd in fds:
        os.close(fd)
