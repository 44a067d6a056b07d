"""Loading a Linux kernel into guest memory, and the registers to enter it with."""

from __future__ import annotations

import os
import struct

from pyhyve.boot import bzimage, cpu_state, elf_kernel, realmode, vmlinux
from pyhyve.boot.e820 import ONE_MIB
from pyhyve.boot.errors import BootError
from pyhyve.memory.guest import PAGE_SIZE_BYTES, GuestAddressError
from pyhyve.support.enums import Enum
from pyhyve.support.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from os import PathLike
    from typing import BinaryIO

    from pyhyve.boot.e820 import E820Entry, MemoryLayout
    from pyhyve.memory.guest import GuestMemory

BOOT_PARAMS_GPA = 0x1_0000
CMDLINE_GPA = 0x1_E000
"""In the segment of the setup code, where kernels before boot protocol 2.02 must have it."""
CMDLINE_LIMIT = 0x2000
_OLD_CMDLINE_MAGIC_OFFSET, _OLD_CMDLINE_MAGIC = 0x20, 0xA33F
_HEAP_END = CMDLINE_GPA - BOOT_PARAMS_GPA
_BOOT_PARAMS_SIZE = 0x1000
_LOADER_UNDEFINED = 0xFF
_VIDEO_NORMAL = 0xFFFF
# boot_params (Linux arch/x86/include/uapi/asm/bootparam.h)
_ACPI_RSDP_ADDR = 0x070
_E820_ENTRIES = 0x1E8
_E820_TABLE = 0x2D0
_E820_MAX = 128
# struct hvm_start_info (xen/include/public/arch-x86/hvm/start_info.h)
_START_INFO_MAGIC = 0x336E_C578
_MODULES_GPA = BOOT_PARAMS_GPA + 0x100
_MEMORY_MAP_GPA = BOOT_PARAMS_GPA + 0x200


class EntryMode(Enum):
    """Which of an image's entries to use."""

    AUTO = "auto"
    BITS_16 = "16-bit"
    BITS_32 = "32-bit"
    BITS_64 = "64-bit"
    PVH = "PVH"


@dataclass(frozen=True, slots=True)
class LinuxBoot:
    """What to boot. `rsdp_gpa` is where the ACPI tables' root is."""

    kernel: PathLike[str]
    initrd: PathLike[str] | None
    command_line: str
    layout: MemoryLayout
    rsdp_gpa: int
    mode: EntryMode = EntryMode.AUTO


def load_linux(memory: GuestMemory, boot: LinuxBoot) -> dict[str, int]:
    """Put kernel, initrd, command line and memory map in place; returns the first vCPU's registers.

    Raises BootError when a file is missing, damaged, no kernel, or does not fit.
    """
    with _open(boot.kernel) as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(bzimage.PROBE_BYTES)
        if head[:4] == elf_kernel.MAGIC:
            return _load_pvh(memory, boot, file, size)
        if not bzimage.is_bzimage(head):
            msg = f"{boot.kernel}: not a Linux kernel (no bzImage header, no PVH note)"
            raise BootError(msg)
        image = bzimage.parse_bzimage(head, size, str(boot.kernel))
        registers = _load_unpacked(memory, boot, file)
        return _load_bzimage(memory, boot, file, image) if registers is None else registers


def _load_unpacked(memory: GuestMemory, boot: LinuxBoot, file: BinaryIO) -> dict[str, int] | None:
    """Enter the kernel inside a bzImage directly, when its PVH entry is wanted and there is one."""
    if boot.mode not in {EntryMode.AUTO, EntryMode.PVH}:
        return None
    unpacked = vmlinux.find_vmlinux(boot.kernel, file)
    if unpacked is None:
        return None
    try:
        with unpacked.open("rb") as kernel:
            return _load_pvh(memory, boot, kernel, os.fstat(kernel.fileno()).st_size)
    except (OSError, BootError):
        # Pruned by another process, or too large for this memory where the bzImage may still fit.
        if boot.mode is EntryMode.PVH:
            raise
        return None


