"""Disks of a real guest at work and in trouble: ext4, deep queues, discards, resets, a full host, a shrunken file."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyhyve.guest.console import PROMPT

from .conftest import BOOT_TIMEOUT_S
from .monitor import Monitor
from .programs import compiled, find_program, install_programs, program_disk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.guest.builder import Guest

    from .conftest import StartMachine

APPEND = "console=ttyS0 quiet"
WORK = Path(__file__).parents[2] / "benchmarks" / "guest" / "disk.c"
WORK_SHARE = 8
"""The benchmark's work is divided by this: 2,000 reads at depth 32, and so on."""
DISK_BYTES = 64 << 20
RESETS = 100
WORK_TIMEOUT_S = 300


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_ext4_survives_a_reboot(debian_6_1: Guest, tmp_path: Path, start: StartMachine) -> None:
    tools = program_disk(tmp_path / "tools", find_program("mke2fs", "e2fsprogs"), find_program("e2fsck", "e2fsprogs"))
    disk = tmp_path / "disk"
    create = [str(find_program("qemu-img", "qemu-utils")), "create", "-q", "-f", "qcow2", str(disk), "64M"]
    subprocess.run(create, check=True)
    console = start(debian_6_1, APPEND, "--disk", f"{disk},format=qcow2", "--disk", f"{tools},format=raw,readonly=on")
    console.wait_ready(BOOT_TIMEOUT_S)
    install_programs(console, "/dev/vdb")
    # By its path: the guest's shell prefers its own mke2fs, which makes ext2.
    make = "/opt/bin/mke2fs -q -t ext4 -F /dev/vda && mount -t ext4 /dev/vda /mnt && echo made"
    assert console.run(make, WORK_TIMEOUT_S).endswith("made\n")
    console.run("for n in 1 2 3 4; do head -c 4000000 /dev/urandom > /mnt/$n; done; seq 300000 > /mnt/numbers")
    console.run("rm /mnt/2; sync; fstrim /mnt")
    written = console.run("cd /mnt; sha256sum 1 3 4 numbers; cd /")
    assert len(re.findall(r"^[0-9a-f]{64}  ", written, re.MULTILINE)) == 4
    console.run("umount /mnt")
    console.send_line("reboot")

    console.wait_ready(BOOT_TIMEOUT_S)
    install_programs(console, "/dev/vdb")
    assert console.run("e2fsck -fn /dev/vda >/dev/null 2>&1; echo status $?") == "status 0\n"
    console.run("mount -t ext4 /dev/vda /mnt")
    assert console.run("cd /mnt; sha256sum 1 3 4 numbers; cd /") == written
    assert console.run("dmesg | grep -ciE 'I/O error|ext4-fs error'") == "0\n"
    console.send_line("poweroff")
    assert console.wait_end() == 0
    subprocess.run([create[0], "check", "-q", str(disk)], check=True)


def test_deep_queues_discard_and_driver_resets(debian_6_1: Guest, tmp_path: Path, start: StartMachine) -> None:
    tools = program_disk(tmp_path / "tools", compiled(tmp_path, WORK))
    disk = tmp_path / "disk"
    disk.write_bytes(os.urandom(1 << 20) * (DISK_BYTES >> 20))
    console = start(debian_6_1, APPEND, "--disk", f"{tools},format=raw,readonly=on", "--disk", f"{disk},format=raw")
    console.wait_ready(BOOT_TIMEOUT_S)
    install_programs(console, "/dev/vda")
    said = console.run(f"disk /dev/vdb {WORK_SHARE}", WORK_TIMEOUT_S)
    assert "bench-done" in said, said
    assert float(re.findall(r"randread-32=([\d.]+)", said)[0]) > 0
    assert console.run("sha256sum < /dev/vdb", WORK_TIMEOUT_S).split()[0] == digest(disk)

    assert holes(disk) == []
    console.run(f"blkdiscard -o 1048576 -l {32 << 20} /dev/vdb && sync")
    # Not by blocks in use: the host's file system may take one more to say where the rest is.
    assert holes(disk) == [(1 << 20, 33 << 20)], "the host has the space back"
    on_disk = disk.read_bytes()
    assert on_disk[1 << 20 : 33 << 20] == bytes(32 << 20)
    assert console.run("sha256sum < /dev/vdb", WORK_TIMEOUT_S).split()[0] == digest(disk)

    # While something reads without a pause, the driver gives the device up and takes it again.
    console.run("(while :; do dd if=/dev/vdb of=/dev/null bs=64k count=20 2>/dev/null; done) 2>/dev/null &")
    resets = (
        "cd /sys/bus/virtio/drivers/virtio_blk; d=$(basename $(readlink -f /sys/block/vdb/device));"
        f" for n in $(seq {RESETS}); do echo $d > unbind; echo $d > bind; usleep 10000; done; cd /; echo did $n"
    )
    assert console.run(resets, WORK_TIMEOUT_S).endswith(f"did {RESETS}\n")
    console.run("kill %1; while pidof dd; do usleep 100000; done")
    # The name stays taken while somebody holds what was given up: with nobody left, it is vdb again.
    console.run("cd /sys/bus/virtio/drivers/virtio_blk")
    console.run("until [ -e /dev/vdb ]; do echo $d > unbind; echo $d > bind; done; cd /", WORK_TIMEOUT_S)
    assert console.run("sha256sum < /dev/vdb", WORK_TIMEOUT_S).split()[0] == digest(disk)


