"""Images of formats that cannot be created here, built byte by byte from their specifications."""

from __future__ import annotations

import base64
import bz2
import io
import lzma
import struct
import tarfile
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

from pyhyve.image.vhdx.format import HEADER_OFFSETS, build_header, parse_header, sealed
from pyhyve.image.vhdx.log import DATA_DESCRIPTOR, ENTRY_HEADER, ZERO_DESCRIPTOR
from pyhyve.image.vmdk.format import GRAIN_MARKER, MARKER, SPARSE_HEADER, Flag, MarkerType
from pyhyve.image.vpc.format import (
    DYNAMIC_HEADER_SIZE_BYTES,
    FOOTER_SIZE_BYTES,
    DiskType,
    Footer,
    build_footer,
    checksum,
)

if TYPE_CHECKING:
    from pathlib import Path

LOG_OFFSET, LOG_LENGTH = 1 << 20, 1 << 20  # of a VHDX file as created here and by QEMU
OVF = """<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
 <References>{files}</References>
 <DiskSection><Info>Disks</Info>{disks}</DiskSection>
</Envelope>
"""


def cloop(data: bytes, block_size: int = 65536) -> bytes:
    blocks = [
        zlib.compress(data[at : at + block_size].ljust(block_size, b"\0")) for at in range(0, len(data), block_size)
    ]
    head = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0\n".ljust(128, b"\0") + struct.pack(
        ">II", block_size, len(blocks)
    )
    place = len(head) + 8 * (len(blocks) + 1)
    offsets = [place]
    for block in blocks:
        offsets.append(offsets[-1] + len(block))
    return head + struct.pack(f">{len(offsets)}Q", *offsets) + b"".join(blocks)


