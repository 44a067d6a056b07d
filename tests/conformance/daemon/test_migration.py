"""Domains that move between two daemons: between ours as between libvirt's, and between one of each."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from guests import BUSY_CODE, EMULATORS, document, make_busy_disk, make_disk
from libvirtd_process import why_not
from migration_sessions import SESSIONS
from pairs import Host, Pair, has_namespaces, running_pair
from sides import assert_equal_replies

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.skipif(EMULATORS["qemu"] is None, reason="no QEMU (Debian package qemu-system-x86)"),
    pytest.mark.skipif(shutil.which("virsh") is None, reason="no virsh (Debian package libvirt-clients)"),
    pytest.mark.skipif(not has_namespaces(), reason="namespaces need root"),
]
VOLATILE = (
    (re.compile(r"(same host )[0-9a-f-]{36}"), r"\1UUID"),
    # our machines run as the daemon's user; libvirt says that root is unusual
    (re.compile(r"Messages: +tainted.*\n"), ""),
    (re.compile(r"CPU time: +.*"), "CPU time"),
    (re.compile(r"^( ?)\d+( +(?:m|moved) )", re.MULTILINE), r"\1ID\2"),
    (re.compile(r"Id: +\d+"), "Id"),
    (re.compile(r"-{20,}"), "RULE"),
)
UUID = "<uuid>a0a0a0a0-1111-4222-8333-444444444444</uuid>"
AGENT = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"


def write_documents(directory: Path) -> None:
    disk = make_disk(directory / "disk.raw")
    text = document("m", disk, devices=AGENT, extra=UUID)
    (directory / "m.xml").write_text(text)
    (directory / "other.xml").write_text(text.replace("<name>m<", "<name>other<"))
    (directory / "same-name.xml").write_text(text.replace("a0a0a0a0", "b0b0b0b0"))
    (directory / "diskless.xml").write_text(re.sub("<disk .*</disk>", "", text))


@contextlib.contextmanager
def pair_of(*kinds: str) -> Iterator[Pair]:
    """Two daemons, with a short path: it becomes part of the paths of sockets."""
    with tempfile.TemporaryDirectory(prefix="pair-") as name:
        write_documents(Path(name))
        with running_pair((kinds[0], kinds[1]), Path(name)) as pair:
            yield pair


@pytest.fixture(scope="module")
def ours() -> Iterator[Pair]:
    with pair_of("ours", "ours") as pair:
        yield pair


@pytest.fixture(scope="module")
def theirs() -> Iterator[Pair]:
    if reason := why_not():
        pytest.skip(reason)
    with pair_of("libvirtd", "libvirtd") as pair:
        yield pair


@pytest.mark.timeout(900)
def test_sessions_go_as_between_two_libvirtds(ours: Pair, theirs: Pair) -> None:
    lines = SESSIONS.strip().split("\n")
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda pair: [pair.run(line, VOLATILE) for line in lines], (ours, theirs)))
    assert_equal_replies(zip(lines, *both, strict=True))


def start_busy(pair: Pair, name: str) -> None:
    """Start a guest that would move for as long as the test lets it: it writes faster than it may be sent."""
    path = pair.directory / f"{name}.xml"
    path.write_text(document(name, make_busy_disk(pair.directory / f"{name}.raw")))
    for command in (["define", str(path)], ["start", name], ["migrate-setspeed", name, "1"]):
        done = pair.a.virsh(*command)
        assert done.returncode == 0, done.stderr
    assert pair.a.virsh("migrate-setmaxdowntime", name, "1").returncode == 0
    deadline = time.monotonic() + 60
    while (
        "7c"
        not in (said := pair.a.virsh("qemu-monitor-command", name, "--hmp", "info registers").stdout).partition("EIP=")[
            2
        ][:10]
    ):
        assert time.monotonic() < deadline, said
        time.sleep(0.1)


def wait_sending(pair: Pair, name: str) -> None:
    """Wait until some of the guest was sent."""
    deadline = time.monotonic() + 60
    while "Iteration: " not in (said := pair.a.virsh("domjobinfo", name).stdout):
        assert time.monotonic() < deadline, said
        time.sleep(0.05)


MIGRATE = ("--live", "--unsafe", "--migrateuri", "tcp://127.0.0.1")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", ["client", "peer"])
def test_migration_that_is_given_up_leaves_the_source_running(ours: Pair, way: str) -> None:
    name = f"aborted-{way}"
    start_busy(ours, name)
    where = [ours.b.uri] if way == "client" else [ours.b.peer_uri, "--p2p"]
    moving = ours.a.start_virsh("migrate", name, *where, *MIGRATE)
    wait_sending(ours, name)
    assert ours.a.state(name) == "running (booted)"
    assert ours.b.state(name) == "paused (migrating)"
    assert ours.a.virsh("domjobabort", name).returncode == 0
    _, said = moving.communicate(timeout=60)
    assert said.strip() == "error: operation aborted: job 'migration out' canceled by client"
    assert ours.a.state(name).startswith("running")
    assert ours.b.state(name) == ""
    assert "None" in ours.a.virsh("domjobinfo", name).stdout
    ours.a.virsh("destroy", name)


@pytest.mark.timeout(600)
def test_migration_without_its_client_is_given_up(ours: Pair) -> None:
    start_busy(ours, "orphan")
    moving = ours.a.start_virsh("migrate", "orphan", ours.b.uri, *MIGRATE)
    wait_sending(ours, "orphan")
    moving.kill()
    moving.communicate()
    deadline = time.monotonic() + 60
    while ours.b.state("orphan") or "None" not in ours.a.virsh("domjobinfo", "orphan").stdout:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert ours.a.state("orphan").startswith("running")
    assert ours.a.virsh("suspend", "orphan").returncode == 0  # nobody holds it any more
    ours.a.virsh("destroy", "orphan")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("killed", ["a", "b"], ids=["source", "destination"])
def test_daemon_killed_while_a_domain_moves_loses_nothing(ours: Pair, killed: str) -> None:
    name = f"survivor-{killed}"
    start_busy(ours, name)
    moving = ours.a.start_virsh("migrate", name, ours.b.uri, *MIGRATE)
    wait_sending(ours, name)
    host = ours.a if killed == "a" else ours.b
    host.process.send_signal(signal.SIGKILL)
    host.process.wait(60)
    host.start()
    moving.communicate(timeout=60)
    assert moving.returncode != 0
    deadline = time.monotonic() + 60
    while not ours.a.state(name).startswith("running") or ours.b.state(name):
        assert time.monotonic() < deadline, (ours.a.state(name), ours.b.state(name))
        time.sleep(0.1)
    status = ours.a.virsh("qemu-monitor-command", name, '{"execute": "query-migrate"}').stdout
    assert '"cancelled"' in status or '"failed"' in status
    ours.a.virsh("destroy", name)


@pytest.mark.timeout(600)
def test_post_copy_runs_the_guest_at_its_destination_before_all_is_there(ours: Pair) -> None:
    start_busy(ours, "post")
    moving = ours.a.start_virsh("migrate", "post", ours.b.uri, *MIGRATE, "--postcopy")
    wait_sending(ours, "post")
    assert ours.a.virsh("migrate-postcopy", "post").returncode == 0
    _, said = moving.communicate(timeout=60)
    assert moving.returncode == 0, said
    assert ours.b.state("post") == "running (migrated)"
    assert ours.a.state("post") == "shut off (migrated)"
    ours.b.virsh("destroy", "post")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("emulator", ["qemu", "pyhyve"])
def test_domain_moves_from_libvirtd_to_us_and_back(emulator: str) -> None:
    if reason := why_not():
        pytest.skip(reason)
    if EMULATORS[emulator] is None:
        pytest.skip(f"{emulator} is not installed")
    with pair_of("libvirtd", "ours") as pair:
        if emulator == "pyhyve":
            disk = make_busy_disk(pair.directory / "busy.raw")
            (pair.directory / "m.xml").write_text(document("m", disk, emulator="pyhyve"))
        assert pair.a.virsh("define", str(pair.directory / "m.xml")).returncode == 0
        assert pair.a.virsh("start", "m").returncode == 0
        ways: tuple[tuple[str, ...], ...] = ((), ("--p2p", "--tunnelled"))
        for options in ways[:1] if emulator == "pyhyve" else ways:
            how = ("--live", "--unsafe", *options)
            if "--tunnelled" not in options:
                how = (*how, "--migrateuri", "tcp://127.0.0.1")
            for source, target in ((pair.a, pair.b), (pair.b, pair.a)):
                uri = target.peer_uri if options else target.uri
                done = source.virsh("migrate", "m", uri, *how)
                assert done.returncode == 0, (source.name, options, done.stderr)
                assert target.state("m") == "running (migrated)"
                if emulator == "pyhyve":
                    wait_counting(target, "m")


def wait_counting(host: Host, name: str) -> None:
    """Wait until the guest that never rests is seen to write."""
    path = host.directory / "word"
    command = f'{{"execute": "pmemsave", "arguments": {{"val": 131072, "size": 2, "filename": "{path}"}}}}'
    seen = set()
    deadline = time.monotonic() + 60
    while len(seen - {b"\0\0"}) < 2:
        assert time.monotonic() < deadline, seen
        done = host.virsh("qemu-monitor-command", name, command)
        assert done.returncode == 0, done.stderr
        seen.add(path.read_bytes())


def wait_rounds(host: Host, name: str, rounds: int, moving: subprocess.Popen[str]) -> str:
    """Wait until memory was gone over so often; what `domjobinfo` says then."""
    deadline = time.monotonic() + 60
    while True:
        assert moving.poll() is None, moving.communicate()
        said = host.virsh("domjobinfo", name).stdout
        found = re.search(r"Iteration: +(\d+)", said)
        if found is not None and int(found[1]) >= rounds:
            return said
        assert time.monotonic() < deadline, said
        time.sleep(0.05)


@pytest.mark.timeout(600)
@pytest.mark.skipif(EMULATORS["pyhyve"] is None, reason="pyhyve is not installed")
def test_machine_of_ours_is_sent_while_it_runs(ours: Pair) -> None:
    directory, name = ours.directory, "live"
    path = directory / f"{name}.xml"
    path.write_text(document(name, make_busy_disk(directory / "live.raw"), emulator="pyhyve"))
    assert ours.a.virsh("define", str(path)).returncode == 0
    assert ours.a.virsh("start", name).returncode == 0
    wait_counting(ours.a, name)
    assert ours.a.virsh("migrate-setmaxdowntime", name, "1").returncode == 0
    for given_up in (True, False):
        # It writes 448 KiB all the time: that does not fit into a millisecond of 1 MiB a second.
        moving = ours.a.start_virsh("migrate", name, ours.b.uri, *MIGRATE, "--bandwidth", "1")
        said = wait_rounds(ours.a, name, 4, moving)
        assert re.search(r"Operation: +Outgoing migration", said), said
        assert re.search(r"Dirty rate: +[1-9]\d* ", said), said
        assert re.search(r"Expected downtime: +[1-9]", said), said
        assert ours.a.state(name).startswith("running")
        assert ours.b.state(name) == "paused (migrating)"
        wait_counting(ours.a, name)
        if given_up:
            assert ours.a.virsh("domjobabort", name).returncode == 0
            moving.communicate(timeout=60)
            assert moving.returncode != 0
            assert ours.a.state(name).startswith("running")
            assert ours.b.state(name) == ""
            wait_counting(ours.a, name)
            continue
        assert ours.a.virsh("migrate-setspeed", name, "1000").returncode == 0
        assert ours.a.virsh("migrate-setmaxdowntime", name, "5000").returncode == 0
        _, said = moving.communicate(timeout=60)
        assert moving.returncode == 0, said
    assert ours.b.state(name) == "running (migrated)"
    wait_counting(ours.b, name)
    said = ours.b.virsh("domjobinfo", name, "--completed").stdout
    assert re.search(r"Total downtime: +[1-9]", said), said
    ours.b.virsh("destroy", name)


@pytest.mark.timeout(600)
@pytest.mark.skipif(EMULATORS["pyhyve"] is None, reason="pyhyve is not installed")
def test_machine_of_ours_moves_with_its_memory_and_disk(ours: Pair) -> None:
    directory, name, disk = ours.directory, "own", ours.directory / "own.qcow2"
    plain = make_busy_disk(directory / "own.raw")
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", plain, disk], check=True)
    path = directory / f"{name}.xml"
    path.write_text(document(name, disk, emulator="pyhyve"))
    assert ours.a.virsh("define", str(path)).returncode == 0
    assert ours.a.virsh("start", name).returncode == 0
    wait_counting(ours.a, name)
    at = disk.read_bytes().index(BUSY_CODE)
    with disk.open("r+b") as file:  # a guest that started anew would have nothing to start from
        file.seek(at)
        file.write(bytes(len(BUSY_CODE)))
    for number, (source, target) in enumerate([(ours.a, ours.b), (ours.b, ours.a)]):
        options = ("--p2p", "--tunnelled") if number else ("--migrateuri", "tcp://127.0.0.1")
        uri = target.peer_uri if number else target.uri
        done = source.virsh("migrate", name, uri, "--live", "--unsafe", *options)
        assert done.returncode == 0, done.stderr
        assert target.state(name) == "running (migrated)"
        wait_counting(target, name)
    ours.a.virsh("destroy", name)
