"""ACPI tables for the machine (ACPI 6.5, chapter 5): RSDP, RSDT, XSDT, FADT, FACS, MADT and a DSDT."""

from __future__ import annotations

import struct

from pyhyve.boot import aml
from pyhyve.boot.aml import SpaceType
from pyhyve.support.records import dataclass

_OEM_ID = b"PYHYVE"
_OEM_TABLE_ID = b"PYHYVEPC"
_CREATOR_ID = b"PYHV"
_HEADER_BYTES = 36
_ALIGN_BYTES = 64
_ISA_IRQS = 16

_IAPC_LEGACY_DEVICES, _IAPC_8042, _IAPC_NO_VGA = 1 << 0, 1 << 1, 1 << 2
_FADT_WBINVD, _FADT_C1, _FADT_NO_SLEEP_BUTTON, _FADT_NO_RTC_WAKE = 1 << 0, 1 << 2, 1 << 5, 1 << 6
_FADT_RESET_REGISTER = 1 << 10
_GAS_IO = 1
_MADT_PCAT = 1
_LEVEL_ACTIVE_HIGH = 0x0D


@dataclass(frozen=True, slots=True)
class AcpiPlatform:
    """What the tables describe. Addresses and ports are the machine's; `pci_irqs` is the GSI of PIRQ A to D."""

    cpus: int
    pci_window_first: int
    pci_window_last: int
    pci_window64_first: int
    pci_window64_last: int
    serial_ports: tuple[tuple[int, int], ...]
    """(port, irq) of each COM port."""
    pci_irqs: tuple[int, int, int, int] = (10, 10, 11, 11)
    sci_irq: int = 9
    pm_base: int = 0x600
    gpe_base: int = 0xAFE0
    hotplug_base: int = 0xAE00
    """Ports of PCI hotplug (`devices.chipset.acpi_hotplug`)."""
    hotplug_slots: tuple[int, ...] = ()
    """Slots whose devices may come and go."""
    ecam: tuple[int, int] | None = None
    """Address and size of PCI's configuration space in memory: the bus is PCI Express."""
    isa_slot: int = 1
    mmio_devices: tuple[tuple[int, int, int], ...] = ()
    """Address, bytes and GSI of each virtio device over MMIO."""
    has_pci: bool = True
    has_vga: bool = False
    has_keyboard: bool = False
    smi_command_port: int = 0xB2
    acpi_enable: int = 0xF1
    acpi_disable: int = 0xF0
    reset_port: int = 0xCF9
    reset_value: int = 0x06
    sleep_type_s5: int = 5
    generation_id_gpa: int = 0
    """Where the generation ID is; 0 for none."""
    generation_id_event: int = 5
    lapic_base: int = 0xFEE0_0000
    ioapic_base: int = 0xFEC0_0000


def build_acpi(platform: AcpiPlatform, base: int) -> tuple[bytes, int]:
    """The tables laid out for address `base` (64-byte aligned), and the address of the RSDP, which comes first."""
    image = bytearray(_ALIGN_BYTES)

    def place(table: bytes) -> int:
        image.extend(bytes(-len(image) % _ALIGN_BYTES))
        gpa = base + len(image)
        image.extend(table)
        return gpa

    facs = place(_facs())
    dsdt = place(table(b"DSDT", 2, dsdt_body(platform)))
    fadt = place(table(b"FACP", 4, _fadt_body(platform, facs, dsdt)))
    madt = place(table(b"APIC", 4, _madt_body(platform)))
    found = [fadt, madt]
    if platform.ecam is not None:
        found.append(place(table(b"MCFG", 1, _mcfg_body(*platform.ecam))))
    rsdt = place(table(b"RSDT", 1, struct.pack(f"<{len(found)}I", *found)))
    xsdt = place(table(b"XSDT", 1, struct.pack(f"<{len(found)}Q", *found)))
    image[:36] = _rsdp(rsdt, xsdt)
    return bytes(image), base


def table(signature: bytes, revision: int, body: bytes) -> bytes:
    """A table: the common header (5.2.6), with its checksum, and `body`."""
    data = bytearray(
        struct.pack(
            "<4sIBB6s8sI4sI",
            signature,
            _HEADER_BYTES + len(body),
            revision,
            0,
            _OEM_ID,
            _OEM_TABLE_ID,
            1,
            _CREATOR_ID,
            1,
        )
        + body
    )
    data[9] = -sum(data) & 0xFF
    return bytes(data)


