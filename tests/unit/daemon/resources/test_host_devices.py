from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING

import pytest

from pyhyve.daemon.daemon import Daemon
from pyhyve.daemon.drivers.test.driver import TestDriver
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.paths import Paths
from pyhyve.daemon.resources.host_devices import HostDevices
from pyhyve.daemon.resources.node_device_documents import parse_wish
from pyhyve.daemon.resources.node_devices import HostDevice, device_document, find_devices
from pyhyve.daemon.resources.pci_assignment import PciAssignment
from pyhyve.daemon.resources.pci_express import pci_express

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

UUID = "d069d019-36ea-4111-8f0a-8c9a70e21366"
NAME = "mdev_d069d019_36ea_4111_8f0a_8c9a70e21366_0000_00_02_0"
WISH = f"""<device><parent>pci_0000_00_02_0</parent><capability type='mdev'><type id='gpu-1'/><uuid>{UUID}</uuid>
<attr name='heads' value='2'/></capability></device>"""


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="ascii")


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """A host with a card that has a type of mediated devices, and a fibre channel host."""
    root = tmp_path / "sys"
    card = root / "devices/pci0000:00/0000:00:02.0"
    for name, text in (("class", "0x030000"), ("vendor", "0x8086"), ("device", "0xffff"), ("sriov_totalvfs", "4")):
        write(card / name, text)
    (root / "devices/pci0000:00/0000:00:02.1").mkdir()
    (card / "virtfn0").symlink_to(root / "devices/pci0000:00/0000:00:02.1")
    (root / "bus/pci/devices").mkdir(parents=True)
    (root / "bus/pci/devices/0000:00:02.0").symlink_to(card)
    kind = card / "mdev_supported_types/gpu-1"
    for name, text in (("name", "small"), ("device_api", "vfio-pci"), ("available_instances", "4"), ("create", "")):
        write(kind / name, text)
    (root / "class/mdev_bus").mkdir(parents=True)
    (root / "class/mdev_bus/0000:00:02.0").symlink_to(card)
    (root / "bus/mdev/devices").mkdir(parents=True)
    host = root / "devices/pci0000:00/0000:00:02.0/host3"
    write(host / "scsi_host/host3/unique_id", "7")
    fibre = host / "fc_host/host3"
    for name, text in (
        ("node_name", "0x2000"),
        ("port_name", "0x2001"),
        ("fabric_name", "0x2002"),
        ("vport_create", ""),
    ):
        write(fibre / name, text)
    for kind_of, path in (("scsi_host", host / "scsi_host/host3"), ("fc_host", fibre)):
        (root / "class" / kind_of).mkdir(parents=True)
        (root / "class" / kind_of / "host3").symlink_to(path)
    return root


@contextlib.contextmanager
def kernel(sysfs: Path) -> Iterator[None]:
    """Do what the kernel does when somebody writes to ``create`` and ``remove``."""
    over = threading.Event()
    card = sysfs / "devices/pci0000:00/0000:00:02.0"
    create, device = card / "mdev_supported_types/gpu-1/create", card / UUID
    link = sysfs / "bus/mdev/devices" / UUID

    def serve() -> None:
        while not over.is_set():
            if create.read_text() == UUID:
                create.write_text("")
                device.mkdir()
                (device / "mdev_type").symlink_to(create.parent)
                (device / "remove").touch()
                link.symlink_to(device)
            elif link.exists() and (device / "remove").read_text() == "1":
                link.unlink()
                for path in device.iterdir():
                    path.unlink()
                device.rmdir()
            time.sleep(0.005)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def run(root: Path, sysfs: Path, work: Callable[[HostDevices], Awaitable[None]]) -> None:
    async def whole() -> None:
        daemon = Daemon(Paths.below(root, "system"))
        driver = TestDriver(daemon)
        daemon.add_driver(driver)
        devices = HostDevices(daemon, driver, "test", sysfs)
        daemon.add_part(devices)
        await daemon.start()
        try:
            await work(devices)
        finally:
            await daemon.stop()

    asyncio.run(whole())


async def appears(devices: HostDevices, *, active: bool) -> HostDevice:
    """Wait until the device is as it should be."""
    for _ in range(1000):
        device = await devices.find(NAME)
        if device.active is active:
            return device
        await asyncio.sleep(0.01)
    pytest.fail("it did not change")


def test_mediated_device_is_defined_started_and_comes_by_itself(tmp_path: Path, sysfs: Path) -> None:
    async def define(devices: HostDevices) -> None:
        device = await devices.define(parse_wish(WISH))
        assert (device.name, device.active, device.parent) == (NAME, False, "pci_0000_00_02_0")
        assert "<attr name='heads' value='2'/>" in device_document(device)
        assert devices.persistent(device)
        assert not devices.autostarts(device)
        with pytest.raises(LibvirtError, match="already defined"):
            await devices.define(parse_wish(WISH))
        with pytest.raises(LibvirtError, match="is not active"):
            await devices.destroy(device)
        await devices.set_autostart(device, wanted=True)

    async def again(devices: HostDevices) -> None:
        device = await appears(devices, active=True)
        with pytest.raises(LibvirtError, match="Device is already active"):
            await devices.begin(device)
        await devices.undefine(device)
        device = await devices.find(NAME)
        assert device.active
        assert not devices.persistent(device)
        await devices.destroy(device)
        for _ in range(1000):
            if NAME not in await devices.look():
                return
            await asyncio.sleep(0.01)
        pytest.fail("it is still there")

    run(tmp_path / "daemon", sysfs, define)
    with kernel(sysfs):
        run(tmp_path / "daemon", sysfs, again)


