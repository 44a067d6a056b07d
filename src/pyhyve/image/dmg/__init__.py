"""dmg, Apple's UDIF disk images: read (raw, zlib, bzip2 and LZMA chunks; ADC and LZFSE are refused)."""

from __future__ import annotations

from pyhyve.image.contract import Image, ImageFormat, OpenRequest


def probe(head: bytes, filename: str) -> int:
    """The file's name: the signature is at the end of the file. As in QEMU a weak sign."""
    del head
    return 2 if filename.lower().endswith(".dmg") else 0


def open_dmg(request: OpenRequest) -> Image:
    """Open; imported late to keep start-up short."""
    from pyhyve.image.dmg.image import DmgImage  # noqa: PLC0415

    return DmgImage(request)


FORMAT = ImageFormat(name="dmg", probe=probe, open=open_dmg)
