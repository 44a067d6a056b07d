"""VHDX, Hyper-V's format: fixed and dynamic images, with log replay; differencing images are refused."""

from __future__ import annotations

from pyhyve.image.contract import CreateOption, CreateRequest, Image, ImageFormat, OpenRequest, OptionType

_SIGNATURE = b"vhdxfile"
_MIB = 1 << 20


def probe(head: bytes, filename: str) -> int:
    """File identifier."""
    del filename
    return 100 if head.startswith(_SIGNATURE) else 0


def open_vhdx(request: OpenRequest) -> Image:
    """Open; imported late to keep start-up short."""
    from pyhyve.image.vhdx.image import VhdxImage  # noqa: PLC0415

    return VhdxImage(request)


def create(request: CreateRequest) -> None:
    """An empty image; imported late to keep start-up short."""
    from pyhyve.image.vhdx.create import create_vhdx  # noqa: PLC0415

    create_vhdx(request)


FORMAT = ImageFormat(
    name="vhdx",
    probe=probe,
    open=open_vhdx,
    create=create,
    options=(
        CreateOption(
            "block_size",
            OptionType.SIZE,
            "Block Size; min 1MB, max 256MB. 0 means auto-calculate based on image size.",
            default="0",
        ),
        CreateOption(
            "block_state_zero",
            OptionType.BOOLEAN,
            "Force use of payload blocks of type 'ZERO'. Non-standard, but default.  Do not set to 'off' when using "
            "'qemu-img convert' with subformat=dynamic.",
        ),
        CreateOption("log_size", OptionType.SIZE, "Log size; min 1MB.", default=str(_MIB)),
        CreateOption("size", OptionType.SIZE, "Virtual disk size; max of 64TB."),
        CreateOption(
            "subformat",
            OptionType.STRING,
            "VHDX format type, can be either 'dynamic' or 'fixed'. Default is 'dynamic'.",
        ),
    ),
)
