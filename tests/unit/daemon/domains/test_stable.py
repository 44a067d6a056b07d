"""What of a document may change under a machine's state."""

from __future__ import annotations

import pytest

from pyhyve.daemon.domains.definition.parse import parse_domain
from pyhyve.daemon.domains.definition.stable import check_same_domain, check_same_guest
from pyhyve.daemon.errors import LibvirtError

_SLOT = "<address type='pci' domain='0' bus='0' slot='{}' function='0'/>"
_DISK = "<disk type='file'><source file='/{0}'/><target dev='{0}' bus='virtio'/></disk>"
_DOMAIN = (
    "<domain type='qemu'><name>d</name><uuid>d80cfff7-720c-4e85-b7a3-20de7080694a</uuid><memory>65536</memory>"
    "<vcpu>2</vcpu><os><type arch='x86_64' machine='pc'>hvm</type></os><devices>"
    f"{_DISK.format('vda')}{_DISK.format('vdb')}<controller type='usb' index='0' model='piix3-uhci'/>"
    f"<interface type='user'><mac address='52:54:00:0a:00:01'/><model type='virtio'/>{_SLOT.format(3)}</interface>"
    "<watchdog model='i6300esb'/><memballoon model='virtio'/></devices></domain>"
)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("file='/vda'", "file='/elsewhere'"),
        ("<interface type='user'>", "<interface type='network'><source network='n'/>"),
        ("0a:00:01", "0A:00:01"),
        ("<devices>", "<on_crash>restart</on_crash><devices>"),
        (_SLOT.format(3), ""),
        (_DISK.format("vda") + _DISK.format("vdb"), _DISK.format("vdb") + _DISK.format("vda")),
    ],
)
def test_what_only_the_host_sees_may_change(before: str, after: str) -> None:
    assert before in _DOMAIN
    check_same_guest(parse_domain(_DOMAIN), parse_domain(_DOMAIN.replace(before, after)))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("type='qemu'", "type='kvm'", "virt type kvm does not match source qemu"),
        (">65536<", ">32768<", "max memory 32768 does not match source 65536"),
        ("<vcpu>2", "<vcpu>1", "vCPU max 1 does not match source 2"),
        ("<vcpu>2", "<vcpu current='1'>2", "State of vCPU '1' differs"),
        ("x86_64", "i686", "architecture i686 does not match source x86_64"),
        ("machine='pc'", "machine='q35'", "machine type q35 does not match source pc"),
        (_DISK.format("vda"), "", "disk count 1 does not match source 2"),
        ("dev='vda' bus='virtio'", "dev='vda' bus='scsi'", "disk bus scsi does not match source virtio"),
        ("dev='vda'", "dev='vdc'", "disk vdb does not match source vda"),
        ("<target dev='vda'", "<serial>s</serial><target dev='vda'", "disk serial s does not match source <null>"),
        ("<target dev='vda'", "<readonly/><target dev='vda'", "access mode"),
        ("piix3-uhci", "ich9-ehci1", "controller model ich9-ehci1 does not match source piix3-uhci"),
        ("0a:00:01", "0a:00:02", "mac 52:54:00:0a:00:02 does not match"),
        (_SLOT.format(3), _SLOT.format(9), "PCI address 0000:00:09.0 does not match source 0000:00:03.0"),
        ("<watchdog model='i6300esb'/>", "", "watchdog count 0 does not match source 1"),
        ("i6300esb", "ib700", "watchdog model ib700"),
        ("<memballoon model='virtio'/>", "<memballoon model='none'/>", "balloon model none"),
    ],
)
def test_what_the_guest_sees_may_not(before: str, after: str, message: str) -> None:
    assert before in _DOMAIN
    with pytest.raises(LibvirtError, match=message):
        check_same_guest(parse_domain(_DOMAIN), parse_domain(_DOMAIN.replace(before, after)))


@pytest.mark.parametrize(("before", "after"), [("<name>d", "<name>e"), ("d80cfff7", "d80cfff8")])
def test_another_domain_is_not_the_same(before: str, after: str) -> None:
    other = parse_domain(_DOMAIN.replace(before, after))
    for check in (check_same_domain, check_same_guest):
        with pytest.raises(LibvirtError, match="does not match source"):
            check(parse_domain(_DOMAIN), other)
