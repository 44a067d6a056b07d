"""The compiled parts of one instruction set: runtime image and stencils, built once per host and kept on disk.

The file is named by a digest of everything it depends on (the sources of this package, llvmlite's version), holds a
digest of its own contents, and is replaced atomically: it is safe to delete, to share between processes, and to
interrupt while it is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyhyve.support.cache import cache_directory, drop_old, read_shared, share
from pyhyve.support.errors import UserError
from pyhyve.support.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Progress = Callable[[int, int], None]

_LOG = logging.getLogger(__name__)
_MAGIC = b"PYHYVE-ENGINE-1\n"
_HEAD = struct.Struct("<32sI")
_DIRECTORY = "engine"
_PARTS = ("image", "templates", "code", "relocations")


@dataclass(frozen=True, slots=True)
class Library:
    """What a vCPU needs to run."""

    image: bytes
    templates: bytes
    code: bytes
    relocations: bytes
    exports: dict[str, int]
    """Offsets in `image` of the kernels called from Python."""
    helpers: tuple[int, ...]
    """Offsets in `image` of the kernels that stencils call, in relocation order."""


def load_or_build(isa: str, build: Callable[[Progress], Library], progress: Progress | None = None) -> Library:
    """The library of `isa` from the cache, or built (and then kept, when the cache can be written)."""
    name = file_name(isa)
    try:
        path: Path | None = cache_directory(_DIRECTORY) / name
    except UserError as error:
        _LOG.warning("%s; the engine is compiled anew at every start", error)
        path = None
    found = None if path is None else _read(path)
    if found is not None:
        return found
    shared = read_shared(_DIRECTORY, name)
    if shared is not None:
        found = _parse(shared, f"of the system, {name}")
        if found is not None:
            return found
    if path is None:
        return build(progress or _quiet)
    with _turn(path.parent):
        # A hundred machines that start at once on a fresh host wait for the first, rather than each build its own.
        found = _read(path) if path.exists() else None
        if found is None:
            found = build(progress or _quiet)
            _write(path, found)
    share(_DIRECTORY, name, _encode(found))
    return found


@contextlib.contextmanager
def _turn(directory: Path) -> Iterator[None]:
    """Be the only process that builds for a cache directory; where it cannot be locked, one of several."""
    import fcntl  # noqa: PLC0415 - hardly any start builds

    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _quiet(_done: int, _total: int) -> None:
    """No progress is shown."""


def file_name(isa: str) -> str:
    """The cache's file for `isa`: another one after any change to the sources of `cpu`, or of LLVM."""
    digest = hashlib.sha256(f"{isa} {importlib.metadata.version('llvmlite')} ".encode())
    root = Path(__file__).parents[1]
    for source in sorted(root.rglob("*.py")):
        digest.update(str(source.relative_to(root)).encode() + b"\0")
        digest.update(source.read_bytes())
    return f"{isa}-{digest.hexdigest()[:32]}.bin"


def _read(path: Path) -> Library | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _LOG.warning("cannot read the engine cache %s: %s; compiling anew", path, error.strerror)
        return None
    return _parse(data, str(path))


def _parse(data: bytes, name: str) -> Library | None:
    try:
        return _decode(data)
    except (ValueError, KeyError, struct.error) as error:
        _LOG.warning("the engine cache %s is damaged (%s); compiling anew", name, error)
        return None


def _decode(data: bytes) -> Library:
    if not data.startswith(_MAGIC):
        msg = "wrong magic"
        raise ValueError(msg)
    digest, size = _HEAD.unpack_from(data, len(_MAGIC))
    body = data[len(_MAGIC) + _HEAD.size :]
    if hashlib.sha256(body).digest() != digest:
        msg = "wrong checksum"
        raise ValueError(msg)
    index = json.loads(body[:size])
    at = size
    parts = {}
    for name in _PARTS:
        parts[name] = body[at : at + index[name]]
        at += index[name]
    return Library(**parts, exports=index["exports"], helpers=tuple(index["helpers"]))


def _encode(library: Library) -> bytes:
    parts = [getattr(library, name) for name in _PARTS]
    index = {name: len(part) for name, part in zip(_PARTS, parts, strict=True)}
    head = json.dumps({**index, "exports": library.exports, "helpers": library.helpers}).encode()
    body = head + b"".join(parts)
    return _MAGIC + _HEAD.pack(hashlib.sha256(body).digest(), len(head)) + body


def _write(path: Path, library: Library) -> None:
    try:
        write_atomically(path, _encode(library), synced=True)
        drop_old(path.parent, path.name.partition("-")[0])
    except OSError as error:
        _LOG.warning(
            "cannot keep the compiled engine in %s: %s; it is compiled anew next time", path.parent, error.strerror
        )