def _rsdp(rsdt: int, xsdt: int) -> bytes:
    data = bytearray(struct.pack("<8sB6sBIIQB3x", b"RSD PTR ", 0, _OEM_ID, 2, rsdt, 36, xsdt, 0))
    data[8] = -sum(data[:20]) & 0xFF
    data[32] = -sum(data) & 0xFF
    return bytes(data)


def _facs() -> bytes:
    return struct.pack("<4sI", b"FACS", 64) + bytes(24) + b"\x02" + bytes(31)


def _gas(port: int, bits: int, access: int) -> bytes:
    """Generic address structure of a port (5.2.3.2)."""
    return struct.pack("<BBBBQ", _GAS_IO, bits, 0, access, port) if port else bytes(12)


def _fadt_body(platform: AcpiPlatform, facs: int, dsdt: int) -> bytes:
    """Fixed ACPI description table, revision 4 (ACPI 4.0, 5.2.9)."""
    pm = platform.pm_base
    flags = _FADT_WBINVD | _FADT_C1 | _FADT_NO_SLEEP_BUTTON | _FADT_NO_RTC_WAKE | _FADT_RESET_REGISTER
    fixed = struct.pack(
        "<IIBBHIBBBB",
        facs, dsdt, 0, 0, platform.sci_irq,
        platform.smi_command_port, platform.acpi_enable, platform.acpi_disable, 0, 0,
    )  # fmt: skip
    blocks = struct.pack("<IIIIIIII", pm, 0, pm + 4, 0, 0, pm + 8, platform.gpe_base, 0)
    lengths = struct.pack("<BBBBBBBB", 4, 2, 0, 4, 4, 0, 0, 0)
    latencies = struct.pack("<HHHHBBBBB", 0xFFFF, 0xFFFF, 0, 0, 0, 0, 0, 0, 0x32)
    boot_architecture = _IAPC_LEGACY_DEVICES
    boot_architecture |= 0 if platform.has_vga else _IAPC_NO_VGA
    boot_architecture |= _IAPC_8042 if platform.has_keyboard else 0
    arch = struct.pack("<HBI", boot_architecture, 0, flags)
    reset = _gas(platform.reset_port, 8, 1) + struct.pack("<B3x", platform.reset_value)
    pointers = struct.pack("<QQ", facs, dsdt)
    extended = (
        _gas(pm, 32, 2) + _gas(0, 0, 0) + _gas(pm + 4, 16, 2) + _gas(0, 0, 0) + _gas(0, 0, 0)
        + _gas(pm + 8, 32, 3) + _gas(platform.gpe_base, 32, 1) + _gas(0, 0, 0)
    )  # fmt: skip
    return fixed + blocks + lengths + latencies + arch + reset + pointers + extended


def _madt_body(platform: AcpiPlatform) -> bytes:
    """Multiple APIC description table (5.2.12): interrupts are not remapped, PCI ones and the SCI are level."""
    body = struct.pack("<II", platform.lapic_base, _MADT_PCAT)
    for index in range(platform.cpus):
        body += struct.pack("<BBBBI", 0, 8, index, index, 1)
    body += struct.pack("<BBBBII", 1, 12, platform.cpus, 0, platform.ioapic_base, 0)
    for irq in sorted({platform.sci_irq, *(platform.pci_irqs if platform.has_pci else ())}):
        if irq >= _ISA_IRQS:
            break
        body += struct.pack("<BBBBIH", 2, 10, 0, irq, irq, _LEVEL_ACTIVE_HIGH)
    return body + struct.pack("<BBBHB", 4, 6, 0xFF, 0, 1)


def _mcfg_body(base: int, size: int) -> bytes:
    """Where configuration space is (PCI Firmware Specification 3.3, 4.1.2): 1 MiB for each bus of segment 0."""
    return bytes(8) + struct.pack("<QHBB4x", base, 0, 0, (size >> 20) - 1)


