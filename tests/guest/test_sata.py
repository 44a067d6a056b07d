"""SATA disks and CD-ROMs of a Q35, as Linux's libata meets them."""

from __future__ import annotations

import hashlib
import sys
from typing import TYPE_CHECKING

from pyhyve.guest.console import GuestConsole

from .conftest import BOOT_TIMEOUT_S, PATIENCE, SYSTEM_ACCEL
from .monitor import Monitor

if TYPE_CHECKING:
    from pathlib import Path

    from pyhyve.guest.builder import Guest

_DISK_BYTES, _DISC_BYTES = 16 << 20, 1 << 20


def test_linux_uses_sata_drives(debian_6_12: Guest, tmp_path: Path) -> None:
    disk, disc, other = tmp_path / "disk.raw", tmp_path / "disc.iso", tmp_path / "other.iso"
    contents = hashlib.shake_128(b"disk").digest(_DISK_BYTES)
    disk.write_bytes(contents)
    disc.write_bytes(contents[:_DISC_BYTES])
    other.write_bytes(contents[-_DISC_BYTES:])
    words = ["-M", "q35", "-accel", SYSTEM_ACCEL, "-m", "256", "-nographic"]
    words += ["-qmp", f"unix:{tmp_path}/qmp,server=on,wait=off"]
    words += ["-drive", f"file={disk},format=raw,serial=SATA1", "-cdrom", str(disc)]
    words += ["-kernel", str(debian_6_12.kernel), "-initrd", str(debian_6_12.initrd), "-append", "console=ttyS0 quiet"]
    with GuestConsole([sys.executable, "-m", "pyhyve.cli.system", *words], patience=PATIENCE) as console:
        console.wait_ready(BOOT_TIMEOUT_S)
        monitor = Monitor(tmp_path / "qmp")
        assert console.run("cat /sys/block/sda/device/queue_depth").strip() == "32"
        assert console.run("sha256sum </dev/sda").split()[0] == hashlib.sha256(contents).hexdigest()
        assert console.run("sha256sum </dev/sr0").split()[0] == hashlib.sha256(contents[:_DISC_BYTES]).hexdigest()
        console.run("dd if=/dev/sda of=/dev/sda bs=64k count=64 seek=128 2>/dev/null; sync")
        expected = contents[: 8 << 20] + contents[: 4 << 20] + contents[12 << 20 :]
        console.run("echo 3 >/proc/sys/vm/drop_caches")
        assert console.run("sha256sum </dev/sda").split()[0] == hashlib.sha256(expected).hexdigest()
        monitor.ask("blockdev-change-medium", device="ide2-cd0", filename=str(other), force=True)
        assert console.run("sha256sum </dev/sr0").split()[0] == hashlib.sha256(contents[-_DISC_BYTES:]).hexdigest()
        console.send_line("poweroff")
        assert console.wait_end() == 0
    assert disk.read_bytes() == expected


def test_sata_drives_survive_a_save_in_the_middle_of_work(debian_6_12: Guest, tmp_path: Path) -> None:
    """A snapshot while a disk is written, behind a second controller on a bridge, and back."""
    disk, state = tmp_path / "disk.raw", tmp_path / "state"
    disk.write_bytes(bytes(_DISK_BYTES))
    words = ["-M", "q35", "-accel", SYSTEM_ACCEL, "-m", "256", "-nographic"]
    words += ["-device", "pcie-pci-bridge,id=below,bus=pcie.0", "-device", "ich9-ahci,id=more,bus=below,addr=0x2"]
    words += ["-drive", f"file={disk},format=raw,if=none,id=d", "-device", "ide-hd,drive=d,bus=more.3,werror=stop"]
    words += ["-device", "ide-cd,bus=ide.4,id=empty"]
    words += ["-kernel", str(debian_6_12.kernel), "-initrd", str(debian_6_12.initrd), "-append", "console=ttyS0 quiet"]
    command = [sys.executable, "-m", "pyhyve.cli.system", *words]
    with GuestConsole([*command, "-qmp", f"unix:{tmp_path}/qmp,server=on,wait=off"], patience=PATIENCE) as console:
        console.wait_ready(BOOT_TIMEOUT_S)
        monitor = Monitor(tmp_path / "qmp")
        console.run(
            "(while :; do dd if=/dev/urandom of=/dev/sda bs=256k count=32 oflag=direct 2>/dev/null; done) & true"
        )
        monitor.migrate(f"file:{state}")
        monitor.ask("quit")
        monitor.close()
        assert console.wait_end() == 0
    words = ["-incoming", f"file:{state}", "-qmp", f"unix:{tmp_path}/qmp2,server=on,wait=off"]
    with GuestConsole([*command, *words], patience=PATIENCE) as console:
        console.run("kill %1; while pidof dd; do usleep 100000; done")
        console.run("dd if=/dev/zero of=/dev/sda bs=1M count=4 oflag=direct 2>/dev/null; sync")
        assert console.run("dmesg | grep -ci 'ata.*error'") == "0\n"
        console.send_line("poweroff")
        assert console.wait_end() == 0
    assert disk.read_bytes()[: 4 << 20] == bytes(4 << 20)
