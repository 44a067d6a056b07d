from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyhyve.daemon.resources.interfaces import find_interfaces, interface_document
from pyhyve.daemon.resources.node_devices import device_document, find_devices

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="ascii")


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """A host with a disk and a card on PCI, and a bridge."""
    devices = tmp_path / "devices/pci0000:00"
    for address, kind in (("0000:00:02.0", "0x1042"), ("0000:00:03.0", "0x1041")):
        write(devices / address / "class", "0x010000")
        write(devices / address / "vendor", "0x1af4")
        write(devices / address / "device", kind)
    (tmp_path / "bus/pci/devices").mkdir(parents=True)
    for path in devices.iterdir():
        (tmp_path / "bus/pci/devices" / path.name).symlink_to(path)
    disk = devices / "0000:00:02.0/virtio1/block/vda"
    write(disk / "size", "2048")
    write(disk / "removable", "0")
    (disk / "device").mkdir()
    card = devices / "0000:00:03.0/virtio2/net/eth0"
    bridge = tmp_path / "devices/virtual/net/br0"
    for path, state in ((card, "up"), (bridge, "down")):
        write(path / "address", "02:00:00:00:00:01")
        write(path / "operstate", state)
        write(path / "mtu", "1500")
    write(card / "speed", "1000")
    (bridge / "bridge").mkdir()
    (bridge / "brif/tap0").mkdir(parents=True)
    (tmp_path / "class/net").mkdir(parents=True)
    (tmp_path / "class/net/eth0").symlink_to(card)
    (tmp_path / "class/net/br0").symlink_to(bridge)
    (tmp_path / "block").mkdir()
    (tmp_path / "block/vda").symlink_to(disk)
    return tmp_path


def test_devices_know_what_they_are_plugged_into(sysfs: Path) -> None:
    found = find_devices(sysfs)
    assert {name: device.parent for name, device in found.items()} == {
        "computer": None,
        "pci_0000_00_02_0": "computer",
        "pci_0000_00_03_0": "computer",
        "net_eth0_02_00_00_00_00_01": "pci_0000_00_03_0",
        "net_br0_02_00_00_00_00_01": "computer",
        "block_vda": "pci_0000_00_02_0",
    }


def test_device_documents_say_what_sysfs_says(sysfs: Path) -> None:
    found = find_devices(sysfs)
    disk = device_document(found["block_vda"])
    assert "<devnode type='dev'>/dev/vda</devnode>" in disk
    assert "<size>1048576</size>" in disk
    assert "<num_blocks>2048</num_blocks>" in disk
    assert "<link speed='1000' state='up'/>" in device_document(found["net_eth0_02_00_00_00_00_01"])
    assert "<product id='0x1041'" in device_document(found["pci_0000_00_03_0"])


def test_interfaces_show_a_bridge_with_its_ports(sysfs: Path) -> None:
    bridge, card = find_interfaces(sysfs / "class/net")
    assert (bridge.name, bridge.kind, bridge.active) == ("br0", "bridge", False)
    assert "<interface type='ethernet' name='tap0'/>" in interface_document(bridge)
    assert (card.name, card.active) == ("eth0", True)
    assert "<mac address='02:00:00:00:00:01'/>" in interface_document(card)
