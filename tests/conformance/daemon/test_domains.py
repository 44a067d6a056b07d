"""Domains through unmodified virsh and python3-libvirt, on real QEMU."""

# ruff: noqa: E501 - documents and messages as they are
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from daemon_process import DaemonProcess, running_daemon, virsh
from guests import EMULATORS, GREETING, document, make_disk

from tests.guest.monitor import Monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Virsh = Callable[..., str]

pytestmark = [
    pytest.mark.skipif(EMULATORS["qemu"] is None, reason="no QEMU (Debian package qemu-system-x86)"),
    pytest.mark.skipif(not Path("/usr/bin/virsh").exists(), reason="no virsh (Debian package libvirt-clients)"),
]
BASE = "qemu+unix:///system"


def record_of(daemon: DaemonProcess, name: str) -> dict[str, Any]:
    """What the daemon keeps about a domain's machine."""
    for path in (daemon.root / "run/qemu/machines").glob("*.json"):
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if record["name"] == name:
            return record
    return {}


def wait_ended(pid: int) -> None:
    """Wait until a process is gone; one that nobody waits for is."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z":
                return
        except OSError:
            return
        time.sleep(0.02)
    pytest.fail(f"process {pid} is still there")


def end_all(daemon: DaemonProcess) -> None:
    """Leave no machine behind."""
    for name in virsh(daemon.uri(BASE), "list", "--name").stdout.split():
        virsh(daemon.uri(BASE), "destroy", name)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with running_daemon(tmp_path_factory.mktemp("domains") / "root", "--system") as found:
        yield found
        if found.process is not None and found.process.poll() is None:
            end_all(found)


@pytest.fixture
def run(daemon: DaemonProcess) -> Virsh:
    """Run virsh; its output, or (``fails``) its error."""

    def call(*command: str, fails: bool = False) -> str:
        done = virsh(daemon.uri(BASE), *command)
        assert (done.returncode != 0) == fails, done.stderr + done.stdout
        return (done.stderr if fails else done.stdout).strip()

    return call


def define(run: Virsh, tmp_path: Path, text: str) -> None:
    path = tmp_path / "domain.xml"
    path.write_text(text, encoding="utf-8")
    run("define", str(path))


def python(daemon: DaemonProcess, script: str, *arguments: str, timeout: float = 120) -> str:
    """Run a script with Debian's own libvirt binding."""
    if subprocess.run(["/usr/bin/python3", "-c", "import libvirt"], capture_output=True, check=False).returncode:
        pytest.skip("no python3-libvirt")
    done = subprocess.run(
        ["/usr/bin/python3", "-c", script, daemon.uri(BASE), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_everyday_life_of_a_domain(run: Virsh, tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "disk.raw")
    define(run, tmp_path, document("everyday", disk))
    assert run("domstate", "everyday", "--reason") == "shut off (unknown)"
    assert run("start", "everyday") == "Domain 'everyday' started"
    assert run("domstate", "everyday", "--reason") == "running (booted)"
    assert "already active" in run("start", "everyday", fails=True)
    run("suspend", "everyday")
    assert run("domstate", "everyday", "--reason") == "paused (user)"
    run("resume", "everyday")
    assert run("domstate", "everyday", "--reason") == "running (unpaused)"
    run("reset", "everyday")
    live = run("dumpxml", "everyday")
    assert "<alias name='virtio-disk0'/>" in live
    assert "index='1'" in live
    inactive = run("dumpxml", "--inactive", "everyday")
    assert "alias" not in inactive
    run("destroy", "everyday")
    assert run("domstate", "everyday", "--reason") == "shut off (destroyed)"
    assert run("dumpxml", "everyday") == inactive
    assert "domain is not running" in run("destroy", "everyday", fails=True)
    run("undefine", "everyday")
    assert "failed to get domain 'everyday'" in run("dominfo", "everyday", fails=True)


def test_reason_of_an_end_is_not_that_of_an_earlier_one(daemon: DaemonProcess, run: Virsh, tmp_path: Path) -> None:
    define(run, tmp_path, document("ends"))
    run("start", "ends")
    run("destroy", "ends")
    run("start", "ends")
    pid = record_of(daemon, "ends")["pid"]
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while run("domstate", "ends") != "shut off" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert run("domstate", "ends", "--reason") == "shut off (crashed)"
    run("undefine", "ends")


def test_transient_domain_is_gone_when_it_ends(run: Virsh, tmp_path: Path) -> None:
    path = tmp_path / "t.xml"
    path.write_text(document("transient"), encoding="utf-8")
    run("create", str(path))
    assert "transient" in run("list", "--transient", "--name")
    assert "transient domains do not have any persistent config" in run(
        "setmem", "transient", "16M", "--config", fails=True
    )
    run("destroy", "transient")
    assert "transient" not in run("list", "--all", "--name")


EVENTS = """
import libvirt, sys, threading, time
libvirt.virEventRegisterDefaultImpl()
threading.Thread(target=lambda: [libvirt.virEventRunDefaultImpl() for _ in iter(int, 1)], daemon=True).start()
conn = libvirt.open(sys.argv[1])
seen = []
def lifecycle(c, d, event, detail, o): seen.append((event, detail))
def reboot(c, d, o): seen.append('reboot')
conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, None)
conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, reboot, None)
dom = conn.defineXML(sys.argv[2])
# suspended at the end, so that the guest's firmware does not reset the machine once more
dom.create(); dom.suspend(); dom.resume(); dom.suspend(); dom.reset(0); dom.destroy(); dom.undefine()
wanted = [(0, 0), (4, 0), (2, 0), (3, 0), (4, 0), (3, 0), 'reboot', (6, 2), (5, 1), (1, 0)]
deadline = time.time() + 60
while len(seen) < len(wanted) and time.time() < deadline: time.sleep(0.02)
print(seen == wanted, seen)
"""


def test_events_come_in_libvirts_order(daemon: DaemonProcess) -> None:
    said = python(daemon, EVENTS, document("events"))
    assert said.startswith("True"), said


CONSOLE = """
import libvirt, sys, time
conn = libvirt.open(sys.argv[1])
dom = conn.createXML(sys.argv[2], libvirt.VIR_DOMAIN_START_PAUSED)
stream = conn.newStream(0)
dom.openConsole(None, stream, 0)
other = conn.newStream(0)
try:
    dom.openConsole(None, other, 0)
except libvirt.libvirtError as error:
    print('second:', error)
dom.resume()
def until(text):
    got = b''
    while text not in got:
        got += stream.recv(1024)
    return got
until(b'ready')
stream.send(b'echo this')
print(until(b'echo this')[-9:])
stream.finish()
third = conn.newStream(0)
dom.openConsole(None, third, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
third.abort()
dom.destroy()
"""


def test_console_carries_bytes_both_ways(daemon: DaemonProcess, tmp_path: Path) -> None:
    text = document("console", make_disk(tmp_path / "c.raw"), devices="<serial type='pty'/>")
    said = python(daemon, CONSOLE, text)
    assert "second: operation failed: Active console session exists for this domain" in said
    assert "b'echo this'" in said
    assert GREETING == b"ready\n"


def test_machines_outlive_a_killed_daemon_and_are_found_again(tmp_path: Path) -> None:
    with running_daemon(tmp_path / "root", "--system") as daemon:
        uri = daemon.uri(BASE)
        try:
            for name in ("kept", "crashed", "paused"):
                path = tmp_path / f"{name}.xml"
                path.write_text(document(name, devices="<serial type='pty'/>"), encoding="utf-8")
                virsh(uri, "define", str(path))
                assert virsh(uri, "start", name).returncode == 0
            (tmp_path / "t.xml").write_text(document("fleeting"), encoding="utf-8")
            assert virsh(uri, "create", str(tmp_path / "t.xml")).returncode == 0
            records = {name: record_of(daemon, name) for name in ("kept", "crashed", "paused", "fleeting")}
            terminal = virsh(uri, "ttyconsole", "kept").stdout
            daemon.stop(signal.SIGKILL)
            for name in ("crashed", "fleeting"):
                os.kill(records[name]["pid"], signal.SIGKILL)
                wait_ended(records[name]["pid"])
            monitor = Monitor(records["paused"]["monitor"])
            monitor.ask("stop")  # behind the daemon's back
            monitor.close()
            daemon.start()
            assert virsh(uri, "domstate", "kept", "--reason").stdout.strip() == "running (booted)"
            assert virsh(uri, "domstate", "crashed", "--reason").stdout.strip() == "shut off (crashed)"
            assert virsh(uri, "domstate", "paused", "--reason").stdout.strip() == "paused (user)"
            assert "fleeting" not in virsh(uri, "list", "--all", "--name").stdout
            assert record_of(daemon, "kept")["pid"] == records["kept"]["pid"]
            assert virsh(uri, "ttyconsole", "kept").stdout == terminal
            assert virsh(uri, "suspend", "kept").returncode == 0
            assert virsh(uri, "start", "crashed").returncode == 0
            assert virsh(uri, "resume", "paused").returncode == 0
        finally:
            end_all(daemon)
        for name in ("kept", "paused"):
            wait_ended(records[name]["pid"])
            assert not Path(records[name]["monitor"]).parent.exists()
        assert not list((daemon.root / "run/qemu/machines").glob("*.json"))


def test_guest_that_powered_off_while_nobody_watched_is_ended(tmp_path: Path) -> None:
    with running_daemon(tmp_path / "root", "--system") as daemon:
        uri = daemon.uri(BASE)
        path = tmp_path / "d.xml"
        path.write_text(document("off"), encoding="utf-8")
        virsh(uri, "define", str(path))
        assert virsh(uri, "start", "off").returncode == 0
        pid = record_of(daemon, "off")["pid"]
        daemon.stop(signal.SIGKILL)
        os.kill(pid, signal.SIGTERM)  # as an administrator would end it
        wait_ended(pid)
        daemon.start()
        assert virsh(uri, "domstate", "off").stdout.strip() == "shut off"


def test_machine_is_saved_and_restored(run: Virsh, tmp_path: Path) -> None:
    define(run, tmp_path, document("saved", make_disk(tmp_path / "s.raw"), devices="<serial type='pty'/>"))
    run("start", "saved")
    image = str(tmp_path / "saved.img")
    run("save", "saved", image)
    assert run("domstate", "saved", "--reason") == "shut off (saved)"
    assert run("save-image-dumpxml", image, "--xpath", "/domain/name") == "<name>saved</name>"
    run("restore", image)
    assert run("domstate", "saved", "--reason") == "running (restored)"
    assert "already active" in run("restore", image, fails=True)
    run("managedsave", "saved")
    assert "Managed save:   yes" in run("dominfo", "saved")
    assert "managed save image exists" in run("undefine", "saved", fails=True)
    run("start", "saved")
    assert run("domstate", "saved", "--reason") == "running (restored)"
    assert "Managed save:   no" in run("dominfo", "saved")
    run("destroy", "saved")
    (tmp_path / "short.img").write_bytes(Path(image).read_bytes()[:60])
    assert "failed to read qemu header" in run("restore", str(tmp_path / "short.img"), fails=True)
    assert "image magic is incorrect" in run("restore", str(tmp_path / "s.raw"), fails=True)
    run("undefine", "saved")


def qcow2(path: Path, size: str = "16M") -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), size], check=True)
    return path


