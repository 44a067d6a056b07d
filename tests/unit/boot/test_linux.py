"""Loading bzImage and PVH kernels."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyhyve.boot.bzimage import is_bzimage, parse_bzimage
from pyhyve.boot.e820 import MemoryLayout, MemoryType
from pyhyve.boot.elf_kernel import parse_pvh
from pyhyve.boot.errors import BootError
from pyhyve.boot.linux import BOOT_PARAMS_GPA, CMDLINE_GPA, EntryMode, LinuxBoot, load_linux
from pyhyve.memory.guest import GuestMemory
from tests.unit.boot.images import bzimage, pvh_elf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
RSDP = 0xE0000


class Loader:
    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path
        self.memory = GuestMemory()

    def load(
        self,
        image: bytes,
        *,
        initrd: bytes | None = None,
        memory_mib: int = 64,
        cmdline: str = "console=ttyS0",
        mode: EntryMode = EntryMode.AUTO,
    ) -> dict[str, int]:
        layout = MemoryLayout.of(memory_mib * MIB)
        for gpa, size in layout.ram_ranges:
            self.memory.add(gpa, size)
        kernel = self.path / "kernel"
        kernel.write_bytes(image)
        initrd_path = None
        if initrd is not None:
            initrd_path = self.path / "initrd"
            initrd_path.write_bytes(initrd)
        return load_linux(self.memory, LinuxBoot(kernel, initrd_path, cmdline, layout, RSDP, mode))

    def u32(self, offset: int) -> int:
        return int.from_bytes(self.memory.read(BOOT_PARAMS_GPA + offset, 4), "little")


@pytest.fixture
def loader(tmp_path: Path) -> Iterator[Loader]:
    loader = Loader(tmp_path)
    yield loader
    loader.memory.close()


def test_64_bit_entry_is_taken_when_offered(loader: Loader) -> None:
    registers = loader.load(bzimage())
    assert registers["rip"] == 0x1000200
    assert registers["rsi"] == BOOT_PARAMS_GPA
    assert registers["cr0"] & 0x80000001 == 0x80000001
    assert registers["efer"] == 0x500
    assert registers["cs.attributes"] & 0x2000
    assert registers["rflags"] & 0x200 == 0
    assert loader.memory.read(0x1000000, 4096) == b"\x90" * 4096


def test_long_mode_tables_map_four_gib(loader: Loader) -> None:
    cr3 = loader.load(bzimage())["cr3"]

    def entry(table: int, index: int) -> int:
        return int.from_bytes(loader.memory.read((table & ~0xFFF) + 8 * index, 8), "little")

    for gib in range(4):
        directory = entry(entry(cr3, 0), gib)
        assert directory & 3 == 3
        for index in (0, 511):
            assert entry(directory, index) == (gib << 30) + (index << 21) | 0x83


def test_32_bit_entry(loader: Loader) -> None:
    registers = loader.load(bzimage(xloadflags=0))
    assert registers["rip"] == 0x1000000
    assert registers["cr0"] & 0x80000001 == 1
    assert registers["cs.attributes"] & 0x6000 == 0x4000
    assert registers["rsi"] == BOOT_PARAMS_GPA


def test_boot_params(loader: Loader) -> None:
    loader.load(bzimage(), initrd=b"R" * 5000)
    assert loader.memory.read(BOOT_PARAMS_GPA + 0x202, 4) == b"HdrS"
    assert loader.memory.read(BOOT_PARAMS_GPA + 0x210, 1) == b"\xff"
    assert loader.u32(0x228) == CMDLINE_GPA
    assert loader.u32(0x070) == RSDP
    assert loader.memory.read(CMDLINE_GPA, 14) == b"console=ttyS0\0"
    address, size = loader.u32(0x218), loader.u32(0x21C)
    assert size == 5000
    assert address % 4096 == 0
    assert address + size <= 64 * MIB
    assert loader.memory.read(address, size) == b"R" * 5000
    count = loader.memory.read(BOOT_PARAMS_GPA + 0x1E8, 1)[0]
    entries = [struct.unpack("<QQI", loader.memory.read(BOOT_PARAMS_GPA + 0x2D0 + 20 * i, 20)) for i in range(count)]
    assert entries[-1] == (MIB, 63 * MIB, 1)


def test_initrd_respects_the_kernels_limit(loader: Loader) -> None:
    loader.load(bzimage(initrd_addr_max=0x1FFFFFF), initrd=b"R" * 5000)
    assert loader.u32(0x218) + 5000 <= 0x2000000


def test_kernel_moves_down_when_its_address_does_not_fit(loader: Loader) -> None:
    registers = loader.load(bzimage(), memory_mib=8)
    assert registers["rip"] == 0x200200


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "not a Linux kernel"),
        (b"\x00" * 100000, "not a Linux kernel"),
        (bzimage()[:800], "truncated bzImage"),
        (bzimage()[:-100], "truncated bzImage"),
        (bzimage(setup_sectors=255)[:2000], "truncated bzImage"),
        (bzimage(loadflags=0), "zImage"),
        (bzimage(version=0x1FF), "boot protocol 1.255"),
        (bzimage(alignment=0x300000), "power of two"),
        (bzimage(init_size=0xF0000000), "does not fit in 64 MiB"),
        (bzimage(relocatable=0, pref_address=0x10000000), "does not fit"),
        (bzimage(relocatable=0, pref_address=0x1000), "does not fit"),
        (b"\x7fELF", "truncated ELF"),
        (pvh_elf()[:100], "truncated ELF"),
        (pvh_elf()[:-10], "truncated ELF"),
        (pvh_elf(note=False), "no PVH note"),
        (pvh_elf(gpa=0x80000000), "does not fit"),
        (pvh_elf(gpa=0), "does not fit"),
        (b"\x7fELF\x02\x02" + bytes(100), "big-endian"),
    ],
)
def test_bad_kernel_is_one_clear_line(loader: Loader, image: bytes, message: str) -> None:
    with pytest.raises(BootError, match=message) as caught:
        loader.load(image)
    assert "\n" not in str(caught.value)
    assert "kernel" in str(caught.value)


def test_initrd_larger_than_memory(loader: Loader) -> None:
    with pytest.raises(BootError, match="do not fit in memory beside the kernel"):
        loader.load(bzimage(), initrd=bytes(65 * MIB))


def test_empty_initrd(loader: Loader) -> None:
    with pytest.raises(BootError, match="the file is empty"):
        loader.load(bzimage(), initrd=b"")


def test_long_command_line_is_refused(loader: Loader) -> None:
    with pytest.raises(BootError, match="takes 2047"):
        loader.load(bzimage(), cmdline="x" * 2048)


def test_directory_is_not_a_kernel(loader: Loader, tmp_path: Path) -> None:
    with pytest.raises(BootError, match="is a directory"):
        load_linux(loader.memory, LinuxBoot(tmp_path, None, "", MemoryLayout.of(64 * MIB), 0))


@pytest.mark.parametrize("mode", [EntryMode.PVH, EntryMode.BITS_64])
def test_entry_the_image_lacks_is_refused(loader: Loader, mode: EntryMode) -> None:
    with pytest.raises(BootError, match="entry"):
        loader.load(bzimage(xloadflags=0), mode=mode)


def test_pvh_kernel(loader: Loader) -> None:
    registers = loader.load(pvh_elf(), initrd=b"I" * 100)
    assert registers["rip"] == 0x1000123
    assert registers["cr0"] & 0x80000001 == 1
    info = registers["rbx"]
    magic, version, _, modules, module_at, cmdline, rsdp, map_at, map_count, _ = struct.unpack(
        "<IIIIQQQQII", loader.memory.read(info, 56)
    )
    assert (magic, version, modules, cmdline, rsdp) == (0x336EC578, 1, 1, CMDLINE_GPA, RSDP)
    address, size = struct.unpack("<QQ", loader.memory.read(module_at, 16))
    assert loader.memory.read(address, size) == b"I" * 100
    assert struct.unpack("<QQI", loader.memory.read(map_at + 24 * (map_count - 1), 20)) == (MIB, 63 * MIB, 1)
    assert loader.memory.read(0x1000000, 64) == b"\xf4" * 64


@given(st.binary(max_size=1200), st.integers(0, 5000))
def test_parsers_survive_anything(data: bytes, size: int) -> None:
    image = bytearray(bzimage()[:1024])
    image[0x1F1 : 0x1F1 + len(data)] = data
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x202:0x206] = b"HdrS"
    assert is_bzimage(bytes(image))
    try:
        parsed = parse_bzimage(bytes(image), size, "fuzz")
    except BootError:
        return
    assert parsed.kernel_size_bytes > 0


@given(st.binary(min_size=1, max_size=400), st.integers(4, 250))
def test_elf_parser_survives_anything(tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int) -> None:
    image = bytearray(pvh_elf())
    image[at : at + len(data)] = data
    path = tmp_path_factory.mktemp("elf") / "kernel"
    path.write_bytes(image)
    with path.open("rb") as file:
        try:
            parsed = parse_pvh(file, len(image), "fuzz")
        except BootError:
            return
    assert parsed.segments


def test_memory_layout_splits_around_the_hole() -> None:
    layout = MemoryLayout.of(8 << 30)
    assert layout.below_4g == 0xC0000000
    assert layout.above_4g == 5 << 30
    assert layout.ram_ranges[-1] == (1 << 32, 5 << 30)
    ranges = layout.e820()
    assert sum(entry.size_bytes for entry in ranges if entry.type is MemoryType.RAM) > (8 << 30) - MIB
    for first, second in pairwise(ranges):
        assert first.base + first.size_bytes <= second.base
    assert layout.window64 >= (1 << 32) + (5 << 30)


def test_memory_makes_room_for_pci_express() -> None:
    layout = MemoryLayout.of(3 << 30, (0xB000_0000, 256 << 20))
    assert (layout.below_4g, layout.above_4g) == (0xB000_0000, 0x1000_0000)
    assert layout.below_4g_window == 0xC000_0000
    assert (0xB000_0000, 256 << 20, MemoryType.RESERVED) in [
        (entry.base, entry.size_bytes, entry.type) for entry in layout.e820()
    ]
    assert MemoryLayout.of(64 << 20, (0xB000_0000, 256 << 20)).below_4g_window == 0xC000_0000
