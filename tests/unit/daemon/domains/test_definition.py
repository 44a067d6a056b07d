"""Definitions made whole, against what libvirtd 9.0 makes of the same documents (recorded by record.py)."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyhyve.daemon.domains.definition import define
from pyhyve.daemon.domains.definition.controllers import group_controllers
from pyhyve.daemon.domains.definition.parse import parse_live_domain
from pyhyve.daemon.domains.definition.view import format_domain, inactive_view
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain

sys.path.insert(0, str(Path(__file__).parent))
from emulators import Emulators

if TYPE_CHECKING:
    from pyhyve.daemon.domains.emulators import Emulator

DOCUMENTS = Path(__file__).parent / "documents"
NAMES = sorted(path.name.removesuffix(".in.xml") for path in DOCUMENTS.glob("*.in.xml"))
HEAD = "<domain type='qemu'><name>x</name><memory>65536</memory>"
OS = "<os><type>hvm</type></os>"


def made(text: str) -> str:
    return format_domain(define(text, Emulators())[0], secure=True)


def read_back(document: str) -> str:
    """A document as libvirt has it once it read it again: it leaves added controllers at the end until then."""
    domain = parse_live_domain(document)
    assert domain.devices is not None
    controllers = group_controllers(domain.devices.controller)
    return format_domain(replace(domain, devices=replace(domain.devices, controller=controllers)), secure=True)


@pytest.mark.parametrize("name", NAMES)
def test_definition_is_completed_as_libvirt_does(name: str) -> None:
    given = (DOCUMENTS / f"{name}.in.xml").read_text(encoding="utf-8")
    wanted = (DOCUMENTS / f"{name}.out.xml").read_text(encoding="utf-8")
    assert made(given) == read_back(wanted)


@pytest.mark.parametrize("name", NAMES)
def test_definition_survives_being_defined_again(name: str) -> None:
    once = made((DOCUMENTS / f"{name}.in.xml").read_text(encoding="utf-8"))
    assert made(once) == once


def test_definition_gets_new_identities() -> None:
    document = f"{HEAD}{OS}<devices><interface type='user'/></devices></domain>"
    first, second = define(document, Emulators())[0], define(document, Emulators())[0]
    assert first.uuid != second.uuid
    one, other = (item.devices.interface[0].mac.address for item in (first, second))  # type: ignore[union-attr] # they have
    assert one != other
    assert one.startswith("52:54:00:")


def test_definition_leaves_out_what_libvirt_does_not_know() -> None:
    document = made(f"{HEAD}{OS}<bogus a='1'><b/></bogus><devices><bogus/></devices></domain>")
    assert "bogus" not in document


def test_definition_is_limited_to_what_the_emulator_has() -> None:
    class Small(Emulators):
        def probed(self, path: str) -> Emulator:
            return replace(super().probed(path), devices=frozenset({"virtio-blk-pci"}))

    text = f"{HEAD}{OS}<devices><interface type='user'/></devices></domain>"
    document = format_domain(define(text, Small())[0])
    assert "<memballoon model='none'/>" in document
    assert "<controller type='usb' index='0' model='none'/>" in document
    assert "<model type='virtio'/>" in document


MISTAKES = {
    "garbage": ("foo", 35, "(domain_definition):1: Start tag expected, '<' not found\nfoo\n^"),
    "unclosed": (
        "<domain>",
        35,
        "(domain_definition):1: Premature end of data in tag domain line 1\n<domain>\n--------^",
    ),
    "root": ("<foo/>", 27, "XML error: expecting root element of 'domain', not 'foo'"),
    "no name": ("<domain type='qemu'/>", 21, "missing name information"),
    "slash": (f"<domain type='qemu'><name>a/b</name>{OS}</domain>", 27, "XML error: name a/b cannot contain '/'"),
    "no type": (f"<domain><name>x</name>{OS}</domain>", 1, "internal error: missing domain type attribute"),
    "type": (
        f"<domain type='zen'><name>x</name>{OS}</domain>",
        67,
        "unsupported configuration: invalid domain type zen",
    ),
    "uuid": (
        f"<domain type='qemu'><name>x</name><uuid>x</uuid>{OS}</domain>",
        1,
        "internal error: malformed uuid element",
    ),
    "no os": (f"{HEAD}</domain>", 27, "XML error: an os <type> must be specified"),
    "os": (f"{HEAD}<os><type>foo</type></os></domain>", 67, "unsupported configuration: unknown OS type 'foo'"),
    "arch": (
        f"{HEAD}<os><type arch='foo'>hvm</type></os></domain>",
        67,
        "unsupported configuration: Unknown architecture foo",
    ),
    "no emulator": (
        f"{HEAD}<os><type arch='s390x'>hvm</type></os></domain>",
        67,
        "unsupported configuration: No emulator found for arch 's390x'",
    ),
    "memory": (
        f"<domain type='qemu'><name>x</name><memory>0</memory>{OS}</domain>",
        27,
        "XML error: Memory size must be specified via <memory> or in the <numa> configuration",
    ),
    "memory text": (
        f"<domain type='qemu'><name>x</name><memory>abc</memory>{OS}</domain>",
        27,
        "XML error: Invalid value 'abc' for element or attribute './memory[1]'",
    ),
    "unit": (
        f"<domain type='qemu'><name>x</name><memory unit='foo'>1</memory>{OS}</domain>",
        8,
        "invalid argument: unknown suffix 'foo'",
    ),
    "vcpu": (f"{HEAD}<vcpu>x</vcpu>{OS}</domain>", 27, "XML error: maximum vcpus count must be an integer"),
    "current": (
        f"{HEAD}<vcpu current='3'>2</vcpu>{OS}</domain>",
        67,
        "unsupported configuration: maximum vCPU count must not be less than current vCPU count",
    ),
    "many": (
        f"{HEAD}<vcpu>300</vcpu>{OS}</domain>",
        67,
        "unsupported configuration: Maximum CPUs greater than specified machine type limit 255",
    ),
    "topology": (
        f"{HEAD}<vcpu>2</vcpu>{OS}<cpu><topology sockets='1' cores='1' threads='1'/></cpu></domain>",
        67,
        "unsupported configuration: CPU topology doesn't match maximum vcpu count",
    ),
    "target": (
        f"{HEAD}{OS}<devices><disk><source file='/a'/></disk></devices></domain>",
        20,
        "missing target information for device /a",
    ),
    "source": (
        f"{HEAD}{OS}<devices><disk><target dev='vda'/></disk></devices></domain>",
        19,
        "missing source information for device vda",
    ),
    "disk type": (
        f"{HEAD}{OS}<devices><disk type='foo'><target dev='vda'/></disk></devices></domain>",
        27,
        "XML error: Invalid value for attribute 'type' in element 'disk': 'foo'.",
    ),
    "disk name": (
        f"{HEAD}{OS}<devices><disk><source file='/a'/><target dev='zzz'/></disk></devices></domain>",
        27,
        "XML error: Unknown disk name 'zzz' and no address specified",
    ),
    "two disks": (
        (
            f"{HEAD}{OS}<devices><disk><source file='/a'/><target dev='vda'/></disk>"
            "<disk><source file='/b'/><target dev='vda'/></disk></devices></domain>"
        ),
        27,
        "XML error: target 'vda' duplicated for disk sources '/a' and '/b'",
    ),
    "bridge": (
        f"{HEAD}{OS}<devices><interface type='bridge'/></devices></domain>",
        27,
        "XML error: interface type='bridge' requires a 'source' element",
    ),
    "mac": (
        f"{HEAD}{OS}<devices><interface type='user'><mac address='foo'/></interface></devices></domain>",
        27,
        "XML error: unable to parse mac address 'foo'",
    ),
    "multicast": (
        f"{HEAD}{OS}<devices><interface type='user'><mac address='01:00:00:00:00:00'/></interface></devices></domain>",
        27,
        "XML error: expected unicast mac address, found multicast '01:00:00:00:00:00'",
    ),
    "model": (
        f"{HEAD}{OS}<devices><interface type='user'><model type='a b'/></interface></devices></domain>",
        8,
        "invalid argument: Model name contains invalid characters",
    ),
    "same place": (
        f"{HEAD}{OS}<devices>"
        + "<interface type='user'><address type='pci' domain='0' bus='0' slot='5' function='0'/></interface>" * 2
        + "</devices></domain>",
        27,
        "XML error: Attempted double use of PCI Address 0000:00:05.0",
    ),
    "slot": (
        f"{HEAD}{OS}<devices><interface type='user'><address type='pci' slot='0x45'/></interface></devices></domain>",
        27,
        "XML error: Invalid PCI address slot='0x45', must be <= 0x1F",
    ),
    "graphics": (
        f"{HEAD}{OS}<devices><graphics/></devices></domain>",
        27,
        "XML error: Missing required attribute 'type' in element 'graphics'",
    ),
    "serial": (
        f"{HEAD}{OS}<devices><serial type='foo'/></devices></domain>",
        67,
        "unsupported configuration: unknown type presented to host for character device: foo",
    ),
    "action": (
        f"{HEAD}{OS}<on_reboot>foo</on_reboot></domain>",
        67,
        "unsupported configuration: unknown on_reboot action: foo",
    ),
    "title": (f"{HEAD}{OS}<title>a\nb</title></domain>", 27, "XML error: Domain title can't contain newlines"),
    "boot": (
        (
            f"{HEAD}<os><type>hvm</type><boot dev='hd'/></os><devices><interface type='user'>"
            "<boot order='1'/></interface>"
            "</devices></domain>"
        ),
        67,
        "unsupported configuration: per-device boot elements cannot be used together with os/boot elements",
    ),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistake_is_refused_in_libvirts_words(what: str) -> None:
    text, code, message = MISTAKES[what]
    with pytest.raises(LibvirtError) as caught:
        define(text, Emulators())
    assert (int(caught.value.code), str(caught.value)) == (code, message)


def test_malformed_document_is_the_domain_subsystems_error() -> None:
    with pytest.raises(LibvirtError) as caught:
        define("foo", Emulators())
    assert caught.value.code is ErrorCode.XML_DETAIL
    assert caught.value.domain is ErrorDomain.DOMAIN


def test_passwords_are_shown_only_to_those_who_may() -> None:
    domain = define(f"{HEAD}{OS}<devices><graphics type='vnc' passwd='s3cret'/></devices></domain>", Emulators())[0]
    assert "s3cret" not in format_domain(domain)
    assert "s3cret" in format_domain(domain, secure=True)


def test_inactive_view_is_without_what_only_a_machine_has() -> None:
    live = parse_live_domain(
        """<domain type='qemu' id='3'><name>x</name><uuid>11111111-1111-1111-1111-111111111101</uuid>
        <memory>65536</memory><resource><partition>/machine</partition></resource><os><type>hvm</type></os>
        <devices><disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/a' index='1'/>
        <backingStore/><target dev='vda' bus='virtio'/><alias name='virtio-disk0'/></disk>
        <disk type='file' device='cdrom'><driver name='qemu'/><target dev='sda' bus='sata'/>
        <alias name='ua-mine'/><address type='drive' unit='0'/></disk>
        <interface type='bridge'><source bridge='b'/><target dev='vnet0'/><alias name='net0'/></interface>
        <serial type='pty'><source path='/dev/pts/1'/><target port='0'/><alias name='serial0'/></serial>
        <console type='pty' tty='/dev/pts/1'><source path='/dev/pts/1'/><target type='serial' port='0'/></console>
        <channel type='unix'><source mode='bind' path='/run/qemu/3-x/org.a'/>
        <target type='virtio' name='org.a' state='connected'/></channel>
        <graphics type='vnc' port='5903' autoport='yes'><listen type='address'/></graphics></devices></domain>"""
    )
    document = format_domain(inactive_view(live))
    for gone in ("id=", "resource", "index=", "backingStore", "vnet0", "pts", "tty", "/run/", "state=", "5903"):
        assert gone not in document
    assert "ua-mine" in document
    assert "virtio-disk0" not in document
    assert document.count("type='raw'") == 2
