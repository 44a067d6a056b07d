"""OVA appliances: their disks can be read (and so converted) in place."""

from __future__ import annotations

from pyhyve.image.contract import Image, ImageFormat, OpenRequest


def probe(head: bytes, filename: str) -> int:
    """A tar archive whose first member is an OVF descriptor (DSP0243, section 6.4)."""
    del filename
    name = head[:100].partition(b"\0")[0]
    return 90 if head[257:262] == b"ustar" and name.lower().endswith(b".ovf") else 0


def open_ova(request: OpenRequest) -> Image:
    """Open; imported late to keep start-up short."""
    from pyhyve.image.ova.image import OvaImage  # noqa: PLC0415

    return OvaImage(request)


FORMAT = ImageFormat(name="ova", probe=probe, open=open_ova)
