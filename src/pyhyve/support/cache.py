"""Where pyhyve keeps what it can make again: one directory, safe to delete at any time.

The place is `$XDG_CACHE_HOME/pyhyve`, or `~/.cache/pyhyve` (XDG Base Directory Specification 0.8).

What all users of a host can share is also in `/var/cache/pyhyve`, which root fills and everybody reads: a machine that
libvirt starts has a cache of its own, empty at first. What is there is believed only where no user but root, or the one
who asks, could have put it. `PYHYVE_SYSTEM_CACHE` names another place, or none when it is empty.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from pyhyve.support.errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def cache_root() -> Path:
    """The cache directory; it may not exist yet."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    # The specification says to ignore a relative path.
    base = Path(configured) if os.path.isabs(configured) else Path.home() / ".cache"  # noqa: PTH117 - "" is no path
    return base / "pyhyve"


def cache_directory(name: str) -> Path:
    """The sub-directory `name` of the cache, made when missing.

    Raises UserError when it cannot be made; whoever can do without a cache catches that and warns.
    """
    path = cache_root() / name
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"cannot make the cache directory {path}: {error.strerror}; set XDG_CACHE_HOME to a writable place"
        raise UserError(msg) from error
    return path


SYSTEM_CACHE = "/var/cache/pyhyve"
_MAX_SHARED_BYTES = 256 << 20
_KEPT_VERSIONS = 4


def system_cache() -> Path | None:
    """The directory that all users share; None when it is turned off."""
    configured = os.environ.get("PYHYVE_SYSTEM_CACHE")
    if configured is None:
        return Path(SYSTEM_CACHE)
    return Path(configured) if os.path.isabs(configured) else None  # noqa: PTH117 - "" is no path


def read_shared(name: str, file: str) -> bytes | None:
    """The contents of `file` in the sub-directory `name` of the system's cache.

    None when it is not there, or when somebody else could have written it: the directories and the file must belong to
    root or to us, and nobody else may write them. They are looked at through their descriptors, so that nobody can put
    others in their place meanwhile.
    """
    root = system_cache()
    if root is None:
        return None
    held: list[int] = []
    try:
        held.append(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        held.append(os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=held[0]))
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        held.append(os.open(file, flags, dir_fd=held[1]))
        status = os.fstat(held[2])
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_SHARED_BYTES or not all(map(_is_ours, held)):
            return None
        with open(held.pop(), "rb") as contents:  # noqa: PTH123 - a descriptor
            return contents.read()
    except OSError:
        return None
    finally:
        for descriptor in held:
            os.close(descriptor)


def _is_ours(descriptor: int) -> bool:
    """Whether nobody but root, or we, can have changed what is open there."""
    status = os.fstat(descriptor)
    return status.st_uid in {0, os.geteuid()} and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def share(name: str, file: str, data: bytes) -> None:
    """Put `data` into the system's cache for everybody, if we are root; the oldest files of its kind go.

    Files of one kind have names with the same first word (`x86-…`). What cannot be written is left out.
    """
    root = system_cache()
    if root is None or (os.geteuid() and "PYHYVE_SYSTEM_CACHE" not in os.environ):
        return
    from pyhyve.support.files import write_atomically  # noqa: PLC0415 - hardly any start writes

    directory = root / name
    with contextlib.suppress(OSError):
        for path in (root, directory):
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
                path.chmod(0o755)
        held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if _is_ours(held):
                write_atomically(directory / file, data, mode=0o644)
        finally:
            os.close(held)
        drop_old(directory, file.partition("-")[0])


def drop_old(directory: Path, kind: str) -> None:
    """Remove the oldest files of a kind: more than one is kept, for more than one version may be in use. OSError."""
    found = sorted(directory.glob(f"{kind}-*"), key=lambda path: path.stat().st_mtime_ns)
    for old in found[:-_KEPT_VERSIONS]:
        old.unlink(missing_ok=True)


@contextlib.contextmanager
def new_directory(parent: Path) -> Iterator[Path]:
    """A fresh directory inside `parent`; removed on the way out unless it was renamed away."""
    import shutil  # noqa: PLC0415 - ditto
    import tempfile  # noqa: PLC0415

    path = Path(tempfile.mkdtemp(dir=parent, prefix=".new-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
