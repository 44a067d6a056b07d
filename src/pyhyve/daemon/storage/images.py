"""Image files: looked at, made, cloned, resized and wiped. Everything here blocks; the daemon calls it on threads."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.storage import faults
from pyhyve.daemon.storage.volume import FileFacts, Volume, VolumeType
from pyhyve.image.contract import BackingReference, ImageError
from pyhyve.image.opening import OpenSettings, create_image, open_image, parse_create_options
from pyhyve.image.operations.convert import Concatenation, ConvertSettings, convert

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CREATABLE", "FORMATS", "clone", "create", "look", "resize", "wipe"]

FORMATS: Final = (
    *("none", "raw", "dir", "bochs", "cloop", "dmg", "iso", "vpc", "vdi", "fat", "vhd", "ploop", "cow", "qcow"),
    *("qcow2", "qed", "vmdk"),
)
"""Words for a volume's format."""
CREATABLE: Final = frozenset({"raw", "qcow", "qcow2", "vdi", "vmdk", "vpc"})
"""Those of them that can be made here."""
SETTLED_NS: Final = 2_000_000_000
"""How long before a look a file must have changed last, for a change after that look to show in its times: file systems
keep them in steps, some of a second."""
_CHUNK_BYTES: Final = 1 << 20
_ISO_MAGIC: Final = (0x8001, b"CD001")
WIPE_PATTERNS: Final[dict[int, tuple[bytes | None, ...]]] = {
    0: (b"\0",),
    1: (None, None, b"\0", None),
    2: (None, b"\xff", b"\0", None),
    3: (*(bytes([value]) for value in (0xFE, 0xFD, 0xFB, 0xF7, 0xEF, 0xDF, 0xBF, 0x7F)), None),
    5: (b"\0", b"\xff", None, None, None, None, None),
    8: (None,),
}
"""Passes of each algorithm (virStorageVolWipeAlgorithm): a byte written everywhere, or None for random bytes."""


def _error(error: ImageError | OSError, what: str) -> Exception:
    if isinstance(error, OSError):
        return faults.system(what, error)
    return faults.internal(f"{what}: {error}")


def look(path: str, name: str | None = None, known: Volume | None = None, looked_ns: int = 0) -> Volume | None:
    """Return what a file is as a volume, or None where it is nothing a volume can be. Raises OSError.

    One that is as it was when ``known`` was found, at ``looked_ns``, is not opened again.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - paths as the pool writes them
    except FileNotFoundError:
        return None  # a link that leads nowhere, or removed meanwhile
    name = name if name is not None else Path(path).name
    facts = FileFacts.of(status)
    if known is not None and stat.S_ISREG(status.st_mode) and _is_unchanged(known, status, looked_ns):
        return known if facts == known.facts else replace(known, facts=facts)
    if stat.S_ISDIR(status.st_mode):
        return Volume(name, path, VolumeType.DIR, "dir", 0, status.st_blocks * 512, status.st_size, facts)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        return None
    allocation, physical = status.st_blocks * 512, status.st_size
    kind = VolumeType.FILE
    if stat.S_ISBLK(status.st_mode):
        kind, physical = VolumeType.BLOCK, _block_size(path)
        allocation = physical
    found = Volume(name, path, kind, "raw", physical, allocation, physical, facts)
    return _with_image_facts(found, path)


def _is_unchanged(known: Volume, status: os.stat_result, looked_ns: int) -> bool:
    facts = known.facts
    return (
        facts is not None
        and (facts.mtime_ns, facts.ctime_ns) == (status.st_mtime_ns, status.st_ctime_ns)
        and (known.physical, known.allocation) == (status.st_size, status.st_blocks * 512)
        and looked_ns - status.st_ctime_ns > SETTLED_NS
    )


def _block_size(path: str) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)


def _with_image_facts(volume: Volume, path: str) -> Volume:
    settings = OpenSettings(with_backing=False, force_share=True)
    try:
        image = open_image(path, settings)
    except (ImageError, OSError):
        return volume  # unreadable or broken: a file all the same
    try:
        if image.format_name == "raw":
            return replace(volume, format="iso") if _is_iso(path) else volume
        below = image.backing_reference
        details = image.specific_info() or {}
        capacity, name = image.size_bytes, image.format_name
        backing = None
        if below is not None and below.filename:
            backing = below.filename
            if "://" not in backing and not backing.startswith(("json:", "/")):
                backing = str(Path(path).parent / backing)
        return replace(
            volume,
            format=name,
            capacity=capacity,
            backing_path=backing,
            backing_format=None if below is None or backing is None else below.format_name or "raw",
            compat=str(details["compat"]) if name == "qcow2" and "compat" in details else None,
            cluster_size=image.cluster_size_bytes if name == "qcow2" else None,
            lazy_refcounts=bool(details.get("lazy-refcounts")),
        )
    finally:
        with contextlib.suppress(ImageError, OSError):
            image.close()


def _is_iso(path: str) -> bool:
    offset, magic = _ISO_MAGIC
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - paths as the pool writes them
            file.seek(offset)
            return file.read(len(magic)) == magic
    except OSError:
        return False


def create(
    path: str,
    format_name: str,
    capacity: int,
    allocation: int,
    *,
    backing: tuple[str, str | None] | None = None,
    metadata: bool = False,
    options: Mapping[str, str] | None = None,
    access: tuple[int, int, int] = (0o600, -1, -1),
) -> None:
    """Make an image file; ``access`` is its mode, owner and group (-1: as they come).

    Nothing is left of it when that fails. Raises LibvirtError.
    """
    mode, owner, group = access
    target = Path(path)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, mode)
    except FileExistsError as error:
        raise faults.conflict(f"'{target.name}'") from error
    except OSError as error:
        raise faults.system(f"cannot create path '{path}'", error) from error
    try:
        try:
            if format_name == "raw":
                _make_raw(descriptor, capacity, allocation)
            else:
                given = dict(options or {})
                if metadata and format_name == "qcow2":
                    given["preallocation"] = "metadata"
                parsed = parse_create_options(format_name, given)
                below = None if backing is None else BackingReference(backing[0], backing[1])
                create_image(path, format_name, capacity, parsed, below)
            os.fchmod(descriptor, mode)
            if (owner, group) != (-1, -1):
                os.fchown(descriptor, owner, group)
        finally:
            os.close(descriptor)
    except (ImageError, OSError) as error:
        target.unlink(missing_ok=True)
        raise _error(error, f"cannot create '{path}'") from error
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _make_raw(descriptor: int, capacity: int, allocation: int) -> None:
    os.ftruncate(descriptor, capacity)
    if allocation:
        try:
            os.posix_fallocate(descriptor, 0, min(allocation, capacity))
        except OSError as error:
            import errno  # noqa: PLC0415 - beside its use

            if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:
                raise


def clone(source: Volume, path: str, format_name: str) -> None:
    """Fill an image made by :func:`create` with another's content. Raises LibvirtError."""
    try:
        original = open_image(source.path, OpenSettings(format_name=_image_format(source.format), force_share=False))
        try:
            target = open_image(path, OpenSettings(format_name=_image_format(format_name), writable=True))
            try:
                convert(Concatenation([original]), target, ConvertSettings(target_is_zero=True))
                target.flush()
            finally:
                target.close()
        finally:
            original.close()
    except (ImageError, OSError) as error:
        raise _error(error, f"cannot copy '{source.path}' to '{path}'") from error


