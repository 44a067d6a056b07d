"""cloop, compressed loop images: read."""

from __future__ import annotations

from pyhyve.image.contract import Image, ImageFormat, OpenRequest

_MAGIC = b"#!/bin/sh\n#V2.0 Format\n"


def probe(head: bytes, filename: str) -> int:
    """The script at the start. As in QEMU a weak sign: other files start so too."""
    del filename
    return 2 if head.startswith(_MAGIC) else 0


def open_cloop(request: OpenRequest) -> Image:
    """Open; imported late to keep start-up short."""
    from pyhyve.image.cloop.image import CloopImage  # noqa: PLC0415

    return CloopImage(request)


FORMAT = ImageFormat(name="cloop", probe=probe, open=open_cloop)
