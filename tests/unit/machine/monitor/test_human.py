"""Commands of the monitor for people, on a machine that does not run."""

from __future__ import annotations

import re
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from pyhyve.cli.main import main
from pyhyve.devices.serial.spec import Lsr, Register
from pyhyve.devices.serial.uart16550 import Uart16550
from pyhyve.image.opening import OpenSettings, open_image
from pyhyve.machine.block.errors import ChangeError
from pyhyve.machine.monitor.human import HumanMonitor
from pyhyve.machine.monitor.monitor import Monitor
from tests.unit.machine.test_plugged import Made, made

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyhyve.image.contract import Image

DISK_BYTES = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> str:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(range(256)) * (DISK_BYTES // 256))
    return str(path)


@pytest.fixture
def machine(disk: str, tmp_path: Path) -> Iterator[Made]:
    words = ["-drive", f"file={disk},format=raw,if=none,id=d0", "-device", "virtio-blk-pci,drive=d0,id=vd0"]
    words += ["-device", "scsi-cd,id=tray,bus=scsi.0", "-chardev", "ringbuf,id=ring,size=1k"]
    with running(tmp_path, "-device", "virtio-scsi-pci,id=scsi", *words) as found:
        yield found


@contextmanager
def running(tmp_path: Path, *words: str) -> Iterator[Made]:
    """A machine that waits for its start: what stops it finds it at rest."""
    with made(tmp_path, "-S", *words) as found:
        thread = threading.Thread(target=found.machine.run)
        thread.start()
        try:
            assert found.machine.started.wait(20)
            yield found
        finally:
            found.machine.request_stop()
            thread.join(20)


def say(machine: Made, line: str) -> str:
    return HumanMonitor(machine.commands).execute(line).replace("\r\n", "\n")


def read(image: Image, offset: int, length: int) -> bytes:
    found = bytearray(length)
    image.pread_into(memoryview(found), offset)
    return bytes(found)


def write(machine: Made, gpa: int, data: bytes) -> None:
    machine.machine.parts.vm.memory.write(gpa, data)


def test_devices_objects_and_characters_come_and_go(machine: Made) -> None:
    for line in (
        "device_add virtio-rng-pci,id=more",
        "object_add rng-builtin,id=source",
        "object_del source",
        "netdev_add socket,id=net,listen=127.0.0.1:0",
        "netdev_del net",
        "chardev-add null,id=other",
        "chardev-change other ringbuf,size=64",
        "ringbuf_write other hello",
    ):
        assert say(machine, line) == "", line
    assert machine.hardware.devices.need("more").model.name == "virtio-rng-pci"
    assert say(machine, "ringbuf_read other 10") == "hello\n"
    assert say(machine, 'ringbuf_write other "a\\\\b\\r"') == ""
    assert say(machine, "ringbuf_read other 10") == "a\\\\b\\x0D\n"
    assert say(machine, "chardev-remove other") == ""
    assert say(machine, "chardev-remove other") == "Error: Chardev 'other' not found\n"


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("device_add", "Error: Parameter 'driver' is missing\n"),
        ("device_add nope", "Error: 'nope' is not a valid device model name\n"),
        ("device_del nope", "Error: Device 'nope' not found\n"),
        ("object_add nope,id=x", "Error: Parameter 'qom-type' does not accept value 'nope'\n"),
        ("object_del", 'object_del: string expected\nTry "help object_del" for more information\n'),
        ("netdev_del nope", "Error: Device 'nope' not found\n"),
        ("set_link nope off", "Error: Device 'nope' not found\n"),
        ("set_link nope maybe", "Expected 'on' or 'off'\nTry \"help set_link\" for more information\n"),
        ("drive_add 0 if=ide,id=x,file=y", "drive_add: only if=none is supported\n"),
        ("drive_del nope", "Error: Device 'nope' not found\n"),
        ("drive_del d0", "Error: Drive 'd0' is in use by a device: take that out first (device_del)\n"),
        ("eject d0", "Error: Device 'vd0' is not removable\n"),
        ("eject", 'eject: block device name expected\nTry "help eject" for more information\n'),
        ("commit d0", "'commit' error for 'd0': Operation not supported\n"),
        ("commit nope", "Device 'nope' not found\n"),
        ("block_resize d0 x", 'invalid size\nTry "help block_resize" for more information\n'),
        ("screendump", 'screendump: filename expected\nTry "help screendump" for more information\n'),
        ("migrate_set_capability x on", "Error: Parameter 'MigrationCapability' does not accept value 'x'\n"),
        ("migrate_set_parameter downtime-limit x", "Error: Parameter 'downtime-limit' expects a number\n"),
        ("qom-set /machine none 1", "Error: Property 'pc-i440fx-7.2-machine.none' not found\n"),
        ("qom-set -j /machine none {", "Error: JSON parse error"),
        ("xp /2s 0", "invalid char in format: 's'\n"),
        ("xp /i 0", "there is no disassembler here"),
        ("xp /9999999w 0", "no more than 1048576 bytes at once\n"),
        ("xp /2wx 0xfff00000000", "00000fff00000000: Cannot access memory\n"),
        ("block_resize d0 9999999999t", "invalid size\n"),
        ("migrate_set_parameter downtime-limit 10000000000000000001", "Error: Parameter 'downtime-limit' expects a"),
        ("balloon -1", "enter a positive value\n"),
        ("print 1/0", "division by zero\n"),
        ("print (1", "')' expected\n"),
        ("print " + "(" * 500, "too many parentheses\n"),
        ("print $nothing", "unknown register\n"),
        ('ringbuf_write ring "x', "unterminated string\n"),
        ("info status now", 'status: extraneous characters at the end of line\nTry "help info status"'),
        ("sendkey", "sendkey: string expected\n"),
    ],
)  # fmt: skip
def test_mistakes_are_told(machine: Made, line: str, answer: str) -> None:
    assert say(machine, line).startswith(answer)


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("print 1+2*3", "0x7\n"),
        ("print /d -5", "-5\n"),
        ("print /d -7/2", "-3\n"),
        ("print /d -7%2", "-1\n"),
        ("print /d 7/-2", "-3\n"),
        ("p/u ~0", f"{(1 << 64) - 1}\n"),
        ("p /o (0x10|010)&0x18", "030\n"),
        ("p/c 'A'", "'A'\n"),
        ("p/x 10 % 4 - 1", "0x1\n"),
        ("xp /4xb 0x1000", "0000000000001000: 0x41 0x27 0x00 0xff\n"),
        ("xp /2dw 0x1000", "0000000000001000: 4278200129          0\n"),
        ("xp /4c 0x1000", "0000000000001000: 'A' '\\'' '\\x00' '\\xff'\n"),
        ("xp /5hx 0x1000", "0000000000001000: 0x2741 0xff00 0x0000 0x0000 0x0000\n"),
        ("xp /3gx 4096", f"{4096:016x}: 0x00000000ff002741 0x{0:016x}\n{4112:016x}: 0x{0:016x}\n"),
        ("xp 0x1000", "0000000000001000: 0xff002741\n"),
        ("xp /1dg 0x2000", f"{0x2000:016x}: {'-1':>20}\n"),
    ],
)  # fmt: skip
def test_numbers_and_memory_are_shown_as_asked(machine: Made, line: str, answer: str) -> None:
    write(machine, 0x1000, b"A'\0\xff")
    write(machine, 0x2000, b"\xff" * 8)
    assert say(machine, line) == answer


