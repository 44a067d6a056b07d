"""LUKS containers: recognised, so that they are never taken for raw disks, and refused."""

from __future__ import annotations

from pyhyve.image.contract import Image, ImageFormat, ImageFormatError, ImageUnsupportedError, OpenRequest

MAGIC = b"LUKS\xba\xbe"


def probe(head: bytes, filename: str) -> int:
    """The magic of LUKS 1 and 2."""
    del filename
    return 100 if head.startswith(MAGIC) else 0


def open_luks(request: OpenRequest) -> Image:
    """Refuse with a reason."""
    if not request.storage.pread(len(MAGIC), 0).startswith(MAGIC):
        msg = "Volume is not in LUKS format"
        raise ImageFormatError(msg)
    msg = f"'{request.storage.filename}' is LUKS-encrypted, which is not supported: open it with cryptsetup first"
    raise ImageUnsupportedError(msg)


FORMAT = ImageFormat(name="luks", probe=probe, open=open_luks)
