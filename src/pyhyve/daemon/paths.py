"""Where a daemon keeps things and listens."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Paths"]


@dataclass(frozen=True, slots=True)
class Paths:
    """Directories of one instance of the daemon."""

    instance: str
    """The path of the URIs that lead here: system or session."""
    state: Path
    """What must survive a restart of the host: definitions, autostart, saved machines, snapshots."""
    runtime: Path
    """What must not: runtime state of machines, monitor sockets, locks."""
    cache: Path
    """What can be made again: capabilities of emulators."""
    configuration: Path
    """What the administrator writes: daemon.toml, policy.toml, certificates."""
    log: Path
    """Logs of machines."""
    sockets: Path
    """Where clients look for sockets."""
    images: Path
    """The default storage pool."""

    @classmethod
    def system(cls) -> Paths:
        """Directories of the host's instance."""
        return cls(
            instance="system",
            state=Path("/var/lib/pyhyve"),
            runtime=Path("/run/pyhyve"),
            cache=Path("/var/cache/pyhyve"),
            configuration=Path("/etc/pyhyve"),
            log=Path("/var/log/pyhyve"),
            sockets=Path("/run/libvirt"),
            images=Path("/var/lib/pyhyve/images"),
        )

    @classmethod
    def session(cls, environment: Mapping[str, str] | None = None) -> Paths:
        """Directories of a user's instance (XDG Base Directory Specification 0.8)."""
        given = os.environ if environment is None else environment

        def base(variable: str, otherwise: str) -> Path:
            # The specification says to ignore a relative path.
            value = given.get(variable, "")
            return Path(value) if value.startswith("/") else Path(otherwise).expanduser()

        cache = base("XDG_CACHE_HOME", "~/.cache")
        run = base("XDG_RUNTIME_DIR", str(cache))
        return cls(
            instance="session",
            state=base("XDG_DATA_HOME", "~/.local/share") / "pyhyve",
            runtime=run / "pyhyve",
            cache=cache / "pyhyve",
            configuration=base("XDG_CONFIG_HOME", "~/.config") / "pyhyve",
            log=cache / "pyhyve" / "log",
            sockets=run / "libvirt",
            images=base("XDG_DATA_HOME", "~/.local/share") / "pyhyve" / "images",
        )

    @classmethod
    def below(cls, root: Path, instance: str) -> Paths:
        """Directories of an instance that keeps everything below one directory."""
        return cls(
            instance=instance,
            state=root / "state",
            runtime=root / "run",
            cache=root / "cache",
            configuration=root / "etc",
            log=root / "log",
            sockets=root / "run",
            images=root / "images",
        )

    def make(self) -> None:
        """Make the directories that only the daemon may enter, and those others may. Raises OSError."""
        for path in (self.state, self.runtime, self.cache, self.log):
            path.mkdir(parents=True, exist_ok=True, mode=0o711)
        self.sockets.mkdir(parents=True, exist_ok=True, mode=0o755)
