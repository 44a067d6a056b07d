"""Debian binary packages: an `ar` archive that holds a tar archive (deb(5), ar(5))."""

from __future__ import annotations

import io
import lzma
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

AR_MAGIC = b"!<arch>\n"
AR_HEADER_BYTES = 60
AR_END = b"`\n"


class PackageError(UserError):
    """A file that is not the Debian package it should be."""


@dataclass(frozen=True, slots=True)
class PackageFile:
    """One file of a package; `target` is set for a symbolic link."""

    path: str
    mode: int
    data: bytes
    target: str = ""


def archive_members(data: bytes) -> dict[str, bytes]:
    """The members of an `ar` archive by name.

    Raises PackageError when it is not one, or is cut short.
    """
    if not data.startswith(AR_MAGIC):
        msg = "not a Debian package (no ar header)"
        raise PackageError(msg)
    members: dict[str, bytes] = {}
    offset = len(AR_MAGIC)
    while offset < len(data):
        header = data[offset : offset + AR_HEADER_BYTES]
        size_field = header[48:58].strip()
        if len(header) < AR_HEADER_BYTES or header[58:] != AR_END or not size_field.isdigit():
            msg = f"damaged package: bad ar header at byte {offset}"
            raise PackageError(msg)
        start = offset + AR_HEADER_BYTES
        end = start + int(size_field)
        if end > len(data):
            msg = f"damaged package: {len(data)} bytes where {end} are needed"
            raise PackageError(msg)
        members[header[:16].decode("ascii", "replace").rstrip().rstrip("/")] = data[start:end]
        offset = end + (end & 1)
    return members


def _decompress_zstd(data: bytes) -> bytes:
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415 - Python 3.14
    except ImportError:
        try:
            import zstandard  # noqa: PLC0415 - only Ubuntu's packages need it
        except ImportError as error:
            msg = "the package is compressed with zstd: install the Python package zstandard"
            raise PackageError(msg) from error
        return bytes(zstandard.ZstdDecompressor().decompressobj().decompress(data))
    return bytes(zstd.decompress(data))


def _tar_stream(members: dict[str, bytes]) -> io.BytesIO:
    for name, data in members.items():
        if name == "data.tar.zst":
            return io.BytesIO(_decompress_zstd(data))
        if name in {"data.tar", "data.tar.xz", "data.tar.gz", "data.tar.bz2"}:
            return io.BytesIO(data)
    msg = f"not a Debian package (its members are {', '.join(members) or 'none'})"
    raise PackageError(msg)


def read_files(data: bytes, wanted: Callable[[str], bool]) -> dict[str, PackageFile]:
    """The regular files and symbolic links of package `data` whose absolute path is `wanted`, by path.

    Raises PackageError on a damaged package.
    """
    files: dict[str, PackageFile] = {}
    try:
        with tarfile.open(fileobj=_tar_stream(archive_members(data)), mode="r|*") as archive:
            for member in archive:
                path = "/" + member.name.removeprefix(".").lstrip("/")
                if not wanted(path):
                    continue
                if member.issym():
                    files[path] = PackageFile(path, member.mode, b"", member.linkname)
                elif member.isreg():
                    content = archive.extractfile(member)
                    files[path] = PackageFile(path, member.mode, content.read() if content else b"")
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError) as error:
        msg = f"damaged package: {error}"
        raise PackageError(msg) from error
    return files
