"""Disks that boot a kernel by themselves."""

from __future__ import annotations

import struct

import capstone
import pytest

from pyhyve.boot.boot_disk import boot_disk
from pyhyve.boot.boot_sector import CODE, READ_BYTES, Partition, Piece, boot_sector
from pyhyve.boot.errors import BootError

from .images import bzimage

PARTITION = Partition(0xDA, 2048, 100)
PIECES = [Piece(1, 0x90000, 2), Piece(113, 0x100000, 3), Piece(281, 0x2000000, 1)]


def test_code_is_what_its_listing_says() -> None:
    code = bytes.fromhex("".join(digits for digits, _ in CODE))
    read = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_16).disasm(code, 0x7C00)
    assert [(i.bytes.hex(), f"{i.mnemonic} {i.op_str}".strip()) for i in read] == list(CODE)


def test_jumps_lead_to_instructions() -> None:
    code = bytes.fromhex("".join(digits for digits, _ in CODE))
    read = list(capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_16).disasm(code, 0x7C00))
    begins = {i.address for i in read}
    targets = [int(i.op_str, 16) for i in read if i.mnemonic.startswith("j")]
    assert len(targets) > 5
    assert begins.issuperset(targets)


def test_sector_holds_pieces_messages_and_the_partition() -> None:
    sector = boot_sector(PIECES, 100 << 20, PARTITION)
    assert len(sector) == 512
    assert sector[510:] == b"\x55\xaa"
    assert struct.unpack_from("<H", sector, 0x102) == ((84 << 20) >> 16,)
    assert [Piece(*struct.unpack_from("<IIH", sector, 0x144 + 10 * i)) for i in range(3)] == PIECES
    assert sector[0x162:].startswith(b"This disk needs 100 MiB of memory\r\n\0")
    assert sector[0x1A2:].startswith(b"This disk cannot be read\r\n\0")
    assert sector[0x1BE] == 0x80
    assert sector[0x1C2] == 0xDA
    assert struct.unpack_from("<II", sector, 0x1C6) == (2048, 100)


@pytest.mark.parametrize(
    "pieces",
    [
        PIECES[:2],
        [*PIECES[:2], Piece(1, 0, 0)],
        [*PIECES[:2], Piece(1, 0, 1 << 16)],
        [*PIECES[:2], Piece(1 << 32, 0, 1)],
        [*PIECES[:2], Piece(1, (1 << 32) - READ_BYTES + 1, 1)],
    ],
)
def test_sector_refuses_pieces_it_cannot_load(pieces: list[Piece]) -> None:
    with pytest.raises(BootError, match="a boot sector"):
        boot_sector(pieces, 0, PARTITION)


def loaded(disk: bytes) -> dict[int, bytes]:
    """What the sector's pieces put where."""
    found = {}
    for index in range(3):
        lba, gpa, reads = struct.unpack_from("<IIH", disk, 0x144 + 10 * index)
        found[gpa] = disk[lba * 512 : lba * 512 + reads * READ_BYTES]
        assert len(found[gpa]) == reads * READ_BYTES
    return found


def test_disk_holds_a_kernel_that_only_has_to_be_entered() -> None:
    kernel, initrd = bzimage(kernel=bytes(range(256)) * 300), b"initrd" * 9000
    disk = boot_disk(kernel, initrd, "console=ttyS0 \udcff", "k")
    assert len(disk) % (1 << 20) == 0
    memory = loaded(disk)
    setup = memory[0x90000]
    address, size = struct.unpack_from("<II", setup, 0x218)
    assert size == len(initrd)
    assert address == 0x1000000 + 0x200000
    assert memory[address].rstrip(b"\0") == initrd
    assert memory[0x100000].startswith(kernel[1024:])
    (line,) = struct.unpack_from("<I", setup, 0x228)
    assert setup[line - 0x90000 :].startswith(b"console=ttyS0 \xff\0")
    assert setup[0x210] == 0xFF
    assert setup[0x211] & 0x80
    assert struct.unpack_from("<H", setup, 0x224)[0] + 0x200 < line - 0x90000
    first, count = struct.unpack_from("<II", disk, 0x1C6)
    assert (first + count) * 512 <= len(disk)


def test_initrd_lies_behind_a_kernel_that_is_larger_than_it_says() -> None:
    kernel = bzimage(kernel=bytes(5000 * 1024), pref_address=0x100000, init_size=0x1000)
    (address,) = struct.unpack_from("<I", loaded(boot_disk(kernel, b"i", "", "k"))[0x90000], 0x218)
    assert address >= 0x100000 + 5000 * 1024


@pytest.mark.parametrize(
    ("kernel", "line", "message"),
    [
        (b"MZ" * 3000, "", "not a bzImage"),
        (bzimage()[:900], "", "truncated"),
        (bzimage(version=0x201), "", "2.01 is too old"),
        (bzimage(initrd_addr_max=0x1000000), "", "does not fit below"),
        (bzimage(), "x" * 2048, "a command line of 2048 bytes"),
        (bzimage(), "a\0b", "without NUL"),
    ],
)
def test_what_cannot_boot_is_refused(kernel: bytes, line: str, message: str) -> None:
    with pytest.raises(BootError, match=message):
        boot_disk(kernel, b"initrd", line, "k")
