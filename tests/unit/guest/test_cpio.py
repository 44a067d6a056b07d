from __future__ import annotations

import shutil
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from pyhyve.guest import cpio

if TYPE_CHECKING:
    from pathlib import Path


def unpack(data: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """A second reading of the format: name to mode, content, device."""
    found = {}
    offset = 0
    while True:
        assert data[offset : offset + 6] == b"070701"
        fields = [int(data[offset + 6 + 8 * n : offset + 14 + 8 * n], 16) for n in range(13)]
        mode, size, device, name_size = fields[1], fields[6], (fields[9], fields[10]), fields[11]
        name = data[offset + 110 : offset + 110 + name_size]
        assert name.endswith(b"\0")
        start = (offset + 110 + name_size + 3) & ~3
        if name == b"TRAILER!!!\0":
            return found
        found[name[:-1].decode()] = (mode, data[start : start + size], device)
        offset = (start + size + 3) & ~3


ENTRIES = [
    cpio.file("init", b"#!/bin/sh\n", 0o755),
    cpio.file("usr/share/deep/file", b"x" * 1001),
    cpio.symlink("/bin/sh", "busybox"),
    cpio.directory("tmp", 0o1777),
    cpio.character_device("dev/console", 5, 1),
]


def test_pack_holds_every_entry_and_the_directories_they_need() -> None:
    found = unpack(cpio.pack(ENTRIES))
    assert found["init"] == (stat.S_IFREG | 0o755, b"#!/bin/sh\n", (0, 0))
    assert found["bin/sh"][:2] == (stat.S_IFLNK | 0o777, b"busybox")
    assert found["dev/console"] == (stat.S_IFCHR | 0o600, b"", (5, 1))
    assert found["tmp"][0] == stat.S_IFDIR | 0o1777
    for path in ("usr", "usr/share", "usr/share/deep", "bin", "dev"):
        assert stat.S_ISDIR(found[path][0])


def test_pack_puts_directories_before_what_is_in_them() -> None:
    order = list(unpack(cpio.pack([*ENTRIES, cpio.directory("usr/share/deep")])))
    for path in order:
        parent = path.rpartition("/")[0]
        assert not parent or order.index(parent) < order.index(path)


def test_pack_is_the_same_every_time_and_whole_blocks() -> None:
    assert cpio.pack(ENTRIES) == cpio.pack(ENTRIES)
    assert len(cpio.pack(ENTRIES)) % 512 == 0


@pytest.mark.skipif(shutil.which("cpio") is None, reason="the program cpio is not installed")
def test_pack_is_read_by_cpio(tmp_path: Path) -> None:
    entries = [entry for entry in ENTRIES if not stat.S_ISCHR(entry.mode)]
    subprocess.run(["cpio", "-idm", "--quiet"], input=cpio.pack(entries), cwd=tmp_path, check=True)
    assert (tmp_path / "usr/share/deep/file").read_bytes() == b"x" * 1001
    assert (tmp_path / "bin/sh").readlink().name == "busybox"
