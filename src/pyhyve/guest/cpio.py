"""cpio archives in the "newc" form that Linux unpacks as an initial RAM file system.

Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass

MAGIC = "070701"
TRAILER = "TRAILER!!!"
ALIGNMENT_BYTES = 4
ARCHIVE_BLOCK_BYTES = 512


@dataclass(frozen=True, slots=True)
class Entry:
    """One file system object; `device` is (major, minor) of a device node."""

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def file(path: str, data: bytes, permissions: int = 0o644) -> Entry:
    """A regular file."""
    return Entry(path, stat.S_IFREG | permissions, data)


def directory(path: str, permissions: int = 0o755) -> Entry:
    """A directory."""
    return Entry(path, stat.S_IFDIR | permissions)


def symlink(path: str, target: str) -> Entry:
    """A symbolic link."""
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def character_device(path: str, major: int, minor: int, permissions: int = 0o600) -> Entry:
    """A character device node."""
    return Entry(path, stat.S_IFCHR | permissions, device=(major, minor))


def _padding(length: int, alignment: int = ALIGNMENT_BYTES) -> bytes:
    return bytes(-length % alignment)


def _pack(inode: int, entry: Entry) -> bytes:
    name = entry.path.lstrip("/").encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (
        inode,
        entry.mode,
        0,  # uid
        0,  # gid
        links,
        0,  # mtime: fixed, so that the same guest gives the same bytes
        len(entry.data),
        0,  # device of the archive
        0,
        *entry.device,
        len(name),
        0,  # check: unused in newc
    )
    header = (MAGIC + "".join(f"{field:08X}" for field in fields)).encode()
    return b"".join((header, name, _padding(len(header) + len(name)), entry.data, _padding(len(entry.data))))


def pack(entries: list[Entry]) -> bytes:
    """The archive of `entries`; directories that they need but that are not listed come first."""
    listed = {entry.path.strip("/") for entry in entries}
    parents: set[str] = set()
    for path in listed:
        parts = path.split("/")[:-1]
        parents.update("/".join(parts[: count + 1]) for count in range(len(parts)))
    made = [directory(path) for path in sorted(parents - listed)]
    # A parent must precede what is in it: sort listed directories by path before everything else.
    listed_directories = sorted((e for e in entries if stat.S_ISDIR(e.mode)), key=lambda e: e.path.strip("/"))
    others = [entry for entry in entries if not stat.S_ISDIR(entry.mode)]
    tree = sorted([*made, *listed_directories], key=lambda e: e.path.strip("/"))
    body = [_pack(inode, entry) for inode, entry in enumerate([*tree, *others], start=1)]
    body.append(_pack(0, Entry(TRAILER, 0)))
    archive = b"".join(body)
    return archive + _padding(len(archive), ARCHIVE_BLOCK_BYTES)
