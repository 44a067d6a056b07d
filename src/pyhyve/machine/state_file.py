"""States in files of their own: written whole or not at all, and taken over by a machine that is about to start."""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyhyve.machine.saving import MappableSource, SavedMachine, load, read_saved, save
from pyhyve.state.errors import StateError
from pyhyve.state.streams import FdSink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyhyve.machine.machine import Machine
    from pyhyve.machine.saving import SaveResult
    from pyhyve.memory.contents import Settling


@dataclass(frozen=True, slots=True)
class OpenState:
    """A state's file, its head read and checked."""

    path: Path
    saved: SavedMachine
    source: MappableSource

    def load_into(self, machine: Machine) -> Settling | None:
        """Put `machine`, which is about to start, into the state, and close the file. Raises StateError."""
        try:
            return load(machine, self.saved, self.source)
        except (StateError, OSError, MemoryError) as error:
            msg = f"{self.path}: {error}"
            raise StateError(msg) from error
        finally:
            self.close()

    def close(self) -> None:
        """Close the file; idempotent."""
        self.source.close()


def open_state(path: Path) -> OpenState:
    """Open the state in `path`. Raises StateError, which names the file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        msg = f"{path}: {error.strerror}"
        raise StateError(msg) from error
    try:
        source = MappableSource(fd)
        return OpenState(path, read_saved(source), source)
    except (StateError, OSError) as error:
        os.close(fd)
        msg = f"{path}: {error.strerror if isinstance(error, OSError) else error}"
        raise StateError(msg) from error


def save_to_file(machine: Machine, path: Path) -> SaveResult:
    """Write the state of `machine`, which stands still, to `path`. Raises StateError and OSError; then nothing is left.

    A file that is there is replaced, not overwritten: another machine may be using it.
    """
    with _new_file(path) as fd:
        result = save(machine, FdSink(fd))
        os.fdatasync(fd)
    return result


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[int]:
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            yield fd
        finally:
            os.close(fd)
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise
