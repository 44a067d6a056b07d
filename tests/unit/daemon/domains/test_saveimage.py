"""Heads of saved machines' files."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from pyhyve.daemon.domains.saveimage import MAGIC, finish, read_header, rewrite_document, write_header
from pyhyve.daemon.errors import LibvirtError

if TYPE_CHECKING:
    from pathlib import Path


def saved(path: Path, document: str = "<domain/>", *, running: bool = True, whole: bool = True) -> Path:
    with path.open("wb") as file:
        offset = write_header(file, document, running=running)
        file.write(b"STATE")
    if whole:
        finish(path)
        assert read_header(path).offset == offset
    return path


def test_head_survives_being_written(tmp_path: Path) -> None:
    header = read_header(saved(tmp_path / "s", "<domain>ü</domain>", running=False))
    assert header.document == "<domain>ü</domain>"
    assert header.running is False
    assert (tmp_path / "s").read_bytes()[header.offset :] == b"STATE"
    assert header.offset % 4096 == 0


def test_layout_is_libvirts(tmp_path: Path) -> None:
    data = saved(tmp_path / "s").read_bytes()
    magic, version, length, running, compressed, cookie = struct.unpack_from("<16s5I", data)
    assert (magic, version, running, compressed, cookie) == (b"LibvirtQemudSave", 2, 1, 0, 0)
    assert data[92 : 92 + length].rstrip(b"\0") == b"<domain/>"
    assert data[92 + length :] == b"STATE"


def test_document_can_be_replaced_in_place(tmp_path: Path) -> None:
    path = saved(tmp_path / "s")
    before = read_header(path).offset
    rewrite_document(path, "<domain><name>other</name></domain>", running=False)
    header = read_header(path)
    assert (header.document, header.running, header.offset) == ("<domain><name>other</name></domain>", False, before)
    assert path.read_bytes().endswith(b"STATE")
    with pytest.raises(LibvirtError, match="too large"):
        rewrite_document(path, "x" * 8192)
    assert read_header(path).document == "<domain><name>other</name></domain>"


def test_file_that_was_never_finished_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LibvirtError, match="save image is incomplete"):
        read_header(saved(tmp_path / "s", whole=False))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "failed to read qemu header"),
        (b"x" * 200, "image magic is incorrect"),
        (MAGIC + struct.pack("<5I56x", 3, 10, 0, 0, 0), "image version is not supported"),
        (MAGIC + struct.pack("<5I56x", 2, 0, 0, 0, 0), "invalid header data length"),
        (MAGIC + struct.pack("<5I56x", 2, 0xFFFFFFFF, 0, 0, 0), "invalid header data length"),
        (MAGIC + struct.pack("<5I56x", 2, 100, 0, 0, 0) + b"<domain/>", "failed to read domain XML"),
        (MAGIC + struct.pack("<5I56x", 2, 4, 0, 0, 0) + b"\xff\xfe\xfd\0", "failed to read domain XML"),
    ],
)
def test_hostile_files_are_refused(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "s"
    path.write_bytes(data)
    with pytest.raises(LibvirtError, match=said):
        read_header(path)


def test_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(LibvirtError, match="No such file or directory"):
        read_header(tmp_path / "none")
