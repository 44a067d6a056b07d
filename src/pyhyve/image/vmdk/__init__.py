"""VMDK, VMware's format: sparse, flat, split and stream-optimized disks, with parents."""

from __future__ import annotations

from pyhyve.image.contract import CreateOption, CreateRequest, Image, ImageFormat, OpenRequest, OptionType


def probe(head: bytes, filename: str) -> int:
    """A sparse extent, or descriptor text."""
    del filename
    if head[:4] in {b"KDMV", b"COWD"}:
        return 100
    from pyhyve.image.vmdk.descriptor import looks_like_descriptor  # noqa: PLC0415 - only for text

    return 100 if looks_like_descriptor(head) else 0


def open_vmdk(request: OpenRequest) -> Image:
    """Open; imported late to keep start-up short."""
    from pyhyve.image.vmdk.image import VmdkImage  # noqa: PLC0415

    return VmdkImage(request)


def create(request: CreateRequest) -> None:
    """A new disk; imported late to keep start-up short."""
    from pyhyve.image.vmdk.create import create_vmdk  # noqa: PLC0415

    create_vmdk(request)


FORMAT = ImageFormat(
    name="vmdk",
    probe=probe,
    open=open_vmdk,
    create=create,
    supports_backing=True,
    supports_compressed=True,
    options=(
        CreateOption(
            "adapter_type",
            OptionType.STRING,
            "Virtual adapter type, can be one of ide (default), lsilogic, buslogic or legacyESX",
        ),
        CreateOption("backing_file", OptionType.STRING, "File name of a base image"),
        CreateOption("backing_fmt", OptionType.STRING, "Must be 'vmdk' if present"),
        CreateOption("compat6", OptionType.BOOLEAN, "VMDK version 6 image", default="off"),
        CreateOption("hwversion", OptionType.STRING, "VMDK hardware version", default="undefined"),
        CreateOption("size", OptionType.SIZE, "Virtual disk size"),
        CreateOption(
            "subformat",
            OptionType.STRING,
            "VMDK flat extent format, can be one of {monolithicSparse (default) | monolithicFlat | "
            "twoGbMaxExtentSparse | twoGbMaxExtentFlat | streamOptimized} ",
        ),
        CreateOption("toolsversion", OptionType.STRING, "VMware guest tools version"),
        CreateOption(
            "zeroed_grain", OptionType.BOOLEAN, "Enable efficient zero writes using the zeroed-grain GTE feature"
        ),
    ),
)