def test_snapshots_inside_images(run: Virsh, tmp_path: Path) -> None:
    define(run, tmp_path, document("snap", qcow2(tmp_path / "s.qcow2")))
    run("snapshot-create-as", "snap", "offline")
    run("start", "snap")
    run("snapshot-create-as", "snap", "live", "a description")
    assert run("snapshot-current", "snap", "--name") == "live"
    assert run("snapshot-parent", "snap", "live") == "offline"
    assert "a description" in run("snapshot-dumpxml", "snap", "live")
    assert "already exists" in run("snapshot-create-as", "snap", "live", fails=True)
    run("suspend", "snap")
    run("snapshot-revert", "snap", "live")
    assert run("domstate", "snap", "--reason") == "running (from snapshot)"
    run("snapshot-revert", "snap", "offline")
    assert run("domstate", "snap") == "shut off"
    run("snapshot-delete", "snap", "live")
    assert run("snapshot-list", "snap", "--name").split() == ["offline"]
    listed = subprocess.run(
        ["qemu-img", "snapshot", "-l", str(tmp_path / "s.qcow2")], capture_output=True, text=True, check=True
    ).stdout
    assert "offline" in listed
    assert "live" not in listed
    assert "with 1 snapshots" in run("undefine", "snap", fails=True)
    run("undefine", "snap", "--snapshots-metadata")


