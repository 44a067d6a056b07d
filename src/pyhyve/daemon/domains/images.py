"""What the daemon looks up in disk images itself: chains, sizes."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.domains.faults import failed, internal, system_error
from pyhyve.image.contract import ImageError
from pyhyve.image.filename import has_protocol
from pyhyve.image.opening import OpenSettings, open_image
from pyhyve.rpc.errors import ErrorDomain

if TYPE_CHECKING:
    from pyhyve.image.contract import Image

__all__ = ["ChainLink", "backing_links", "image_sizes", "open_quietly"]

_WITHOUT_BACKING: Final = frozenset({"raw", "luks", "iso", "dir", "vpc", "vdi"})
DEPTH_MAX: Final = 200
CAPACITIES_MAX: Final = 10_000
_CAPACITIES: Final[dict[tuple[str, str], tuple[tuple[int, int, int], int]]] = {}
"""Capacities of images that did not change since somebody looked."""


@dataclass(frozen=True, slots=True)
class ChainLink:
    """An image under another: its path, format, and whether it is a device of the host."""

    path: str
    format: str
    is_device: bool


def open_quietly(path: str, image_format: str) -> Image:
    """Open an image without locking it, as it may be in use. Raises LibvirtError. Blocks."""
    settings = OpenSettings(format_name=image_format, with_backing=False, force_share=True, lock=False)
    try:
        return open_image(path, settings)
    except ImageError as error:
        raise failed(str(error), ErrorDomain.STORAGE) from error
    except OSError as error:
        raise system_error(f"Cannot access storage file '{path}'", error, ErrorDomain.STORAGE) from error


def backing_links(path: str, image_format: str) -> list[ChainLink]:
    """Return the images under one, nearest first. Raises LibvirtError where one is missing. Blocks."""
    found: list[ChainLink] = []
    seen = {path}
    while image_format not in _WITHOUT_BACKING:
        check_access(path, found[-1].path if found else None)
        with open_quietly(path, image_format) as image:
            reference = image.backing_reference
        if reference is None:
            break
        below = reference.filename.removeprefix("file:")
        if below.startswith("json:") or has_protocol(below):
            break  # not on this host: the emulator finds it by itself
        if not below.startswith("/"):
            below = os.path.normpath(os.path.join(os.path.dirname(path), below))  # noqa: PTH118, PTH120 - text stays text
        if below in seen or len(found) >= DEPTH_MAX:
            raise internal(f"backing store for {path} ({below}) is self-referential", ErrorDomain.STORAGE)
        seen.add(below)
        image_format = reference.format_name or "raw"
        check_access(below, path)
        found.append(ChainLink(below, image_format, _is_device(below)))
        path = below
    return found


def check_access(path: str, above: str | None = None) -> None:
    """Raise LibvirtError where a file cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        what = f"Cannot access storage file '{path}'"
        if above is not None:
            what = f"Cannot access backing file '{path}' of storage file '{above}'"
        raise system_error(what, error, ErrorDomain.STORAGE) from error
    os.close(descriptor)


def _is_device(path: str) -> bool:
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)  # noqa: PTH116 - the path is text of a document
    except OSError:
        return False


def image_sizes(path: str, image_format: str) -> tuple[int, int, int]:
    """Return capacity, allocation and physical size in bytes. Raises LibvirtError. Blocks."""
    try:
        state = os.stat(path)  # noqa: PTH116 - ditto
    except OSError as error:
        raise system_error(f"cannot stat file '{path}'", error) from error
    if _is_device(path):
        with open(path, "rb") as device:  # noqa: PTH123 - ditto
            physical = device.seek(0, os.SEEK_END)
        allocation = physical
    else:
        physical, allocation = state.st_size, state.st_blocks * 512
    if image_format == "raw":
        return physical, allocation, physical
    key, stamp = (path, image_format), (state.st_mtime_ns, physical, state.st_ino)
    known = _CAPACITIES.get(key)
    if known is None or known[0] != stamp:
        if len(_CAPACITIES) >= CAPACITIES_MAX:
            _CAPACITIES.clear()
        with open_quietly(path, image_format) as image:
            known = _CAPACITIES[key] = (stamp, image.size_bytes)
    return known[1], allocation, physical
