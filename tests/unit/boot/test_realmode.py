"""The 16-bit entry and the BIOS calls behind it, run on an emulated processor."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from pyhyve.boot.e820 import MemoryLayout
from pyhyve.boot.linux import EntryMode, LinuxBoot, load_linux
from pyhyve.boot.realmode import install_bios
from pyhyve.memory.guest import GuestMemory
from tests.unit.boot.images import bzimage

if TYPE_CHECKING:
    from pathlib import Path

unicorn = pytest.importorskip("unicorn", reason="the unicorn package runs the handlers")
x86 = pytest.importorskip("unicorn.x86_const", reason="the unicorn package runs the handlers")

MIB = 1 << 20
CODE = 0x7000
LAYOUT = MemoryLayout.of(64 * MIB)


class Processor:
    """Real mode with the BIOS installed; `interrupt` runs one INT instruction."""

    def __init__(self) -> None:
        memory = GuestMemory()
        for gpa, size in LAYOUT.ram_ranges:
            memory.add(gpa, size)
        install_bios(memory, LAYOUT.e820())
        self.machine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_16)
        self.machine.mem_map(0, MIB)
        self.machine.mem_write(0, memory.read(0, 0xA0000))
        self.machine.mem_write(0xC0000, memory.read(0xC0000, 0x40000))
        self.vectors = struct.unpack("<512H", memory.read(0, 1024))
        memory.close()

    def interrupt(self, vector: int, **registers: int) -> dict[str, int]:
        """Call the handler as the processor does; the registers, and `carry`, after its IRET."""
        names = ("eax", "ebx", "ecx", "edx", "edi", "esi")
        for name in names:
            self.machine.reg_write(getattr(x86, f"UC_X86_REG_{name.upper()}"), registers.get(name, 0))
        offset, segment = self.vectors[2 * vector : 2 * vector + 2]
        for name, value in (("DS", 0), ("ES", 0), ("SS", 0), ("CS", segment), ("SP", 0x6FFA)):
            self.machine.reg_write(getattr(x86, f"UC_X86_REG_{name}"), value)
        self.machine.mem_write(0x6FFA, struct.pack("<HHH", CODE, 0, 0x0202))
        self.machine.emu_start((segment << 4) + offset, CODE, count=100)
        assert self.machine.reg_read(x86.UC_X86_REG_IP) == CODE
        result = {name: self.machine.reg_read(getattr(x86, f"UC_X86_REG_{name.upper()}")) for name in names}
        result["carry"] = self.machine.reg_read(x86.UC_X86_REG_EFLAGS) & 1
        return result


@pytest.fixture
def processor() -> Processor:
    return Processor()


def test_e820_gives_the_whole_map(processor: Processor) -> None:
    found, following = [], 0
    while True:
        result = processor.interrupt(0x15, eax=0xE820, ebx=following, ecx=24, edx=0x534D4150, edi=0x5000)
        assert (result["carry"], result["eax"], result["ecx"]) == (0, 0x534D4150, 20)
        assert (result["edi"], result["esi"]) == (0x5000, 0)
        found.append(struct.unpack("<QQI", processor.machine.mem_read(0x5000, 20)))
        following = result["ebx"]
        if not following:
            break
    assert found == [(entry.base, entry.size_bytes, entry.type) for entry in LAYOUT.e820()]


def test_e820_refuses_nonsense(processor: Processor) -> None:
    assert processor.interrupt(0x15, eax=0xE820, edx=1)["carry"] == 1
    assert processor.interrupt(0x15, eax=0xE820, edx=0x534D4150, ebx=77)["carry"] == 1


def test_older_memory_calls(processor: Processor) -> None:
    result = processor.interrupt(0x15, eax=0xE801)
    assert (result["carry"], result["eax"], result["ebx"]) == (0, 15 << 10, 48 << 4)
    assert (result["ecx"], result["edx"]) == (result["eax"], result["ebx"])
    result = processor.interrupt(0x15, eax=0x8800)
    assert (result["carry"], result["eax"]) == (0, 63 << 10)
    assert processor.interrupt(0x12)["eax"] == 639


@pytest.mark.parametrize(("vector", "eax"), [(0x13, 0x4100), (0x15, 0x2401), (0x15, 0xE980), (0x1A, 0xB101)])
def test_what_is_missing_says_so(processor: Processor, vector: int, eax: int) -> None:
    result = processor.interrupt(vector, eax=eax)
    assert result["carry"] == 1
    assert result["eax"] >> 8 & 0xFF == 0x86


def test_video_and_keyboard(processor: Processor) -> None:
    assert processor.interrupt(0x10, eax=0x0F00)["eax"] == 0x5003
    assert processor.interrupt(0x10, eax=0x0300, edx=5)["edx"] == 0
    assert processor.interrupt(0x10, eax=0x0E41)["eax"] == 0x0E41
    assert processor.interrupt(0x16, eax=0x0200)["eax"] == 0


@pytest.mark.parametrize("version", [0x200, 0x201, 0x202, 0x20F])
def test_setup_code_is_entered_in_real_mode(tmp_path: Path, version: int) -> None:
    memory = GuestMemory()
    for gpa, size in LAYOUT.ram_ranges:
        memory.add(gpa, size)
    kernel = tmp_path / "kernel"
    kernel.write_bytes(bzimage(version=version, setup_sectors=20))
    boot = LinuxBoot(kernel, None, "quiet", LAYOUT, 0, EntryMode.BITS_16)
    registers = load_linux(memory, boot)
    assert registers["cs.base"] == registers["ds.base"] + 0x200
    assert registers["rip"] == 0
    base = registers["ds.base"]
    assert memory.read(base + 0x202, 4) == b"HdrS"
    assert memory.read(base + 0x211, 1)[0] & 0x80
    if version >= 0x202:
        cmdline = int.from_bytes(memory.read(base + 0x228, 4), "little")
    else:
        magic, offset = struct.unpack("<HH", memory.read(base + 0x20, 4))
        assert magic == 0xA33F
        cmdline = base + offset
    assert memory.read(cmdline, 6) == b"quiet\0"
    memory.close()
