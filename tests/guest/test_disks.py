"""Disks of a real guest: what it writes is there after a reboot, in the image, or (with an overlay) nowhere."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from .conftest import ACCEL, BOOT_TIMEOUT_S, PATIENCE, our_command

if TYPE_CHECKING:
    from pathlib import Path

    from pyhyve.guest.builder import Guest

    from .conftest import StartMachine

DISK_BYTES = 32 << 20
APPEND = "console=ttyS0 quiet"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(DISK_BYTES)
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_file_system_survives_a_reboot(debian_6_1: Guest, disk: Path, start: StartMachine) -> None:
    console = start(debian_6_1, APPEND, "--disk", f"{disk},format=raw,serial=DISK-7")
    console.wait_ready(BOOT_TIMEOUT_S)
    assert console.run("cat /sys/block/vda/size") == f"{DISK_BYTES // 512}\n"
    assert console.run("echo $(cat /sys/block/vda/serial)") == "DISK-7\n"
    console.run("mke2fs -F /dev/vda && mount /dev/vda /mnt")
    written = console.run("seq 500000 > /mnt/numbers; sha256sum < /mnt/numbers")
    console.run("umount /mnt; sync")
    console.send_line("reboot")

    console.wait_ready(BOOT_TIMEOUT_S)
    console.run("mount -o ro /dev/vda /mnt")
    assert console.run("sha256sum < /mnt/numbers") == written
    assert console.run("dmesg | grep -c 'I/O error'") == "0\n"
    on_guest = console.run("umount /mnt; sha256sum < /dev/vda").split()[0]
    console.send_line("poweroff")
    assert console.wait_end() == 0
    assert digest(disk) == on_guest


def test_snapshot_leaves_the_image_alone(debian_6_1: Guest, disk: Path, start: StartMachine) -> None:
    before = digest(disk)
    console = start(debian_6_1, APPEND, "--disk", f"{disk},format=raw,snapshot=on")
    console.wait_ready(BOOT_TIMEOUT_S)
    console.run("echo gone tomorrow > /dev/vda; sync; echo 3 > /proc/sys/vm/drop_caches")
    assert console.run("head -n 1 /dev/vda") == "gone tomorrow\n"
    console.send_line("poweroff")
    assert console.wait_end() == 0
    assert digest(disk) == before


def test_cdrom_is_read_only_to_the_guest(debian_6_1: Guest, disk: Path, start: StartMachine) -> None:
    with disk.open("r+b") as file:
        file.write(b"on the disc\n")
    console = start(debian_6_1, APPEND, "--cdrom", str(disk))
    console.wait_ready(BOOT_TIMEOUT_S)
    assert console.run("cat /sys/block/vda/ro") == "1\n"
    assert console.run("head -n 1 /dev/vda") == "on the disc\n"
    assert console.run("echo x > /dev/vda || echo refused").endswith("refused\n")


def test_second_machine_on_an_image_is_refused(debian_6_1: Guest, disk: Path, start: StartMachine) -> None:
    console = start(debian_6_1, APPEND, "--name", "keeper", "--disk", f"{disk},format=raw")
    console.wait_ready(BOOT_TIMEOUT_S)
    second = subprocess.run(
        our_command(debian_6_1, APPEND, ("--disk", f"{disk},format=raw")),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60 * PATIENCE,
    )  # fmt: skip
    assert second.returncode == 2
    (line,) = second.stderr.splitlines()
    assert "another process" in line
    assert str(disk) in line
    assert f"keeper (process {console.pid})" in line


@pytest.mark.parametrize("contents", [b"", b"QFI\xfb" + bytes(100)], ids=["empty qcow2", "damaged qcow2"])
def test_disk_that_cannot_be_opened_is_one_line(contents: bytes, tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(contents)
    done = subprocess.run(
        [sys.executable, "-m", "pyhyve", "run", "--accel", ACCEL, "--disk", f"{path},format=qcow2"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60 * PATIENCE,
    )  # fmt: skip
    assert done.returncode == 2, done
    (line,) = done.stderr.splitlines()
    assert line.startswith("pyhyve run: ")