def test_images_on_top_and_block_jobs(run: Virsh, tmp_path: Path) -> None:
    base = qcow2(tmp_path / "b.qcow2")
    define(run, tmp_path, document("chain", base))
    run("start", "chain")
    for name in ("one", "two"):
        run("snapshot-create-as", "chain", name, "--disk-only", "--no-metadata")
    assert str(tmp_path / "b.two") in run("domblklist", "chain")
    assert str(tmp_path / "b.two") in run("domblklist", "chain", "--inactive")
    document_ = run("dumpxml", "chain")
    assert document_.count("<backingStore") == 3
    run("blockcommit", "chain", "vda", "--top", str(tmp_path / "b.one"), "--wait")
    assert "b.one" not in run("dumpxml", "chain")
    run("blockcommit", "chain", "vda", "--active", "--pivot")
    assert str(base) in run("domblklist", "chain")
    assert str(base) in run("domblklist", "chain", "--inactive")
    run("snapshot-create-as", "chain", "three", "--disk-only", "--no-metadata")
    run("blockpull", "chain", "vda", "--wait")
    assert run("dumpxml", "chain").count("<backingStore") == 1
    assert run("blockjob", "chain", "vda") == "No current block job for vda"
    copy = tmp_path / "copy.qcow2"
    run("blockcopy", "chain", "vda", str(copy), "--transient-job", "--wait")
    assert "<mirror" in run("dumpxml", "chain")
    assert "already in active block job" in run("blockpull", "chain", "vda", fails=True)
    run("blockjob", "chain", "vda", "--pivot")
    assert str(copy) in run("domblklist", "chain")
    run("destroy", "chain")
    run("undefine", "chain")


