"""Machines that start as PCs do: firmware, boot sector, boot loader."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyhyve.boot.errors import BootError
from pyhyve.boot.firmware import find_firmware
from pyhyve.guest.console import GuestConsole

from .conftest import ACCEL, BOOT_TIMEOUT_S
from .tiny import HALT, boot_sector, print16

if TYPE_CHECKING:
    from pyhyve.guest.builder import Guest

POWER_OFF = b"\xba\x04\x06\xb8\x00\x34\xef"
"""MOV DX, 604h; MOV AX, 3400h; OUT DX, AX: ACPI's soft-off."""
RESET = b"\xb0\xfe\xe6\x64"
"""MOV AL, 0FEh; OUT 64h, AL: the keyboard controller pulls the reset line."""
READ_COUNTER = b"\xb0\x50\xe6\x70\xe4\x71"
"""CMOS byte 50h to AL: it survives resets."""
ISOLINUX = Path("/usr/lib/ISOLINUX")
ISOLINUX_CONFIG = """SERIAL 0 115200
DEFAULT debian
LABEL debian
 KERNEL /vmlinuz
 APPEND initrd=/initrd console=ttyS0 quiet
"""


@pytest.fixture(autouse=True)
def firmware() -> Path:
    try:
        return find_firmware()
    except BootError as error:
        pytest.skip(str(error))


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "pyhyve", "run", "--accel", ACCEL, *options]


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("--timeout", "240", *options),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return tmp_path / "disk.img"


def test_boot_sector_of_a_disk_runs(disk: Path) -> None:
    disk.write_bytes(boot_sector(print16("from the boot sector\n") + POWER_OFF + HALT).ljust(1 << 20, b"\0"))
    done = run("--disk", f"{disk},format=raw")
    assert done.returncode == 0, done
    assert "SeaBIOS" in done.stdout
    assert done.stdout.endswith("from the boot sector\n")


def made_disk(*options: str) -> Path:
    words = [sys.executable, "-m", "pyhyve", "guest", "path", "disk", *options]
    return Path(subprocess.run(words, capture_output=True, text=True, check=True).stdout.rstrip("\n"))


@pytest.mark.parametrize("kind", ["virtio", "ide"])
def test_disk_of_a_guest_boots_by_itself(kind: str, debian_6_1: Guest) -> None:
    made = made_disk("--name", debian_6_1.name, "--append", f"console=ttyS0 quiet from={kind}")
    assert made.parent == debian_6_1.directory
    if kind == "ide":
        words = [sys.executable, "-m", "pyhyve.cli.system", "-m", "256", "-nographic", "-snapshot", "-hda", str(made)]
    else:
        words = command("--memory", "256M", "--disk", f"{made},snapshot=on")
    with GuestConsole(words) as console:
        assert console.wait_ready(BOOT_TIMEOUT_S) == f"Linux {debian_6_1.release} on pyhyve"
        assert console.run("cat /proc/cmdline").split() == ["console=ttyS0", "quiet", f"from={kind}"]
        console.send_line("poweroff")
        assert console.wait_end() == 0


def test_disk_of_a_guest_says_how_much_memory_it_needs(debian_6_1: Guest) -> None:
    made = made_disk("--name", debian_6_1.name)
    needed = re.search(rb"This disk needs \d+ MiB of memory", made.read_bytes()[:512])
    assert needed is not None
    with GuestConsole(command("--memory", "64M", "--disk", f"{made},snapshot=on")) as console:
        console.expect(needed[0].decode(), BOOT_TIMEOUT_S)


def test_reset_goes_through_the_firmware_again(disk: Path) -> None:
    # First time: CMOS byte 50h is not 5; set it and reset.
    first = b"\xb0\x05\xe6\x71" + RESET + HALT
    code = print16("boot\n") + READ_COUNTER + b"\x3c\x05\x74" + bytes((len(first),)) + first + POWER_OFF + HALT
    disk.write_bytes(boot_sector(code).ljust(1 << 20, b"\0"))
    done = run("--disk", f"{disk},format=raw")
    assert done.returncode == 0, done
    assert done.stdout.count("SeaBIOS") == done.stdout.count("boot\n") == 2


def test_disk_without_a_boot_sector_is_said_by_the_firmware(disk: Path) -> None:
    disk.write_bytes(bytes(1 << 20))
    with GuestConsole(command("--disk", f"{disk},format=raw", "--timeout", "240")) as console:
        console.expect("not a bootable disk", BOOT_TIMEOUT_S)


