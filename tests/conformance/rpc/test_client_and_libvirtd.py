"""pyhyve.client against real libvirtd, compared with what python3-libvirt answers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from pyhyve.client import Connection, DomainState, LibvirtError, connect
from pyhyve.rpc.errors import ErrorCode

sys.path.insert(0, str(Path(__file__).parent))
from libvirtd_process import running_libvirtd, why_not

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.skipif(why_not() is not None, reason=why_not() or "")]

PEER = """
import json, sys, libvirt
c = libvirt.open(sys.argv[1])
out = {
    "type": c.getType(), "version": c.getVersion(), "library": c.getLibVersion(), "host": c.getHostname(),
    "node": c.getInfo(), "capabilities": c.getCapabilities(),
    "domains": [[d.name(), d.UUIDString(), d.ID(), d.isActive(), d.isPersistent(), d.autostart(), d.OSType(),
                 d.XMLDesc(), d.state(), d.maxMemory(), d.info()[:4]] for d in c.listAllDomains()],
    "stats": [[d.name(), s] for d, s in c.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE)],
    "networks": [[n.name(), n.UUIDString(), n.isActive(), n.autostart(), n.XMLDesc()] for n in c.listAllNetworks()],
    "pools": [[p.name(), p.UUIDString(), p.isActive(), p.info(), p.XMLDesc()] for p in c.listAllStoragePools()],
}
json.dump(out, sys.stdout)
"""
DOMAIN = """<domain type='qemu'><name>pyhyve-rpc</name><memory unit='KiB'>65536</memory><vcpu>1</vcpu>
<os><type arch='x86_64'>hvm</type></os><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<serial type='pty'/><console type='pty'/></devices></domain>"""


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[Path]:
    with running_libvirtd() as path:
        yield path


@pytest.fixture(params=["test+unix:///default", "qemu:///system"])
def uri(request: pytest.FixtureRequest, libvirtd: Path) -> str:
    return f"{request.param}?socket={libvirtd}"


@pytest.fixture
def testing(libvirtd: Path) -> Iterator[Connection]:
    with connect(f"test+unix:///default?socket={libvirtd}", timeout_s=60) as connection:
        yield connection


@pytest.fixture
def qemu(libvirtd: Path) -> Iterator[Connection]:
    with connect(f"qemu:///system?socket={libvirtd}", timeout_s=60) as connection:
        yield connection


def ours(uri: str) -> dict[str, Any]:
    with connect(uri, timeout_s=60) as c:
        return {
            "type": c.type(),
            "version": c.version(),
            "library": c.library_version(),
            "host": c.hostname(),
            "node": [c.node_info()[0], c.node_info()[1] // 1024, *c.node_info()[2:]],
            "capabilities": c.capabilities(),
            "domains": [
                [
                    d.name,
                    str(d.uuid),
                    d.id or -1,
                    d.is_active(),
                    d.is_persistent(),
                    d.autostart(),
                    d.os_type(),
                    d.xml(),
                    list(d.state()),
                    d.max_memory_kib(),
                    list(d.info())[:4],
                ]
                for d in c.list_all_domains()
            ],
            "stats": [[d.name, stats] for d, stats in c.domain_stats(stats=1)],
            "networks": [[n.name, str(n.uuid), n.is_active(), n.autostart(), n.xml()] for n in c.list_all_networks()],
            "pools": [
                [p.name, str(p.uuid), p.is_active(), list(p.info()), p.xml()] for p in c.list_all_storage_pools()
            ],
        }


def test_client_answers_as_python_libvirt_does(uri: str) -> None:
    python = "/usr/bin/python3"
    probe = subprocess.run([python, "-c", "import libvirt"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("python3-libvirt is not installed")
    theirs = subprocess.run([python, "-c", PEER, uri], capture_output=True, check=True, text=True)
    assert json.loads(json.dumps(ours(uri))) == json.loads(theirs.stdout)


def test_domain_lives_through_its_states(testing: Connection) -> None:
    number = testing.watch_domains()
    domain = testing.domain("test")
    domain.suspend()
    assert domain.state()[0] == DomainState.PAUSED
    domain.resume()
    domain.destroy()
    assert not domain.is_active()
    domain.start()
    assert domain.id is not None
    assert domain == testing.domain_by_id(domain.id) == testing.domain_by_uuid(domain.uuid)
    events = [testing.next_event(60) for _ in range(4)]
    assert [event.message.event for event in events if event is not None] == [3, 4, 5, 2]
    assert testing.next_event(0.3) is None
    testing.unwatch_domains(number)


def test_snapshots_and_metadata(testing: Connection) -> None:
    domain = testing.domain("test")
    assert domain.current_snapshot() is None
    snapshot = domain.create_snapshot("<domainsnapshot><name>s1</name></domainsnapshot>")
    assert [found.name for found in domain.list_snapshots()] == ["s1"]
    assert snapshot.is_current()
    assert "<name>s1</name>" in domain.snapshot("s1").xml()
    snapshot.revert()
    snapshot.delete()
    domain.set_metadata(0, "a description")
    assert domain.metadata(0) == "a description"


def test_errors_have_libvirts_codes(testing: Connection) -> None:
    for call, code in (
        (lambda: testing.domain("none"), ErrorCode.NO_DOMAIN),
        (lambda: testing.domain_by_uuid(UUID(int=1)), ErrorCode.NO_DOMAIN),
        (lambda: testing.network("none"), ErrorCode.NO_NETWORK),
        (lambda: testing.storage_pool("none"), ErrorCode.NO_STORAGE_POOL),
        (lambda: testing.define_domain("<domain"), ErrorCode.XML_DETAIL),
        (lambda: testing.domain("test").start(), ErrorCode.INTERNAL_ERROR),
    ):
        with pytest.raises(LibvirtError) as caught:
            call()
        assert caught.value.code == code, str(caught.value)


def test_read_only_connection_refuses_changes(libvirtd: Path) -> None:
    socket = libvirtd.with_name("libvirt-sock-ro")
    with connect(f"test+unix:///default?socket={socket}", read_only=True) as connection:
        with pytest.raises(LibvirtError) as caught:
            connection.domain("test").suspend()
        assert caught.value.code == ErrorCode.OPERATION_DENIED


def test_volume_content_survives_upload_and_download(qemu: Connection, tmp_path: Path) -> None:
    pool = qemu.define_storage_pool(f"<pool type='dir'><name>p</name><target><path>{tmp_path}</path></target></pool>")
    pool.start()
    volume = pool.create_volume("<volume><name>v</name><capacity>3000000</capacity></volume>")
    content = bytes(range(256)) * 4000
    with volume.upload() as stream:
        stream.send(content)
    with volume.download() as stream:
        assert stream.read_all(4_000_000) == content.ljust(3_000_000, b"\0")
    assert qemu.storage_volume_by_path(volume.path()).pool().name == "p"
    volume.resize(4_000_000)
    assert volume.info().capacity_bytes == 4_000_000
    volume.delete()
    pool.destroy()
    pool.undefine()


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is not installed")
def test_real_qemu_is_defined_started_and_destroyed(qemu: Connection) -> None:
    domain = qemu.define_domain(DOMAIN)
    try:
        assert domain.id is None
        domain.start(flags=1)
        try:
            assert domain.state()[0] == DomainState.PAUSED
            assert domain.id is not None
            assert domain.info().max_memory_kib == 65536
            stream = domain.open_console()
            stream.abort()
        finally:
            domain.destroy()
        assert domain.state()[0] == DomainState.SHUTOFF
    finally:
        domain.undefine()
    assert qemu.list_all_domains() == []
