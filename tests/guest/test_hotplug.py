"""Disks and network cards that come and go in a running guest, and its disk while jobs move it; steered through QMP."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

import pytest

from pyhyve.image.opening import OpenSettings, create_image, open_image

from .conftest import BOOT_TIMEOUT_S
from .monitor import Monitor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyhyve.guest.builder import Guest
    from pyhyve.guest.console import GuestConsole

    from .conftest import StartMachine

APPEND = "console=ttyS0 quiet"
WAIT_S = 120.0


@pytest.fixture
def machine(debian_6_1: Guest, tmp_path: Path, start: StartMachine) -> Iterator[tuple[GuestConsole, Monitor]]:
    create_image(str(tmp_path / "disk.qcow2"), "qcow2", 32 << 20)
    path = tmp_path / "qmp"
    options = ("--disk", f"{tmp_path}/disk.qcow2,format=qcow2", "--memory", "256M", "--qmp", f"unix:{path}")
    console = start(debian_6_1, APPEND, *options)
    console.wait_ready(BOOT_TIMEOUT_S)
    monitor = Monitor(path)
    yield console, monitor
    monitor.close()


def wait_for(console: GuestConsole, condition: str) -> None:
    """Until a shell command succeeds in the guest."""
    deadline = time.monotonic() + WAIT_S
    while console.run(f"{condition} >/dev/null 2>&1 && echo yes || echo no").strip() != "yes":
        assert time.monotonic() < deadline, condition
        time.sleep(0.2)


def test_disk_and_card_come_and_go(machine: tuple[GuestConsole, Monitor], tmp_path: Path) -> None:
    console, monitor = machine
    (tmp_path / "second.img").write_bytes(b"pyhyve" + bytes((1 << 20) - 6))
    for _ in range(2):
        file = {"driver": "file", "filename": str(tmp_path / "second.img")}
        monitor.ask("blockdev-add", driver="raw", node_name="second", file=file)
        monitor.ask("device_add", driver="virtio-blk-pci", drive="second", id="hot", serial="later")
        wait_for(console, "[ -e /sys/block/vdb ]")
        assert console.run("echo $(cat /sys/block/vdb/serial)").strip() == "later"
        assert console.run("echo $(head -c 6 /dev/vdb)").strip() == "pyhyve"
        monitor.ask("device_del", id="hot")
        assert monitor.event("DEVICE_DELETED") == {"device": "hot", "path": "/machine/peripheral/hot"}
        wait_for(console, "[ ! -e /sys/block/vdb ]")
        monitor.ask("blockdev-del", node_name="second")
    console.run("modprobe virtio_net")
    monitor.ask("netdev_add", type="socket", id="cable", listen="127.0.0.1:0")
    monitor.ask("device_add", driver="virtio-net-pci", netdev="cable", id="card", mac="52:54:00:00:00:77", addr="0x9")
    wait_for(console, "grep -q 52:54:00:00:00:77 /sys/class/net/*/address")
    assert next(d for d in monitor.ask("query-pci")[0]["devices"] if d["qdev_id"] == "card")["slot"] == 9
    monitor.ask("device_del", id="card")
    assert monitor.event("DEVICE_DELETED")["device"] == "card"
    wait_for(console, "! grep -q 52:54:00:00:00:77 /sys/class/net/*/address")
    monitor.ask("netdev_del", id="cable")


def test_disk_moves_while_the_guest_uses_it(machine: tuple[GuestConsole, Monitor], tmp_path: Path) -> None:
    console, monitor = machine
    console.run("dd if=/dev/urandom of=/dev/vda bs=1M count=8 2>/dev/null; sync")
    (node,) = [drive["inserted"]["node-name"] for drive in monitor.ask("query-block")]

    def digest() -> str:
        return console.run("echo 3 >/proc/sys/vm/drop_caches; sha256sum /dev/vda").split()[0]

    before = digest()
    overlay = str(tmp_path / "overlay.qcow2")
    monitor.ask("blockdev-snapshot-sync", node_name=node, snapshot_file=overlay, snapshot_node_name="over")
    console.run("dd if=/dev/urandom of=/dev/vda bs=1M count=2 seek=12 2>/dev/null; sync")
    wanted = digest()
    assert wanted != before
    # Down into the base, which the disk is again, ...
    monitor.ask("block-commit", job_id="down", device="over", auto_dismiss=False)
    monitor.event("BLOCK_JOB_READY")
    monitor.ask("block-job-complete", device="down")
    assert "error" not in monitor.event("BLOCK_JOB_COMPLETED")
    monitor.ask("job-dismiss", id="down")
    assert monitor.ask("query-block")[0]["inserted"]["node-name"] == node
    assert digest() == wanted
    # ... up into a second overlay, which then needs no base, ...
    second = str(tmp_path / "second.qcow2")
    monitor.ask("blockdev-snapshot-sync", node_name=node, snapshot_file=second, snapshot_node_name="two")
    monitor.ask("block-stream", job_id="up", device="two")
    assert "error" not in monitor.event("BLOCK_JOB_COMPLETED")
    assert "backing_file" not in monitor.ask("query-block")[0]["inserted"]
    assert digest() == wanted
    # ... and to files beside it, while the guest writes.
    console.run("(while :; do dd if=/dev/urandom of=/dev/vda bs=64k count=8 seek=400 2>/dev/null; done) & echo")
    backup, mirror = tmp_path / "backup.raw", tmp_path / "mirror.raw"
    monitor.ask("drive-backup", job_id="copy", device="two", target=str(backup), sync="full", format="raw")
    assert "error" not in monitor.event("BLOCK_JOB_COMPLETED")
    monitor.ask("drive-mirror", job_id="both", device="two", target=str(mirror), sync="full", format="raw")
    monitor.event("BLOCK_JOB_READY")
    console.run("kill %1; while pidof dd; do usleep 100000; done; sync")
    monitor.ask("block-job-cancel", device="both")
    assert "error" not in monitor.event("BLOCK_JOB_COMPLETED")
    assert hashlib.sha256(mirror.read_bytes()).hexdigest() == digest()
    monitor.ask("stop")
    with open_image(str(backup), OpenSettings(format_name="raw")) as image:
        assert image.size_bytes == 32 << 20
    assert monitor.ask("query-block-jobs") == []
