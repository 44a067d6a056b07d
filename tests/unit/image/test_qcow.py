from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyhyve.image.contract import BackingReference, ImageFormatError, ImageUnsupportedError
from pyhyve.image.opening import OpenSettings, create_image, open_image
from pyhyve.image.qcow.format import HEADER, Header, build_header, parse_header
from tests.unit.image.conftest import read

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

SIZE = 1 << 20
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["write", "zero", "compress", "flush", "reopen"]),
        st.integers(0, SIZE - 1),
        st.sampled_from([1, 512, 4096, 70000]),
        st.integers(0, 1 << 30),
    ),
    max_size=20,
)


@pytest.mark.parametrize("with_backing", [False, True])
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=OPERATIONS)
def test_random_operations_agree_with_a_flat_disk(with_backing: Any, operations: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "disk.qcow")
    flat = bytearray(SIZE)
    below = None
    if with_backing:
        flat[:300_000] = random.Random(9).randbytes(300_000)
        (tmp_path / "base.raw").write_bytes(flat[:300_000])
        below = BackingReference("base.raw", "raw")
    create_image(path, "qcow", SIZE, {}, below)
    image = open_image(path, OpenSettings(writable=True))
    for kind, start, wanted, seed in operations:
        offset, length = start, min(wanted, SIZE - start)
        data = random.Random(seed).randbytes(length)
        if kind == "write":
            image.pwrite(data, offset)
        elif kind == "zero":
            data = bytes(length)
            image.write_zeroes(offset, length)
        elif kind == "compress":
            cluster = image.cluster_size_bytes
            offset = offset // cluster * cluster
            length = min(SIZE - offset, -(-length // cluster) * cluster)
            data = bytes((seed & 255,)) * length
            image.write_compressed(data, offset)
        else:
            image.flush()
            if kind == "reopen":
                image.close()
                image = open_image(path, OpenSettings(writable=True))
            continue
        flat[offset : offset + length] = data
    assert read(image) == flat
    image.close()
    with open_image(path) as again:
        assert read(again) == flat


HEADER_V1 = Header(1 << 30, 12, 9, 48)


@pytest.mark.parametrize(
    ("where", "layout", "value", "error"),
    [
        (4, ">I", 2, ImageFormatError),
        (24, ">Q", 1, ImageFormatError),
        (24, ">Q", 1 << 62, ImageFormatError),
        (32, ">B", 8, ImageFormatError),
        (32, ">B", 17, ImageFormatError),
        (33, ">B", 5, ImageFormatError),
        (33, ">B", 14, ImageFormatError),
        (36, ">I", 1, ImageUnsupportedError),
        (40, ">Q", 1 << 60, ImageFormatError),
        (40, ">Q", 8, ImageFormatError),
        (8, ">Q", 1 << 40, ImageFormatError),
        (0, ">I", 0, ImageFormatError),
    ],
)
def test_header_that_contradicts_is_refused(where: Any, layout: Any, value: Any, error: Any) -> None:
    data = bytearray(build_header(HEADER_V1).ljust(4096, b"\0"))
    assert parse_header(bytes(data), 1 << 20) == HEADER_V1
    struct.pack_into(layout, data, where, value)
    with pytest.raises(error):
        parse_header(bytes(data), 1 << 20)


def test_header_is_48_bytes_and_keeps_the_backing_name() -> None:
    assert HEADER.size == 48
    header = Header(1 << 20, 9, 12, 56, backing_file="base.img")
    assert parse_header(build_header(header).ljust(512, b"\0"), 512) == header


def test_aes_cannot_be_created(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="AES"):
        create_image(str(tmp_path / "x"), "qcow", 1 << 20, {"encryption": True})
