"""Commands on saving the machine into a stream, and taking it from one."""

from __future__ import annotations

from typing import Any

from pyhyve.machine.monitor.group import CommandGroup


class MigrationCommands(CommandGroup):
    """Migration."""

    _events = False

    def query_migrate_capabilities(self) -> list[dict[str, Any]]:
        """What can be switched."""
        return [{"capability": "events", "state": self._events}]

    def migrate_set_capabilities(self, capabilities: list[dict[str, Any]]) -> None:
        """Switch it."""
        for entry in capabilities:
            self._events = bool(entry["state"])
