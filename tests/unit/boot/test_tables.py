"""ACPI and SMBIOS tables."""

from __future__ import annotations

import struct
from dataclasses import replace
from uuid import UUID

import pytest

from pyhyve.boot import aml
from pyhyve.boot.acpi import AcpiPlatform, build_acpi
from pyhyve.boot.smbios import build_anchor, build_smbios, build_structures

BASE = 0xE0000
PLATFORM = AcpiPlatform(
    cpus=2,
    pci_window_first=0xC0000000,
    pci_window_last=0xFEBFFFFF,
    pci_window64_first=1 << 32,
    pci_window64_last=(1 << 36) - 1,
    serial_ports=((0x3F8, 4),),
)


def tables(platform: AcpiPlatform = PLATFORM) -> dict[bytes, bytes]:
    """Every table by signature, found the way a kernel does."""
    image, rsdp = build_acpi(platform, BASE)
    assert rsdp == BASE
    assert image[:8] == b"RSD PTR "
    assert sum(image[:20]) & 0xFF == 0
    assert sum(image[:36]) & 0xFF == 0
    rsdt, _, xsdt = struct.unpack_from("<IIQ", image, 16)
    found = {}

    def read(address: int) -> bytes:
        offset = address - BASE
        size = struct.unpack_from("<I", image, offset + 4)[0]
        return image[offset : offset + size]

    found[b"RSDT"], found[b"XSDT"] = read(rsdt), read(xsdt)
    entries = [item[0] for item in struct.iter_unpack("<Q", found[b"XSDT"][36:])]
    assert entries == [item[0] for item in struct.iter_unpack("<I", found[b"RSDT"][36:])]
    for address in entries:
        found[read(address)[:4]] = read(address)
    found[b"DSDT"] = read(struct.unpack_from("<I", found[b"FACP"], 40)[0])
    found[b"FACS"] = read(struct.unpack_from("<I", found[b"FACP"], 36)[0])
    return found


def test_checksums_and_signatures() -> None:
    found = tables()
    assert set(found) == {b"RSDT", b"XSDT", b"FACP", b"APIC", b"DSDT", b"FACS"}
    for signature, data in found.items():
        assert data[:4] == signature
        if signature != b"FACS":
            assert sum(data) & 0xFF == 0, signature


def test_pci_express_has_its_configuration_space_in_the_tables() -> None:
    found = tables(replace(PLATFORM, ecam=(0xB000_0000, 256 << 20), pci_irqs=(16, 17, 18, 19), isa_slot=31))
    assert struct.unpack("<QHBB4x", found[b"MCFG"][44:]) == (0xB000_0000, 0, 0, 255)
    assert sum(found[b"MCFG"]) & 0xFF == 0
    assert aml.eisa_id("PNP0A08") in found[b"DSDT"]
    assert aml.fixed_memory(0xB000_0000, 256 << 20) in found[b"DSDT"]
    # Only ISA interrupts have a source to override.
    assert found[b"APIC"].count(b"\x02\x0a") == 1


def test_board_without_pci_has_its_devices_in_the_tables() -> None:
    found = tables(replace(PLATFORM, has_pci=False, mmio_devices=((0xFEB0_0000, 512, 16), (0xFEB0_0200, 512, 17))))
    dsdt = found[b"DSDT"]
    assert b"PCI0" not in dsdt
    assert dsdt.count(b"LNRO0005") == 2
    assert aml.interrupt(17) in dsdt
    assert b"COM1" in dsdt


def test_boot_flags_tell_of_screen_and_keyboard() -> None:
    flags = [
        struct.unpack_from("<H", tables(replace(PLATFORM, has_vga=vga, has_keyboard=keyboard))[b"FACP"], 109)[0]
        for vga, keyboard in ((False, False), (True, False), (True, True))
    ]
    assert flags == [0b101, 0b001, 0b011]


def test_fadt_fields_at_their_offsets() -> None:
    fadt = tables()[b"FACP"]
    assert len(fadt) == 244
    assert struct.unpack_from("<H", fadt, 46)[0] == 9
    assert struct.unpack_from("<IBB", fadt, 48) == (0xB2, 0xF1, 0xF0)
    assert [struct.unpack_from("<I", fadt, offset)[0] for offset in (56, 64, 76, 80)] == [0x600, 0x604, 0x608, 0xAFE0]
    assert tuple(fadt[88:94]) == (4, 2, 0, 4, 4, 0)
    assert fadt[108] == 0x32
    assert struct.unpack_from("<I", fadt, 112)[0] & 1 << 10
    assert struct.unpack_from("<BBBBQ", fadt, 116) == (1, 8, 0, 1, 0xCF9)
    assert fadt[128] == 6
    assert struct.unpack_from("<Q", fadt, 140)[0] == struct.unpack_from("<I", fadt, 40)[0]
    assert struct.unpack_from("<BBBBQ", fadt, 148) == (1, 32, 0, 2, 0x600)
    assert struct.unpack_from("<BBBBQ", fadt, 208) == (1, 32, 0, 3, 0x608)


def test_madt_lists_processors_and_level_interrupts() -> None:
    madt = tables()[b"APIC"]
    position, kinds = 44, []
    overrides = []
    while position < len(madt):
        kind, size = madt[position : position + 2]
        kinds.append(kind)
        if kind == 2:
            overrides.append(struct.unpack_from("<BIH", madt, position + 3))
        position += size
    assert position == len(madt)
    assert kinds == [0, 0, 1, 2, 2, 2, 4]
    assert overrides == [(9, 9, 13), (10, 10, 13), (11, 11, 13)]


