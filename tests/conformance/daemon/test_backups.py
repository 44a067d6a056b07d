"""Checkpoints and backups of a running domain: as with libvirtd, and the images that come out are right."""

# ruff: noqa: E501 - sessions as somebody would type them

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from daemon_process import DaemonProcess, virsh
from guests import EMULATORS
from sides import Side, assert_equal_replies, side_of, skip_reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(skip_reason() is not None, reason=skip_reason() or ""),
    pytest.mark.skipif(EMULATORS["qemu"] is None, reason="no QEMU (Debian package qemu-system-x86)"),
    pytest.mark.skipif(shutil.which("qemu-img") is None, reason="no qemu-img (Debian package qemu-utils)"),
    pytest.mark.timeout(900),
]
_DISK = "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='@DIR@/a.qcow2'/><target dev='vda' bus='virtio'/></disk>"
_TARGET = "<disks><disk name='vda' type='file'><target file='@DIR@/{}'/><driver type='qcow2'/></disk></disks>"
_SERVER = "<server transport='unix' socket='@DIR@/nbd.sock'/>"
_EXPORT = " exportname='x' exportbitmap='y'"
_SCRATCH = "<disks><disk name='vda' backup='yes' type='file'{}><scratch file='@DIR@/scratch.qcow2'/></disk></disks>"
FILES = {
    "ck.xml": f"<domain type='qemu'><name>ck</name><memory unit='MiB'>32</memory><os><type arch='x86_64' machine='pc'>hvm</type></os><devices>{_DISK}<disk type='file' device='cdrom'><target dev='hda' bus='ide'/></disk></devices></domain>",
    "c1.xml": "<domaincheckpoint><name>c1</name><description>one</description><disks><disk name='vda' checkpoint='bitmap'/></disks></domaincheckpoint>",
    "x1.xml": "<domaincheckpoint><name>x1</name></domaincheckpoint>",
    "x2.xml": "<domaincheckpoint><name>x2</name></domaincheckpoint>",
    "b1.xml": f"<domainbackup mode='push'>{_TARGET.format('full.qcow2')}</domainbackup>",
    "b2.xml": f"<domainbackup mode='push'><incremental>x1</incremental>{_TARGET.format('inc.qcow2')}</domainbackup>",
    "b3.xml": "<domainbackup><incremental>nope</incremental></domainbackup>",
    "p1.xml": f"<domainbackup mode='pull'>{_SERVER}{_SCRATCH.format('')}</domainbackup>",
    "p2.xml": "<domainbackup mode='pull'><server transport='tcp' name='localhost'/></domainbackup>",
    "p3.xml": f"<domainbackup mode='pull'><incremental>y1</incremental>{_SERVER}{_SCRATCH.format(_EXPORT)}</domainbackup>",
    "p4.xml": f"<domainbackup mode='pull'>{_SERVER}{_SCRATCH.format('').replace('scratch.qcow2', 'full.qcow2')}</domainbackup>",
    "p5.xml": f"<domainbackup mode='pull'>{_SERVER}</domainbackup>",
    "y1.xml": "<domaincheckpoint><name>y1</name></domaincheckpoint>",
}
PULLS = """
define @DIR@/ck.xml; backup-begin ck @DIR@/p1.xml; start ck; backup-begin ck @DIR@/p2.xml; backup-begin ck @DIR@/p3.xml
backup-begin ck @DIR@/p1.xml --checkpointxml @DIR@/y1.xml; backup-dumpxml ck; suspend ck; resume ck; domjobinfo ck; domjobabort ck
domjobinfo ck; domjobinfo ck --completed; domjobinfo ck --completed; backup-dumpxml ck; domjobabort ck
backup-begin ck @DIR@/p4.xml; backup-begin ck @DIR@/p3.xml; backup-dumpxml ck; checkpoint-dumpxml ck y1 --no-domain --size; domjobabort ck
backup-begin ck @DIR@/p5.xml --checkpointxml @DIR@/x2.xml; backup-dumpxml ck; domjobabort ck
backup-begin ck @DIR@/p1.xml; destroy ck; backup-dumpxml ck; undefine ck --checkpoints-metadata; list --all
"""
SESSIONS = """
define @DIR@/ck.xml; checkpoint-list ck; checkpoint-create ck @DIR@/c1.xml; backup-begin ck; backup-dumpxml ck
start ck; checkpoint-create ck @DIR@/c1.xml; checkpoint-create ck @DIR@/c1.xml; checkpoint-create ck @DIR@/b1.xml
checkpoint-create-as ck c2 second; checkpoint-create-as ck c3 --diskspec vda,checkpoint=no
checkpoint-list ck; checkpoint-list ck --parent; checkpoint-list ck --roots; checkpoint-list ck --leaves; checkpoint-list ck --no-leaves; checkpoint-list ck --tree; checkpoint-list ck --from c1; checkpoint-list ck --topological
checkpoint-info ck c2; checkpoint-parent ck c2; checkpoint-parent ck c1; checkpoint-parent ck nope
checkpoint-dumpxml ck c2 --no-domain; checkpoint-dumpxml ck c1 --no-domain --size; checkpoint-dumpxml ck nope; checkpoint-dumpxml ck c1 --xpath //domain/name
checkpoint-delete ck nope; checkpoint-delete ck c1; checkpoint-list ck --parent
checkpoint-create-as ck c4; checkpoint-create-as ck c5; checkpoint-delete ck c4 --children-only; checkpoint-list ck
checkpoint-delete ck c4 --metadata; checkpoint-list ck; checkpoint-delete ck c2 --children; checkpoint-list ck
backup-dumpxml ck
backup-begin ck @DIR@/b1.xml --checkpointxml @DIR@/x1.xml
checkpoint-list ck; domjobinfo ck; domjobinfo ck --completed; backup-dumpxml ck; backup-begin ck @DIR@/b1.xml; backup-begin ck @DIR@/b3.xml
qemu-monitor-command ck --hmp 'qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "write -P 7 1M 64k"'
backup-begin ck @DIR@/b1.xml --reuse-external
backup-begin ck @DIR@/b2.xml --checkpointxml @DIR@/x2.xml
checkpoint-list ck --parent; checkpoint-dumpxml ck x2 --no-domain; checkpoint-dumpxml ck x1 --no-domain --size
destroy ck; checkpoint-delete ck x1; undefine ck; undefine ck --checkpoints-metadata; list --all
"""
VOLATILE = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}"), "UUID"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d( [+-]\d{4})?"), "MOMENT"),
    (re.compile(r"<creationTime>\d+"), "<creationTime>MOMENT"),
    (re.compile(r"Time elapsed:.*"), "ELAPSED"),
    (re.compile(r"-{20,}"), "RULE"),
    (re.compile(r"monitor=\w+"), "monitor"),
    (re.compile(r"index='\d+'"), "index"),
    (re.compile(r"[\d.]+ (m?sec|MiB/sec|ops/sec).*"), "SPEED"),
    (re.compile(r"64 KiB, \d+ ops; .*"), "SPEED"),
)