def test_devices_come_and_go(run: Virsh, tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "d.raw")
    define(run, tmp_path, document("plug", disk, devices="<disk device='cdrom'><target dev='hdc' bus='ide'/></disk>"))
    before = run("dumpxml", "plug")
    run("start", "plug")
    other = make_disk(tmp_path / "other.raw")
    run("attach-disk", "plug", str(other), "vdb", "--persistent")
    assert str(other) in run("domblklist", "plug")
    assert str(other) in run("domblklist", "plug", "--inactive")
    assert "duplicated for disk sources" in run("attach-disk", "plug", str(disk), "vdb", fails=True)
    assert "cannot be hot plugged" in run("attach-disk", "plug", str(disk), "hda", "--targetbus", "ide", fails=True)
    card = tmp_path / "card.xml"
    card.write_text("<interface type='user'><mac address='52:54:00:00:00:99'/><model type='virtio'/></interface>")
    run("attach-device", "plug", str(card))
    assert "52:54:00:00:00:99" in run("domiflist", "plug")
    run("domif-setlink", "plug", "52:54:00:00:00:99", "down")
    assert run("domif-getlink", "plug", "52:54:00:00:00:99").endswith("down")
    run("change-media", "plug", "hdc", str(make_disk(tmp_path / "medium.iso")), "--insert")
    assert "medium.iso" in run("domblklist", "plug")
    run("change-media", "plug", "hdc", "--eject")
    assert "medium.iso" not in run("domblklist", "plug")
    run("destroy", "plug")
    run("detach-disk", "plug", "vdb", "--config")
    assert run("dumpxml", "plug") == before
    run("undefine", "plug")