def dsdt_body(platform: AcpiPlatform) -> bytes:
    """The differentiated definition block: sleep state S5, the PCI bus, and the ISA devices on it."""
    s5 = aml.integer(platform.sleep_type_s5)
    zero = aml.integer(0)
    buses = _pci_root(platform) if platform.has_pci else b"".join(_isa_devices(platform))
    for number, (gpa, size, gsi) in enumerate(platform.mmio_devices):
        # LNRO0005: what Linux's virtio_mmio driver and QEMU agreed upon.
        place = aml.resources(aml.fixed_memory(gpa, size), aml.interrupt(gsi))
        terms = (aml.named("_HID", aml.string("LNRO0005")), aml.named("_UID", aml.integer(number)))
        buses += aml.device(f"VR{number:02X}", *terms, aml.named("_CRS", place))
    body = aml.scope("\\_SB", buses) + aml.named("_S5", aml.package([s5, s5, zero, zero]))
    if platform.hotplug_slots:
        body += _hotplug_event()
    if platform.generation_id_gpa:
        body += _generation_id(platform)
    return body


_DEVICE_CHECK, _EJECT_REQUEST = 1, 3
"""Device object notifications (5.6.6)."""


_GENERATION_CHANGED = 0x80


def _generation_id(platform: AcpiPlatform) -> bytes:
    """The device of `devices.chipset.generation_id`: where the identifier is, and the event that tells of a change."""
    place = [aml.integer(platform.generation_id_gpa & 0xFFFF_FFFF), aml.integer(platform.generation_id_gpa >> 32)]
    device = aml.device(
        "VGEN",
        aml.named("_HID", aml.string("PYHV0001")),
        aml.named("_CID", aml.string("VM_Gen_Counter")),
        aml.named("_DDN", aml.string("VM_Gen_Counter")),
        aml.named("ADDR", aml.package(place)),
    )
    changed = aml.notify_at(aml.path("_SB_", "VGEN"), aml.integer(_GENERATION_CHANGED))
    event = aml.method(f"_E{platform.generation_id_event:02X}", 0, changed)
    return aml.scope("\\_SB", device) + aml.scope("\\_GPE", event)


def _hotplug_event() -> bytes:
    """General-purpose event 1 (5.6.4.1): what came and what is to go, as the ports tell it."""
    root = ("_SB_", "PCI0")
    notify = aml.path(*root, "DVNT")
    came = aml.store(aml.path(*root, "PCIU"), aml.LOCAL0) + aml.call(notify, aml.LOCAL0, aml.integer(_DEVICE_CHECK))
    goes = aml.store(aml.path(*root, "PCID"), aml.LOCAL0) + aml.call(notify, aml.LOCAL0, aml.integer(_EJECT_REQUEST))
    return aml.scope("\\_GPE", aml.method("_E01", 0, came, goes))


def _hotplug_slots(platform: AcpiPlatform) -> bytes:
    """A device with an `_EJ0` (6.3.3) for each slot, and the method that notifies them."""
    terms = [
        aml.port_region("PCST", platform.hotplug_base, 8) + aml.dword_fields("PCST", "PCIU", "PCID"),
        aml.port_region("SEJ", platform.hotplug_base + 8, 4) + aml.dword_fields("SEJ", "B0EJ"),
    ]
    for slot in platform.hotplug_slots:
        eject = aml.store(aml.integer(1 << slot), aml.name_segment("B0EJ"))
        terms.append(
            aml.device(
                f"S{slot << 3:02X}",
                aml.named("_SUN", aml.integer(slot)),
                aml.named("_ADR", aml.integer(slot << 16)),
                aml.method("_EJ0", 1, eject),
            )
        )
    tests = [
        aml.if_bits(aml.ARG0, 1 << slot, aml.notify(f"S{slot << 3:02X}", aml.ARG1)) for slot in platform.hotplug_slots
    ]
    terms.append(aml.method("DVNT", 2, *tests))
    return b"".join(terms)


