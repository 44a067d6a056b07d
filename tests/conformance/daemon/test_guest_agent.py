"""A guest with Debian's agent in it, and the events of monitors: the same through our daemon as through libvirtd."""

# ruff: noqa: E501 - sessions as somebody would type them

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from agent_guest import document, make_disk, make_initrd
from agent_guest import why_not as no_guest
from daemon_process import virsh
from guests import EMULATORS
from libvirtd_process import running_libvirtd
from libvirtd_process import why_not as no_libvirtd
from sides import assert_equal_replies, our_daemon

from pyhyve.guest.builder import GuestSpec, build_guest, find_guest
from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(EMULATORS["qemu"] is None, reason="no QEMU (Debian package qemu-system-x86)"),
    pytest.mark.skipif(no_libvirtd() is not None, reason=no_libvirtd() or ""),
    pytest.mark.skipif(no_guest() is not None, reason=no_guest() or ""),
    pytest.mark.timeout(1200),
]
SESSIONS = """
domfsinfo asked
guestinfo asked
guestinfo asked --os
guestinfo asked --filesystem
guestinfo asked --disk
guestinfo asked --bogus
domhostname asked --source agent
domifaddr asked --source agent; domifaddr asked --source agent --full
guestvcpus asked; guestvcpus asked --cpulist 1 --disable; guestvcpus asked; guestvcpus asked --cpulist 1 --enable
guestvcpus asked --cpulist 9 --enable; guestvcpus asked --cpulist 0 --disable
vcpucount asked --guest; setvcpus asked 1 --guest; vcpucount asked --guest; setvcpus asked 2 --guest; setvcpus asked 9 --guest
domtime asked --time 1700000000; domtime asked --now
set-user-password asked root secret; set-user-password asked root c2VjcmV0 --encrypted
domfsfreeze asked; domfsfreeze asked --mountpoint /mnt/data; domfstrim asked; domfsthaw asked; domfsthaw asked
domfsfreeze asked --mountpoint /mnt/data; domfsthaw asked --mountpoint /mnt/data; domfsthaw asked
domfsfreeze asked --mountpoint /nosuch; domfsthaw asked
domfstrim asked; domfstrim asked --mountpoint /; domfstrim asked --minimum 1000
get-user-sshkeys asked root; get-user-sshkeys asked nosuch; set-user-sshkeys asked root --reset; get-user-sshkeys asked root
qemu-agent-command asked '{"execute":"guest-ping"}'; qemu-agent-command asked '{"execute":"guest-nonsense"}'
qemu-agent-command asked '{"execute":"guest-get-host-name"}' --pretty; qemu-agent-command asked '{"execute":"guest-get-host-name"}' --timeout 3
guest-agent-timeout asked --timeout 5; guest-agent-timeout asked --timeout -5
qemu-monitor-command asked --hmp info status; qemu-monitor-command asked query-status; qemu-monitor-command asked '{"execute":"nonsense"}'
qemu-monitor-command asked --return-value '{"execute":"query-status"}'
"""
VOLATILE = (
    (re.compile(r'"libvirt-\d+"'), '"CALL"'),
    (re.compile(r"used-bytes +: \d+"), "USED"),
    (re.compile(r"event (\S+) at [\d.]+"), r"event \1 at MOMENT"),
)
READY_S = 240


@dataclass(frozen=True)
class Asked:
    """A daemon with the guest on it, and what its monitor said while it started."""

    uri: str
    events: str

    def run(self, line: str) -> tuple[int, str, str]:
        """Run a session."""
        done = virsh(self.uri, line)
        return done.returncode, plain(done.stdout), plain(done.stderr)


def plain(text: str) -> str:
    for pattern, word in VOLATILE:
        text = pattern.sub(word, text)
    return re.sub(r" +", " ", text)


def start(uri: str, directory: Path, kernel: Path, initrd: Path, name: str) -> Asked:
    """Define and start the guest, and wait for its agent."""
    path = directory / f"{name}.xml"
    path.write_text(document("asked", kernel, initrd, make_disk(directory / f"{name}.img")))
    assert virsh(uri, "define", str(path)).returncode == 0
    command = ["virsh", "-c", uri, "qemu-monitor-event", "asked", "--event", "^(stop|resume)$", "--regex", "--no-case"]
    with subprocess.Popen([*command, "--loop"], stdout=subprocess.PIPE, text=True) as listener:
        done = virsh(uri, "start", "asked")
        assert done.returncode == 0, done.stderr
        deadline = time.monotonic() + READY_S
        while virsh(uri, "qemu-agent-command", "asked", '{"execute":"guest-ping"}').returncode:
            assert time.monotonic() < deadline, "the guest's agent does not answer"
            time.sleep(0.2)
        for verb in ("suspend", "resume"):  # by now the listener is known
            assert virsh(uri, verb, "asked").returncode == 0
        assert listener.stdout is not None
        heard: list[str] = []
        while not heard or not (len(heard) > 1 and "STOP" in heard[-2] and "RESUME" in heard[-1]):
            heard.append(plain(listener.stdout.readline()))
        listener.terminate()
    return Asked(uri, "".join(heard))


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Asked, Asked]]:
    """Our daemon and libvirtd, each with the guest."""
    directory = tmp_path_factory.mktemp("agent")
    try:
        guest = find_guest("debian")
    except UserError:
        try:
            guest = build_guest(GuestSpec(), lambda *_: None, lambda _: None)
        except UserError as error:
            pytest.skip(f"the guest cannot be built here: {error}")
    kernel = directory / "kernel"
    shutil.copy(guest.kernel, kernel)
    initrd = make_initrd(guest.initrd, directory / "initrd")
    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as pool:
        ours = stack.enter_context(our_daemon(directory / "root"))
        theirs = f"qemu:///system?socket={stack.enter_context(running_libvirtd())}"
        for uri in (ours, theirs):
            stack.callback(virsh, uri, "destroy", "asked")
        started = [
            pool.submit(start, uri, directory, kernel, initrd, name)
            for uri, name in ((ours, "ours"), (theirs, "theirs"))
        ]
        yield started[0].result(), started[1].result()


def test_agent_is_asked_as_by_libvirtd(sides: tuple[Asked, Asked]) -> None:
    lines = SESSIONS.strip().split("\n")
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda side: [side.run(line) for line in lines], sides))
    assert_equal_replies(zip(lines, *both, strict=True))


def test_events_of_monitors_are_handed_on_as_by_libvirtd(sides: tuple[Asked, Asked]) -> None:
    ours, theirs = sides
    last = [side.events.splitlines()[-2:] for side in (ours, theirs)]
    assert last[0] == last[1]
    assert "event STOP at MOMENT for domain 'asked': <null>\nevent RESUME at MOMENT for domain" in ours.events
    status, _, said = ours.run("qemu-monitor-event asked --regex --event '['")
    assert status == 1
    assert said.startswith("error: invalid argument: failed to compile regex '['")