def test_settings_are_kept(run: Virsh, tmp_path: Path) -> None:
    define(run, tmp_path, document("settings"))
    run("setvcpus", "settings", "4", "--maximum", "--config")
    run("setvcpus", "settings", "2", "--config")
    run("setmaxmem", "settings", "64M", "--config")
    run("setmem", "settings", "48M", "--config")
    run("desc", "settings", "--title", "A title")
    run("metadata", "settings", "http://example.org/a", "--key", "k", "--set", "<a><b/></a>")
    run("vcpupin", "settings", "0", "0", "--config")
    run("autostart", "settings")
    found = run("dumpxml", "settings")
    for part in (
        "<vcpu placement='static' current='2'>4</vcpu>",
        "<memory unit='KiB'>65536</memory>",
        "<currentMemory unit='KiB'>49152</currentMemory>",
        "<title>A title</title>",
        '<k:a xmlns:k="http://example.org/a">',
        "<vcpupin vcpu='0' cpuset='0'/>",
    ):
        assert part in found
    assert run("metadata", "settings", "http://example.org/a") == "<a>\n  <b/>\n</a>"
    assert "settings" in run("list", "--all", "--autostart", "--name")
    run("start", "settings")
    assert "maximum      live           4" in run("vcpucount", "settings")
    run("setvcpus", "settings", "3", "--live")
    assert "current      live           3" in run("vcpucount", "settings")
    assert run("domrename", "settings", "other", fails=True).endswith("cannot rename active domain")
    run("destroy", "settings")
    run("domrename", "settings", "other")
    assert "settings" not in run("list", "--all", "--name").split()
    run("undefine", "other")


def test_statistics_in_bulk(daemon: DaemonProcess, run: Virsh, tmp_path: Path) -> None:
    define(run, tmp_path, document("stats", make_disk(tmp_path / "s.raw")))
    run("start", "stats")
    said = run("domstats", "stats")
    for word in ("state.state=1", "balloon.maximum=32768", "vcpu.0.state=1", "block.0.name=vda", "block.0.rd.reqs="):
        assert word in said
    script = "import libvirt,sys; c=libvirt.open(sys.argv[1]); print([d.name() for d,_ in c.getAllDomainStats()])"
    assert "'stats'" in python(daemon, script)
    assert int(run("domblkinfo", "stats", "vda").split()[1]) == 4 << 20
    run("destroy", "stats")
    run("undefine", "stats")


def test_guest_without_an_agent_is_not_asked(run: Virsh, tmp_path: Path) -> None:
    channel = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
    define(run, tmp_path, document("agent", devices=channel))
    run("start", "agent")
    assert "QEMU guest agent is not connected" in run("domhostname", "agent", fails=True)
    assert "QEMU guest agent is not connected" in run("domtime", "agent", fails=True)
    assert "state='disconnected'" in run("dumpxml", "agent")
    run("destroy", "agent")
    run("undefine", "agent")


def test_external_snapshots_are_merged_when_deleted(run: Virsh, tmp_path: Path) -> None:
    base = qcow2(tmp_path / "m.qcow2")
    define(run, tmp_path, document("merge", base))
    run("snapshot-create-as", "merge", "off", "--disk-only")
    assert str(tmp_path / "m.off") in run("domblklist", "merge")
    assert "revert to external snapshot not supported" in run("snapshot-revert", "merge", "off", fails=True)
    run("snapshot-delete", "merge", "off")
    assert str(base) in run("domblklist", "merge")
    assert not (tmp_path / "m.off").exists()
    run("start", "merge")
    for name in ("e1", "e2"):
        run("snapshot-create-as", "merge", name, "--disk-only")
    run("snapshot-delete", "merge", "e1")
    assert run("dumpxml", "merge").count("<backingStore") == 2
    run("snapshot-delete", "merge", "e2")
    assert str(base) in run("domblklist", "merge")
    assert str(base) in run("domblklist", "merge", "--inactive")
    memory = tmp_path / "memory"
    run("snapshot-create-as", "merge", "m1", "--memspec", str(memory), "--diskspec", "vda,snapshot=external")
    assert memory.stat().st_size > 4096
    assert "Location:       external" in run("snapshot-info", "merge", "m1")
    run("snapshot-delete", "merge", "m1")
    assert run("snapshot-list", "merge", "--name") == ""
    assert run("domstate", "merge") == "running"
    run("destroy", "merge")
    run("undefine", "merge")