def test_dsdt_names_what_a_kernel_looks_for() -> None:
    dsdt = tables()[b"DSDT"]
    for name in (b"PCI0", b"_PRT", b"_CRS", b"COM1", b"_S5_"):
        assert name in dsdt
    assert aml.eisa_id("PNP0A03") == bytes.fromhex("0c41d00a03")
    assert aml.eisa_id("PNP0501") in dsdt


@pytest.mark.parametrize(
    ("body", "encoded"), [(0, "01"), (62, "3f"), (63, "4104"), (4000, "42fa"), (5000, "8b3801"), (70000, "831711")]
)
def test_package_length(body: int, encoded: str) -> None:
    data = aml.package_length(body)
    first = data[0]
    extra = first >> 6
    value = first & 0x3F if not extra else first & 0xF | int.from_bytes(data[1:], "little") << 4
    assert value == body + len(data)
    assert data.hex() == encoded


@pytest.mark.parametrize(
    ("value", "encoded"), [(0, "00"), (1, "01"), (2, "0a02"), (256, "0b0001"), (1 << 16, "0c00000100")]
)
def test_integer_takes_the_shortest_form(value: int, encoded: str) -> None:
    assert aml.integer(value).hex() == encoded


def test_names_are_checked() -> None:
    assert aml.name_segment("\\_SB") == b"\\_SB_"
    with pytest.raises(ValueError, match="TOOLONG"):
        aml.name_segment("TOOLONG")
    with pytest.raises(ValueError, match="integer"):
        aml.integer(1 << 64)


@pytest.mark.parametrize("memory", [64 << 20, 40 << 30])
def test_smbios_structures_are_well_formed(memory: int) -> None:
    uuid = UUID("12345678-1234-5678-1234-567812345678")
    structures = build_structures(name="vm", version="1", uuid=uuid, memory_bytes=memory, cpus=2)
    data = build_smbios(0xF0000, structures)
    assert data[:5] == b"_SM3_"
    assert sum(data[:24]) & 0xFF == 0
    size, address = struct.unpack_from("<IQ", data, 12)
    table = data[address - 0xF0000 :]
    assert len(table) == size
    kinds, position = [], 0
    lengths = {0: 24, 1: 27, 3: 22, 4: 42, 16: 23, 17: 34, 19: 31, 32: 11, 127: 4}
    while position < len(table):
        kind, length = table[position], table[position + 1]
        assert lengths[kind] == length
        kinds.append(kind)
        position = table.index(b"\0\0", position + length) + 2
    assert kinds == [0, 1, 3, 4, 4, 16, 17, 19, 32, 127]
    assert uuid.bytes_le in table


def smbios_strings(data: bytes) -> dict[int, tuple[bytes, list[str]]]:
    """Formatted area and strings of the first structure of each type."""
    found: dict[int, tuple[bytes, list[str]]] = {}
    at = 0
    while at < len(data):
        length = data[at + 1]
        end = data.index(b"\0\0", at + length)
        texts = data[at + length : end].decode().split("\0") if end > at + length else []
        found.setdefault(data[at], (data[at : at + length], texts))
        at = end + 2
    return found


def test_smbios_fields_can_be_given() -> None:
    given = [
        {"type": 0, "vendor": "V", "release": "3.4", "uefi": True},
        {"type": 1, "manufacturer": "Us", "serial": "ds=nocloud", "family": "F"},
        {"type": 1, "sku": "S"},
        {"type": 2, "product": "Board", "location": "here"},
        {"type": 3, "asset": "A1"},
        {"type": 11, "value": "one"},
        {"type": 11, "value": "two"},
    ]
    data = build_structures(name="vm", version="1", uuid=UUID(int=1), memory_bytes=64 << 20, cpus=1, given=given)
    found = smbios_strings(data)
    bios, texts = found[0]
    assert (texts, bios[19], bios[20:22]) == (["V", "1", "01/01/2024"], 0x1C, b"\x03\x04")
    system, texts = found[1]
    assert texts == ["Us", "Standard PC (i440FX)", "1", "ds=nocloud", "S", "F"]
    assert (system[4:8], system[25:]) == (bytes((1, 2, 3, 4)), bytes((5, 6)))
    board, texts = found[2]
    assert (texts, board[4:9], board[10]) == (["Board", "here"], bytes((0, 1, 0, 0, 0)), 2)
    chassis, texts = found[3]
    assert (texts, chassis[6:9]) == (["pyhyve", "1", "A1"], bytes((2, 0, 3)))
    assert found[11] == (b"\x0b\x05\x00\x0e\x02", ["one", "two"])


def test_smbios_anchor_for_firmware_counts_the_structures() -> None:
    data = build_structures(name="vm", version="1", uuid=UUID(int=1), memory_bytes=64 << 20, cpus=3)
    anchor = build_anchor(data)
    assert len(anchor) == anchor[5] == 31
    assert sum(anchor) & 0xFF == 0
    assert sum(anchor[16:]) & 0xFF == 0
    assert (anchor[:4], anchor[6:8], anchor[16:21]) == (b"_SM_", bytes((2, 8)), b"_DMI_")
    length, address, count = struct.unpack_from("<HIH", anchor, 22)
    assert (length, address, count) == (len(data), 0, 11)
    assert struct.unpack_from("<H", anchor, 8)[0] < 100
