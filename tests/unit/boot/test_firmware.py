"""Firmware images, and the script with which firmware places the tables: run here as firmware would."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from pyhyve.boot import firmware
from pyhyve.boot.acpi import AcpiPlatform
from pyhyve.boot.e820 import MemoryLayout
from pyhyve.boot.errors import BootError
from pyhyve.boot.firmware import find_firmware, firmware_files, linked_acpi, place_firmware, read_firmware
from pyhyve.memory.guest import GuestMemory

if TYPE_CHECKING:
    from pathlib import Path

PLATFORM = AcpiPlatform(2, 0xC000_0000, 0xFEBF_FFFF, 1 << 32, (1 << 36) - 1, ((0x3F8, 4),))


def run_script(script: bytes, files: dict[str, bytearray]) -> dict[str, int]:
    """Carry out the loader's commands on `files`; gives where each was placed."""
    placed: dict[str, int] = {}
    next_address = {1: 0x1FF0_0000, 2: 0xF_6000}
    for at in range(0, len(script), 128):
        (command,) = struct.unpack_from("<I", script, at)
        body = script[at + 4 : at + 128]
        name = body[:56].rstrip(b"\0").decode()
        if command == 1:
            align, zone = struct.unpack_from("<IB", body, 56)
            placed[name] = -(-next_address[zone] // align) * align
            next_address[zone] = placed[name] + len(files[name])
        elif command == 2:
            target = body[56:112].rstrip(b"\0").decode()
            offset, size = struct.unpack_from("<IB", body, 112)
            value = int.from_bytes(files[name][offset : offset + size], "little") + placed[target]
            files[name][offset : offset + size] = value.to_bytes(size, "little")
        elif command == 3:
            offset, start, length = struct.unpack_from("<III", body, 56)
            total = sum(files[name][start : start + length])
            files[name][offset] = (files[name][offset] - total) & 0xFF
        else:
            raise AssertionError(command)
    return placed


def test_tables_are_whole_wherever_they_are_placed() -> None:
    tables, rsdp, script = linked_acpi(PLATFORM)
    files = {"etc/acpi/tables": bytearray(tables), "etc/acpi/rsdp": bytearray(rsdp)}
    placed = run_script(script, files)
    image, base = files["etc/acpi/tables"], placed["etc/acpi/tables"]

    def table(address: int) -> bytes:
        offset = address - base
        assert 0 < offset < len(image)
        data = bytes(image[offset : offset + struct.unpack_from("<I", image, offset + 4)[0]])
        assert data[:4] == b"FACS" or sum(data) & 0xFF == 0
        return data

    root = files["etc/acpi/rsdp"]
    assert root[:8] == b"RSD PTR "
    assert sum(root[:20]) & 0xFF == sum(root) & 0xFF == 0
    rsdt, _, xsdt = struct.unpack_from("<IIQ", root, 16)
    narrow = [table(item[0]) for item in struct.iter_unpack("<I", table(rsdt)[36:])]
    wide = [table(item[0]) for item in struct.iter_unpack("<Q", table(xsdt)[36:])]
    assert narrow == wide
    fadt = next(data for data in wide if data[:4] == b"FACP")
    assert [data[:4] for data in wide] == [b"FACP", b"APIC"]
    facs, dsdt = struct.unpack_from("<II", fadt, 36)
    assert struct.unpack_from("<QQ", fadt, 132) == (facs, dsdt)
    assert (table(facs)[:4], table(dsdt)[:4]) == (b"FACS", b"DSDT")


@pytest.mark.parametrize(("gib", "ranges"), [(1, [(0, 1 << 30)]), (5, [(0, 3 << 30), (4 << 30, 2 << 30)])])
def test_memory_map_and_serial_console(gib: int, ranges: list[tuple[int, int]]) -> None:
    files = firmware_files(MemoryLayout.of(gib << 30), PLATFORM, (b"anchor", b"structures"), 0x3F8)
    assert [(base, size) for base, size, _ in struct.iter_unpack("<QQI", files["etc/e820"])] == ranges
    assert files["etc/sercon-port"] == b"\xf8\x03"


def test_image_ends_at_4_gib_and_its_end_is_below_1_mib() -> None:
    memory = GuestMemory(shared=False)
    memory.add(0xC_0000, 0x4_0000)
    memory.add((1 << 32) - (256 << 10), 256 << 10, readonly=True)
    image = bytes(number & 0xFF for number in range(256 << 10))[:-1] + b"\xee"
    place_firmware(memory, image)
    assert memory.read((1 << 32) - (256 << 10), 256 << 10) == image
    assert memory.read(0xE_0000, 128 << 10) == image[-(128 << 10) :]
    assert memory.read(0xD_FFFF, 1) == b"\0"
    memory.close()


def test_missing_firmware_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(firmware, "KNOWN_PATHS", (tmp_path / "bios.bin",))
    with pytest.raises(BootError, match="Debian package seabios"):
        find_firmware()
    (tmp_path / "bios.bin").touch()
    assert find_firmware() == tmp_path / "bios.bin"


@pytest.mark.parametrize("size", [0, 100, (64 << 10) + 1, (16 << 20) + 4096])
def test_what_cannot_be_firmware_is_refused(size: int, tmp_path: Path) -> None:
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(size)
    with pytest.raises(BootError, match="not a PC firmware image"):
        read_firmware(path)
    with pytest.raises(BootError, match="Is a directory"):
        read_firmware(tmp_path)