@pytest.fixture
def disc(debian_6_1: Guest, tmp_path: Path) -> Path:
    """A disc that boots Debian with isolinux, as a CD-ROM and as a hard disk."""
    xorriso = shutil.which("xorriso")
    modules = Path("/usr/lib/syslinux/modules/bios")
    if xorriso is None or not ISOLINUX.is_dir() or not modules.is_dir():
        pytest.skip("needs the Debian packages xorriso, isolinux and syslinux-common")
    disc, tree = tmp_path / "disc.iso", tmp_path / "tree"
    (tree / "isolinux").mkdir(parents=True)
    shutil.copy(debian_6_1.kernel, tree / "vmlinuz")
    shutil.copy(debian_6_1.initrd, tree / "initrd")
    shutil.copy(ISOLINUX / "isolinux.bin", tree / "isolinux")
    shutil.copy(modules / "ldlinux.c32", tree / "isolinux")
    (tree / "isolinux" / "isolinux.cfg").write_text(ISOLINUX_CONFIG)
    subprocess.run(
        [
            *(xorriso, "-as", "mkisofs", "-quiet", "-o", str(disc), "-b", "isolinux/isolinux.bin"),
            *("-c", "isolinux/boot.cat", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"),
            *("-isohybrid-mbr", str(ISOLINUX / "isohdpfx.bin"), str(tree)),
        ],
        check=True,
    )
    return disc


@pytest.mark.parametrize(
    ("options", "medium"),
    [(("--disk", "{},format=raw,readonly=on"), "Hard Disk"), (("--cdrom", "{}", "--boot", "d"), "DVD/CD")],
    ids=["disk", "cdrom"],
)
def test_boot_loader_starts_debian(options: tuple[str, ...], medium: str, debian_6_1: Guest, disc: Path) -> None:
    with GuestConsole(command(*(option.format(disc) for option in options))) as console:
        console.expect(f"Booting from {medium}", BOOT_TIMEOUT_S)
        assert console.wait_ready(BOOT_TIMEOUT_S) == f"Linux {debian_6_1.release} on pyhyve"
        assert "BOOT_IMAGE=/vmlinuz" in console.run("cat /proc/cmdline")
        assert console.run("ls /sys/firmware/acpi/tables").split()[:3] == ["APIC", "DSDT", "FACP"]
        console.send_line("poweroff")
        assert console.wait_end() == 0


def test_classic_command_boots_a_disc_with_a_disk_beside_it(debian_6_1: Guest, disc: Path, disk: Path) -> None:
    contents = bytes(range(256)) * 4096
    disk.write_bytes(contents)
    words = ["-hda", str(disk), "-cdrom", str(disc), "-boot", "d", "-nographic", "-m", "256"]
    with GuestConsole([sys.executable, "-m", "pyhyve.cli.system", *words]) as console:
        console.expect("Booting from DVD/CD", BOOT_TIMEOUT_S)
        assert console.wait_ready(BOOT_TIMEOUT_S) == f"Linux {debian_6_1.release} on pyhyve"
        assert console.run("sha256sum </dev/sda").split()[0] == hashlib.sha256(contents).hexdigest()
        read = console.run("mount -t iso9660 -o ro /dev/sr0 /mnt && cat /mnt/isolinux/isolinux.cfg")
        assert read.replace("\r", "") == ISOLINUX_CONFIG
        console.run("echo written | dd of=/dev/sda bs=512 seek=3 conv=sync; sync")
        console.send_line("poweroff")
        assert console.wait_end() == 0
    assert disk.read_bytes()[1536:].startswith(b"written\n\0")


def test_q35_boots_a_sata_disk(disk: Path) -> None:
    disk.write_bytes(boot_sector(print16("from the boot sector\n") + POWER_OFF + HALT).ljust(1 << 20, b"\0"))
    words = ["-M", "q35", "-hda", str(disk), "-nographic", "-m", "64"]
    done = subprocess.run(
        [sys.executable, "-m", "pyhyve.cli.system", *words], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done
    assert done.stdout.endswith("from the boot sector\n")


def test_q35_boots_a_sata_disc_with_a_disk_behind_a_root_port(debian_6_1: Guest, disc: Path, disk: Path) -> None:
    contents = bytes(range(256)) * 4096
    disk.write_bytes(contents)
    words = ["-M", "q35", "-nographic", "-m", "256"]
    for number in range(2):
        port = f"pcie-root-port,id=p{number},chassis={number},bus=pcie.0,addr=0x3.{number},multifunction=on"
        words += ["-device", port]
    words += ["-drive", f"file={disk},format=raw,if=none,id=d", "-device", "virtio-blk-pci,drive=d,bus=p1,bootindex=2"]
    words += ["-drive", f"file={disc},format=raw,if=none,id=c,media=cdrom"]
    words += ["-device", "ide-cd,drive=c,bus=ide.1,bootindex=1"]
    with GuestConsole([sys.executable, "-m", "pyhyve.cli.system", *words]) as console:
        console.expect("Booting from DVD/CD", BOOT_TIMEOUT_S)
        assert console.wait_ready(BOOT_TIMEOUT_S) == f"Linux {debian_6_1.release} on pyhyve"
        assert console.run("sha256sum </dev/vda").split()[0] == hashlib.sha256(contents).hexdigest()
        assert "/0000:00:03.1/0000:02:00.0/" in console.run("readlink /sys/block/vda")
        console.send_line("poweroff")
        assert console.wait_end() == 0
