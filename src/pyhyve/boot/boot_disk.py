"""A disk that boots a kernel: for machines that have firmware and disks but no `--kernel`, and for managers of those.

Sectors of the only partition hold the kernel's setup sectors with command line, the kernel, and the initial RAM disk,
each padded to whole reads of the boot sector (`boot_sector`).
"""

from __future__ import annotations

import struct

from pyhyve.boot import bzimage
from pyhyve.boot.boot_sector import (
    READ_BYTES,
    REAL_MODE_GPA,
    SECTOR_BYTES,
    STACK_OFFSET,
    Partition,
    Piece,
    boot_sector,
)
from pyhyve.boot.errors import BootError

_FIRST_LBA = 2048
_NO_FILE_SYSTEM = 0xDA
_UNKNOWN_LOADER = 0xFF
_COMMAND_LINE_GPA = REAL_MODE_GPA + STACK_OFFSET
_SETUP_READS = 2
_PAGE_BYTES = 4096
_ROUND_BYTES = 1 << 20
_MIN_PROTOCOL = 0x202
"""The first with `cmd_line_ptr`."""


def boot_disk(kernel: bytes, initrd: bytes, command_line: str, name: str) -> bytes:
    """A raw disk image that starts the bzImage `kernel` with `initrd`; errors call the kernel `name`.

    Raises BootError for what is no bzImage of protocol 2.02 or later, and for what does not fit.
    """
    if not bzimage.is_bzimage(kernel[: bzimage.PROBE_BYTES]):
        msg = f"{name}: not a bzImage: firmware boots nothing else"
        raise BootError(msg)
    image = bzimage.parse_bzimage(kernel[: bzimage.PROBE_BYTES], len(kernel), name)
    if image.version < _MIN_PROTOCOL:
        msg = f"{name}: boot protocol {image.version >> 8}.{image.version & 0xFF:02} is too old for a disk"
        raise BootError(msg)
    code = _padded(kernel[image.kernel_offset :])
    ramdisk = _padded(initrd)
    free = max(image.pref_address + image.init_size_bytes, bzimage.LOAD_HIGH_GPA + len(code))
    ramdisk_gpa = -(-free // _PAGE_BYTES) * _PAGE_BYTES
    end = ramdisk_gpa + len(ramdisk)
    if end - 1 > image.initrd_addr_max:
        msg = f"{name}: an initial RAM disk of {len(initrd)} bytes does not fit below {image.initrd_addr_max:#x}"
        raise BootError(msg)
    setup = _setup(kernel, image, command_line, ramdisk_gpa, len(initrd), name)
    pieces, content, lba = [], b"", _FIRST_LBA
    for data, gpa in ((setup, REAL_MODE_GPA), (code, bzimage.LOAD_HIGH_GPA), (ramdisk, ramdisk_gpa)):
        pieces.append(Piece(lba, gpa, len(data) // READ_BYTES))
        lba += len(data) // SECTOR_BYTES
        content += data
    sector = boot_sector(pieces, end, Partition(_NO_FILE_SYSTEM, _FIRST_LBA, lba - _FIRST_LBA))
    disk = sector.ljust(_FIRST_LBA * SECTOR_BYTES, b"\0") + content
    return disk.ljust(-(-len(disk) // _ROUND_BYTES) * _ROUND_BYTES, b"\0")


def _padded(data: bytes) -> bytes:
    """Whole reads, at least one."""
    return data.ljust(max(1, -(-len(data) // READ_BYTES)) * READ_BYTES, b"\0")


def _setup(kernel: bytes, image: bzimage.BzImage, line: str, ramdisk: int, ramdisk_bytes: int, name: str) -> bytes:
    """Setup sectors with the fields that a boot loader fills in, and the command line where they say it is."""
    text = line.encode(errors="surrogateescape")
    room = min(image.cmdline_max, _SETUP_READS * READ_BYTES - STACK_OFFSET - 1)
    if len(text) > room or b"\0" in text:
        msg = f"{name}: a command line of {len(text)} bytes, where {room} without NUL are possible"
        raise BootError(msg)
    setup = bytearray(kernel[: image.kernel_offset].ljust(_SETUP_READS * READ_BYTES, b"\0"))
    setup[bzimage.TYPE_OF_LOADER] = _UNKNOWN_LOADER
    setup[bzimage.LOADFLAGS] |= bzimage.LoadFlag.CAN_USE_HEAP
    # The heap ends below the stack, counted from the byte the header's own jump is at (boot.rst, heap_end_ptr).
    struct.pack_into("<H", setup, bzimage.HEAP_END_PTR, STACK_OFFSET - 0x200 - 0x400)
    struct.pack_into("<II", setup, bzimage.RAMDISK_IMAGE, ramdisk if ramdisk_bytes else 0, ramdisk_bytes)
    struct.pack_into("<I", setup, bzimage.CMD_LINE_PTR, _COMMAND_LINE_GPA)
    setup[STACK_OFFSET : STACK_OFFSET + len(text)] = text
    return bytes(setup)
