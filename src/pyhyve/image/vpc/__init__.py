"""VHD, the format of Virtual PC: fixed and dynamic images; differencing images are read."""

from __future__ import annotations

from pyhyve.image.contract import CreateOption, CreateRequest, Image, ImageError, ImageFormat, OpenRequest, OptionType
from pyhyve.image.vpc.format import (
    DEFAULT_BLOCK_SIZE_BYTES,
    DYNAMIC_HEADER_SIZE_BYTES,
    EPOCH_S,
    FOOTER_COOKIE,
    FOOTER_SIZE_BYTES,
    MAX_CYLINDERS,
    MAX_GEOMETRY_SECTORS,
    MAX_HEADS,
    MAX_SECTORS,
    MAX_SECTORS_PER_TRACK,
    NO_OFFSET,
    DiskType,
    DynamicHeader,
    Footer,
    build_dynamic_header,
    build_footer,
    geometry_for,
)


def probe(head: bytes, filename: str) -> int:
    """A footer copy at the start: dynamic and differencing images only."""
    del filename
    return 100 if head.startswith(FOOTER_COOKIE) else 0


def open_vpc(request: OpenRequest) -> Image:
    """Open; imported late to keep start-up short."""
    from pyhyve.image.vpc.image import open_image  # noqa: PLC0415

    return open_image(request)


def create(request: CreateRequest) -> None:
    """An empty image. The size is rounded up to a geometry unless `force_size`."""
    import time  # noqa: PLC0415 - only for new images
    import uuid  # noqa: PLC0415

    subformat = request.text("subformat", "dynamic")
    if subformat not in {"dynamic", "fixed"}:
        msg = f"Invalid parameter '{subformat}' for 'subformat': choose dynamic or fixed"
        raise ImageError(msg)
    force = request.flag("force_size")
    sectors = -(-request.size_bytes // 512)
    if force:
        geometry = (MAX_CYLINDERS, MAX_HEADS, MAX_SECTORS_PER_TRACK)
    else:
        geometry = _geometry_holding(sectors)
        addressed = geometry[0] * geometry[1] * geometry[2]
        sectors = sectors if addressed == MAX_GEOMETRY_SECTORS else addressed
    if sectors > MAX_SECTORS:
        msg = "Disk size is too large, max size is 2040 GiB"
        raise ImageError(msg)
    fixed = subformat == "fixed"
    footer = Footer(
        disk_type=DiskType.FIXED if fixed else DiskType.DYNAMIC,
        data_offset=NO_OFFSET if fixed else FOOTER_SIZE_BYTES,
        current_size=sectors * 512,
        original_size=sectors * 512,
        cylinders=geometry[0],
        heads=geometry[1],
        sectors_per_track=geometry[2],
        creator_application=b"qem2" if force else b"qemu",
        time_stamp=int(time.time()) - EPOCH_S,
        unique_id=uuid.uuid4().bytes,
    )
    if fixed:
        request.storage.truncate(sectors * 512)
        request.storage.pwrite(build_footer(footer), sectors * 512)
        return
    block = DEFAULT_BLOCK_SIZE_BYTES
    table_offset = FOOTER_SIZE_BYTES + DYNAMIC_HEADER_SIZE_BYTES
    entries = -(-sectors * 512 // block)
    request.storage.pwrite(build_footer(footer), 0)
    request.storage.pwrite(build_dynamic_header(DynamicHeader(table_offset, entries, block)), FOOTER_SIZE_BYTES)
    table_bytes = -(-entries * 4 // 512) * 512
    request.storage.pwrite(b"\xff" * table_bytes, table_offset)
    request.storage.pwrite(build_footer(footer), table_offset + table_bytes)


def _geometry_holding(sectors: int) -> tuple[int, int, int]:
    """The smallest geometry that addresses at least `sectors` (or the largest there is)."""
    wanted = sectors
    while True:
        cylinders, heads, per_track = geometry_for(wanted)
        if cylinders * heads * per_track >= min(sectors, MAX_GEOMETRY_SECTORS):
            return cylinders, heads, per_track
        wanted += 1


FORMAT = ImageFormat(
    name="vpc",
    probe=probe,
    open=open_vpc,
    create=create,
    options=(
        CreateOption(
            "force_size",
            OptionType.BOOLEAN,
            "Force disk size calculation to use the actual size specified, rather than using the nearest CHS-based "
            "calculation",
        ),
        CreateOption("size", OptionType.SIZE, "Virtual disk size"),
        CreateOption(
            "subformat",
            OptionType.STRING,
            "Type of virtual hard disk format. Supported formats are {dynamic (default) | fixed} ",
        ),
    ),
)