def dmg(data: bytes, kinds: tuple[int, ...], *, resource_fork: bool = False) -> bytes:
    """64 KiB chunks, stored in turn as `kinds` say (0 zero, 1 raw, 0x8000000x compressed); two partitions."""
    packers = {
        1: bytes, 0x80000005: zlib.compress, 0x80000006: bz2.compress, 0x80000007: bytes, 0x80000004: bytes,
        0x80000008: lzma.compress,
    }  # fmt: skip
    fork, chunks, unit = b"", [], 65536
    for number, at in enumerate(range(0, len(data), unit)):
        part = data[at : at + unit]
        kind = kinds[number % len(kinds)]
        if not any(part):
            kind = 0
        stored = b"" if kind == 0 else packers[kind](part)
        chunks.append((kind, at // 512, len(part) // 512, len(fork), len(stored)))
        fork += stored
    half = len(chunks) // 2
    mishes = []
    for group in (chunks[:half], chunks[half:]):
        if not group:
            continue
        first = group[0][1]
        entries = b"".join(
            struct.pack(">I4xQQQQ", kind, sector - first, count, offset, length)
            for kind, sector, count, offset, length in group
        )
        entries += struct.pack(">I4xQQQQ", 0xFFFFFFFF, group[-1][1] + group[-1][2] - first, 0, len(fork), 0)
        head = b"mish" + struct.pack(">IQQQ", 1, first, sum(chunk[2] for chunk in group), 0)
        mishes.append(head.ljust(200, b"\0") + struct.pack(">I", len(group) + 1) + entries)
    if resource_fork:
        body = b"".join(struct.pack(">I", len(mish)) + mish for mish in mishes)
        table = struct.pack(">IIII", 16, 16 + len(body), len(body), 0) + body
    else:
        items = "".join(f"<dict><key>Data</key><data>\n{base64.encodebytes(m).decode()}</data></dict>" for m in mishes)
        table = f"<plist><dict><key>blkx</key><array>{items}</array></dict></plist>".encode()
    koly = bytearray(512)
    koly[:12] = b"koly" + struct.pack(">II", 4, 512)
    struct.pack_into(">QQ", koly, 0x18, 0, len(fork))
    if resource_fork:
        struct.pack_into(">QQ", koly, 0x28, len(fork), len(table))
    else:
        struct.pack_into(">QQ", koly, 0xD8, len(fork), len(table))
    struct.pack_into(">Q", koly, 0x1EC, len(data) // 512)
    return fork + table + bytes(koly)


def ova(
    disks: dict[str, bytes], *, compression: str = "", ovf: str | None = None, fmt: int = tarfile.USTAR_FORMAT
) -> bytes:
    attribute = f' ovf:compression="{compression}"' if compression else ""
    files = "".join(f'<File ovf:href="{name}" ovf:id="file{n}"{attribute}/>' for n, name in enumerate(disks))
    entries = "".join(f'<Disk ovf:diskId="d{n}" ovf:fileRef="file{n}" ovf:capacity="1"/>' for n in range(len(disks)))
    text = (OVF.format(files=files, disks=entries) if ovf is None else ovf).encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=fmt) as archive:
        for name, data in (("box.ovf", text), ("box.mf", b"manifest"), *disks.items()):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def stream_optimized(data: bytes) -> bytes:
    """As VMware writes it: grains in order, tables between, directory and footer at the end."""
    grain, per_table = 65536, 512
    sectors = len(data) // 512
    flags = Flag.NEW_LINE_TEST | Flag.COMPRESSED | Flag.MARKERS
    descriptor = (
        f'# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="streamOptimized"\n'
        f'RW {sectors} SPARSE "box.vmdk"\n'
    ).encode()

    def header(directory: int) -> bytes:
        return SPARSE_HEADER.pack(
            b"KDMV", 3, flags, sectors, grain // 512, 1, 1, per_table, 0, directory, 128, 0, b"\n \r\n", 1
        )

    out = bytearray(header(0xFFFFFFFFFFFFFFFF) + descriptor.ljust(512, b"\0")).ljust(65536, b"\0")
    tables: list[int] = []
    entries = [0] * per_table

    def pad() -> None:
        out.extend(bytes(-len(out) % 512))

    for number, at in enumerate(range(0, len(data), grain)):
        part = data[at : at + grain]
        if any(part):
            entries[number % per_table] = len(out) // 512
            packed = zlib.compress(part.ljust(grain, b"\0"))
            out.extend(GRAIN_MARKER.pack(at // 512, len(packed)) + packed)
            pad()
        if number % per_table == per_table - 1 or at + grain >= len(data):
            out.extend(MARKER.pack(per_table * 4 // 512, 0, MarkerType.GRAIN_TABLE).ljust(512, b"\0"))
            tables.append(len(out) // 512)
            out.extend(struct.pack(f"<{per_table}I", *entries))
            entries = [0] * per_table
    out.extend(MARKER.pack(1, 0, MarkerType.GRAIN_DIRECTORY).ljust(512, b"\0"))
    directory = len(out) // 512
    out.extend(struct.pack(f"<{len(tables)}I", *tables))
    pad()
    out.extend(MARKER.pack(1, 0, MarkerType.FOOTER).ljust(512, b"\0") + header(directory))
    out.extend(MARKER.pack(0, 0, MarkerType.END_OF_STREAM).ljust(512, b"\0"))
    return bytes(out)


def cowd(data: bytes) -> bytes:
    """An ESX COW disk: 4096 entries a table, grains of one sector."""
    sectors = len(data) // 512
    tables = -(-sectors // 4096)
    table_at = 4 + 1
    data_at = table_at + tables * 32
    out = bytearray(struct.pack("<4sIIIIIII", b"COWD", 1, 3, sectors, 1, 4, tables, 0).ljust(2048, b"\0"))
    out += struct.pack(f"<{tables}I", *(table_at + 32 * n for n in range(tables))).ljust(512, b"\0")
    used = [n for n in range(sectors) if any(data[n * 512 : n * 512 + 512])]
    places = {n: data_at + at for at, n in enumerate(used)}
    out += b"".join(struct.pack("<I", places.get(n, 0)) for n in range(tables * 4096))
    return bytes(out + b"".join(data[n * 512 : n * 512 + 512] for n in used))


def differencing_vhd(
    blocks: dict[int, tuple[bytes, int]], size: int, parent: str = "base.vhd", block: int = 65536
) -> bytes:
    """A differencing VHD; a block is its first bytes and a bit per sector, the lowest bit for the first sector."""
    entries = -(-size // block)
    head = bytearray(DYNAMIC_HEADER_SIZE_BYTES)
    locator = f".\\{parent}".encode("utf-16-le")
    table_at = FOOTER_SIZE_BYTES + DYNAMIC_HEADER_SIZE_BYTES
    locator_at = table_at + -(-entries * 4 // 512) * 512
    struct.pack_into(">8sQQIII", head, 0, b"cxsparse", (1 << 64) - 1, table_at, 0x10000, entries, block)
    head[64:576] = parent.encode("utf-16-be").ljust(512, b"\0")
    head[576:600] = struct.pack(">4sIIIQ", b"W2ru", 512, len(locator), 0, locator_at)
    head[36:40] = checksum(bytes(head), 36).to_bytes(4, "big")
    footer = build_footer(
        Footer(DiskType.DIFFERENCING, FOOTER_SIZE_BYTES, size, size, 65535, 16, 255, b"win ", 0, bytes(16))
    )
    table, body = [0xFFFFFFFF] * entries, b""
    start = locator_at + 512
    for number, (data, bits) in blocks.items():
        table[number] = (start + len(body)) // 512
        bitmap = sum(1 << (7 - at % 8 + 8 * (at // 8)) for at in range(block // 512) if bits >> at & 1)
        body += bitmap.to_bytes(512, "little") + data.ljust(block, b"\0")
    bat = struct.pack(f">{entries}I", *table).ljust(locator_at - table_at, b"\xff")
    return footer + bytes(head) + bat + locator.ljust(512, b"\0") + body + footer


def log_entry(guid: bytes, sequence: int, tail: int, updates: list[tuple[int, bytes | int]], file_size: int) -> bytes:
    """An entry as [MS-VHDX] 2.3.1 describes it; an update is 4 KiB of data or a length of zeroes."""
    descriptors, data = b"", b""
    for offset, what in updates:
        if isinstance(what, int):
            descriptors += ZERO_DESCRIPTOR.pack(b"zero", what, offset, sequence)
            continue
        descriptors += DATA_DESCRIPTOR.pack(b"desc", what[-4:], what[:8], offset, sequence)
        high, low = sequence >> 32, sequence & 0xFFFFFFFF
        data += b"data" + high.to_bytes(4, "little") + what[8:-4] + low.to_bytes(4, "little")
    length = 4096 + len(data)
    head = ENTRY_HEADER.pack(b"loge", 0, length, tail, sequence, len(updates), guid, file_size, file_size)
    return sealed((head + descriptors).ljust(4096, b"\0") + data, length)


def put_log(path: Path, position: int, entries: bytes, guid: bytes) -> None:
    """Store entries from `position` of the log on, going on at its start, and name the log in the headers."""
    with path.open("r+b") as file:
        first = min(len(entries), LOG_LENGTH - position)
        file.seek(LOG_OFFSET + position)
        file.write(entries[:first])
        file.seek(LOG_OFFSET)
        file.write(entries[first:])
        for offset in HEADER_OFFSETS:
            file.seek(offset)
            header = parse_header(file.read(4096))
            assert header is not None
            file.seek(offset)
            file.write(build_header(replace(header, log_guid=guid)))
