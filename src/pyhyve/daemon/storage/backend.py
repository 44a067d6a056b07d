"""What a kind of pool does: the contract, what kinds share, and running the host's programs."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pyhyve.daemon.storage import faults

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.daemon.storage.volume import Volume
    from pyhyve.xml.storage import StoragePool, StorageVolume

__all__ = ["Backend", "Contents", "run_program"]

_PROGRAM_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Contents:
    """What a pool holds. Sizes in bytes."""

    capacity: int = 0
    allocation: int = 0
    available: int = 0
    volumes: tuple[Volume, ...] = field(default=())
    looked_ns: int = 0
    """When somebody began to look, in nanoseconds since 1970."""


class Backend(Protocol):
    """A kind of pool. Methods block and raise LibvirtError; ``pool`` is the pool's definition."""

    formats_volumes: bool
    """Whether its volumes have formats."""

    def complete(self, pool: StoragePool) -> StoragePool:
        """Return a definition checked, with defaults filled in."""

    def is_up(self, pool: StoragePool) -> bool:
        """Whether it is in use already, by whoever started it."""

    def start(self, pool: StoragePool) -> None:
        """Take it into use."""

    def stop(self, pool: StoragePool) -> None:
        """Take it out of use; the data stays."""

    def build(self, pool: StoragePool, *, overwrite: bool, keep: bool) -> None:
        """Make what it needs underneath; ``keep`` refuses where something is there."""

    def delete(self, pool: StoragePool) -> None:
        """Remove what is underneath."""

    def look(self, pool: StoragePool, before: Contents) -> Contents:
        """Return what it holds; ``before`` is what it held when it was last looked at."""

    def path_of(self, pool: StoragePool, name: str) -> str:
        """Return where a volume of that name is."""

    def create(
        self, pool: StoragePool, wanted: StorageVolume, source: Volume | None, *, metadata: bool, reflink: bool
    ) -> None:
        """Make a volume, with the content of another if there is a source."""

    def remove(self, pool: StoragePool, volume: Volume) -> None:
        """Delete a volume."""

    def resize(self, pool: StoragePool, volume: Volume, capacity: int, *, allocate: bool) -> None:
        """Change a volume's size."""

    def wipe(self, pool: StoragePool, volume: Volume, algorithm: int) -> None:
        """Overwrite a volume."""


def run_program(words: Sequence[str], *, package: str) -> str:
    """Run a program of the host; return what it printed. Raises LibvirtError."""
    program = shutil.which(words[0], path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        raise faults.internal(f"Cannot find '{words[0]}' in path (install {package})")
    try:
        done = subprocess.run(
            [program, *words[1:]],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            check=False,
            timeout=_PROGRAM_TIMEOUT_S,
            env={"LC_ALL": "C", "PATH": "/usr/sbin:/sbin:/usr/bin:/bin"},
        )
    except subprocess.TimeoutExpired as error:
        raise faults.internal(f"Child process ({' '.join(words)}) did not end in {_PROGRAM_TIMEOUT_S} s") from error
    if done.returncode:
        shown = " ".join([program, *words[1:]])
        msg = f"Child process ({shown}) unexpected exit status {done.returncode}: {done.stderr}"
        raise faults.internal(msg)
    return done.stdout
