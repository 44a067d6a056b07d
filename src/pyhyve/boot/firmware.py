"""PC firmware: finding an image, placing it, and what it is told about the machine.

The image ends at 4 GiB, where the processor starts after RESET; its last 128 KiB also stand below 1 MiB, where real
mode expects them. Tables travel as fw_cfg files with a script that the firmware runs to place them ("etc/table-loader",
QEMU's "fw_cfg ACPI linker/loader" interface, struct bios_linker_loader).
"""

from __future__ import annotations

import struct
from pathlib import Path

from pyhyve.boot.acpi import build_acpi
from pyhyve.boot.e820 import FOUR_GIB, ONE_MIB, MemoryType
from pyhyve.boot.errors import BootError
from pyhyve.devices.chipset.fw_cfg import Item
from pyhyve.support.enums import IntEnum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.boot.acpi import AcpiPlatform
    from pyhyve.boot.e820 import MemoryLayout
    from pyhyve.memory.guest import GuestMemory

KNOWN_PATHS = tuple(
    Path(name)
    for name in (
        "/usr/share/seabios/bios-256k.bin",
        "/usr/share/qemu/bios-256k.bin",
        "/usr/share/seabios/bios.bin",
        "/usr/share/qemu/bios.bin",
    )
)
"""Where distributions put SeaBIOS, the larger builds first: they have the virtio drivers."""
VGA_BIOS_PATHS = tuple(
    Path(name) for name in ("/usr/share/seabios/vgabios-stdvga.bin", "/usr/share/qemu/vgabios-stdvga.bin")
)
_SHADOW_BYTES = 128 << 10
_MIN_BYTES, _MAX_BYTES = 64 << 10, 16 << 20
_PAGE = 4096

_TABLES, _RSDP = "etc/acpi/tables", "etc/acpi/rsdp"
_RSDP_BYTES = 36
_RSDP_SUMMED_BYTES = 20
_HEADER_BYTES = 36
_COMMAND_BYTES = 128
_FILE_NAME_BYTES = 56


class _Command(IntEnum):
    """Commands of the table loader."""

    ALLOCATE = 1
    ADD_POINTER = 2
    ADD_CHECKSUM = 3


class _Zone(IntEnum):
    """Where a file is placed: anywhere, or in the last segment below 1 MiB."""

    HIGH = 1
    F_SEGMENT = 2


def find_firmware() -> Path:
    """The firmware of this host; raises BootError when there is none."""
    for path in KNOWN_PATHS:
        if path.is_file():
            return path
    msg = "nothing to boot: name a kernel, or install SeaBIOS (Debian package seabios) to boot from the disks"
    raise BootError(msg)


def read_firmware(path: Path) -> bytes:
    """A firmware image; raises BootError when it cannot be read or cannot be one."""
    try:
        with path.open("rb") as file:
            image = file.read(_MAX_BYTES + 1)
    except OSError as error:
        msg = f"{path}: {error.strerror}"
        raise BootError(msg) from error
    if not _MIN_BYTES <= len(image) <= _MAX_BYTES or len(image) % _PAGE:
        msg = f"{path}: not a PC firmware image (64 KiB to 16 MiB, in whole pages)"
        raise BootError(msg)
    return image


def read_vga_bios() -> bytes:
    """The BIOS of the VGA; raises BootError when there is none."""
    for path in VGA_BIOS_PATHS:
        if path.is_file():
            return path.read_bytes()
    msg = "no BIOS for the VGA: install SeaBIOS (Debian package seabios), or do without (-vga none)"
    raise BootError(msg)


def place_firmware(memory: GuestMemory, image: bytes) -> None:
    """Write the image at the top of 4 GiB and its end below 1 MiB, as before each start."""
    memory.write(FOUR_GIB - len(image), image)
    shadow = image[-_SHADOW_BYTES:]
    memory.write(ONE_MIB - len(shadow), shadow)


def firmware_items(cpus: int, *, boot_menu: bool = False) -> dict[int, bytes]:
    """Numbered fw_cfg items."""
    count = struct.pack("<H", cpus)
    return {Item.CPU_COUNT: count, Item.MAX_CPUS: count, Item.BOOT_MENU: struct.pack("<H", boot_menu)}


