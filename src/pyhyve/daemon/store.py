"""Definitions and runtime state on disk: each a file, written whole and synced before anyone is told.

A file is either the old or the new one, whatever happens (written beside, synced, renamed, the directory synced). One
that cannot be read back is set aside under ``damaged`` with its name and reported, never deleted, never in the way.
"""

from __future__ import annotations

import asyncio
import logging
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from pyhyve.support.files import sync_directory, write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Collection", "MemoryStore", "Store"]

_log = logging.getLogger(__name__)
_Item = TypeVar("_Item")
WRITERS: Final = 8
"""Files written at the same time."""


class Store:
    """The files of one daemon. What is written to one file is written in the order it was asked for.

    Files are written on :data:`WRITERS` threads: the file system syncs what several wait for in one go, which is ten
    times as fast as one after the other.
    """

    def __init__(self, state: Path, runtime: Path) -> None:
        self._state = state
        self._runtime = runtime
        self._writers = tuple(ThreadPoolExecutor(1, thread_name_prefix=f"store-{n}") for n in range(WRITERS))

    def collection(
        self,
        name: str,
        *,
        suffix: str,
        parse: Callable[[bytes], _Item],
        form: Callable[[_Item], bytes],
        runtime: bool = False,
    ) -> Collection[_Item]:
        """Return a directory of items: kept for good, or (``runtime``) until the host restarts.

        ``parse`` raises ValueError for data that is no item.
        """
        base = self._runtime if runtime else self._state
        return Collection(base / name, suffix, parse, form, self._writers, synced=not runtime)

    def close(self) -> None:
        """Wait for what is being written."""
        for writer in self._writers:
            writer.shutdown()


class Collection(Generic[_Item]):
    """Items by key; get it from :meth:`Store.collection`. A key may be any text: the file's name is its quoted form."""

    def __init__(
        self,
        directory: Path,
        suffix: str,
        parse: Callable[[bytes], _Item],
        form: Callable[[_Item], bytes],
        writers: Sequence[ThreadPoolExecutor],
        *,
        synced: bool = True,
    ) -> None:
        """``synced``: what is written has to outlive the host's end, not only the daemon's."""
        self.directory = directory
        self._synced = synced
        self._suffix = suffix
        self._parse = parse
        self._form = form
        self._writers = writers

    def path(self, key: str) -> Path:
        """File of an item."""
        quoted = urllib.parse.quote(key, safe=" @+,=:()[]")
        if quoted.startswith("."):
            quoted = "%2E" + quoted[1:]  # names with a dot in front are the writer's own
        return self.directory / (quoted + self._suffix)

    def load(self) -> dict[str, _Item]:
        """Read everything; what cannot be read is set aside and logged. Blocks. Raises OSError for the directory."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        items = {}
        for path in sorted(self.directory.iterdir()):
            if path.name.startswith(".new-"):
                path.unlink(missing_ok=True)  # left by a writer that was killed; never renamed, so never promised
            elif path.name.endswith(self._suffix) and path.is_file():
                key = urllib.parse.unquote(path.name.removesuffix(self._suffix))
                try:
                    items[key] = self._parse(path.read_bytes())
                except (ValueError, OSError) as error:
                    _set_aside(path, error)
        return items

    async def save(self, key: str, item: _Item) -> None:
        """Write an item; it is on disk when this returns. Raises OSError, and ValueError as ``form`` does."""
        data = self._form(item)
        await self._on_writer(key, lambda: _write(self.path(key), data, synced=self._synced))

    async def remove(self, key: str) -> None:
        """Remove an item; that it is gone is on disk when this returns. Raises OSError."""
        await self._on_writer(key, lambda: _remove(self.path(key), synced=self._synced))

    def save_now(self, key: str, item: _Item) -> None:
        """Write an item, blocking: for threads and for a daemon that is starting or stopping."""
        data = self._form(item)
        self._writer_of(key).submit(_write, self.path(key), data, synced=self._synced).result()

    def remove_now(self, key: str) -> None:
        """Remove an item, blocking."""
        self._writer_of(key).submit(_remove, self.path(key), synced=self._synced).result()

    def _writer_of(self, key: str) -> ThreadPoolExecutor:
        return self._writers[hash(key) % len(self._writers)]

    async def _on_writer(self, key: str, work: Callable[[], None]) -> None:
        # Shielded: a client that hangs up must not leave the promise half kept and the caller unaware of it.
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._writer_of(key), work))


class MemoryStore(Store):
    """A store whose items last as long as it does: for drivers whose host is made up."""

    def __init__(self) -> None:
        super().__init__(Path("/nowhere"), Path("/nowhere"))

    def collection(
        self,
        name: str,
        *,
        suffix: str,
        parse: Callable[[bytes], _Item],
        form: Callable[[_Item], bytes],
        runtime: bool = False,
    ) -> Collection[_Item]:
        """Return a set of items that starts empty."""
        return _MemoryCollection(Path("/nowhere", name), suffix, parse, form, self._writers)


class _MemoryCollection(Collection[_Item]):
    def __init__(
        self,
        directory: Path,
        suffix: str,
        parse: Callable[[bytes], _Item],
        form: Callable[[_Item], bytes],
        writers: Sequence[ThreadPoolExecutor],
    ) -> None:
        super().__init__(directory, suffix, parse, form, writers)
        self._items: dict[str, bytes] = {}

    def load(self) -> dict[str, _Item]:
        return {key: self._parse(data) for key, data in self._items.items()}

    async def save(self, key: str, item: _Item) -> None:
        self.save_now(key, item)

    async def remove(self, key: str) -> None:
        self.remove_now(key)

    def save_now(self, key: str, item: _Item) -> None:
        self._items[key] = self._form(item)

    def remove_now(self, key: str) -> None:
        self._items.pop(key, None)


def _set_aside(path: Path, error: Exception) -> None:
    aside = path.parent / "damaged"
    aside.mkdir(exist_ok=True, mode=0o700)
    target, number = aside / path.name, 1
    while target.exists():
        target, number = aside / f"{path.name}.{number}", number + 1
    path.rename(target)
    _log.error("%s is damaged (%s); set aside as %s", path, error, target)


def _write(path: Path, data: bytes, *, synced: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(path, data, synced=synced)


def _remove(path: Path, *, synced: bool) -> None:
    path.unlink(missing_ok=True)
    if synced and path.parent.is_dir():
        sync_directory(path.parent)
