"""Devices behind the root ports of a Q35: there from the start, and coming and going while Linux runs."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from pyhyve.guest.console import GuestConsole

from .conftest import BOOT_TIMEOUT_S, PATIENCE, SYSTEM_ACCEL
from .monitor import Monitor

if TYPE_CHECKING:
    from pathlib import Path

    from pyhyve.guest.builder import Guest


def _ports(count: int) -> list[str]:
    """Ports as libvirt puts them: several functions in a slot."""
    words = []
    for number in range(count):
        port: dict[str, Any] = {"driver": "pcie-root-port", "id": f"pci.{number + 1}", "port": 16 + number}
        port |= {"chassis": number + 1, "bus": "pcie.0", "addr": f"0x2.{number}", "multifunction": not number}
        words += ["-device", json.dumps(port)]
    return words


def _ids(monitor: Monitor) -> list[str]:
    """Ids of the devices behind bridges, as the monitor shows them."""
    (bus,) = monitor.ask("query-pci")
    bridges = [device["pci_bridge"] for device in bus["devices"] if "pci_bridge" in device]
    return [device["qdev_id"] for bridge in bridges for device in bridge.get("devices", [])]


def test_devices_come_and_go_behind_root_ports(debian_6_1: Guest, tmp_path: Path) -> None:
    disk, more, state = tmp_path / "disk.raw", tmp_path / "more.raw", tmp_path / "state"
    contents = bytes(range(256)) * 4096
    disk.write_bytes(contents)
    more.write_bytes(contents[::-1])
    checksum, checksum_more = hashlib.sha256(contents).hexdigest(), hashlib.sha256(contents[::-1]).hexdigest()
    words = ["-M", "q35", "-accel", SYSTEM_ACCEL, "-m", "256", "-nographic", *_ports(3)]
    words += ["-drive", f"file={disk},format=raw,if=none,id=d"]
    words += ["-device", "virtio-blk-pci,drive=d,id=first,bus=pci.1,addr=0x0"]
    words += ["-kernel", str(debian_6_1.kernel), "-initrd", str(debian_6_1.initrd), "-append", "console=ttyS0 quiet"]
    command = [sys.executable, "-m", "pyhyve.cli.system", *words]
    node = {"driver": "raw", "node-name": "m", "file": {"driver": "file", "filename": str(more)}}
    plugged = {"driver": "virtio-blk-pci", "id": "more", "drive": "m", "bus": "pci.2", "addr": "0x0"}
    card = {"driver": "virtio-net-pci", "id": "card", "bus": "pci.3", "addr": "0x0"}
    with GuestConsole([*command, "-qmp", f"unix:{tmp_path}/qmp,server=on,wait=off"], patience=PATIENCE) as console:
        console.wait_ready(BOOT_TIMEOUT_S)
        monitor = Monitor(tmp_path / "qmp")
        links = console.run("for port in /sys/bus/pci/devices/0000:00:02.?; do readlink $port/driver; done")
        assert [link.rpartition("/")[2] for link in links.split()] == ["pcieport"] * 3
        assert console.run("sha256sum </dev/vda").split()[0] == checksum
        monitor.ask("blockdev-add", **node)
        monitor.ask("device_add", **plugged)
        monitor.ask("device_add", **card)
        console.run("until [ -e /dev/vdb -a -e /sys/bus/pci/devices/0000:03:00.0/driver ]; do sleep 0.1; done")
        assert console.run("sha256sum </dev/vdb").split()[0] == checksum_more
        assert _ids(monitor) == ["first", "more", "card"]
        monitor.ask("stop")
        monitor.migrate(f"file:{state}")
        monitor.ask("quit")
        monitor.close()
        assert console.wait_end() == 0
    words = ["-blockdev", json.dumps(node), "-device", json.dumps(plugged), "-device", json.dumps(card)]
    words += ["-incoming", f"file:{state}", "-qmp", f"unix:{tmp_path}/qmp2,server=on,wait=off"]
    with GuestConsole([*command, *words], patience=PATIENCE) as console:
        monitor = Monitor(tmp_path / "qmp2")
        while monitor.ask("query-status")["status"] == "inmigrate":
            time.sleep(0.05)
        monitor.ask("cont")
        console.run("echo 3 >/proc/sys/vm/drop_caches")
        assert console.run("sha256sum </dev/vdb").split()[0] == checksum_more
        monitor.ask("device_del", id="more")
        monitor.ask("device_del", id="card")
        assert {monitor.event("DEVICE_DELETED")["device"] for _ in range(2)} == {"more", "card"}
        assert _ids(monitor) == ["first"]
        assert console.run("ls /sys/block | grep -c vd").split() == ["1"]
        monitor.ask("device_add", **plugged)
        console.run("until [ -e /dev/vdb ]; do sleep 0.1; done")
        monitor.ask("system_reset")
        console.wait_ready(BOOT_TIMEOUT_S)
        assert console.run("sha256sum </dev/vdb").split()[0] == checksum_more
        console.send_line("poweroff")
        assert console.wait_end() == 0