def boot_files(paths: Sequence[str], *, strict: bool, menu_ms: int | None) -> dict[str, bytes]:
    """What to boot from in which order, as Open Firmware paths; `strict`: from nothing else. How long a menu waits."""
    files = {}
    if paths:
        files["bootorder"] = "\n".join([*paths, "HALT"] if strict else paths).encode() + b"\0"
    if menu_ms is not None:
        files["etc/boot-menu-wait"] = struct.pack("<H", menu_ms)
    return files


def firmware_files(
    layout: MemoryLayout, platform: AcpiPlatform, smbios: tuple[bytes, bytes], serial_port: int
) -> dict[str, bytes]:
    """Named fw_cfg files. `smbios` is the entry point and the structures; text output goes to `serial_port` too."""
    ranges = [(0, layout.below_4g, MemoryType.RAM)]
    if layout.above_4g:
        ranges.append((FOUR_GIB, layout.above_4g, MemoryType.RAM))
    ranges += [(base, size, MemoryType.RESERVED) for base, size in layout.reserved]
    tables, rsdp, script = linked_acpi(platform)
    return {
        "etc/e820": b"".join(struct.pack("<QQI", *entry) for entry in ranges),
        "etc/sercon-port": struct.pack("<H", serial_port),
        "etc/smbios/smbios-anchor": smbios[0],
        "etc/smbios/smbios-tables": smbios[1],
        _TABLES: tables,
        _RSDP: rsdp,
        "etc/table-loader": script,
    }


def linked_acpi(platform: AcpiPlatform) -> tuple[bytes, bytes, bytes]:
    """The ACPI tables with pointers that count from their file's start, the RSDP, and the script that places both."""
    tables, _ = build_acpi(platform, 0)
    rsdp = tables[:_RSDP_BYTES]
    script = _allocate(_TABLES, 64, _Zone.HIGH) + _allocate(_RSDP, 16, _Zone.F_SEGMENT)
    (rsdt,) = struct.unpack_from("<I", rsdp, 16)
    (xsdt,) = struct.unpack_from("<Q", rsdp, 24)
    for at, size in ((16, 4), (24, 8)):
        script += _pointer(_RSDP, _TABLES, at, size)
    script += _checksum(_RSDP, 8, 0, _RSDP_SUMMED_BYTES) + _checksum(_RSDP, 32, 0, _RSDP_BYTES)
    for table, size in ((rsdt, 4), (xsdt, 8)):
        length = _table_bytes(tables, table)
        for at in range(table + _HEADER_BYTES, table + length, size):
            script += _pointer(_TABLES, _TABLES, at, size)
        script += _checksum(_TABLES, table + 9, table, length)
    for at in range(rsdt + _HEADER_BYTES, rsdt + _table_bytes(tables, rsdt), 4):
        (table,) = struct.unpack_from("<I", tables, at)
        if tables[table : table + 4] == b"FACP":
            # FIRMWARE_CTRL, DSDT, X_FIRMWARE_CTRL, X_DSDT (ACPI 6.5, 5.2.9).
            for offset, size in ((36, 4), (40, 4), (132, 8), (140, 8)):
                script += _pointer(_TABLES, _TABLES, table + offset, size)
            script += _checksum(_TABLES, table + 9, table, _table_bytes(tables, table))
    return tables, rsdp, script


def _table_bytes(tables: bytes, at: int) -> int:
    length: int = struct.unpack_from("<I", tables, at + 4)[0]
    return length


def _name(name: str) -> bytes:
    return name.encode().ljust(_FILE_NAME_BYTES, b"\0")


def _allocate(file: str, align: int, zone: _Zone) -> bytes:
    command = struct.pack("<I", _Command.ALLOCATE) + _name(file) + struct.pack("<IB", align, zone)
    return command.ljust(_COMMAND_BYTES, b"\0")


def _pointer(file: str, target: str, at: int, size: int) -> bytes:
    """Add the address of `target` to the `size` bytes at `at` of `file`."""
    command = struct.pack("<I", _Command.ADD_POINTER) + _name(file) + _name(target) + struct.pack("<IB", at, size)
    return command.ljust(_COMMAND_BYTES, b"\0")


def _checksum(file: str, at: int, start: int, length: int) -> bytes:
    """Make the bytes of `[start, start + length)` sum to zero through the one at `at`."""
    command = struct.pack("<I", _Command.ADD_CHECKSUM) + _name(file) + struct.pack("<III", at, start, length)
    return command.ljust(_COMMAND_BYTES, b"\0")