def run_all(side: Side) -> list[tuple[int, str, str]]:
    """Run the sessions, each once what the one before began is over."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", side.directory / "a.qcow2", "8M"], check=True)
    replies = []
    for line in SESSIONS.strip().split("\n"):
        replies.append(side.run(line))
        if line.startswith("backup-begin"):
            wait_for_the_end(side)
    return replies


def wait_for_the_end(side: Side) -> None:
    """Wait until no backup goes on: libvirtd ends one some time after it said so."""
    deadline = time.monotonic() + 60
    while side.run("backup-dumpxml ck")[0] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Side, Side]]:
    with (
        side_of("virsh-ours", tmp_path_factory.mktemp("ours"), FILES, VOLATILE) as ours,
        side_of("virsh-libvirtd", tmp_path_factory.mktemp("theirs"), FILES, VOLATILE) as theirs,
    ):
        yield ours, theirs


def allocated(image: Path) -> list[int]:
    """Starts of what an image holds itself."""
    said = subprocess.run(
        ["qemu-img", "map", "--output=json", image], capture_output=True, text=True, check=True
    ).stdout
    return [run["start"] for run in json.loads(said) if run["data"] and run["depth"] == 0]


def test_checkpoints_and_backups_go_as_with_libvirtd(sides: tuple[Side, Side]) -> None:
    with ThreadPoolExecutor() as pool:
        mine, real = pool.map(run_all, sides)
    lines = SESSIONS.strip().split("\n")
    assert_equal_replies(zip(lines, mine, real, strict=True))
    for side in sides:
        assert allocated(side.directory / "inc.qcow2") == [1 << 20]
        same = ["qemu-img", "compare", "-q", side.directory / "full.qcow2", side.directory / "a.qcow2"]
        assert subprocess.run(same, check=False).returncode == 0


def test_backups_to_pull_go_as_with_libvirtd(sides: tuple[Side, Side]) -> None:
    def run(side: Side) -> list[tuple[int, str, str]]:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", side.directory / "a.qcow2", "8M"], check=True)
        (side.directory / "full.qcow2").touch()
        replies = []
        for line in PULLS.strip().split("\n"):
            replies.append(side.run(line))
            if line.endswith("domjobabort ck"):
                wait_for_the_end(side)
        return replies

    with ThreadPoolExecutor() as pool:
        mine, real = pool.map(run, sides)
    assert_equal_replies(zip(PULLS.strip().split("\n"), mine, real, strict=True))


def test_client_pulls_what_was_there_when_the_backup_began(sides: tuple[Side, Side]) -> None:
    side = sides[0]
    disk, pulled, nbd = side.directory / "a.qcow2", side.directory / "pulled.raw", side.directory / "nbd.sock"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "8M"], check=True)

    def run(line: str) -> str:
        status, output, errors = side.run(line)
        assert status == 0, errors
        return output

    def write(pattern: int, where: str) -> None:
        command = f'qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "write -P {pattern} {where} 64k"'
        run(f"qemu-monitor-command ck --hmp '{command}'")

    def pull(name: str) -> bytes:
        subprocess.run(
            ["qemu-img", "convert", "-f", "raw", "-O", "raw", f"nbd+unix:///{name}?socket={nbd}", pulled], check=True
        )
        return pulled.read_bytes()

    try:
        run("define @DIR@/ck.xml; start ck")
        write(1, "1M")
        run("backup-begin ck @DIR@/p1.xml --checkpointxml @DIR@/y1.xml")
        write(2, "1M")
        write(3, "2M")
        found = pull("vda")
        assert found[1 << 20 : (1 << 20) + 65536] == b"\1" * 65536
        assert not any(found[2 << 20 : (2 << 20) + 65536])
        run("domjobabort ck")
        run("backup-begin ck @DIR@/p3.xml")
        write(4, "3M")
        found = pull("x")
        assert [found[place << 20] for place in range(1, 4)] == [2, 3, 0]
        where = f"driver=nbd,server.type=unix,server.path={nbd},export=x,x-dirty-bitmap=qemu:dirty-bitmap:y"
        said = subprocess.run(
            ["qemu-img", "map", "--output=json", "--image-opts", where], capture_output=True, text=True, check=True
        ).stdout
        assert [run["start"] >> 20 for run in json.loads(said) if not run["data"]] == [1, 2]
        run("domjobabort ck")
        assert not (side.directory / "scratch.qcow2").exists()
        nodes = run('qemu-monitor-command ck \'{"execute": "query-named-block-nodes"}\'')
        assert "scratch" not in nodes
        assert '"backup-vda"' not in nodes
    finally:
        side.run("destroy ck; undefine ck --checkpoints-metadata")


@pytest.mark.parametrize("kept", ["run/qemu/machines", "state/qemu/checkpoints"])
def test_backup_that_cannot_be_noted_leaves_nothing(sides: tuple[Side, Side], kept: str) -> None:
    side = sides[0]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", side.directory / "a.qcow2", "8M"], check=True)
    target, place = side.directory / "full.qcow2", side.directory / "root" / kept
    target.unlink(missing_ok=True)
    aside = place.with_name("aside")

    def run(line: str) -> str:
        status, output, errors = side.run(line)
        assert status == 0, errors
        return output

    try:
        run("define @DIR@/ck.xml; start ck")
        place.rename(aside)
        place.touch()
        try:
            status, _, errors = side.run("backup-begin ck @DIR@/b1.xml --checkpointxml @DIR@/y1.xml")
        finally:
            place.unlink()
            aside.rename(place)
        assert (status, "cannot" in errors) == (1, True), errors
        assert side.run("backup-dumpxml ck")[0] == 1
        assert run("checkpoint-list ck --name").strip() == ""
        assert "None" in run("domjobinfo ck")
        assert not target.exists()
        for query in ("query-jobs", "query-named-block-nodes"):
            said = run(f'qemu-monitor-command ck \'{{"execute": "{query}"}}\'')
            assert not any(word in said for word in ("backup-vda", "full.qcow2", '"y1"')), said
        run("backup-begin ck @DIR@/b1.xml --checkpointxml @DIR@/y1.xml")
        wait_for_the_end(side)
        assert target.exists()
    finally:
        side.run("destroy ck; undefine ck --checkpoints-metadata")


@pytest.mark.parametrize(
    ("number", "backup", "image"),
    [(signal.SIGKILL, "b1.xml", "full.qcow2"), (signal.SIGTERM, "p1.xml", "scratch.qcow2")],
)
def test_backup_of_a_daemon_that_ended_leaves_nothing(tmp_path: Path, number: int, backup: str, image: str) -> None:
    disk = tmp_path / "a.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True)
    text = FILES["ck.xml"].replace("@DIR@", str(tmp_path)).replace("</driver>", "").replace("<name>ck", "<name>slow")
    (tmp_path / "d.xml").write_text(text)
    (tmp_path / "b.xml").write_text(FILES[backup].replace("@DIR@", str(tmp_path)))
    daemon = DaemonProcess(tmp_path / "root", ["--system"])
    daemon.start()
    uri = daemon.uri("qemu+unix:///system")
    try:
        for command in (("define", str(tmp_path / "d.xml")), ("start", "slow")):
            done = virsh(uri, *command)
            assert done.returncode == 0, done.stderr
        limit = '{"execute": "stop"}'  # a backup's job does not mind, the guest is of no interest
        assert virsh(uri, "qemu-monitor-command", "slow", limit).returncode == 0
        assert virsh(uri, "backup-begin", "slow", str(tmp_path / "b.xml")).returncode == 0
        daemon.stop(number)
        daemon.start_beside()
        said = virsh(uri, "qemu-monitor-command", "slow", '{"execute": "query-jobs"}').stdout
        assert '"return":[]' in said
        nodes = virsh(uri, "qemu-monitor-command", "slow", '{"execute": "query-named-block-nodes"}').stdout
        assert image not in nodes
        assert not (tmp_path / "scratch.qcow2").exists()
        assert virsh(uri, "backup-dumpxml", "slow").returncode == 1
    finally:
        virsh(uri, "destroy", "slow")
        daemon.stop()