def test_machine_without_processors_has_no_registers(tmp_path: Path) -> None:
    with made(tmp_path, "-machine", "none") as found:
        assert say(found, "print $rip") == 'unknown register\nTry "help print" for more information\n'
        assert say(found, "info registers") == "Error: No CPU available\n"


def test_memory_is_summed_and_saved(machine: Made, tmp_path: Path) -> None:
    write(machine, 0x2000, bytes([1, 2, 3]))
    assert say(machine, "sum 0x2000 3") == f"{((((1 << 15) & 0xFFFF) + 2 >> 1) + 3) & 0xFFFF:05d}\n"
    assert say(machine, f'pmemsave 0x2000 3 "{tmp_path}/saved"') == ""
    assert (tmp_path / "saved").read_bytes() == bytes([1, 2, 3])


@pytest.mark.parametrize(
    ("line", "pattern"),
    [
        (
            "info block",
            r"d0 \(.*disk.img \(raw\)\n    Attached to:      /machine/.*\n    Cache mode:       writeback\n",
        ),
        ("info block tray", r"$"),
        ("info block -n", r"\n\n.*"),
        ("info block -v d0", r"virtual size: 1048576 bytes"),
        ("info blockstats", r"d0: rd_bytes=0 wr_bytes=0 rd_operations=0"),
        ("info block-jobs", r"No active jobs\n"),
        ("info qtree", r'dev: virtio-blk-pci, id "vd0"\n(    .*\n)*    drive = "d0"\n'),
        ("info mtree", r"0000000000000000-[0-9a-f]{16} \(ram\)"),
        ("info network", r"^$"),
        ("info memory_size_summary", r"base memory: 67108864\nplugged memory: 0\n"),
        ("info migrate_parameters", r"downtime-limit: 300 ms\n"),
        ("info migrate_capabilities", r"events: off\n"),
        ("info dump", r"Status: none\n"),
        ("info hotpluggable-cpus", r'thread-id: "0"'),
        ("info balloon", r"Error: No balloon device"),
        ("info vm-generation-id", r"Error: VM Generation ID device not found"),
        ("info chardev", r"ring: filename=ringbuf\n"),
        ("info iothreads", r"^$"),
        ("qom-get /machine type", r'"pc-i440fx-7.2-machine"\n'),
        ("qom-list /", r"machine \(child<"),
        ("help x", r"x /fmt addr -- "),
    ],
)
def test_what_there_is_is_shown(machine: Made, line: str, pattern: str) -> None:
    assert re.search(pattern, say(machine, line))


