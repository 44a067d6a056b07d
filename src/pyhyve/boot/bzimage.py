"""The bzImage format: the setup header (Linux Documentation/arch/x86/boot.rst, protocol 2.00 to 2.15)."""

from __future__ import annotations

import struct

from pyhyve.boot.errors import BootError
from pyhyve.support.enums import IntFlag
from pyhyve.support.records import dataclass

HEADER_OFFSET = 0x1F1
BOOT_FLAG = 0xAA55
MAGIC = b"HdrS"
SECTOR_BYTES = 512
DEFAULT_SETUP_SECTORS = 4
PROBE_BYTES = 0x1000
LOAD_HIGH_GPA = 0x10_0000
_DEFAULT_INITRD_MAX = 0x37FF_FFFF
_DEFAULT_CMDLINE_SIZE = 255
_ENTRY_64_OFFSET = 0x200

# Offsets in the image, which are also those in boot_params (the "zero page")
SETUP_SECTS = 0x1F1
VID_MODE = 0x1FA
BOOT_FLAG_OFFSET = 0x1FE
JUMP = 0x200
MAGIC_OFFSET = 0x202
VERSION = 0x206
KERNEL_VERSION = 0x20E
"""Where the version text is, counted from `JUMP`."""
TYPE_OF_LOADER = 0x210
LOADFLAGS = 0x211
CODE32_START = 0x214
RAMDISK_IMAGE = 0x218
RAMDISK_SIZE = 0x21C
HEAP_END_PTR = 0x224
CMD_LINE_PTR = 0x228
INITRD_ADDR_MAX = 0x22C
KERNEL_ALIGNMENT = 0x230
RELOCATABLE = 0x234
XLOADFLAGS = 0x236
CMDLINE_SIZE = 0x238
PAYLOAD_OFFSET = 0x248
PAYLOAD_LENGTH = 0x24C
SETUP_DATA = 0x250
PREF_ADDRESS = 0x258
INIT_SIZE = 0x260


class LoadFlag(IntFlag):
    """`loadflags`."""

    LOADED_HIGH = 1 << 0
    CAN_USE_HEAP = 1 << 7


class XLoadFlag(IntFlag):
    """`xloadflags` (2.12)."""

    KERNEL_64 = 1 << 0
    CAN_BE_LOADED_ABOVE_4G = 1 << 1


@dataclass(frozen=True, slots=True)
class BzImage:
    """The parsed header. Sizes are bytes; `kernel_offset` is where protected-mode code begins in the file."""

    version: int
    setup_header: bytes
    kernel_offset: int
    kernel_size_bytes: int
    loadflags: int
    xloadflags: int
    initrd_addr_max: int
    cmdline_max: int
    alignment: int
    is_relocatable: bool
    pref_address: int
    init_size_bytes: int

    @property
    def has_64bit_entry(self) -> bool:
        """Whether the kernel can be entered in long mode, `entry_64_offset` into its code."""
        return bool(self.xloadflags & XLoadFlag.KERNEL_64)

    @property
    def entry_64_offset(self) -> int:
        """Offset of the 64-bit entry in the protected-mode code."""
        return _ENTRY_64_OFFSET


def is_bzimage(head: bytes) -> bool:
    """Whether `head`, the first bytes of a file, carry the setup header's marks."""
    return head[MAGIC_OFFSET : MAGIC_OFFSET + 4] == MAGIC and _u16(head, BOOT_FLAG_OFFSET) == BOOT_FLAG


def parse_bzimage(head: bytes, file_size_bytes: int, name: str) -> BzImage:
    """Parse the header in `head` (the file's first 4 KiB); raises BootError naming the file as `name`."""
    version = _u16(head, VERSION)
    if version < 0x200:
        msg = f"{name}: boot protocol {version >> 8}.{version & 0xFF:02} is not supported (2.00 or later is)"
        raise BootError(msg)
    end = 0x202 + head[JUMP + 1]
    loadflags = head[LOADFLAGS]
    if not loadflags & LoadFlag.LOADED_HIGH:
        msg = f"{name}: a zImage, which loads below 1 MiB, is not supported (use a bzImage)"
        raise BootError(msg)
    setup_sectors = head[SETUP_SECTS] or DEFAULT_SETUP_SECTORS
    kernel_offset = (setup_sectors + 1) * SECTOR_BYTES
    if end > len(head) or kernel_offset >= file_size_bytes:
        msg = f"{name}: truncated bzImage (its kernel begins at byte {kernel_offset}, the file has {file_size_bytes})"
        raise BootError(msg)
    kernel_size = file_size_bytes - kernel_offset
    declared = _u32(head, 0x1F4) * 16 if version >= 0x204 else 0
    if kernel_size < declared - 15:
        msg = f"{name}: truncated bzImage (the header says {declared} bytes of kernel, the file has {kernel_size})"
        raise BootError(msg)
    alignment = _u32(head, KERNEL_ALIGNMENT) if version >= 0x205 else 0
    init_size = _u32(head, INIT_SIZE) if version >= 0x20A else 0
    if alignment & (alignment - 1) if alignment else 0:
        msg = f"{name}: damaged bzImage (kernel alignment {alignment:#x} is not a power of two)"
        raise BootError(msg)
    return BzImage(
        version=version,
        setup_header=bytes(head[HEADER_OFFSET:end]),
        kernel_offset=kernel_offset,
        kernel_size_bytes=kernel_size,
        loadflags=loadflags,
        xloadflags=_u16(head, XLOADFLAGS) if version >= 0x20C else 0,
        initrd_addr_max=_u32(head, INITRD_ADDR_MAX) if version >= 0x203 else _DEFAULT_INITRD_MAX,
        cmdline_max=_u32(head, CMDLINE_SIZE) if version >= 0x206 else _DEFAULT_CMDLINE_SIZE,
        alignment=alignment or 1,
        is_relocatable=version >= 0x205 and bool(head[RELOCATABLE]),
        pref_address=struct.unpack_from("<Q", head, PREF_ADDRESS)[0] if version >= 0x20A else LOAD_HIGH_GPA,
        init_size_bytes=max(init_size, kernel_size),
    )


def _u16(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 2], "little")


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")