def _image_format(word: str) -> str:
    return "raw" if word in {"none", "iso", "raw", "fat"} else word


def resize(volume: Volume, capacity: int, *, allocate: bool = False) -> None:
    """Change an image's size. Raises LibvirtError."""
    try:
        if volume.format in {"raw", "iso", "none"}:
            descriptor = os.open(volume.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.ftruncate(descriptor, capacity)
                if allocate:
                    os.posix_fallocate(descriptor, 0, capacity)
            finally:
                os.close(descriptor)
            return
        image = open_image(volume.path, OpenSettings(format_name=volume.format, writable=True))
        try:
            image.resize(capacity)
            image.flush()
        finally:
            image.close()
    except (ImageError, OSError) as error:
        raise _error(error, f"cannot resize '{volume.path}'") from error


def wipe(volume: Volume, algorithm: int) -> None:
    """Overwrite everything a file holds, so often as the algorithm asks. Raises LibvirtError."""
    if algorithm == 9:
        _trim(volume)
        return
    passes = WIPE_PATTERNS.get(algorithm)
    if passes is None:
        raise faults.argument(f"unsupported wiping algorithm {algorithm}")
    try:
        descriptor = os.open(volume.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            length = os.lseek(descriptor, 0, os.SEEK_END)
            sparse = volume.type is VolumeType.FILE and volume.allocation < length and passes == (b"\0",)
            if sparse:
                os.ftruncate(descriptor, 0)
                os.ftruncate(descriptor, length)
            else:
                for pattern in passes:
                    _overwrite(descriptor, length, pattern)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if volume.type is VolumeType.FILE and volume.format not in {"raw", "iso", "none"}:
            _make_again(volume)
    except (ImageError, OSError) as error:
        raise _error(error, f"cannot wipe '{volume.path}'") from error


def _make_again(volume: Volume) -> None:
    """Give a wiped file its format back, empty: a guest finds a blank disk of the same size."""
    create_image(volume.path, volume.format, volume.capacity, {}, None)


def _overwrite(descriptor: int, length: int, pattern: bytes | None) -> None:
    fixed = None if pattern is None else pattern * _CHUNK_BYTES
    offset = 0
    while offset < length:
        size = min(_CHUNK_BYTES, length - offset)
        data = secrets.token_bytes(size) if fixed is None else fixed[:size]
        offset += os.pwrite(descriptor, data, offset)
    os.fsync(descriptor)


def _trim(volume: Volume) -> None:
    from pyhyve.image.storage import FileStorage  # noqa: PLC0415 - beside its use

    try:
        storage = FileStorage.open(volume.path, writable=True)
        try:
            storage.discard(0, volume.physical)
        finally:
            storage.close()
    except OSError as error:
        raise faults.system(f"Failed to discard bytes of volume {volume.path}", error) from error
