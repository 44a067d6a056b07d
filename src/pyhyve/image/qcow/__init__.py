"""qcow version 1: sparse, backing files, compressed clusters; its AES encryption is refused."""

from __future__ import annotations

from pyhyve.image.contract import CreateOption, CreateRequest, Image, ImageError, ImageFormat, OpenRequest, OptionType
from pyhyve.image.qcow.format import MAGIC, VERSION, Header, build_header


def probe(head: bytes, filename: str) -> int:
    """Magic and version 1."""
    del filename
    return 100 if head[:4] == MAGIC and int.from_bytes(head[4:8], "big") == VERSION else 0


def open_qcow(request: OpenRequest) -> Image:
    """Open; imported late to keep start-up short."""
    from pyhyve.image.qcow.image import QcowImage  # noqa: PLC0415

    return QcowImage(request)


def create(request: CreateRequest) -> None:
    """An empty image: 4 KiB clusters, or 512-byte clusters over a backing file (then little is copied)."""
    if request.flag("encryption") or request.text("encrypt.format"):
        msg = "qcow AES encryption is not supported: it was never safe"
        raise ImageError(msg)
    size = -(-request.size_bytes // 512) * 512
    if size <= 1:
        msg = "Image size is too small, cannot be zero length"
        raise ImageError(msg)
    name = request.backing.filename if request.backing else None
    bits, l2_bits = (9, 12) if name else (12, 9)
    draft = build_header(Header(size, bits, l2_bits, 0, backing_file=name))
    l1_offset = (len(draft) + 7) & ~7
    header = Header(size, bits, l2_bits, l1_offset, backing_file=name)
    request.storage.pwrite(build_header(header), 0)
    l1_bytes = header.l1_size * 8
    request.storage.truncate(max(l1_offset + l1_bytes, -(-(l1_offset + l1_bytes) // 512) * 512))


FORMAT = ImageFormat(
    name="qcow",
    probe=probe,
    open=open_qcow,
    create=create,
    supports_backing=True,
    supports_compressed=True,
    options=(
        CreateOption("backing_file", OptionType.STRING, "File name of a base image"),
        CreateOption("backing_fmt", OptionType.STRING, "Format of the backing image"),
        CreateOption("encrypt.format", OptionType.STRING, "Encrypt the image (refused)"),
        CreateOption("encryption", OptionType.BOOLEAN, "Encrypt the image (refused)"),
        CreateOption("size", OptionType.SIZE, "Virtual disk size"),
    ),
)
