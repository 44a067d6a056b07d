from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from pyhyve.image.contract import ImageFormatError, ImageUnsupportedError
from pyhyve.image.qcow2.format import (
    BitmapEntry,
    BitmapsExtension,
    Header,
    SnapshotEntry,
    build_bitmap_directory,
    build_header,
    build_snapshot_table,
    parse_bitmap_directory,
    parse_header,
    parse_snapshot_table,
)
from pyhyve.support.records import replace

if TYPE_CHECKING:
    from typing import Any

HEADER = Header(3, 16, 1 << 30, 2, 0x30000, 0x10000, 1)


def parse(header: Header) -> Header:
    return parse_header(build_header(header).ljust(65536, b"\0"), 1 << 20)


@pytest.mark.parametrize(
    "header",
    [
        HEADER,
        replace(HEADER, backing_file="base.raw", backing_format="raw"),
        replace(HEADER, version=2, header_length=72, feature_name_table=False, backing_file="ü.qcow2"),
        replace(HEADER, incompatible_features=8, compression_type=1, compatible_features=1),
        replace(HEADER, incompatible_features=4, data_file="data.raw", autoclear_features=2),
        replace(HEADER, autoclear_features=1, bitmaps=BitmapsExtension(1, 40, 0x50000)),
        replace(HEADER, unknown_extensions=((0x12345678, b"kept"),)),
    ],
)
def test_header_survives_a_round_trip(header: Header) -> None:
    assert parse(header) == header


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"version": 4}, ImageUnsupportedError, "version 4"),
        ({"cluster_bits": 22}, ImageFormatError, "cluster size"),
        ({"crypt_method": 2}, ImageUnsupportedError, "luks"),
        ({"crypt_method": 1}, ImageUnsupportedError, "aes"),
        ({"incompatible_features": 1 << 20, "feature_name_table": False}, ImageUnsupportedError, "100000"),
        ({"l1_table_offset": 0x30001}, ImageFormatError, "L1 table"),
        ({"l1_size": 1}, ImageFormatError, "too small"),
        ({"l1_size": 1 << 23}, ImageFormatError, "too large"),
        ({"size": 1 << 62}, ImageFormatError, "too big"),
        ({"refcount_table_clusters": 200}, ImageFormatError, "count table too large"),
        ({"refcount_table_clusters": 0}, ImageFormatError, "not contain a reference count"),
        ({"refcount_table_offset": 7}, ImageFormatError, "count table offset"),
        ({"refcount_order": 7}, ImageFormatError, "64 bits"),
        ({"nb_snapshots": 70000}, ImageFormatError, "Snapshot table"),
        ({"compression_type": 1}, ImageFormatError, "Compression type"),
        ({"compression_type": 9, "incompatible_features": 8}, ImageUnsupportedError, "unknown compression"),
        ({"autoclear_features": 2}, ImageFormatError, "raw external"),
        ({"incompatible_features": 16, "cluster_bits": 12}, ImageFormatError, "16 KiB"),
    ],
)
def test_header_that_contradicts_is_refused(changes: Any, error: Any, text: str) -> None:
    data = bytearray(build_header(HEADER).ljust(65536, b"\0"))
    fields = {
        "version": (4, ">I"), "cluster_bits": (20, ">I"), "size": (24, ">Q"), "crypt_method": (32, ">I"),
        "l1_size": (36, ">I"), "l1_table_offset": (40, ">Q"), "refcount_table_offset": (48, ">Q"),
        "refcount_table_clusters": (56, ">I"), "nb_snapshots": (60, ">I"), "incompatible_features": (72, ">Q"),
        "autoclear_features": (88, ">Q"), "refcount_order": (96, ">I"), "compression_type": (104, ">B"),
        "feature_name_table": (112, ">?"),
    }  # fmt: skip
    for name, value in changes.items():
        where, layout = fields[name]
        struct.pack_into(layout, data, where, value)
    with pytest.raises(error, match=text):
        parse_header(bytes(data), 1 << 20)


def test_unknown_feature_is_named_from_the_feature_name_table() -> None:
    data = bytearray(build_header(replace(HEADER, incompatible_features=1 << 5)).ljust(65536, b"\0"))
    at = data.index(b"dirty bit")
    data[at - 1 : at + 46] = b"\x05" + b"time travel".ljust(46, b"\0")
    with pytest.raises(ImageUnsupportedError, match="time travel"):
        parse_header(bytes(data), 1 << 20)


@pytest.mark.parametrize("where", [8, 16])
def test_backing_name_outside_the_first_cluster_is_refused(where: Any) -> None:
    data = bytearray(build_header(replace(HEADER, backing_file="x")).ljust(65536, b"\0"))
    data[where : where + 4] = b"\x7f\xff\xff\xff"
    with pytest.raises(ImageFormatError, match="acking file"):
        parse_header(bytes(data), 1 << 20)


def test_header_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ImageFormatError, match="do not fit"):
        build_header(replace(HEADER, cluster_bits=9, backing_file="x" * 600))


def test_snapshot_table_survives_a_round_trip() -> None:
    entries = (
        SnapshotEntry(0x50000, 3, "1", "fresh", 10, 11, 12, 0, 1 << 30, 0),
        SnapshotEntry(0x90000, 0, "27", "näme", 1, 2, 3, 1 << 33, 512, None, b"future"),
    )
    data = build_snapshot_table(entries)
    back = parse_snapshot_table(data, 2, 0)
    assert back[0] == entries[0]
    assert back[1] == replace(entries[1], icount=(1 << 64) - 1)
    with pytest.raises(ImageFormatError, match="truncated"):
        parse_snapshot_table(data, 3, 0)


def test_bitmap_directory_survives_a_round_trip() -> None:
    entries = (BitmapEntry(0x50000, 1, 2, 1, 16, "b0", b""), BitmapEntry(0x60000, 2, 0, 1, 9, "zwei", b"extra"))
    data = build_bitmap_directory(entries)
    assert parse_bitmap_directory(data, BitmapsExtension(2, len(data), 0)) == entries
    with pytest.raises(ImageFormatError, match="Bitmap directory"):
        parse_bitmap_directory(data[:60], BitmapsExtension(2, 60, 0))
