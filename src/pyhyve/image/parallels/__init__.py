"""Parallels expandable disk images, both kinds (entries in sectors or in clusters)."""

from __future__ import annotations

from pyhyve.image.contract import CreateOption, CreateRequest, Image, ImageError, ImageFormat, OpenRequest, OptionType
from pyhyve.image.parallels.format import (
    DEFAULT_CLUSTER_SIZE_BYTES,
    HEADER,
    HEADS,
    MAGIC_EXTENDED,
    MAGIC_OLD,
    MAX_BAT_ENTRIES,
    MAX_CLUSTER_SIZE_BYTES,
    SECTORS_PER_CYLINDER,
    VERSION,
    Header,
    build_header,
)


def probe(head: bytes, filename: str) -> int:
    """Magic and version."""
    del filename
    known = head[:16] in {MAGIC_OLD, MAGIC_EXTENDED} and head[16:20] == VERSION.to_bytes(4, "little")
    return 100 if known else 0


def open_parallels(request: OpenRequest) -> Image:
    """Open; imported late to keep start-up short."""
    from pyhyve.image.parallels.image import ParallelsImage  # noqa: PLC0415

    return ParallelsImage(request)


def create(request: CreateRequest) -> None:
    """An empty image of the extended kind."""
    cluster = request.number("cluster_size", DEFAULT_CLUSTER_SIZE_BYTES)
    if cluster % 512 or not 512 <= cluster <= MAX_CLUSTER_SIZE_BYTES:
        msg = f"Cluster size must be a multiple of 512 up to {MAX_CLUSTER_SIZE_BYTES} bytes"
        raise ImageError(msg)
    size = -(-request.size_bytes // 512) * 512
    entries = -(-size // cluster)
    if entries > MAX_BAT_ENTRIES:
        msg = "Image size is too large for this cluster size"
        raise ImageError(msg)
    data_start = -(-(HEADER.size + entries * 4) // cluster) * cluster
    header = Header(
        extended=True,
        cylinders=min(size // 512 // HEADS // SECTORS_PER_CYLINDER, 0xFFFFFFFF),
        tracks=cluster // 512,
        nb_bat_entries=entries,
        nb_sectors=size // 512,
        in_use=False,
        data_off=data_start // 512,
    )
    request.storage.pwrite(build_header(header), 0)
    request.storage.truncate(data_start)


FORMAT = ImageFormat(
    name="parallels",
    probe=probe,
    open=open_parallels,
    create=create,
    options=(
        CreateOption(
            "cluster_size", OptionType.SIZE, "Parallels image cluster size", default=str(DEFAULT_CLUSTER_SIZE_BYTES)
        ),
        CreateOption("size", OptionType.SIZE, "Virtual disk size"),
    ),
)
