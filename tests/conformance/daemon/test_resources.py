"""Networks, storage and secrets: virsh on libvirtd, virsh on our daemon and our virsh on libvirtd say the same."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from libvirtd_process import running_libvirtd, why_not
from resource_sessions import FILES, NETWORKS, POOLS, SECRETS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VOLATILE = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}"), "UUID"),
    (re.compile(r"\n  <mac address='52:54:00:[0-9a-f:]{8}'/>"), "MAC"),
    # libvirtd says so of images it has looked at again since it made them
    (re.compile(r"\n    <compat>.*\n.*\n    <features/>"), ""),
    (re.compile(r"<(atime|mtime|ctime|btime)>.*"), "TIME"),
    # how full the host's own file system is
    (re.compile(r"<(capacity|allocation|available) unit='bytes'>\d{10,}<"), "ROOM"),
    (re.compile(r"[\d.]+ [GT]iB +[\d.]+ [GT]iB( +[\d.]+ [GT]iB)?"), "ROOM"),
    (re.compile(r"(Capacity|Allocation|Available): +[\d.]+ [GT]iB"), "ROOM"),
    # images of ours take less: no refcounts are kept for what is not there
    (re.compile(r"<allocation unit='bytes'>\d{6}<"), "IMAGE"),
    (re.compile(r"(file +[\d.]+ [GM]iB +|Allocation: +)\d+\.\d\d KiB"), "IMAGE"),
    (re.compile(r"-{20,}"), "RULE"),
    (re.compile(r"/usr/bin/mount|/bin/mount"), "mount"),
)
JUSTIFIED = {
    "pool-capabilities": "pools of disk, iscsi, scsi and mpath are libvirt's alone",
    "vol-wipe a p1; vol-wipe a p1 --algorithm random": "libvirtd needs the program scrub for that, we do not",
}
"""Sessions that differ, and why."""


VIRSH = ("virsh",)
OUR_VIRSH = (sys.executable, "-m", "pyhyve", "virsh")
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def skip_reason() -> str | None:
    if reason := why_not():
        return reason
    absent = [name for name in ("dnsmasq", "nft") if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    return f"not installed: {', '.join(absent)}" if absent else None


pytestmark = pytest.mark.skipif(skip_reason() is not None, reason=skip_reason() or "")


class Side:
    """A client and a daemon, with a directory of their own; what they say to each list of sessions."""

    def __init__(self, client: tuple[str, ...], uri: str, directory: Path) -> None:
        self.client = client
        self.uri = uri
        self.directory = directory
        self.replies: dict[str, list[tuple[int, str, str]]] = {}
        (directory / "pools").mkdir()
        for name, text in FILES.items():
            (directory / name).write_text(text + "\n")

    def run_all(self, sessions: str) -> list[tuple[int, str, str]]:
        if sessions not in self.replies:
            self.replies[sessions] = [self.run(line) for line in sessions.strip().split("\n")]
        return self.replies[sessions]

    def run(self, line: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [*self.client, "-c", self.uri, line.replace("@DIR@", str(self.directory))],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=ENVIRONMENT,
        )
        return done.returncode, self.plain(done.stdout), self.plain(done.stderr)

    def plain(self, text: str) -> str:
        text = text.replace(str(self.directory), "DIR")
        for pattern, word in VOLATILE:
            text = pattern.sub(word, text)
        return re.sub(r" +", " ", text)


@contextlib.contextmanager
def our_daemon(root: Path) -> Iterator[str]:
    """Run our daemon in namespaces of its own; give its URI."""
    log, socket = root.parent / "log", root / "run/virtpyhyved-sock"
    script = (
        "ip link set lo up; mount -t sysfs sysfs /sys;"
        " mkdir -p /run/pyhyve; mount -t tmpfs -o mode=755 tmpfs /run/pyhyve;"
        f' exec "$0" -m pyhyve daemon --system --root {root}'
    )
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["unshare", "-m", "-n", "--propagation", "private", "bash", "-c", script, sys.executable],
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            env=ENVIRONMENT,
        )
    try:
        deadline = time.monotonic() + 60
        while b"ready, listening" not in log.read_bytes():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(log.read_text(errors="replace"))
            time.sleep(0.05)
        yield f"qemu:///system?socket={socket}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def libvirtd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    with running_libvirtd() as socket:
        yield Side(VIRSH, f"qemu:///system?socket={socket}", tmp_path_factory.mktemp("libvirtd"))


@pytest.fixture(scope="module", params=["our-daemon", "our-virsh"])
def ours(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "our-daemon":
        with our_daemon(directory / "root") as uri:
            yield Side(VIRSH, uri, directory)
    else:
        with running_libvirtd() as socket:
            yield Side(OUR_VIRSH, f"qemu:///system?socket={socket}", directory)


@pytest.mark.parametrize("sessions", [POOLS, NETWORKS, SECRETS], ids=["pools", "networks", "secrets"])
def test_sessions_go_as_with_virsh_on_libvirtd(libvirtd: Side, ours: Side, sessions: str) -> None:
    differing = []
    for line, mine, real in zip(
        sessions.strip().split("\n"), ours.run_all(sessions), libvirtd.run_all(sessions), strict=True
    ):
        if line in JUSTIFIED and ours.client == VIRSH:
            assert mine != real, f"no difference any more: {line}"
        elif mine != real:
            differing.append((line, mine, real))
    assert not differing, "\n".join(f"{line}\n  ours:   {mine}\n  theirs: {real}" for line, mine, real in differing)
