"""Where pyhyve keeps what it can make again: one directory, safe to delete at any time.

The place is `$XDG_CACHE_HOME/pyhyve`, or `~/.cache/pyhyve` (XDG Base Directory Specification 0.8).
"""

from __future__ import annotations

import contextlib
import os
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
