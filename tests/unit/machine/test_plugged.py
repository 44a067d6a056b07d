"""What options put into a machine: places, boot order, threads, what the monitor says of it."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.accel.api import ExitKind
from pyhyve.cli.system_machine import SystemSettings
from pyhyve.cli.system_options import split_command_line
from pyhyve.cli.system_tables import OPTIONS
from pyhyve.devices.virtio.spec import Feature
from pyhyve.machine.block.errors import ChangeError
from pyhyve.machine.boot_paths import boot_paths
from pyhyve.machine.builder import build
from pyhyve.machine.monitor.commands import MachineCommands
from pyhyve.machine.monitor.errors import QmpError
from pyhyve.support.errors import InputError
from tests.unit.machine.fake_vm import FakeVm
from tests.unit.machine.test_machine import make_kernel

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from pyhyve.machine.hardware.hardware import Hardware
    from pyhyve.memory.guest import GuestMemory
    from tests.unit.machine.fake_vm import FakeVcpu


def halt(cpu: FakeVcpu) -> Generator[None, None, None]:
    """What its processor would do."""
    yield from cpu.leave(ExitKind.HALT)


class Made:
    """A machine of these options that does not run."""

    def __init__(self, tmp_path: Path, *words: str) -> None:
        settings = SystemSettings()
        # A machine without processors takes no kernel.
        kernel = [] if words == ("-machine", "none") else ["-kernel", str(make_kernel(tmp_path / "kernel"))]
        for name, value in split_command_line(["-display", "none", "-m", "64", *kernel, *words], OPTIONS):
            settings.handle(name, value)

        def open_engine(_choice: str, memory: GuestMemory) -> FakeVm:
            return FakeVm(memory, halt)

        self.machine = build(settings.configuration(), open_engine=open_engine)
        self.commands = MachineCommands(self.machine)

    @property
    def hardware(self) -> Hardware:
        return self.commands.inventory.hardware

    def ask(self, name: str, **arguments: Any) -> Any:
        return self.commands.execute(name, {key.replace("_", "-"): value for key, value in arguments.items()})


@contextmanager
def made(tmp_path: Path, *words: str) -> Iterator[Made]:
    machine = Made(tmp_path, *words)
    try:
        yield machine
    finally:
        machine.machine.close()


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    return str(path)


def test_ide_drives_have_their_places_and_paths(image: str, tmp_path: Path) -> None:
    words = ["-snapshot", "-drive", f"file={image},format=raw,if=none,id=d1", "-device", "ide-hd,drive=d1,bootindex=2"]
    words += ["-cdrom", image, "-device", "ide-cd,bus=ide.1,unit=1,bootindex=1,id=tray"]
    words += [
        "-drive",
        f"file={image},format=raw,if=none,id=d2",
        "-device",
        "virtio-blk-pci,drive=d2,bootindex=0,addr=7",
    ]
    with made(tmp_path, *words) as machine:
        assert boot_paths(machine.hardware) == [
            "/pci@i0cf8/scsi@7/disk@0,0",
            "/pci@i0cf8/ide@1,1/drive@1/disk@1",
            "/pci@i0cf8/ide@1,1/drive@0/disk@0",
        ]
        drives = {drive["qdev"]: drive for drive in machine.ask("query-block")}
        assert drives["tray"]["removable"]
        assert "inserted" not in drives["tray"]
        assert [drive["device"] for drive in drives.values() if drive["device"]] == ["ide1-cd0", "d1", "d2"]
        (controller,) = [
            device for device in machine.ask("query-pci")[0]["devices"] if device["id"]["device"] == 0x7010
        ]
        assert (controller["slot"], controller["function"]) == (1, 1)
        with pytest.raises(QmpError, match="does not support hotplugging"):
            machine.ask("device_del", id="tray")
        with pytest.raises(ChangeError, match="IDE unit 1 is in use"):
            machine.hardware.devices.add({"driver": "ide-cd", "bus": "ide.1", "unit": 1})


def test_same_boot_index_twice_is_refused(image: str, tmp_path: Path) -> None:
    words = ["-device", "ide-cd,bootindex=1", "-device", "ide-cd,bootindex=1"]
    with made(tmp_path, *words) as machine, pytest.raises(ChangeError, match="bootindex 1 has already been used"):
        boot_paths(machine.hardware)


def test_disks_share_the_thread_that_they_are_given(image: str, tmp_path: Path) -> None:
    words = ["-object", "iothread,id=io1", "-object", "iothread,id=io2", "-snapshot"]
    for number in range(2):
        words += ["-drive", f"file={image},format=raw,if=none,id=d{number}"]
        words += ["-device", f"virtio-blk-pci,drive=d{number},iothread=io1,id=disk{number}"]
    with made(tmp_path, *words) as machine:
        threads = {entry["id"]: entry["thread-id"] for entry in machine.ask("query-iothreads")}
        assert len({0, machine.machine.parts.io.thread_id, *threads.values()}) >= 3
        workers = {machine.hardware.devices.need(f"disk{number}").device.worker for number in range(2)}
        assert [worker.thread_id for worker in workers] == [threads["io1"]]
        with pytest.raises(QmpError, match="in use"):
            machine.ask("object-del", id="io1")
        machine.ask("object-del", id="io2")
        assert [entry["id"] for entry in machine.ask("query-iothreads")] == ["io1"]


def test_screen_and_keyboard_through_the_monitor(tmp_path: Path) -> None:
    with made(tmp_path, "-device", "VGA,id=v") as machine:
        machine.ask("screendump", filename=str(tmp_path / "shot"), device="v", head=0)
        assert (tmp_path / "shot").read_bytes().startswith(b"P6\n640 480\n")
        for arguments, error in (
            ({"device": "w"}, "Device 'w' not found"),
            ({"device": "v", "head": 1}, "No such output"),
            ({"head": 0}, "'head' must be specified together"),
        ):
            with pytest.raises(QmpError, match=error):
                machine.ask("screendump", filename=str(tmp_path / "shot"), **arguments)
        with pytest.raises(QmpError, match="failed to open"):
            machine.ask("screendump", filename=str(tmp_path / "no" / "shot"))
        machine.ask("send-key", keys=[{"type": "qcode", "data": "ctrl"}, {"type": "number", "data": 0xC8}])
        keyboard = machine.hardware.keyboard
        assert keyboard is not None
        assert [keyboard.take() for _ in range(4)] == [0x14, 0xE0, 0x75, None]
        assert machine.ask("human-monitor-command", command_line="sendkey nokey") == ("invalid parameter: nokey\r\n")
        assert machine.ask("human-monitor-command", command_line="sendkey a-0x1c 5") == ""
        with pytest.raises(ChangeError, match="Only one VGA"):
            machine.hardware.devices.add({"driver": "VGA"})


def test_machine_without_screen_says_so(tmp_path: Path) -> None:
    with made(tmp_path) as machine:
        with pytest.raises(QmpError, match="no console"):
            machine.ask("screendump", filename=str(tmp_path / "shot"))
        with pytest.raises(ChangeError, match="no memory for a VGA"):
            machine.hardware.devices.add({"driver": "VGA"})


@pytest.mark.parametrize(
    ("board", "kind", "bus"),
    [("pc", "pc-i440fx-7.2", "pci.0"), ("q35", "pc-q35-7.2", "pcie.0"), ("microvm", "microvm", "virtio-mmio-bus.0")],
)
def test_boards_have_their_names_and_buses(board: str, kind: str, bus: str, image: str, tmp_path: Path) -> None:
    with made(tmp_path, "-M", board, "-drive", f"file={image},format=raw,if=virtio") as machine:
        assert machine.ask("qom-get", path="/machine", property="type") == f"{kind}-machine"
        *_, disk = machine.hardware.devices
        assert disk.bus == bus
        assert [name for name, _ in machine.commands.inventory.functions()][-1].startswith(
            "mmio.0" if board == "microvm" else "pci."
        )


def test_cards_with_networks_of_their_own(tmp_path: Path) -> None:
    with made(tmp_path, "-nic", "socket,listen=127.0.0.1:0,mac=52:54:00:00:00:01", "-nic", "none") as machine:
        *_, card = machine.hardware.devices
        assert (card.model.name, card.values["mac"]) == ("virtio-net-pci", "52:54:00:00:00:01")
    with pytest.raises(InputError, match="'id' expects an identifier"):
        Made(tmp_path, "-netdev", "socket,listen=127.0.0.1:0,id=#nic0")


def test_reset_closes_trays_without_a_word(image: str, tmp_path: Path) -> None:
    words = ["-cdrom", image, "-device", "virtio-scsi-pci,id=s", "-device", "scsi-cd,bus=s.0,id=empty"]
    with made(tmp_path, *words) as machine:
        for drive in ("ide1-cd0", "empty"):
            machine.ask("blockdev-open-tray", **{"device" if drive != "empty" else "id": drive}, force=True)
        assert [drive["tray_open"] for drive in machine.ask("query-block")] == [True, True]
        machine.hardware.on_event = lambda *_: pytest.fail("QEMU sends no event")
        machine.hardware.reset()
        assert [drive["tray_open"] for drive in machine.ask("query-block")] == [False, False]


def test_root_ports_take_devices_and_say_what_they_cannot(tmp_path: Path) -> None:
    port = "pcie-root-port,id={0},chassis={1},bus=pcie.0,addr=0x3.{2},multifunction=on"
    words = ["-M", "q35", "-device", port.format("a", 1, 0), "-device", port.format("b", 2, 1) + ",hotplug=off"]
    words += ["-device", "pcie-pci-bridge,id=c,bus=pcie.0", "-device", "virtio-rng-pci,bus=b,id=rng"]
    words += ["-device", "virtio-rng-pci-non-transitional,bus=c,addr=2,id=old", "-device", "ich9-ahci,id=s,bus=c"]
    with made(tmp_path, *words) as machine:
        hardware = machine.hardware
        machine.ask("device_add", driver="virtio-rng-pci", id="new", bus="a", addr="0x0")
        for request, message in (
            ({"bus": "a"}, "PCI: slot 0 function 0 already occupied by new, new func cannot be exposed to guest."),
            ({"bus": "b"}, "Bus 'b' does not support hotplugging"),
            ({"bus": "c"}, "Bus 'c' does not support hotplugging"),
            ({"bus": "d"}, "Bus 'd' not found"),
        ):
            with pytest.raises(QmpError, match=re.escape(message)):
                machine.ask("device_add", driver="virtio-rng-pci", **request)
        with pytest.raises(QmpError, match="Bus 'c' does not support hotplugging"):
            machine.ask("device_del", id="old")
        with pytest.raises(QmpError, match="Hot-unplug failed: unsupported by the port device 'b'"):
            machine.ask("device_del", id="rng")
        (bus,) = machine.ask("query-pci")
        assert [device["slot"] for device in bus["devices"] if "pci_bridge" in device] == [2, 3, 3]
        assert "BUS 0." in machine.ask("human-monitor-command", command_line="info pci")
        assert [name for name, _ in hardware.devices.buses() if name.startswith("s.")] == [f"s.{n}" for n in range(6)]
        # The guest never turned its slot on: what is there goes at once.
        machine.ask("device_del", id="new")
        assert hardware.bus_of("a").find(0, 0) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["virtio-rng-pci,bus=a,addr=1"], "slot 1 is not valid for virtio-rng-pci, parent device only allows"),
        (["pcie-root-port,id=b,chassis=1"], "Can't add chassis slot, error -16"),
        (["pcie-root-port,id=b,chassis=2,bus=a"], "root ports are on pcie.0"),
        (["virtio-rng-pci,bus=a", "virtio-rng-pci,bus=a"], "slot 0 function 0 not available"),
        (["ide-cd,bus=ide.5,unit=1"], "Can't create IDE unit 1, bus supports only 1 units"),
    ],
)
def test_root_ports_refuse_what_they_cannot_take(words: list[str], message: str, tmp_path: Path) -> None:
    given = ["-M", "q35", "-device", "pcie-root-port,id=a,chassis=1"]
    for word in words:
        given += ["-device", word]
    with pytest.raises(ChangeError, match=re.escape(message)), made(tmp_path, *given):
        pass


def test_kinds_of_rings_are_properties(image: str, tmp_path: Path) -> None:
    words = ["-drive", f"file={image},format=raw,if=none,id=d"]
    words += ["-device", "virtio-blk-pci,drive=d,packed=on,id=on", "-device", "virtio-rng-pci,packed=off,id=off"]
    words += ["-device", "virtio-balloon-pci,event_idx=off,indirect_desc=off,id=plain"]
    with made(tmp_path, *words) as machine:
        features = {name: machine.hardware.devices.need(name).device.device_features for name in ("on", "off", "plain")}
        packed = {name: bool(bits & Feature.RING_PACKED) for name, bits in features.items()}
        assert packed == {"on": True, "off": False, "plain": True}
        for name, is_packed in packed.items():
            assert machine.ask("qom-get", path=f"/machine/peripheral/{name}", property="packed") == is_packed
        assert not features["plain"] & int(Feature.EVENT_IDX | Feature.INDIRECT_DESC)
        listed = {entry["name"]: entry for entry in machine.ask("device-list-properties", typename="virtio-blk-pci")}
        assert listed["packed"] == {"name": "packed", "type": "bool", "description": "on/off"}
        with pytest.raises(QmpError, match="after it was realized"):
            machine.ask("qom-set", path="/machine/peripheral/on", property="packed", value=False)
        with pytest.raises(QmpError, match="'packed' expects 'on' or 'off'"):
            machine.ask("device_add", driver="virtio-rng-pci", packed="maybe")