def _load_bzimage(memory: GuestMemory, boot: LinuxBoot, file: BinaryIO, image: bzimage.BzImage) -> dict[str, int]:
    load_gpa = _choose_address(boot, image)
    _read_into(memory, file, image.kernel_offset, load_gpa, image.kernel_size_bytes, str(boot.kernel))
    end = load_gpa + image.init_size_bytes
    initrd_gpa, initrd_size = _load_initrd(memory, boot, end, image.initrd_addr_max + 1)
    _write_cmdline(memory, boot, image.cmdline_max)
    params = bytearray(_BOOT_PARAMS_SIZE)
    params[bzimage.HEADER_OFFSET : bzimage.HEADER_OFFSET + len(image.setup_header)] = image.setup_header
    _fill_header(params, image, load_gpa, initrd_gpa, initrd_size)
    if boot.mode is EntryMode.BITS_16:
        return _enter_setup_code(memory, boot, file, image, params)
    struct.pack_into("<Q", params, _ACPI_RSDP_ADDR, boot.rsdp_gpa)
    entries = boot.layout.e820()[:_E820_MAX]
    params[_E820_ENTRIES] = len(entries)
    for i, entry in enumerate(entries):
        struct.pack_into("<QQI", params, _E820_TABLE + 20 * i, entry.base, entry.size_bytes, entry.type)
    memory.write(BOOT_PARAMS_GPA, params)
    if boot.mode is EntryMode.BITS_64 and not image.has_64bit_entry:
        msg = f"{boot.kernel}: no 64-bit entry"
        raise BootError(msg)
    if boot.mode is EntryMode.PVH:
        msg = f"{boot.kernel}: no PVH entry"
        raise BootError(msg)
    if image.has_64bit_entry and boot.mode is not EntryMode.BITS_32:
        return cpu_state.long_mode(memory, load_gpa + image.entry_64_offset, rsi=BOOT_PARAMS_GPA)
    return cpu_state.protected_mode(memory, load_gpa, rsi=BOOT_PARAMS_GPA)


def _fill_header(params: bytearray, image: bzimage.BzImage, load_gpa: int, initrd_gpa: int, initrd_size: int) -> None:
    """The fields of the setup header that are the boot loader's to write."""
    params[bzimage.TYPE_OF_LOADER] = _LOADER_UNDEFINED
    struct.pack_into("<H", params, bzimage.VID_MODE, _VIDEO_NORMAL)
    struct.pack_into("<I", params, bzimage.CODE32_START, load_gpa)
    struct.pack_into("<II", params, bzimage.RAMDISK_IMAGE, initrd_gpa, initrd_size)
    if image.version >= 0x202:
        struct.pack_into("<I", params, bzimage.CMD_LINE_PTR, CMDLINE_GPA)
    else:
        old = (_OLD_CMDLINE_MAGIC, CMDLINE_GPA - BOOT_PARAMS_GPA)
        struct.pack_into("<HH", params, _OLD_CMDLINE_MAGIC_OFFSET, *old)


def _enter_setup_code(
    memory: GuestMemory, boot: LinuxBoot, file: BinaryIO, image: bzimage.BzImage, params: bytearray
) -> dict[str, int]:
    """Real mode: the setup code finds memory and video through BIOS calls (boot.rst, "Running the Kernel")."""
    size = image.kernel_offset
    if size > _HEAP_END:
        msg = f"{boot.kernel}: damaged bzImage ({size} bytes of setup code)"
        raise BootError(msg)
    _read_into(memory, file, 0, BOOT_PARAMS_GPA, size, str(boot.kernel))
    params[bzimage.LOADFLAGS] |= bzimage.LoadFlag.CAN_USE_HEAP
    struct.pack_into("<H", params, bzimage.HEAP_END_PTR, _HEAP_END - bzimage.SECTOR_BYTES)
    header = slice(bzimage.HEADER_OFFSET, bzimage.HEADER_OFFSET + len(image.setup_header))
    memory.write(BOOT_PARAMS_GPA + header.start, params[header])
    memory.write(BOOT_PARAMS_GPA + _OLD_CMDLINE_MAGIC_OFFSET, params[_OLD_CMDLINE_MAGIC_OFFSET:][:4])
    realmode.install_bios(memory, boot.layout.e820())
    segment = BOOT_PARAMS_GPA >> 4
    registers = cpu_state.real_mode(segment, 0, rsp=_HEAP_END)
    entry = segment + (bzimage.SECTOR_BYTES >> 4)
    return registers | {"cs.selector": entry, "cs.base": entry << 4}


