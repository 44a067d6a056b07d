"""Command lines of the documents, as reviewed files; compared with those of libvirtd 9.0 (domxml-to-native)."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from pyhyve.daemon.domains.definition import define
from pyhyve.daemon.drivers.qemu.command import Launch, command_line
from pyhyve.daemon.drivers.qemu.command.block import disk_nodes
from pyhyve.daemon.drivers.qemu.command.launch import NetworkEnd, device_properties
from pyhyve.daemon.drivers.qemu.prepare import preview_domain
from pyhyve.daemon.errors import LibvirtError
from pyhyve.xml.devices import Devices
from pyhyve.xml.disk import BackingStore, Disk, DiskDriver, DiskSource, DiskTarget, Format

sys.path.insert(0, str(Path(__file__).parent))
from emulators import Emulators

DOCUMENTS = Path(__file__).parent / "documents"
NAMES = sorted(path.name.removesuffix(".in.xml") for path in DOCUMENTS.glob("*.in.xml"))
HEAD = "<domain type='qemu'><name>x</name><uuid>11111111-1111-1111-1111-111111111101</uuid><memory>65536</memory>"


def written(text: str, emulators: Emulators | None = None, *, incoming: str | None = None) -> list[str]:
    """The command line of a document, its taps numbered from 30."""
    known = emulators or Emulators()
    domain = define(text, known)[0]
    numbers = iter(range(100))
    live = preview_domain(domain, Path("/run/m"), lambda: f"vnet{next(numbers)}")
    devices = live.devices or Devices()
    ends = {
        item.alias.name: NetworkEnd(tap_fd=30 + number)
        for number, item in enumerate(devices.interface)
        if item.alias is not None and item.type != "user"
    }
    launch = Launch(monitor=Path("/run/m/monitor.sock"), networks=ends, incoming=incoming, now=1_000_000_000)
    return command_line(live, known.probed(devices.emulator or ""), launch).arguments


def lines(arguments: list[str]) -> str:
    """One option on each line."""
    shown = [arguments[0]]
    for word in arguments[1:]:
        if word.startswith("-"):
            shown.append(word)
        else:
            shown[-1] += f" {shlex.quote(word)}"
    return "\n".join(shown) + "\n"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "everything"])
def test_command_line_is_the_reviewed_one(name: str) -> None:
    found = lines(written((DOCUMENTS / f"{name}.in.xml").read_text(encoding="utf-8")))
    golden = DOCUMENTS / f"{name}.args"
    if "RECORD_GOLDEN" in os.environ:
        golden.write_text(found, encoding="utf-8")
    assert found == golden.read_text(encoding="utf-8")


def test_disk_of_a_pool_cannot_be_told_to_an_emulator() -> None:
    with pytest.raises(LibvirtError, match="disk type 'volume' not supported"):
        written((DOCUMENTS / "everything.in.xml").read_text(encoding="utf-8"))


def test_our_emulator_is_given_only_what_it_knows() -> None:
    arguments = written(
        f"""{HEAD}<os><type>hvm</type><kernel>/k</kernel><cmdline>a b</cmdline></os><cpu mode='maximum'/><devices>
        <disk><driver name='qemu' type='qcow2'/><source file='/d'/><target dev='vda'/></disk>
        <interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='b'/><model type='virtio'/>
        </interface>
        <graphics type='vnc'/><serial type='pty'/></devices></domain>""",
        Emulators("/usr/bin/pyhyve-system-x86_64", package="pyhyve 1"),
    )
    text = lines(arguments)
    for option in ("-vnc", "-audiodev {", '-device \'{"driver":"cirrus'):
        assert option not in text
    assert "-netdev tap,fd=30,id=hostnet0" in text
    assert arguments[arguments.index("-append") + 1] == "a b"
    assert arguments[arguments.index("-m") + 1] == "64"


def test_state_that_comes_in_starts_stopped() -> None:
    arguments = written(f"{HEAD}<os><type>hvm</type></os></domain>", incoming="defer")
    assert "-S" in arguments
    assert arguments[arguments.index("-incoming") + 1] == "defer"


def test_guest_that_must_not_reboot_is_ended() -> None:
    document = f"{HEAD}<os><type>hvm</type></os><on_reboot>destroy</on_reboot></domain>"
    assert "-no-reboot" in written(document)


def test_commas_in_names_are_doubled() -> None:
    document = HEAD.replace("<name>x", "<name>x,y") + "<os><type>hvm</type></os></domain>"
    assert "guest=x,,y,debug-threads=on" in written(document)


def test_variable_clock_is_relative_to_now() -> None:
    document = f"{HEAD}<os><type>hvm</type></os><clock offset='variable' adjustment='60' basis='utc'/></domain>"
    arguments = written(document)
    assert arguments[arguments.index("-rtc") + 1] == "base=2001-09-09T01:47:40"


def test_host_passthrough_needs_kvm() -> None:
    document = f"{HEAD}<os><type>hvm</type></os><cpu mode='host-passthrough'/></domain>"
    with pytest.raises(LibvirtError, match="CPU mode 'host-passthrough'"):
        written(document)
    kvm = document.replace("type='qemu'", "type='kvm'")
    arguments = written(kvm)
    assert arguments[arguments.index("-cpu") + 1] == "host,migratable=on"


def disk(**changes: object) -> Disk:
    base = Disk(
        type="file",
        device="disk",
        driver=DiskDriver(name="qemu", type="qcow2"),
        source=DiskSource(file="/top", index=1),
        backing_store=BackingStore(),
        target=DiskTarget(dev="vda", bus="virtio"),
    )
    return replace(base, **changes)  # type: ignore[arg-type] # fields by name


def test_nodes_of_a_chain_are_made_from_the_bottom() -> None:
    below = BackingStore(type="file", index=2, format=Format(type="raw"), source=DiskSource(file="/base"))
    nodes = disk_nodes(disk(backing_store=below))
    assert [node["node-name"] for node in nodes] == [
        "libvirt-2-storage",
        "libvirt-2-format",
        "libvirt-1-storage",
        "libvirt-1-format",
    ]
    assert nodes[1]["read-only"] is True
    assert nodes[3]["backing"] == "libvirt-2-format"


def test_chain_that_ends_says_so() -> None:
    assert disk_nodes(disk())[1]["backing"] is None
    assert "backing" not in disk_nodes(disk(driver=DiskDriver(name="qemu", type="raw")))[1]


def test_empty_drive_has_no_node() -> None:
    assert disk_nodes(disk(source=None, device="cdrom")) == []


@pytest.mark.parametrize(
    ("cache", "direct", "no_flush"), [("none", True, False), ("unsafe", False, True), ("writeback", False, False)]
)
def test_cache_mode_is_told_to_both_nodes(cache: str, direct: bool, no_flush: bool) -> None:
    for node in disk_nodes(disk(driver=DiskDriver(name="qemu", type="qcow2", cache=cache))):
        assert node["cache"] == {"direct": direct, "no-flush": no_flush}


def test_network_disk_is_opened_at_its_server() -> None:
    source = DiskSource(protocol="nbd", name="export", index=1)
    node = disk_nodes(disk(type="network", source=source, driver=DiskDriver(name="qemu", type="raw")))[0]
    assert node["driver"] == "nbd"
    assert node["export"] == "export"
    assert json.dumps(node)


def test_devices_keep_their_bus_and_lose_what_their_emulator_lacks() -> None:
    known = {"virtio-rng-pci": frozenset({"rng", "addr"})}
    emulator = replace(Emulators().probed("/usr/bin/pyhyve-system-x86_64"), properties=known)
    device = {"driver": "virtio-rng-pci", "id": "rng0", "bus": "pci.3", "addr": "0x0", "rng": "objrng0", "period": 5}
    assert device_properties(emulator, {**device, "max-bytes": None}) == {
        name: value for name, value in device.items() if name != "period"
    }


def test_directories_of_the_host_are_shared_by_9p() -> None:
    arguments = written(
        f"""{HEAD}<os><type>hvm</type></os><devices>
        <filesystem><source dir='/a,b'/><target dir='t'/></filesystem>
        <filesystem type='mount' accessmode='squash'><driver type='path' wrpolicy='immediate'/><source dir='/c'/>
        <target dir='u'/><readonly/></filesystem></devices></domain>"""
    )
    shared = [arguments[place + 1] for place, word in enumerate(arguments) if word == "-fsdev"]
    assert shared == [
        "local,security_model=passthrough,id=fsdev-fs0,path=/a,,b",
        "local,security_model=none,writeout=immediate,id=fsdev-fs1,path=/c,readonly",
    ]
    assert any('"fsdev":"fsdev-fs0","mount_tag":"t"' in word for word in arguments)


@pytest.mark.parametrize(
    ("devices", "head", "message"),
    [
        ("<tpm model='tpm-crb'><backend type='emulator'/></tpm>", "", "device 'tpm' is not supported"),
        ("<iommu model='intel'/>", "", "device 'iommu' is not supported"),
        ("<shmem name='s'/>", "", "device 'shmem' is not supported"),
        ("<smartcard mode='host'/>", "", "device 'smartcard' is not supported"),
        ("<memory model='dimm'><target><size>65536</size></target></memory>", "", "device 'memory' is not supported"),
        ("<channel type='spicevmc'><target type='virtio'/></channel>", "", "not supported without spice graphics"),
        ("", "<memoryBacking><hugepages/></memoryBacking>", "huge pages are not supported"),
        (
            "<filesystem><driver type='virtiofs'/><source dir='/a'/><target dir='t'/></filesystem>",
            "",
            "filesystem of type 'virtiofs' is not supported",
        ),
    ],
)
def test_what_would_be_left_out_is_refused(devices: str, head: str, message: str) -> None:
    with pytest.raises(LibvirtError, match=message):
        written(f"{HEAD}{head}<os><type>hvm</type></os><devices>{devices}</devices></domain>")


RINGS = "driver packed='on' event_idx='off' iommu='off'"
DEVICES_WITH_RINGS = f"""{HEAD}<os><type>hvm</type></os><devices>
    <disk><{RINGS} name='qemu' type='raw'/><source file='/d'/><target dev='vda' bus='virtio'/></disk>
    <interface type='user'><model type='virtio'/><{RINGS}/></interface>
    <controller type='scsi' model='virtio-scsi'><{RINGS}/></controller>
    <controller type='virtio-serial'><{RINGS}/></controller>
    <rng model='virtio'><{RINGS}/><backend model='random'>/dev/urandom</backend></rng>
    <memballoon model='virtio'><{RINGS}/></memballoon></devices></domain>"""


def test_rings_of_virtio_devices_are_as_the_document_says() -> None:
    arguments = written(DEVICES_WITH_RINGS)
    given = (json.loads(text) for option, text in pairwise(arguments) if option == "-device")
    rings = {
        device["driver"]: (device.get("packed"), device.get("event_idx"), device.get("iommu_platform"))
        for device in given
        if device["driver"].startswith("virtio-")
    }
    kinds = ("blk", "net", "scsi", "serial", "rng", "balloon")
    assert rings == {f"virtio-{kind}-pci": (True, False, False) for kind in kinds}
