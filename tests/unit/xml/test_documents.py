"""Documents libvirt 9.0 wrote (its qemu and test drivers) survive being read and written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyhyve.xml import Capabilities, Domain, Network, StoragePool, StorageVolume, format_element, parse_element

if TYPE_CHECKING:
    from pyhyve.xml.element import Element

DOCUMENTS = Path(__file__).with_name("documents")
KINDS = {"domain": Domain, "network": Network, "pool": StoragePool, "volume": StorageVolume}
WRITTEN = [path for path in sorted(DOCUMENTS.glob("*.xml")) if path.stem.partition("-")[0] in KINDS]


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_document_is_written_as_it_was_read(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    cls: type[Element] = KINDS[path.stem.partition("-")[0]]
    assert format_element(parse_element(cls, text)) == text


def full() -> Domain:
    return parse_element(Domain, (DOCUMENTS / "domain-full.xml").read_bytes())


def test_domain_holds_what_it_says() -> None:
    domain = full()
    assert (domain.type, domain.name, domain.title, domain.id) == ("qemu", "full", "A title", None)
    assert domain.description == "Text & more"
    assert domain.memory_kib == domain.current_memory_kib == 524288
    assert domain.vcpu is not None
    assert (domain.vcpu.count, domain.vcpu.current) == (4, 1)
    assert (domain.os.type.arch, domain.os.type.type) == ("x86_64", "hvm")
    assert [boot.dev for boot in domain.os.boot] == ["hd"]
    assert domain.os.bootmenu is not None
    assert domain.os.bootmenu.enable is True
    assert domain.cpu is not None
    assert domain.cpu.model is not None
    assert domain.cpu.model.name == "qemu64"
    assert [(feature.policy, feature.name) for feature in domain.cpu.feature] == [("require", "sse3")]


def test_devices_hold_what_they_say() -> None:
    devices = full().devices
    assert devices is not None
    disk, cdrom = devices.disk
    assert disk.driver is not None
    assert disk.source is not None
    assert disk.address is not None
    assert (disk.driver.type, disk.driver.cache, disk.source.file) == ("qcow2", "none", "/tmp/a.qcow2")
    assert (disk.target.dev, disk.target.bus, disk.serial, disk.readonly) == ("vda", "virtio", "S1", False)
    assert (disk.address.type, disk.address.domain, disk.address.slot, disk.address.function) == ("pci", 0, "0x06", 0)
    assert (cdrom.device, cdrom.readonly, cdrom.source) == ("cdrom", True, None)
    _, bridged = devices.interface
    assert bridged.source is not None
    assert bridged.mac is not None
    assert bridged.link is not None
    assert (bridged.source.bridge, bridged.mac.address, bridged.link.state) == ("br100", "52:54:00:00:00:01", "down")
    assert [(graphics.type, graphics.port, graphics.autoport) for graphics in devices.graphics] == [("vnc", -1, True)]
    assert devices.rng[0].backend is not None
    assert devices.rng[0].backend.path == "/dev/urandom"


def test_network_holds_what_it_says() -> None:
    network = parse_element(Network, (DOCUMENTS / "network-nat.xml").read_bytes())
    assert network.forward is not None
    assert network.bridge is not None
    assert (network.forward.mode, network.bridge.name, network.bridge.delay) == ("nat", "virbr9", 0)
    first, second = network.ip
    assert first.dhcp is not None
    assert (first.dhcp.range[0].end, first.dhcp.host[0].name) == ("192.168.9.254", "a")
    assert (second.family, second.prefix, second.dhcp) == ("ipv6", 64, None)


def test_storage_holds_what_it_says() -> None:
    pool = parse_element(StoragePool, (DOCUMENTS / "pool-dir.xml").read_bytes())
    assert pool.target is not None
    assert (pool.type, pool.target.path) == ("dir", "/tmp/pd")
    volume = parse_element(StorageVolume, (DOCUMENTS / "volume-test.xml").read_bytes())
    assert volume.capacity is not None
    assert volume.target is not None
    assert volume.target.format is not None
    assert (volume.capacity.size_bytes, volume.target.format.type) == (1 << 30, "qcow2")


def test_capabilities_hold_what_they_say_and_survive() -> None:
    text = (DOCUMENTS / "capabilities-test.xml").read_bytes()
    capabilities = parse_element(Capabilities, text)
    assert capabilities.host is not None
    assert capabilities.host.cpu is not None
    assert capabilities.host.cpu.arch == "i686"
    assert next((guest.os_type, guest.arch.name) for guest in capabilities.guest) == ("hvm", "i686")
    assert parse_element(Capabilities, format_element(capabilities)) == capabilities
