"""Limits of running machines: set and shown as by libvirtd, and kept by the kernel."""

# ruff: noqa: E501 - sessions as somebody would type them

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

import pytest
from daemon_process import DaemonProcess, running_daemon, virsh
from guests import EMULATORS, document, make_busy_disk
from libvirtd_process import running_libvirtd, why_not
from sides import assert_equal_replies

from pyhyve.daemon.host.groups import find_controllers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTROLLERS = find_controllers()
pytestmark = [
    pytest.mark.skipif(EMULATORS["qemu"] is None, reason="no QEMU (Debian package qemu-system-x86)"),
    pytest.mark.skipif(why_not() is not None, reason=why_not() or ""),
    pytest.mark.skipif(
        set(CONTROLLERS) != {"cpu", "memory", "blkio"},
        reason="no control groups for cpu, memory and blkio that can be used",
    ),
    pytest.mark.timeout(600),
]
SESSIONS = """
schedinfo limited; memtune limited; blkiotune limited
schedinfo limited --set cpu_shares=2048 vcpu_quota=50000; schedinfo limited
schedinfo limited --set vcpu_quota=1; schedinfo limited --set vcpu_period=5; schedinfo limited --set nonsense=1
schedinfo limited --set emulator_quota=20000 global_quota=90000 --live; schedinfo limited --set vcpu_quota=-1
memtune limited --hard-limit 1000000; memtune limited; memtune limited --hard-limit 100 --swap-hard-limit 50; memtune limited --soft-limit 900000 --config; memtune limited --config; memtune limited --hard-limit -1; memtune limited
blkiotune limited --weight 300; blkiotune limited; blkiotune limited --weight 400 --config; blkiotune limited --config
dumpxml limited --xpath //cputune; dumpxml limited --xpath //memtune; dumpxml limited --xpath //blkiotune; dumpxml limited --inactive --xpath //blkiotune
schedinfo limited --config; blkiotune limited --config
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with running_daemon(tmp_path_factory.mktemp("limits") / "root", "--system") as found:
        yield found


def start(uri: str, directory: Path, tune: str = "") -> None:
    path = directory / "limited.xml"
    path.write_text(document("limited", make_busy_disk(directory / "limited.raw"), extra=tune))
    for command in (("define", str(path)), ("start", "limited")):
        done = virsh(uri, *command)
        assert done.returncode == 0, done.stderr


def end(uri: str) -> None:
    virsh(uri, "destroy", "limited")
    virsh(uri, "undefine", "limited")


def replies(uri: str, directory: Path) -> list[tuple[int, str, str]]:
    start(uri, directory)
    try:
        found = []
        for line in SESSIONS.strip().split("\n"):
            done = virsh(uri, line)
            found.append((done.returncode, re.sub(" +", " ", done.stdout), done.stderr))
        return found
    finally:
        end(uri)


@pytest.mark.skipif(any(each.version == 2 for each in CONTROLLERS.values()), reason="compared on hosts with version 1")
def test_limits_are_set_and_shown_as_by_libvirtd(daemon: DaemonProcess, tmp_path: Path) -> None:
    mine = replies(daemon.uri("qemu+unix:///system"), tmp_path)
    with running_libvirtd('"cpu", "memory", "blkio", "cpuset", "cpuacct"') as socket:
        real = replies(f"qemu:///system?socket={socket}", tmp_path)
    lines = SESSIONS.strip().split("\n")
    assert_equal_replies(zip(lines, mine, real, strict=True))


def test_kernel_keeps_a_limit_and_the_group_goes_with_the_machine(daemon: DaemonProcess, tmp_path: Path) -> None:
    uri = daemon.uri("qemu+unix:///system")
    start(uri, tmp_path, "<cputune><quota>20000</quota></cputune>")
    try:
        said = virsh(uri, "schedinfo", "limited").stdout
        assert re.search(r"vcpu_quota +: 20000\n", said)
        [record] = (daemon.root / "run/qemu/machines").glob("*.json")
        pid = json.loads(record.read_text(encoding="utf-8"))["pid"]
        group = CONTROLLERS["cpu"].root / f"pyhyve/machine-{pid}"
        deadline = time.monotonic() + 60
        while not int(re.findall(r"nr_throttled (\d+)", (group / "vcpu0/cpu.stat").read_text())[0]):
            assert time.monotonic() < deadline, "a guest that never rests was never held back"
            time.sleep(0.05)
    finally:
        end(uri)
    assert not group.exists()
