"""One case: damage a seed, then do with it what users do."""

from __future__ import annotations

import errno
import io
import os
import struct
from itertools import islice
from typing import TYPE_CHECKING

from pyhyve.image.contract import Image, ImageError, OpenRequest
from pyhyve.image.registry import find_format, probe_format
from pyhyve.image.storage import FileObjectStorage

from .foreign import RESEAL
from .seeds import Siblings

if TYPE_CHECKING:
    import random

    from pyhyve.image.storage import Buffer

    from .seeds import Seed

_INTERESTING = (
    b"\0", b"\xff", b"\x7f", b"\x80", b"\1", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0",
    b"\0\0\0\0\0\0\0\0", b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\0\0\0\0\xff\xff\xff\xff", b"\x01" + b"\0" * 7,
    b"\0\0\x10\0", b"\0\x10\0\0", b"\xc0" + b"\0" * 7, b"\0\xff\xff\xff\xff\xff\xff\0",
)  # fmt: skip
_READ_BYTES = 70_000
_MAX_EXTENTS = 300
_MAX_FILE_BYTES = 32 << 20


class BoundedStorage(FileObjectStorage):
    """A file in memory that, like a file system, refuses to grow beyond its limit."""

    def pwrite(self, buffer: Buffer, offset: int) -> None:
        """Store, or fail with EFBIG."""
        if offset + len(buffer) > _MAX_FILE_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        super().pwrite(buffer, offset)

    def truncate(self, size_bytes: int) -> None:
        """Set the length, or fail with EFBIG."""
        if size_bytes > _MAX_FILE_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        super().truncate(size_bytes)


def damage(seed: Seed, chance: random.Random) -> bytes:
    """A mutated copy."""
    data = bytearray(seed.data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        at = chance.choice(seed.places) if chance.random() < 0.9 else chance.randrange(len(data))
        at = min(at, len(data) - 1)
        kind = chance.random()
        if kind < 0.3:
            data[at] ^= 1 << chance.randrange(8)
        elif kind < 0.7:
            value = chance.choice(_INTERESTING)
            data[at : at + len(value)] = value
        elif kind < 0.85:
            at &= ~7
            data[at : at + 8] = struct.pack(
                ">Q", chance.randrange(len(data) * 2) & ~511 | chance.choice((0, 1 << 63, 1 << 62))
            )
        elif kind < 0.95:
            source = chance.choice(seed.places)
            data[at : at + 16] = data[source : source + 16]
        else:
            del data[chance.randrange(len(data)) :]
            data += b"" if data else b"\0"
    reseal = RESEAL.get(seed.format_name)
    return bytes(data) if reseal is None or chance.random() < 0.2 else reseal(bytes(data))


def use(data: bytes, format_name: str, chance: random.Random) -> str:
    """Open and use it; returns what happened. Anything but ImageError passes through."""
    probe_format(data[:2048], "damaged")
    writable = chance.random() < 0.4
    storage = BoundedStorage(io.BytesIO(data), "damaged", writable=True)
    request = OpenRequest(storage, writable, Siblings().open, check_only=chance.random() < 0.3)
    try:
        image = find_format(format_name).open(request)
    except (ImageError, OSError) as error:  # replaying a log may need more room than there is
        one_line(error)
        return "refused"
    outcome = "read"
    actions = [_facts, _read, _map, _check] + ([_write, _snapshots] if writable else [])
    for action in chance.sample(actions, chance.randrange(1, len(actions) + 1)):
        try:
            action(image, chance)
        except (ImageError, OSError) as error:
            one_line(error)
            outcome = "error"
    try:
        image.close()
    except (ImageError, OSError):
        outcome = "error"
    return outcome


def one_line(error: Exception) -> None:
    """Users see errors as one line."""
    assert "\n" not in str(error), "an error of several lines"


def _offset(image: Image, chance: random.Random) -> int:
    size = image.size_bytes
    return chance.choice((0, 3000, 200_000, 400_000, 600_000, max(0, size - 5000), chance.randrange(max(1, size))))


def _facts(image: Image, chance: random.Random) -> None:
    del chance
    image.specific_info()
    image.snapshots()
    image.disk_usage_bytes()


def _read(image: Image, chance: random.Random) -> None:
    for _ in range(3):
        offset = _offset(image, chance)
        length = min(_READ_BYTES, image.size_bytes - offset)
        if length > 0:
            image.pread_into(memoryview(bytearray(length)), offset)


def _map(image: Image, chance: random.Random) -> None:
    start = min(_offset(image, chance), image.size_bytes)
    position = start
    for extent in islice(image.map(start, image.size_bytes - start), _MAX_EXTENTS):
        assert extent.start == position
        assert extent.length > 0
        position += extent.length


def _check(image: Image, chance: random.Random) -> None:
    repair = not image.readonly and chance.random() < 0.5
    image.check(fix_leaks=repair, fix_errors=repair)


def _write(image: Image, chance: random.Random) -> None:
    for _ in range(3):
        offset = _offset(image, chance)
        length = min(20_000, image.size_bytes - offset)
        if length > 0:
            image.pwrite(chance.randbytes(length), offset)
            image.pread_into(memoryview(bytearray(length)), offset)
            image.write_zeroes(offset, length // 2)
    image.flush()


def _snapshots(image: Image, chance: random.Random) -> None:
    del chance
    entry = image.find_snapshot("before")
    if entry is not None:
        image.apply_snapshot(entry)
        image.pread_vm_state_into(memoryview(bytearray(100_000)), 0)
