"""What a command line needs besides the definition, and what it is while it is being written."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pyhyve.daemon.domains.emulators import Emulator

__all__ = ["Command", "Launch", "NetworkEnd"]


@dataclass(frozen=True, slots=True)
class NetworkEnd:
    """The host's end of a network interface: an open tap, its name, or neither for a network inside the emulator."""

    tap_fd: int | None = None
    tap_name: str | None = None
    vhost_fd: int | None = None


@dataclass(frozen=True, slots=True)
class Launch:
    """What is decided anew each time a machine starts."""

    monitor: Path
    """Socket of its monitor."""
    pidfile: Path | None = None
    networks: Mapping[str, NetworkEnd] = field(default_factory=dict)
    """Ends of network interfaces, by alias."""
    incoming: str | None = None
    """Where the machine's state comes from, if it is a saved one ("defer")."""
    paused: bool = True
    """Start with the processors stopped; a monitor starts them."""
    now: float = 0.0
    """The time, in seconds since 1970, for clocks that are set relative to it."""


class Command:
    """A command line being written."""

    def __init__(self, emulator: Emulator, launch: Launch) -> None:
        self.emulator = emulator
        self.launch = launch
        self.arguments: list[str] = [emulator.path]
        self.fds: list[int] = []
        """Descriptors the machine inherits."""

    def add(self, option: str, *values: str) -> None:
        """Add an option and its value."""
        self.arguments.extend((f"-{option}", *values))

    def has(self, option: str) -> bool:
        """Whether the emulator takes an option."""
        return option in self.emulator.options

    def maybe(self, option: str, *values: str) -> None:
        """Add an option where the emulator takes it."""
        if self.has(option):
            self.add(option, *values)

    def add_json(self, option: str, properties: Mapping[str, Any]) -> None:
        """Add an option whose value is JSON."""
        self.add(option, json.dumps(properties, separators=(",", ":")))

    def device(self, properties: Mapping[str, Any]) -> None:
        """Add a device, without the properties its emulator does not know."""
        self.add_json("device", device_properties(self.emulator, properties))

    def inherit(self, descriptor: int) -> str:
        """Have the machine inherit a descriptor; return its number as text."""
        self.fds.append(descriptor)
        return str(descriptor)


_GENERAL = frozenset({"driver", "id", "bus"})
"""What every device takes; no emulator tells."""


def device_properties(emulator: Emulator, properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return a device's properties without those that are None or that the emulator is known not to have."""
    known = emulator.properties.get(str(properties["driver"]))
    return {
        name: value
        for name, value in properties.items()
        if value is not None and (known is None or name in _GENERAL or name in known)
    }