def holes(path: Path) -> list[tuple[int, int]]:
    """Start and end of what the host has no space for."""
    found: list[tuple[int, int]] = []
    with path.open("rb") as file:
        size, at = os.fstat(file.fileno()).st_size, 0
        while at < size and (start := os.lseek(file.fileno(), at, os.SEEK_HOLE)) < size:
            try:
                at = os.lseek(file.fileno(), start, os.SEEK_DATA)
            except OSError:  # ENXIO: there is no more data
                at = size
            found.append((start, at))
    return found


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_file_that_shrinks_under_a_guest(debian_6_1: Guest, tmp_path: Path, start: StartMachine) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"\xaa" * (16 << 20))
    console = start(debian_6_1, APPEND, "--disk", f"{disk},format=raw")
    console.wait_ready(BOOT_TIMEOUT_S)
    os.truncate(disk, 4 << 20)
    assert console.run("dd if=/dev/vda bs=1M count=16 iflag=direct 2>/dev/null | tr -d '\\252' | wc -c") == (
        f"{12 << 20}\n"
    ), "what is gone reads as zeroes"
    console.run("echo back again | dd of=/dev/vda bs=512 seek=20000 conv=sync oflag=direct")
    assert disk.stat().st_size >= 20001 * 512
    read_back = "dd if=/dev/vda bs=512 skip=20000 count=1 iflag=direct 2>/dev/null | head -n 1"
    assert console.run(read_back) == "back again\n"
    console.send_line("poweroff")
    assert console.wait_end() == 0


# -- a full file system under the image --------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(path)], check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_full_file_system_stops_the_machine_and_loses_nothing(
    debian_6_1: Guest, small: Path, tmp_path: Path, start: StartMachine
) -> None:
    disk = sparse(small / "disk", 32 << 20)
    console = start(debian_6_1, APPEND, "--qmp", f"unix:{tmp_path}/qmp", "--disk", f"{disk},format=raw,werror=enospc")
    console.wait_ready(BOOT_TIMEOUT_S)
    monitor = Monitor(tmp_path / "qmp")
    console.run("dd if=/dev/urandom of=/tmp/data bs=1M count=16")
    console.send_line("dd if=/tmp/data of=/dev/vda bs=1M conv=fsync; echo wrote $?")
    error = monitor.event("BLOCK_IO_ERROR")
    assert (error["operation"], error["action"], error["nospace"]) == ("write", "stop", True)
    monitor.event("STOP")
    assert monitor.ask("query-status")["status"] == "io-error"
    monitor.ask("cont")
    monitor.event("STOP")  # there is still no room

    subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
    monitor.ask("cont")
    console.expect("wrote 0", WORK_TIMEOUT_S)
    console.expect(PROMPT)
    on_guest = console.run("sha256sum < /tmp/data").split()[0]
    assert hashlib.sha256(disk.read_bytes()[: 16 << 20]).hexdigest() == on_guest
    assert monitor.ask("query-status")["status"] == "running"
    monitor.close()


def test_full_file_system_is_an_error_to_the_guest_otherwise(
    debian_6_1: Guest, small: Path, start: StartMachine
) -> None:
    disk = sparse(small / "disk", 32 << 20)
    console = start(debian_6_1, APPEND, "--disk", f"{disk},format=raw")
    console.wait_ready(BOOT_TIMEOUT_S)
    said = console.run("dd if=/dev/zero of=/dev/vda bs=1M count=16 oflag=direct 2>&1; echo status $?", WORK_TIMEOUT_S)
    assert "error" in said.lower() or "no space" in said.lower()
    assert "status 1" in said
    deadline = time.monotonic() + WORK_TIMEOUT_S
    while console.run("echo alive") != "alive\n":
        assert time.monotonic() < deadline