def test_drive_is_added_used_and_removed(machine: Made, tmp_path: Path) -> None:
    path = tmp_path / "more.img"
    path.write_bytes(bytes(512))
    (tmp_path / "other.img").write_bytes(bytes(512))
    line = f"drive_add 0 if=none,id=more,file={path},format=raw"
    assert say(machine, line) == "OK\n"
    assert say(machine, line) == "Error: Duplicate ID 'more' for drive\n"
    assert say(machine, "device_add virtio-blk-pci,drive=more,id=vd1") == ""
    assert "more (more): " in say(machine, "info block more")
    assert "in use by a device" in say(machine, "drive_del more")
    again = machine.commands.inventory.present_config()
    assert [node["node-name"] for node in again.additions.blockdevs] == ["more"]
    assert say(machine, line.replace("id=more", "id=other").replace("more.img", "other.img")) == "OK\n"
    assert say(machine, "drive_del other") == ""
    assert machine.hardware.blocks.find("other") is None


def test_medium_is_changed_and_ejected(machine: Made, disk: str, tmp_path: Path) -> None:
    path = tmp_path / "disc.iso"
    path.write_bytes(bytes(4096))
    # A drive without a name is reached by its device's, which this command does not take.
    assert say(machine, f"change tray {path}") == "Error: Device 'tray' not found\n"
    words = ["-drive", f"file={path},media=cdrom,format=raw,if=none,id=cd", "-device", "ide-cd,drive=cd"]
    (tmp_path / "second").mkdir()
    with running(tmp_path / "second", *words) as other:
        assert say(other, f"change cd {path} raw read-only") == ""
        assert "tray closed" in say(other, "info block cd")
        assert say(other, "eject cd") == ""
        assert "[not inserted]" in say(other, "info block cd")
        assert say(other, f"change cd {path} raw sideways").startswith("Error: Parameter 'read-only-mode'")


