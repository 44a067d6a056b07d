"""Files that are whole whatever happens."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_atomically(path: Path, data: bytes, *, synced: bool = False, mode: int = 0o600) -> None:
    """Make `path` hold `data`, all of it or nothing, also when two processes do so at once; `synced`: on disk as well.

    The file is its owner's alone to read, unless `mode` says otherwise. One that a killed writer leaves begins with
    `.new-`. Raises OSError as the file system does.
    """
    import tempfile  # noqa: PLC0415 - most starts write nothing

    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if mode != 0o600:
                os.fchmod(file.fileno(), mode)
            if synced:
                file.flush()
                os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
    if synced:
        sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Have what was made, renamed or removed in a directory on disk. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
