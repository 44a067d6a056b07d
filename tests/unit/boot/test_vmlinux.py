"""The kernel inside a bzImage: unpacked once, kept in the cache, entered through its PVH note."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import struct
import time
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from lz4 import block

from pyhyve.boot import vmlinux
from pyhyve.boot.e820 import MemoryLayout
from pyhyve.boot.errors import BootError
from pyhyve.boot.linux import EntryMode, LinuxBoot, load_linux
from pyhyve.memory.guest import GuestMemory
from tests.unit.boot.images import bzimage, pvh_elf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ELF = pvh_elf(payload=b"\xf4" * 3000)
RELEASE = "6.1.0-44-cloud-amd64 (debian) #1"
ENTRY_PVH, ENTRY_64 = 0x1000123, 0x1000200


def lz4_legacy(data: bytes) -> bytes:
    half = len(data) // 2
    blocks = [block.compress(part, store_size=False) for part in (data[:half], data[half:])]
    return b"\x02\x21\x4c\x18" + b"".join(struct.pack("<I", len(part)) + part for part in blocks)


# The kernel's build appends the unpacked size to most of them (scripts/Makefile.lib, size_append).
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "stored": lambda data: data,
    "gzip": gzip.compress,
    "bzip2": lambda data: bz2.compress(data) + struct.pack("<I", len(data)),
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32) + struct.pack("<I", len(data)),
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE) + struct.pack("<I", len(data)),
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data) + struct.pack("<I", len(data)),
    "lz4": lambda data: lz4_legacy(data) + struct.pack("<I", len(data)),
}


def kernel(path: Path, image: bytes) -> Path:
    """A kernel file that was not written just now."""
    path.write_bytes(image)
    time.sleep(vmlinux._YOUNG_S + 0.05)
    return path


def load(path: Path, mode: EntryMode = EntryMode.AUTO) -> int:
    memory = GuestMemory()
    layout = MemoryLayout.of(64 << 20)
    for gpa, size in layout.ram_ranges:
        memory.add(gpa, size)
    try:
        return load_linux(memory, LinuxBoot(path, None, "", layout, 0, mode))["rip"]
    finally:
        memory.close()


@pytest.mark.parametrize("packing", PACKERS)
def test_every_packing_gives_the_kernel(packing: str) -> None:
    assert vmlinux.decompress(PACKERS[packing](ELF), "k")[: len(ELF)] == ELF


def test_unpacked_kernel_is_entered_and_kept(tmp_path: Path, empty_cache: Path) -> None:
    path = kernel(tmp_path / "k", bzimage(payload=gzip.compress(ELF), release=RELEASE))
    assert load(path) == ENTRY_PVH
    (kept,) = (empty_cache / "kernels").iterdir()
    assert kept.read_bytes() == ELF
    kept.write_bytes(pvh_elf(entry=0x1000456))
    assert load(path) == 0x1000456  # from the cache
    assert load(path, EntryMode.BITS_64) == ENTRY_64


def test_kernel_that_changes_is_unpacked_anew(tmp_path: Path, empty_cache: Path) -> None:
    path = kernel(tmp_path / "k", bzimage(payload=gzip.compress(ELF), release=RELEASE))
    status = path.stat()
    assert load(path) == ENTRY_PVH
    other = bzimage(payload=gzip.compress(pvh_elf(entry=0x1000789, payload=b"\xf4" * 3000)), release=RELEASE)
    path.write_bytes(other.ljust(status.st_size, b"\0"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as `cp -p` would
    time.sleep(vmlinux._YOUNG_S + 0.05)
    assert load(path) == 0x1000789


def test_kernel_written_a_moment_ago_is_not_kept(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "k"
    path.write_bytes(bzimage(payload=gzip.compress(ELF), release=RELEASE))
    monkeypatch.setattr("pyhyve.boot.vmlinux.time.time", lambda: path.stat().st_ctime + 0.05)
    assert load(path) == ENTRY_64
    assert not empty_cache.exists()
    monkeypatch.setattr("pyhyve.boot.vmlinux.time.time", lambda: path.stat().st_ctime + 0.2)
    assert load(path) == ENTRY_PVH


@pytest.mark.parametrize(
    "image",
    [
        bzimage(payload=gzip.compress(ELF), release="4.19.0-27-amd64"),
        bzimage(payload=gzip.compress(ELF)),
        bzimage(payload=gzip.compress(ELF), release=RELEASE, version=0x207),
        bzimage(payload=gzip.compress(pvh_elf(note=False)), release=RELEASE),
        bzimage(payload=gzip.compress(ELF)[:60], release=RELEASE),
        bzimage(payload=b"\x89LZO" + bytes(50), release=RELEASE),
        bzimage(),
    ],
    ids=["Xen-only kernel", "no version", "old protocol", "no PVH note", "damaged", "unknown packing", "no payload"],
)
def test_kernel_without_a_usable_pvh_entry_starts_as_before(tmp_path: Path, empty_cache: Path, image: bytes) -> None:
    path = kernel(tmp_path / "k", image)
    packed = load(path)
    assert packed != ENTRY_PVH
    assert [kept.suffix for kept in (empty_cache / "kernels").iterdir()] == [".none"]
    assert load(path) == packed
    with pytest.raises(BootError, match="no PVH entry"):
        load(path, EntryMode.PVH)


def test_cache_that_cannot_be_written_is_done_without(tmp_path: Path, empty_cache: Path) -> None:
    empty_cache.parent.mkdir(parents=True, exist_ok=True)
    empty_cache.write_text("in the way")
    path = kernel(tmp_path / "k", bzimage(payload=gzip.compress(ELF), release=RELEASE))
    assert load(path) == ENTRY_64


def test_kernel_too_large_unpacked_still_starts_packed(tmp_path: Path, empty_cache: Path) -> None:
    path = kernel(tmp_path / "k", bzimage(payload=gzip.compress(pvh_elf(gpa=0x1000_0000)), release=RELEASE))
    assert load(path) == ENTRY_64


def test_cache_keeps_the_kernels_used_last(tmp_path: Path, empty_cache: Path) -> None:
    paths = []
    for number in range(vmlinux.KEPT + 2):
        paths.append(tmp_path / f"k{number}")
        paths[-1].write_bytes(bzimage(payload=gzip.compress(ELF), release=RELEASE))
    time.sleep(vmlinux._YOUNG_S + 0.05)
    for path in paths:
        assert load(path) == ENTRY_PVH
    assert len(list((empty_cache / "kernels").iterdir())) == vmlinux.KEPT


@given(st.sampled_from(sorted(PACKERS)), st.binary(max_size=300), st.integers(0, 400))
def test_damaged_payloads_are_refused_in_one_line(packing: str, noise: bytes, at: int) -> None:
    packed = bytearray(PACKERS[packing](ELF))
    packed[at : at + len(noise)] = noise
    message = ""
    try:
        vmlinux.decompress(bytes(packed), "k")
    except BootError as error:
        message = str(error)
    assert "\n" not in message