def _choose_address(boot: LinuxBoot, image: bzimage.BzImage) -> int:
    """The preferred address, or the lowest aligned one above 1 MiB for a kernel that can move there."""
    limit = boot.layout.below_4g
    load_gpa = image.pref_address
    if image.is_relocatable and load_gpa + image.init_size_bytes > limit:
        load_gpa = -(-bzimage.LOAD_HIGH_GPA // image.alignment) * image.alignment
    if load_gpa < ONE_MIB or load_gpa + image.init_size_bytes > limit:
        needed_mib = -(-(load_gpa + image.init_size_bytes) >> 20)
        msg = f"{boot.kernel}: does not fit in {limit >> 20} MiB of memory (needs at least {needed_mib} MiB)"
        raise BootError(msg)
    return load_gpa


def _load_pvh(memory: GuestMemory, boot: LinuxBoot, file: BinaryIO, size: int) -> dict[str, int]:
    kernel = elf_kernel.parse_pvh(file, size, str(boot.kernel))
    limit = boot.layout.below_4g
    for segment in kernel.segments:
        if segment.gpa < ONE_MIB or segment.gpa + segment.memory_bytes > limit:
            msg = (
                f"{boot.kernel}: does not fit in {limit >> 20} MiB of memory "
                f"(a segment takes {segment.gpa:#x} to {segment.gpa + segment.memory_bytes:#x})"
            )
            raise BootError(msg)
        _read_into(memory, file, segment.offset, segment.gpa, segment.file_bytes, str(boot.kernel))
    initrd_gpa, initrd_size = _load_initrd(memory, boot, kernel.end, limit)
    _write_cmdline(memory, boot, CMDLINE_LIMIT - 1)
    entries = boot.layout.e820()
    memory.write(_MEMORY_MAP_GPA, b"".join(_memory_map_entry(entry) for entry in entries))
    modules = 1 if initrd_size else 0
    memory.write(_MODULES_GPA, struct.pack("<QQQQ", initrd_gpa, initrd_size, 0, 0))
    memory.write(
        BOOT_PARAMS_GPA,
        struct.pack(
            "<IIIIQQQQII",
            _START_INFO_MAGIC,
            1,
            0,
            modules,
            _MODULES_GPA,
            CMDLINE_GPA,
            boot.rsdp_gpa,
            _MEMORY_MAP_GPA,
            len(entries),
            0,
        ),
    )
    return cpu_state.protected_mode(memory, kernel.entry, rbx=BOOT_PARAMS_GPA)


def _memory_map_entry(entry: E820Entry) -> bytes:
    return struct.pack("<QQII", entry.base, entry.size_bytes, entry.type, 0)


def _load_initrd(memory: GuestMemory, boot: LinuxBoot, kernel_end: int, limit: int) -> tuple[int, int]:
    """Place the initrd as high as the kernel can take it; (0, 0) without one."""
    if boot.initrd is None:
        return 0, 0
    with _open(boot.initrd) as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            msg = f"{boot.initrd}: the file is empty"
            raise BootError(msg)
        top = min(limit, boot.layout.below_4g)
        gpa = top - size & ~(PAGE_SIZE_BYTES - 1)
        if gpa < kernel_end:
            msg = (
                f"{boot.initrd}: {size} bytes do not fit in memory beside the kernel "
                f"({max(top - kernel_end, 0)} bytes are free: give the guest more memory)"
            )
            raise BootError(msg)
        _read_into(memory, file, 0, gpa, size, str(boot.initrd))
    return gpa, size


def _write_cmdline(memory: GuestMemory, boot: LinuxBoot, limit: int) -> None:
    data = boot.command_line.encode(errors="surrogateescape")
    limit = min(limit, CMDLINE_LIMIT - 1)
    if len(data) > limit:
        msg = f"append: {len(data)} bytes of command line, {boot.kernel} takes {limit}"
        raise BootError(msg)
    memory.write(CMDLINE_GPA, data + b"\0")


def _open(path: PathLike[str]) -> BinaryIO:
    try:
        if os.path.isdir(path):  # noqa: PTH112 - start-up does without pathlib
            msg = f"{path}: is a directory"
            raise BootError(msg)
        return open(path, "rb")  # noqa: PTH123 - ditto
    except OSError as error:
        msg = f"{path}: {error.strerror}"
        raise BootError(msg) from error


def _read_into(memory: GuestMemory, file: BinaryIO, offset: int, gpa: int, size: int, name: str) -> None:
    """Read `size` bytes of the file straight into guest memory."""
    try:
        view = memory.view(gpa, size)
    except GuestAddressError as error:
        msg = f"{name}: no guest memory at {gpa:#x}+{size:#x}"
        raise BootError(msg) from error
    done = 0
    while done < size:
        count = os.preadv(file.fileno(), [view[done:]], offset + done)
        if count == 0:
            msg = f"{name}: the file became shorter while it was read"
            raise BootError(msg)
        done += count
    memory.mark_written(gpa, size)