def _pci_root(platform: AcpiPlatform) -> bytes:
    windows = [
        aml.word_space(SpaceType.BUS, 0, 0xFF),
        aml.io_ports(0xCF8, 8),
        aml.word_space(SpaceType.IO, 0, 0xCF7),
        aml.word_space(SpaceType.IO, 0xD00, 0xFFFF),
        aml.dword_memory(0xA_0000, 0xB_FFFF, cacheable=True),
        aml.dword_memory(platform.pci_window_first, platform.pci_window_last),
        aml.qword_memory(platform.pci_window64_first, platform.pci_window64_last),
    ]
    names = [aml.named("_HID", aml.eisa_id("PNP0A03"))]
    if platform.ecam is not None:
        names = [aml.named("_HID", aml.eisa_id("PNP0A08")), aml.named("_CID", aml.eisa_id("PNP0A03"))]
    return _configuration_space(platform) + aml.device(
        "PCI0",
        *names,
        aml.named("_UID", aml.integer(0)),
        aml.named("_BBN", aml.integer(0)),
        aml.named("_CRS", aml.resources(*windows)),
        aml.named("_PRT", _routing(platform)),
        _isa_bridge(platform),
        _express_control() if platform.ecam is not None else b"",
        _hotplug_slots(platform) if platform.hotplug_slots else b"",
    )


_PCI_HOST_OSC = bytes.fromhex("5b4ddb33f71f1c4096577441c03dd766")
"""33DB4D5B-1FF7-401C-9657-7441C03DD766 (PCI Firmware Specification 3.3, 4.5.1), as ToUUID lays it out."""
_GRANTED = 1 << 0 | 1 << 2 | 1 << 4
"""Native hotplug, power management events, the capability structure."""
_OSC_UNKNOWN, _OSC_MASKED = 1 << 2, 1 << 4


def _express_control() -> bytes:
    """_OSC (6.2.11): what the guest may control of PCI Express by itself."""
    status, control = aml.name_segment("CDW1"), aml.name_segment("CDW3")
    granted = (
        aml.dword_field_of(aml.ARG3, 8, "CDW3")
        + aml.and_into(control, _GRANTED, aml.LOCAL0)
        + aml.unless(aml.equal(control, aml.LOCAL0), aml.or_into(status, _OSC_MASKED, status))
        + aml.store(aml.LOCAL0, control)
    )
    return aml.method(
        "_OSC",
        4 | aml.SERIALIZED,
        aml.dword_field_of(aml.ARG3, 0, "CDW1"),
        aml.if_else(aml.equal(aml.ARG0, aml.buffer(_PCI_HOST_OSC)), granted, aml.or_into(status, _OSC_UNKNOWN, status)),
        aml.give_back(aml.ARG3),
    )


def _configuration_space(platform: AcpiPlatform) -> bytes:
    """The motherboard's claim to it (PCI Firmware Specification 3.3, 4.1.2)."""
    if platform.ecam is None:
        return b""
    place = aml.resources(aml.fixed_memory(*platform.ecam))
    return aml.device("MBRD", aml.named("_HID", aml.eisa_id("PNP0C02")), aml.named("_CRS", place))


def _routing(platform: AcpiPlatform) -> bytes:
    """_PRT (6.2.13): slot and pin to a global interrupt, wired as in `devices.pci.bus`."""
    entries = []
    for slot in range(1, 32):
        for pin in range(4):
            gsi = platform.pci_irqs[(slot + pin - 1) & 3]
            parts = (slot << 16 | 0xFFFF, pin, 0, gsi)
            entries.append(aml.package(aml.integer(part) for part in parts))
    return aml.package(entries)


def _isa_bridge(platform: AcpiPlatform) -> bytes:
    return aml.device("ISA", aml.named("_ADR", aml.integer(platform.isa_slot << 16)), *_isa_devices(platform))


def _isa_devices(platform: AcpiPlatform) -> list[bytes]:
    devices = [
        _isa_device("RTC", "PNP0B00", aml.io_ports(0x70, 2), aml.irq(8)),
        _isa_device("TIMR", "PNP0100", aml.io_ports(0x40, 4), aml.irq(0)),
    ]
    if platform.has_keyboard:
        ports = (aml.io_ports(0x60, 1), aml.io_ports(0x64, 1), aml.irq(1))
        devices.append(_isa_device("KBD", "PNP0303", *ports))
    for number, (port, irq) in enumerate(platform.serial_ports, 1):
        resources = (aml.io_ports(port, 8), aml.irq(irq))
        devices.append(_isa_device(f"COM{number}", "PNP0501", *resources, uid=number))
    return devices


def _isa_device(name: str, identifier: str, *resources: bytes, uid: int | None = None) -> bytes:
    terms = [aml.named("_HID", aml.eisa_id(identifier))]
    if uid is not None:
        terms.append(aml.named("_UID", aml.integer(uid)))
    return aml.device(name, *terms, aml.named("_CRS", aml.resources(*resources)))
