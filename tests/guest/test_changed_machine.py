"""Machines that are saved after devices came and went: what is restored is what was there."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from pyhyve.image.opening import create_image
from pyhyve.machine.config import (
    MIB,
    AccelChoice,
    ConsoleConfig,
    ConsoleKind,
    DiskConfig,
    MachineConfig,
    NetConfig,
    NetKind,
    PortConfig,
    RngConfig,
    SerialBusConfig,
)
from pyhyve.machine.monitor.commands import MachineCommands

from .in_process import RunningMachine
from .tiny import HALT, kernel, print32

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyhyve.machine.hardware.hardware import Hardware


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunningMachine]:
    """A guest that halts, with a device for each option of the command line."""
    with socket.socket(socket.AF_UNIX) as switch:
        switch.bind(str(tmp_path / "switch"))
        switch.listen(16)
        yield start(tmp_path)


def start(tmp_path: Path) -> RunningMachine:
    (tmp_path / "kernel").write_bytes(kernel(print32("up\n") + HALT))
    for number in range(3):
        create_image(str(tmp_path / f"disk{number}"), "qcow2", (number + 1) * MIB)
    nothing = ConsoleConfig(ConsoleKind.NONE)
    config = MachineConfig(
        memory_bytes=16 * MIB,
        accel=AccelChoice.JIT,
        kernel=tmp_path / "kernel",
        disks=tuple(DiskConfig(tmp_path / f"disk{number}", format="qcow2") for number in range(3)),
        nets=tuple(NetConfig(NetKind.SWITCH, str(tmp_path / "switch"), device_id=name) for name in ("n0", "n1")),
        extras=(
            RngConfig(tmp_path / "kernel", "r0"),
            SerialBusConfig((PortConfig(1, nothing, name="one"), PortConfig(2, nothing, name="two", device_id="p2"))),
            RngConfig(tmp_path / "kernel", "r1"),
        ),
    )
    machine = RunningMachine.boot(config)
    machine.expect("up\n", 120)
    return machine


def hardware_of(machine: RunningMachine) -> Hardware:
    inventory = machine.machine.parts.inventory
    assert inventory is not None
    return inventory.hardware


def take_out(machine: RunningMachine, *names: str) -> None:
    """As if the guest had let them go."""
    hardware = hardware_of(machine)
    hardware.was_changed = True
    for name in names:
        hardware.devices.remove(hardware.devices.need(name))


def places(machine: RunningMachine) -> dict[str, tuple[str, int | None]]:
    """Model and slot of the devices, by name or by what is behind them."""
    found = {}
    for plugged in hardware_of(machine).devices:
        size = "" if plugged.attachment is None else f"{plugged.attachment.device.backend.size_bytes // MIB} MiB"
        name = plugged.name or size or str(plugged.values.get("name"))
        found[name] = (plugged.model.name, None if plugged.function is None else plugged.function.slot)
    return found


def saved_and_restored(machine: RunningMachine, path: Path) -> RunningMachine:
    machine.save(path)
    machine.stop()
    again = RunningMachine.restore(path)
    looked: list[int] = []
    again.machine.inspect(lambda: looked.append(1)).wait(60)
    assert looked, again.error
    return again


def test_devices_that_were_taken_out_stay_away(running: RunningMachine, tmp_path: Path) -> None:
    before = places(running)
    assert before["1 MiB"] == ("virtio-blk-pci", 2)
    first = hardware_of(running).devices.find("/machine/peripheral-anon/device[0]")
    assert first is not None
    take_out(running, first.path, "n0", "r0", "p2")
    wanted = places(running)
    assert before.keys() - wanted.keys() == {"1 MiB", "n0", "r0", "p2"}
    (tmp_path / "disk0").unlink()
    running = saved_and_restored(running, tmp_path / "state")
    assert places(running) == wanted
    # And once more, with less.
    take_out(running, "n1")
    del wanted["n1"]
    running = saved_and_restored(running, tmp_path / "state")
    assert places(running) == wanted
    running.stop()


def test_slot_of_a_device_that_was_taken_out_is_used_again(running: RunningMachine, tmp_path: Path) -> None:
    slot = places(running)["n0"][1]
    take_out(running, "n0")
    hardware_of(running).devices.add({"driver": "virtio-balloon-pci", "id": "b", "addr": f"{slot:x}"}, hotplugged=True)
    wanted = places(running)
    running = saved_and_restored(running, tmp_path / "state")
    assert places(running) == wanted
    running.stop()


@pytest.mark.parametrize("name", ["", "over"])
def test_disk_goes_on_with_its_overlay(running: RunningMachine, tmp_path: Path, name: str) -> None:
    commands = MachineCommands(running.machine)
    named = {"snapshot_node_name": name} if name else {}
    overlay = str(tmp_path / "overlay")
    commands.execute("blockdev-snapshot-sync", {"device": "virtio1", "snapshot-file": overlay, **named})
    wanted = places(running)
    running = saved_and_restored(running, tmp_path / "state")
    assert places(running) == wanted
    (drive,) = [
        drive["inserted"]
        for drive in MachineCommands(running.machine).execute("query-block", {})
        if drive["inserted"]["file"] == overlay
    ]
    assert drive["backing_file"] == str(tmp_path / "disk1")
    assert not name or drive["node-name"] == name
    running.stop()
