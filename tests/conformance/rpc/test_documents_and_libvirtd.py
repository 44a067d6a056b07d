"""Documents of pyhyve.xml against libvirt's published schemas, and against what libvirtd makes of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lxml import etree

from pyhyve.client import Connection, connect
from pyhyve.xml import Domain, Network, StoragePool, StorageVolume, format_element, parse_element
from pyhyve.xml.devices import Devices, Graphics, Serial
from pyhyve.xml.disk import Disk, DiskDriver, DiskSource, DiskTarget, Format
from pyhyve.xml.domain import Memory, Os, OsType, Vcpu
from pyhyve.xml.interface import Interface, InterfaceModel, InterfaceSource, Mac
from pyhyve.xml.network import Bridge, Dhcp, DhcpRange, Forward, Ip
from pyhyve.xml.storage import Capacity, PoolTarget, VolumeTarget

sys.path.insert(0, str(Path(__file__).parent))
from libvirtd_process import running_libvirtd, why_not

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMAS = Path("/usr/share/libvirt/schemas")
with_schemas = pytest.mark.skipif(not SCHEMAS.is_dir(), reason="no schemas (Debian package libvirt-daemon)")
with_libvirtd = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")

DOMAIN = Domain(
    type="qemu",
    name="made",
    memory=Memory(unit="MiB", amount=256),
    vcpu=Vcpu(count=2),
    os=Os(type=OsType(arch="x86_64", machine="pc", type="hvm")),
    devices=Devices(
        emulator="/usr/bin/qemu-system-x86_64",
        disk=(
            Disk(
                type="file",
                device="disk",
                driver=DiskDriver(name="qemu", type="qcow2"),
                source=DiskSource(file="/a'b&c.qcow2"),
                target=DiskTarget(dev="vda", bus="virtio"),
                readonly=True,
            ),
        ),
        interface=(
            Interface(
                type="bridge",
                mac=Mac(address="52:54:00:00:00:09"),
                source=InterfaceSource(bridge="br100"),
                model=InterfaceModel(type="virtio"),
            ),
        ),
        serial=(Serial(type="pty"),),
        graphics=(Graphics(type="vnc", port=-1, autoport=True),),
    ),
)
NETWORK = Network(
    name="made",
    forward=Forward(mode="nat"),
    bridge=Bridge(name="virbr77", stp="on", delay=0),
    ip=(
        Ip(
            address="192.168.77.1",
            prefix=24,
            dhcp=Dhcp(range=(DhcpRange(start="192.168.77.2", end="192.168.77.9"),)),
        ),
    ),
)
POOL = StoragePool(type="dir", name="made", target=PoolTarget(path="/var/lib/made"))
VOLUME = StorageVolume(
    name="v", capacity=Capacity(unit="GiB", amount=1), target=VolumeTarget(format=Format(type="qcow2"))
)


@with_schemas
@pytest.mark.parametrize(
    ("schema", "value"),
    [("domain", DOMAIN), ("network", NETWORK), ("storagepool", POOL), ("storagevol", VOLUME)],
    ids=["domain", "network", "pool", "volume"],
)
def test_documents_made_here_are_valid(schema: str, value: Domain | Network | StoragePool | StorageVolume) -> None:
    grammar = etree.RelaxNG(file=str(SCHEMAS / f"{schema}.rng"))
    grammar.assertValid(etree.fromstring(format_element(value)))


@pytest.fixture(scope="module")
def qemu() -> Iterator[Connection]:
    with running_libvirtd() as path, connect(f"qemu:///system?socket={path}", timeout_s=60) as connection:
        yield connection


@with_libvirtd
@pytest.mark.root
def test_domain_survives_define_dumpxml_define(qemu: Connection) -> None:
    defined = qemu.define_domain(format_element(DOMAIN))
    first = defined.xml()
    value = parse_element(Domain, first)
    assert format_element(value) == first
    assert value.memory_kib == 256 << 10
    assert value.devices is not None
    assert value.devices.disk[0].source == DiskSource(file="/a'b&c.qcow2")
    assert qemu.define_domain(format_element(value)).xml() == first
    defined.undefine()


@with_libvirtd
@pytest.mark.root
def test_network_and_pool_survive_define_dumpxml_define(qemu: Connection) -> None:
    network = qemu.define_network(format_element(NETWORK))
    text = network.xml()
    assert format_element(parse_element(Network, text)) == text
    assert qemu.define_network(text).xml() == text
    network.undefine()
    pool = qemu.define_storage_pool(format_element(POOL))
    text = pool.xml()
    assert format_element(parse_element(StoragePool, text)) == text
    pool.undefine()