@pytest.mark.skipif(EMULATORS["pyhyve"] is None, reason="pyhyve is not installed")
def test_our_own_emulator_is_driven_the_same_way(run: Virsh, tmp_path: Path) -> None:
    disk = tmp_path / "own.qcow2"
    raw = make_disk(tmp_path / "own.raw")
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(disk)], check=True)
    devices = "<serial type='pty'/><channel type='unix'><target type='virtio' name='org.example.a'/></channel>"
    text = document("own", disk, emulator="pyhyve", devices=devices)
    define(run, tmp_path, text)
    run("start", "own")
    assert run("ttyconsole", "own").startswith("/dev/pts/")
    assert "name='org.example.a' state='" in run("dumpxml", "own")
    run("suspend", "own")
    assert run("domstate", "own", "--reason") == "paused (user)"
    run("resume", "own")
    run("snapshot-create-as", "own", "s", "--disk-only", "--no-metadata")
    run("blockcommit", "own", "vda", "--active", "--pivot")
    assert str(disk) in run("domblklist", "own")
    other = make_disk(tmp_path / "other.raw")
    run("attach-disk", "own", str(other), "vdb")
    assert str(other) in run("domblklist", "own")
    assert "block.1.name=vdb" in run("domstats", "own")
    run("reset", "own")
    run("destroy", "own")
    run("undefine", "own")


def test_disk_that_is_a_volume_is_shown_as_one_and_stays_one(daemon: DaemonProcess, run: Virsh, tmp_path: Path) -> None:
    run("pool-define-as", "volumes", "dir", "--target", str(tmp_path))
    run("pool-start", "volumes")
    run("vol-create-as", "volumes", "a.qcow2", "8M", "--format", "qcow2")
    run("vol-create-as", "volumes", "b.raw", "8M")
    text = "<disk type='volume' device='disk'><driver name='qemu' type='{}'/><source pool='volumes' volume='{}'/><target dev='{}' bus='virtio'/></disk>"
    define(run, tmp_path, document("voluminous", devices=text.format("qcow2", "a.qcow2", "vda")))
    run("start", "voluminous")
    other, absent = tmp_path / "b.xml", tmp_path / "c.xml"
    other.write_text(text.format("raw", "b.raw", "vdb"))
    absent.write_text(text.format("raw", "nope", "vdc"))
    run("attach-device", "voluminous", str(other), "--live")
    for scope in ("--live", "--config"):
        assert "no storage vol with matching name 'nope'" in run(
            "attach-device", "voluminous", str(absent), scope, fails=True
        )
    shown = run("dumpxml", "voluminous")
    assert "<disk type='volume' device='disk'>" in shown
    assert "<source pool='volumes' volume='a.qcow2' index='1'/>" in shown
    assert "<source pool='volumes' volume='b.raw' index='2'/>" in shown
    assert str(tmp_path) not in shown
    daemon.stop(signal.SIGKILL)
    daemon.start()
    assert run("dumpxml", "voluminous") == shown
    assert run("domblkinfo", "voluminous", "vdb").startswith("Capacity:")
    run("detach-disk", "voluminous", "vdb")
    run("destroy", "voluminous")
    run("undefine", "voluminous")
    run("pool-destroy", "volumes")
    run("pool-undefine", "volumes")
