"""Boards other than the PC."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from typing import TYPE_CHECKING

from pyhyve.guest.console import GuestConsole

from .conftest import BOOT_TIMEOUT_S, PATIENCE, SYSTEM_ACCEL
from .monitor import Monitor

if TYPE_CHECKING:
    from pathlib import Path

    from pyhyve.guest.builder import Guest


def test_microvm_runs_linux_without_pci_and_goes_back_to_a_snapshot(debian_6_1: Guest, tmp_path: Path) -> None:
    disk, contents = tmp_path / "disk.qcow2", bytes(range(256)) * 4096
    (tmp_path / "raw").write_bytes(contents)
    make = [sys.executable, "-m", "pyhyve", "img", "convert", "-O", "qcow2", str(tmp_path / "raw"), str(disk)]
    subprocess.run(make, check=True)
    words = ["-M", "microvm", "-accel", SYSTEM_ACCEL, "-m", "256", "-nographic", "-hda", str(disk)]
    words += ["-kernel", str(debian_6_1.kernel), "-initrd", str(debian_6_1.initrd), "-append", "console=ttyS0 quiet"]
    words += ["-device", "virtio-rng-device", "-qmp", f"unix:{tmp_path}/qmp,server=on,wait=off"]
    with GuestConsole([sys.executable, "-m", "pyhyve.cli.system", *words], patience=PATIENCE) as console:
        console.wait_ready(BOOT_TIMEOUT_S)
        monitor = Monitor(tmp_path / "qmp")
        assert console.run("ls /sys/bus/pci/devices; ls /sys/bus/virtio/devices").split() == ["virtio0", "virtio1"]
        assert console.run("sha256sum </dev/vda").split()[0] == hashlib.sha256(contents).hexdigest()
        assert monitor.ask("qom-get", path="/machine", property="type") == "microvm-machine"
        assert monitor.ask("human-monitor-command", command_line="savevm kept") == ""
        console.run("echo lost | dd of=/dev/vda conv=sync bs=512; sync")
        assert monitor.ask("human-monitor-command", command_line="loadvm kept") == ""
        console.run("echo 3 >/proc/sys/vm/drop_caches")
        assert console.run("sha256sum </dev/vda").split()[0] == hashlib.sha256(contents).hexdigest()
        monitor.close()
        console.send_line("reboot")
        console.expect("pyhyve guest ready", BOOT_TIMEOUT_S)
        console.send_line("poweroff")
        assert console.wait_end() == 0


def test_q35_runs_linux_on_pci_express_and_takes_a_device(debian_6_1: Guest, tmp_path: Path) -> None:
    disk, contents = tmp_path / "disk.raw", bytes(range(256)) * 4096
    disk.write_bytes(contents)
    words = ["-M", "q35", "-accel", SYSTEM_ACCEL, "-m", "256", "-nographic"]
    words += ["-drive", f"file={disk},format=raw,if=virtio", "-qmp", f"unix:{tmp_path}/qmp,server=on,wait=off"]
    words += ["-kernel", str(debian_6_1.kernel), "-initrd", str(debian_6_1.initrd), "-append", "console=ttyS0 quiet"]
    with GuestConsole([sys.executable, "-m", "pyhyve.cli.system", *words], patience=PATIENCE) as console:
        console.wait_ready(BOOT_TIMEOUT_S)
        monitor = Monitor(tmp_path / "qmp")
        assert "b0000000-bfffffff : PCI MMCONFIG" in console.run("grep MMCONFIG /proc/iomem")
        assert console.run("sha256sum </dev/vda").split()[0] == hashlib.sha256(contents).hexdigest()
        monitor.ask("device_add", driver="virtio-rng-pci", id="r", bus="pcie.0", addr="0x9")
        console.run("until [ -e /sys/bus/pci/devices/0000:00:09.0 ]; do sleep 0.1; done")
        monitor.ask("device_del", id="r")
        assert monitor.event("DEVICE_DELETED")["device"] == "r"
        console.send_line("poweroff")
        assert console.wait_end() == 0