def test_overlay_is_made_and_committed(machine: Made, disk: str, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.qcow2"
    assert say(machine, f"snapshot_blkdev d0 {overlay} qcow2") == ""
    node = next(drive for drive in machine.hardware.devices if drive.name == "vd0").attachment
    assert node is not None
    assert node.node is not None
    node.node.need_image().pwrite(b"changed", 4096)
    assert say(machine, f"drive_backup d0 {tmp_path}/copy.qcow2") == ""
    assert say(machine, "commit all") in {"", "'commit' error for 'd0': Device or resource busy\n"}
    for job in machine.commands.execute("query-block-jobs", {}):
        say(machine, f"block_job_cancel -f {job['device']}")


def test_commit_writes_into_the_backing_file_and_empties_the_overlay(disk: str, tmp_path: Path) -> None:
    with running(
        tmp_path, "-drive", f"file={disk},format=raw,if=none,id=d0", "-device", "virtio-blk-pci,drive=d0,id=vd0"
    ) as machine:
        overlay = tmp_path / "overlay.qcow2"
        assert say(machine, f"snapshot_blkdev d0 {overlay} qcow2") == ""
        attachment = machine.hardware.devices.need("vd0").attachment
        assert attachment is not None
        assert attachment.node is not None
        image = attachment.node.need_image()
        image.pwrite(b"changed", 4096)
        assert say(machine, "commit d0") == ""
        assert read(image, 4096, 7) == b"changed"
        assert not any(extent.present and extent.depth == 0 for extent in image.map(0, DISK_BYTES))
        image.pwrite(b"later", 0)
    with open_image(disk, OpenSettings("raw")) as below:
        assert read(below, 4096, 7) == b"changed"
        assert read(below, 0, 5) == bytes(range(5))


def test_snapshots_without_counted_instructions_show_none(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    assert main(["img", "create", "-q", "-f", "qcow2", str(path), "1M"]) == 0
    with open_image(str(path), OpenSettings("qcow2", writable=True)) as image:
        for name, icount in (("none", (1 << 64) - 1), ("some", 77)):
            image.create_snapshot(name, date_ns=0, vm_state_size_bytes=4096, icount=icount)
    words = ["-drive", f"file={path},format=qcow2,if=none,id=d", "-device", "virtio-blk-pci,drive=d"]
    with running(tmp_path, *words) as found:
        *_, none, some = say(found, "info snapshots").splitlines()
    assert (none[68:].strip(), some[68:].strip()) == ("", "77")


def test_job_on_a_disk_that_was_taken_out_says_so(machine: Made) -> None:
    attachment = machine.hardware.devices.need("vd0").attachment
    assert attachment is not None
    node = attachment.node
    assert node is not None
    machine.hardware.blocks.discard(node)
    with pytest.raises(ChangeError, match=r"Block node '.*' is closed: its device was taken out"):
        node.need_image()


def test_break_reaches_the_serial_port(tmp_path: Path) -> None:
    with running(tmp_path, "-chardev", "ringbuf,id=ring", "-serial", "chardev:ring") as found:
        _, port = found.machine.parts.consoles[0]
        assert isinstance(port, Uart16550)
        assert say(found, "chardev-send-break ring") == ""
        assert port.read(Register.LSR, 1) & Lsr.BREAK


def test_serial_port_is_shared_with_the_monitor(tmp_path: Path) -> None:
    path = tmp_path / "serial"
    with made(tmp_path, "-S", "-name", "talker", "-serial", f"mon:unix:{path},server=on,wait=off") as found:
        Monitor(found.machine, [], shared=["serial0"]).start()
        thread = threading.Thread(target=found.machine.run)
        thread.start()
        try:
            assert found.machine.started.wait(20)
            with pytest.raises(ChangeError, match="hotswap"):
                found.hardware.chardevs.change("serial0", {"type": "null", "data": {}})
            with socket.socket(socket.AF_UNIX) as terminal:
                terminal.settimeout(20)
                terminal.connect(str(path))
                terminal.sendall(b"\x01cinfo nam\x7fme\r\x01c\x01c")
                said = b""
                while said.count(b"(qemu) ") < 3:
                    said += terminal.recv(4096)
        finally:
            found.machine.request_stop()
            thread.join(20)
    assert b"monitor - type 'help' for more information\r\n(qemu) info nam\b \bme\r\ntalker\r\n(qemu) " in said
