"""qcow2, versions 2 and 3 (specification: docs/interop/qcow2.rst of the QEMU project)."""

from __future__ import annotations

from pyhyve.image.contract import CreateOption, CreateRequest, Image, ImageFormat, OpenRequest, OptionType
from pyhyve.image.qcow2.format import MAGIC


def probe(head: bytes, filename: str) -> int:
    """Magic and a version from 2."""
    del filename
    return 100 if head[:4] == MAGIC and int.from_bytes(head[4:8], "big") >= 2 else 0


def open_qcow2(request: OpenRequest) -> Image:
    """Open; the writing half is imported only for images that are written: `info` must start quickly."""
    if request.writable:
        from pyhyve.image.qcow2.image import Qcow2Image  # noqa: PLC0415

        return Qcow2Image(request)
    from pyhyve.image.qcow2.reading import Qcow2Reader  # noqa: PLC0415

    return Qcow2Reader(request)


def create(request: CreateRequest) -> None:
    """Create; imported when it is done."""
    from pyhyve.image.qcow2.create import create as create_now  # noqa: PLC0415

    create_now(request)


FORMAT = ImageFormat(
    name="qcow2",
    probe=probe,
    open=open_qcow2,
    create=create,
    supports_backing=True,
    supports_compressed=True,
    options=(
        CreateOption("backing_file", OptionType.STRING, "File name of a base image"),
        CreateOption("backing_fmt", OptionType.STRING, "Image format of the base image"),
        CreateOption("cluster_size", OptionType.SIZE, "qcow2 cluster size", "65536"),
        CreateOption("compat", OptionType.STRING, "Compatibility level (v2 [0.10] or v3 [1.1])"),
        CreateOption(
            "compression_type", OptionType.STRING, "Compression method used for image cluster compression", "zlib"
        ),
        CreateOption("data_file", OptionType.STRING, "File name of an external data file"),
        CreateOption("data_file_raw", OptionType.BOOLEAN, "The external data file must stay valid as a raw image"),
        CreateOption("encrypt.format", OptionType.STRING, "Encrypt the image (refused)"),
        CreateOption("encryption", OptionType.BOOLEAN, "Encrypt the image (refused)"),
        CreateOption("extended_l2", OptionType.BOOLEAN, "Extended L2 tables", "off"),
        CreateOption(
            "extent_size_hint", OptionType.SIZE, "Extent size hint for the image file, 0 to disable", of_file=True
        ),
        CreateOption("lazy_refcounts", OptionType.BOOLEAN, "Postpone refcount updates", "off"),
        CreateOption("nocow", OptionType.BOOLEAN, "Turn off copy-on-write (valid only on btrfs)", of_file=True),
        CreateOption(
            "preallocation", OptionType.STRING, "Preallocation mode (allowed values: off, metadata, falloc, full)"
        ),
        CreateOption("refcount_bits", OptionType.NUMBER, "Width of a reference count entry in bits", "16"),
        CreateOption("size", OptionType.SIZE, "Virtual disk size"),
    ),
)
