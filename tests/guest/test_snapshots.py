"""Snapshots of machine and disks in qcow2 images: there and back, under load, and as QEMU's tools see them."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from pyhyve.image.opening import OpenSettings, open_image
from pyhyve.machine.builder import build
from pyhyve.machine.config import MIB, AccelChoice, DiskConfig, MachineConfig
from pyhyve.machine.lifecycle import MachineState
from pyhyve.machine.snapshot_jobs import all_disks
from pyhyve.machine.snapshots import (
    delete_snapshot,
    load_snapshot,
    save_snapshot,
    start_from_snapshot,
    state_disk,
)
from pyhyve.state.errors import StateError

from .in_process import RunningMachine, Screen
from .test_state import COUNTER, LETTERS
from .tiny import kernel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyhyve.guest.builder import Guest
    from pyhyve.machine.machine import Machine
    from pyhyve.machine.snapshots import SnapshotDisk


def make_image(path: Path, size: str = "64M", image_format: str = "qcow2") -> Path:
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is not installed (apt-get install qemu-utils)")
    subprocess.run(["qemu-img", "create", "-q", "-f", image_format, str(path), size], check=True)
    return path


def disks_of(machine: Machine) -> list[SnapshotDisk]:
    return all_disks(machine)


def tiny_config(directory: Path, *images: Path, image_format: str = "qcow2") -> MachineConfig:
    path = directory / "kernel"
    path.write_bytes(kernel(COUNTER))
    return MachineConfig(
        memory_bytes=16 * MIB,
        accel=AccelChoice.JIT,
        kernel=path,
        disks=tuple(DiskConfig(image, format=image_format) for image in images),
    )


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunningMachine]:
    made = RunningMachine.boot(tiny_config(tmp_path, make_image(tmp_path / "a"), make_image(tmp_path / "b")))
    made.expect(r"[A-P]{5}", 120)
    yield made
    made.stop()


def take(running: RunningMachine, tag: str) -> None:
    disks = disks_of(running.machine)
    save_snapshot(running.machine, disks, state_disk(disks), tag)


def go_back(running: RunningMachine, tag: str) -> None:
    disks = disks_of(running.machine)
    load_snapshot(running.machine, disks, state_disk(disks), tag)


def last_letter(running: RunningMachine) -> str:
    """What was printed last; the machine is paused."""
    while True:
        running.expect(r"[A-P]")
        assert running.machine.pause().wait(60)
        if running.screen.text:
            return running.screen.text[-1]
        assert running.machine.resume().wait(60)


def test_program_goes_back_to_where_it_was(running: RunningMachine) -> None:
    first = last_letter(running)
    take(running, "here")
    assert running.machine.state is MachineState.PAUSED
    assert running.machine.resume().wait(60)
    running.expect(r"[A-P]{40}")
    for _ in range(3):
        last_letter(running)
        running.screen.text = ""
        go_back(running, "here")
        assert running.machine.resume().wait(60)
        assert running.expect(r"[A-P]{3}")[0] == LETTERS[(LETTERS.index(first) + 1) % 16]


def test_running_machine_goes_on_by_itself_after_both(running: RunningMachine) -> None:
    take(running, "one")
    running.expect(r"[A-P]{20}")
    go_back(running, "one")
    running.expect(r"[A-P]{20}")
    assert running.machine.state is MachineState.RUNNING


def test_snapshot_of_a_name_is_replaced_and_deleted(running: RunningMachine, tmp_path: Path) -> None:
    take(running, "one")
    take(running, "two")
    take(running, "one")
    names = [[entry.name for entry in disk.image.snapshots()] for disk in disks_of(running.machine)]
    assert names == [["two", "one"], ["two", "one"]]
    sizes = [[entry.vm_state_size_bytes > 0 for entry in disk.image.snapshots()] for disk in disks_of(running.machine)]
    assert sizes == [[True, True], [False, False]]
    delete_snapshot(running.machine, disks_of(running.machine), "two")
    delete_snapshot(running.machine, disks_of(running.machine), "two")  # as in QEMU, no error
    names = [[entry.name for entry in disk.image.snapshots()] for disk in disks_of(running.machine)]
    assert names == [["one"], ["one"]]
    running.stop()
    for name in ("a", "b"):
        checked = subprocess.run(["qemu-img", "check", "-q", str(tmp_path / name)], check=False)
        assert checked.returncode == 0
        told = subprocess.run(
            ["qemu-img", "info", "--output=json", str(tmp_path / name)], capture_output=True, check=True
        )
        assert [entry["name"] for entry in json.loads(told.stdout)["snapshots"]] == ["one"]


def test_machine_is_started_from_a_snapshot(running: RunningMachine, tmp_path: Path) -> None:
    first = last_letter(running)
    take(running, "here")
    running.stop()
    screen = Screen()
    config = tiny_config(tmp_path, tmp_path / "a", tmp_path / "b")
    machine = build(config, console=screen)
    machine.restore = lambda: start_from_snapshot(machine, disks_of(machine), "here")
    again = RunningMachine(machine, screen)
    assert again.expect(r"[A-P]{3}")[0] == LETTERS[(LETTERS.index(first) + 1) % 16]
    again.stop()


def test_missing_and_disk_only_snapshots_are_refused(running: RunningMachine) -> None:
    disks = disks_of(running.machine)
    with pytest.raises(StateError, match="Snapshot 'none' does not exist in one or more devices"):
        go_back(running, "none")
    disks[0].image.create_snapshot("half", date_ns=time.time_ns())
    with pytest.raises(StateError, match="This is a disk-only snapshot"):
        go_back(running, "half")
    disks[1].image.create_snapshot("other", date_ns=time.time_ns())
    with pytest.raises(StateError, match="does not exist in one or more devices"):
        go_back(running, "other")
    running.expect(r"[A-P]{20}")


@pytest.mark.parametrize("damage", ["foreign", "truncated", "head", "memory"])
def test_snapshot_with_a_damaged_state_is_refused(running: RunningMachine, damage: str) -> None:
    """Of another monitor, cut off, or with a flipped bit."""
    take(running, "good")
    disks = disks_of(running.machine)
    image = disks[0].image
    (taken,) = image.snapshots()
    image.apply_snapshot(taken)
    whole = bytearray(taken.vm_state_size_bytes)
    image.pread_vm_state_into(memoryview(whole), 0)
    match damage:
        case "foreign":
            whole[:8] = b"QEVM\0\0\0\3"
        case "truncated":
            del whole[-5000:]
        case "head":
            whole[len(whole) // 100] ^= 4
        case _:
            whole[-3000] ^= 4
    image.pwrite_vm_state(whole, 0)
    for disk in disks:
        size = len(whole) if disk is disks[0] else 0
        disk.image.create_snapshot("bad", date_ns=time.time_ns(), vm_state_size_bytes=size)
    with pytest.raises(StateError, match=r"not a state of a machine|truncated|damaged"):
        go_back(running, "bad")
    assert running.machine.state is MachineState.PAUSED
    go_back(running, "good")
    assert running.machine.resume().wait(60)
    running.expect(r"[A-P]{20}")


def test_writable_disk_without_snapshots_is_refused_by_name(tmp_path: Path) -> None:
    raw = make_image(tmp_path / "raw", image_format="raw")
    running = RunningMachine.boot(tiny_config(tmp_path, raw, image_format="raw"))
    running.expect(r"[A-P]{5}", 120)
    with pytest.raises(StateError, match="Device 'virtio0' is writable but does not support snapshots"):
        take(running, "one")
    running.stop()


def test_machine_without_disks_has_nowhere_to_keep_a_state(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="No block device can accept snapshots"):
        state_disk([])


def test_full_file_system_leaves_the_guest_running_and_the_image_whole(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "none", str(full)], capture_output=True, check=False
    ).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        image = make_image(full / "a")
        with (full / "filler").open("wb") as filler:
            filler.write(bytes(200 << 10))
        running = RunningMachine.boot(tiny_config(tmp_path, image))
        running.expect(r"[A-P]{5}", 120)
        refused = 0
        for tag in ("one", "two", "three"):
            try:
                take(running, tag)
            except (StateError, OSError):
                refused += 1
        assert refused
        running.expect(r"[A-P]{20}")
        running.stop()
        assert subprocess.run(["qemu-img", "check", "-q", str(image)], check=False).returncode in {0, 3}
    finally:
        subprocess.run(["umount", str(full)], check=True)


def test_snapshot_under_disk_load_passes_fsck(debian_6_1: Guest, tmp_path: Path) -> None:
    if shutil.which("mkfs.ext4") is None or shutil.which("e2fsck") is None:
        pytest.skip("e2fsprogs is not installed (apt-get install e2fsprogs)")
    raw, disk = tmp_path / "raw", tmp_path / "disk"
    make_image(raw, image_format="raw")
    subprocess.run(["mkfs.ext4", "-q", str(raw)], check=True)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(disk)], check=True)
    config = MachineConfig(
        memory_bytes=256 * MIB,
        accel=AccelChoice.JIT,
        kernel=debian_6_1.kernel,
        initrd=debian_6_1.initrd,
        append="console=ttyS0 quiet",
        disks=(DiskConfig(disk, format="qcow2"),),
    )
    machine = RunningMachine.boot(config)
    machine.expect("pyhyve guest ready", 240)
    machine.shell("mount /dev/vda /mnt")
    machine.shell(
        "(n=0; while :; do n=$((n+1)); d=/mnt/d$((n%50)); mkdir -p $d; seq $((n*7%20000)) > $d/f; mv $d/f $d/g;"
        " [ $((n%7)) = 0 ] && rm -r $d; [ $((n%9)) = 0 ] && sync; echo $n > /tmp/m; mv /tmp/m /tmp/n; done) & :"
    )
    machine.shell("until [ -e /tmp/n ]; do usleep 100000; done")
    take(machine, "one")
    first = int(machine.shell("cat /tmp/n"))
    machine.shell(f"while [ $(cat /tmp/n) -lt {first + 30} ]; do usleep 100000; done")
    take(machine, "two")
    go_back(machine, "one")
    assert int(machine.shell("cat /tmp/n")) < first + 30
    assert machine.shell("dmesg | grep -cE 'EXT4-fs error|I/O error'") == "0"
    machine.stop()
    for tag in ("one", "two"):
        copy = tmp_path / tag
        subprocess.run(
            ["qemu-img", "convert", "-l", f"snapshot.name={tag}", "-O", "raw", str(disk), str(copy)], check=True
        )
        assert subprocess.run(["e2fsck", "-p", str(copy)], capture_output=True, check=False).returncode in {0, 1}
        checked = subprocess.run(["e2fsck", "-fn", str(copy)], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout
    assert subprocess.run(["qemu-img", "check", "-q", str(disk)], check=False).returncode == 0


def test_images_keep_what_a_snapshot_holds(running: RunningMachine, tmp_path: Path) -> None:
    take(running, "one")
    running.stop()
    image = open_image(str(tmp_path / "a"), OpenSettings(format_name="qcow2", writable=False))
    (entry,) = image.snapshots()
    image.select_snapshot(entry)
    start = memoryview(bytearray(8))
    image.pread_vm_state_into(start, 0)
    assert bytes(start) == b"PYHYVEST"
    image.close()
