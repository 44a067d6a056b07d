"""The test driver's domain through real virsh and python3-libvirt, against libvirt's own test driver."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
from daemon_process import DaemonProcess, running_daemon, virsh

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMANDS = [
    "list --all",
    "dumpxml test",
    "domuuid test",
    "domid test",
    "domstate test",
    "suspend test",
    "domstate test",
    "list",
    "resume test",
    "resume test",
    "reboot test",
    "domstate nothere",
    "start test",
    "setmem test 1G",
    "vcpucount test",
    "autostart test",
    "autostart test --disable",
    "shutdown test",
    "domstate test --reason",
    "list --all",
    "shutdown test",
    "start test",
    "list --all",
    "destroy test",
    "destroy test",
    "dumpxml test --inactive",
    "start test",
]
INVALID = "error: Requested operation is not valid: domain is"
WORDS = {
    "error: internal error: domain 'test' not paused": f"{INVALID} already running",
    "error: internal error: domain 'test' not running": f"{INVALID} not running",
}
"""What libvirt's test driver calls internal errors: here they are what its QEMU driver says."""
EVENTS = """
import json, sys, threading, time, libvirt
libvirt.virEventRegisterDefaultImpl()
c = libvirt.open(sys.argv[1])
seen = []
c.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
                         lambda c, d, event, detail, o: seen.append([d.name(), event, detail]), None)
c.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_REBOOT,
                         lambda c, d, o: seen.append([d.name(), "reboot"]), None)
domain = c.lookupByName("test")
domain.suspend()
domain.resume()
domain.reboot()
domain.shutdown()
domain.create()
deadline = time.time() + 60
while len(seen) < int(sys.argv[2]) and time.time() < deadline:
    libvirt.virEventRunDefaultImpl()
json.dump(seen, sys.stdout)
"""


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[DaemonProcess]:
    with running_daemon(tmp_path / "root") as daemon:
        yield daemon


def test_commands_answer_as_libvirts(fresh: DaemonProcess, theirs: Path) -> None:
    # In one go: libvirt's test driver starts over when its last client is gone.
    script = "; ".join(f"echo '== {command}'; {command}" for command in COMMANDS)
    mine, real = (virsh(uri, script) for uri in (fresh.uri(), f"test+unix:///default?socket={theirs}"))
    ours, libvirts = (done.stdout.split("== ") for done in (mine, real))
    differences = [pair for pair in zip(ours, libvirts, strict=True) if pair[0] != pair[1]]
    assert differences == []
    assert [WORDS.get(line, line) for line in real.stderr.splitlines()] == mine.stderr.splitlines()


def test_events_reach_python(fresh: DaemonProcess) -> None:
    done = subprocess.run(
        ["/usr/bin/python3", "-c", EVENTS, fresh.uri(), "7"], capture_output=True, text=True, check=False, timeout=120
    )
    if "ModuleNotFoundError" in done.stderr:
        pytest.skip("no libvirt module (Debian package python3-libvirt)")
    assert done.returncode == 0, done.stderr
    suspended, resumed, shutdown, stopped, started = (3, 0), (4, 0), (6, 1), (5, 0), (2, 0)
    seen = [tuple(event[1:]) for event in json.loads(done.stdout)]
    assert [event for event in seen if event != ("reboot",)][:2] == [suspended, resumed]
    assert {suspended, resumed, shutdown, stopped, started} <= set(seen)