def test_mediated_device_is_made_with_its_attributes(tmp_path: Path, sysfs: Path) -> None:
    card = sysfs / "devices/pci0000:00/0000:00:02.0"
    (sysfs / "bus/mdev/devices" / UUID).symlink_to(card / UUID)  # as the kernel would, at once
    (card / UUID).mkdir()

    async def create(devices: HostDevices) -> None:
        device = await devices.create(parse_wish(WISH))
        assert device.active
        assert (card / UUID / "heads").read_text() == "2"
        assert (card / "mdev_supported_types/gpu-1/create").read_text() == UUID
        other = WISH.replace("gpu-1", "gpu-2")
        with pytest.raises(LibvirtError, match="has no type 'gpu-2'"):
            await devices.create(parse_wish(other))

    run(tmp_path / "daemon", sysfs, create)


def test_card_says_what_it_has(sysfs: Path) -> None:
    found = find_devices(sysfs)
    text = device_document(found["pci_0000_00_02_0"])
    assert "<capability type='virt_functions' maxCount='4'>\n      <address domain='0x0000' bus='0x00'" in text
    assert "<type id='gpu-1'>\n        <name>small</name>\n        <deviceAPI>vfio-pci</deviceAPI>" in text
    assert found["pci_0000_00_02_0"].capabilities == ("mdev_types",)
    host = found["scsi_host3"]
    assert host.capabilities == ("fc_host", "vports")
    assert host.parent == "pci_0000_00_02_0"
    assert "<wwnn>2000</wwnn>" in device_document(host)


def test_virtual_port_is_asked_for_by_its_names(tmp_path: Path, sysfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyhyve.daemon.resources.host_devices._APPEARS_S", 0.1)
    wish = """<device><parent wwnn='2000' wwpn='2001'/><capability type='scsi_host'><capability type='fc_host'>
    <wwnn>10000000c9848141</wwnn><wwpn>10000000c9848140</wwpn></capability></capability></device>"""

    async def create(devices: HostDevices) -> None:
        with pytest.raises(LibvirtError, match="no node device with matching wwnn"):
            await devices.create(parse_wish(wish))  # nothing appears: nobody is the kernel here
        asked = (sysfs / "class/fc_host/host3/vport_create").read_text()
        assert asked == "10000000c9848140:10000000c9848141"
        assert (await devices.by_wwn("2000", "2001")).name == "scsi_host3"

    run(tmp_path / "daemon", sysfs, create)


def test_pci_device_is_taken_for_vfio_and_given_back(tmp_path: Path, sysfs: Path) -> None:
    device = find_devices(sysfs)["pci_0000_00_02_0"]
    assignment = PciAssignment(sysfs, tmp_path / "dev")
    with pytest.raises(LibvirtError, match="VFIO device assignment is currently not supported on this system"):
        assignment.detach(device, None)
    write(tmp_path / "dev/vfio/vfio", "")
    (sysfs / "kernel/iommu_groups/0").mkdir(parents=True)
    (sysfs / "bus/pci/drivers/vfio-pci").mkdir(parents=True)
    own = sysfs / "bus/pci/drivers/i915"
    own.mkdir()
    card = sysfs / "devices/pci0000:00/0000:00:02.0"
    (card / "driver").symlink_to(own)
    with pytest.raises(LibvirtError, match=r"Failed to bind PCI device '0000:00:02\.0' to vfio-pci"):
        assignment.detach(device, "vfio")  # the driver did not take it
    assert (own / "unbind").read_text() == "0000:00:02.0"
    assert (sysfs / "bus/pci/drivers_probe").read_text() == "0000:00:02.0"
    assert (card / "driver_override").read_text() == "vfio-pci\n"
    assignment.reattach(device)  # it is the host's: nothing happens
    assert (card / "driver_override").read_text() == "vfio-pci\n"
    (card / "driver").unlink()
    (card / "driver").symlink_to(sysfs / "bus/pci/drivers/vfio-pci")
    assignment.detach(device, None)
    assignment.reset(device)
    assignment.reattach(device)
    assert (card / "driver_override").read_text() == "\n"


def test_pci_device_is_reset_by_the_kernel(sysfs: Path) -> None:
    device = find_devices(sysfs)["pci_0000_00_02_0"]
    with pytest.raises(LibvirtError, match="no FLR, PM reset or bus reset available"):
        PciAssignment(sysfs).reset(device)
    (device_path := sysfs / "devices/pci0000:00/0000:00:02.0/reset").touch()
    PciAssignment(sysfs).reset(device)
    assert device_path.read_text() == "1"


def test_express_link_is_read_from_the_configuration() -> None:
    space = bytearray(256)
    space[6], space[0x34] = 0x10, 0x50
    assert pci_express(bytes(space)) is None
    space[0x50:0x54] = b"\x10\x00\x02\x00"
    space[0x5C:0x60] = (8 << 24 | 16 << 4 | 3).to_bytes(4, "little")
    space[0x62:0x64] = (8 << 4 | 1).to_bytes(2, "little")
    node = pci_express(bytes(space))
    assert node is not None
    assert [dict(link.attributes) for link in node.children] == [
        {"validity": "cap", "port": "8", "speed": "8", "width": "16"},
        {"validity": "sta", "speed": "2.5", "width": "8"},
    ]
    space[0x52] = 0x92
    node = pci_express(bytes(space))
    assert node is not None
    assert node.children == ()
    space[0x50:0x52] = b"\x01\x50"  # a list that leads to itself
    assert pci_express(bytes(space)) is None
