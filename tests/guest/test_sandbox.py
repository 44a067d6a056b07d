"""A machine in its sandbox, as another user: disk, network, monitor and newly translated code all work."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.sandbox import landlock

from .conftest import BOOT_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.guest.builder import Guest

MIB = 1 << 20
COMMAND = [sys.executable, "-m", "pyhyve.cli.system", "-accel", "tcg", "-m", "256", "-nographic"]


class Contained:
    """A machine of `pyhyve-system-x86_64` with a console on its standard streams and a monitor."""

    def __init__(self, directory: Path, words: list[str]) -> None:
        self.monitor = directory / "qmp"
        self.text = b""
        self.process = subprocess.Popen(
            [*COMMAND, "-qmp", f"unix:{self.monitor},server=on,wait=off", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)

    def expect(self, pattern: str, timeout_s: float = BOOT_TIMEOUT_S) -> str:
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout_s
        while not (found := re.search(pattern.encode(), self.text)):
            assert time.monotonic() < deadline, self.text[-2000:]
            data = self.process.stdout.read()
            if data:
                self.text += data
            elif data == b"":
                pytest.fail(f"the machine ended: {self.text[-2000:]!r}")
            else:
                time.sleep(0.01)
        taken, self.text = self.text[: found.end()], self.text[found.end() :]
        return taken.decode(errors="replace")

    def type(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def ask(self, *commands: dict[str, Any]) -> list[dict[str, Any]]:
        """Replies of the monitor, the negotiation's left out."""
        replies = []
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(self.monitor))
            with connection.makefile("rwb") as stream:
                stream.readline()
                for command in ({"execute": "qmp_capabilities"}, *commands):
                    stream.write(json.dumps(command).encode())
                    stream.flush()
                    while "event" in (reply := json.loads(stream.readline())):
                        pass
                    replies.append(reply)
        return replies[1:]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that any user can reach: pytest's own are root's alone."""
    with tempfile.TemporaryDirectory(prefix="pyhyve-sandbox-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.fixture
def contained(debian_6_1: Guest, open_path: Path) -> Iterator[Contained]:
    tmp_path = open_path
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(8 * MIB))
    disk.chmod(0o666)
    for name, path in (("kernel", debian_6_1.kernel), ("initrd", debian_6_1.initrd)):
        shutil.copyfile(path, tmp_path / name)
    words = ["-kernel", str(tmp_path / "kernel"), "-initrd", str(tmp_path / "initrd"), "-append", "console=ttyS0 quiet"]
    words += ["-drive", f"file={disk},format=raw,if=virtio", "-netdev", "user,id=n0", "-device"]
    words += ["virtio-net-pci,netdev=n0", "-pidfile", str(tmp_path / "pid"), "-sandbox", "on"]
    if os.geteuid() == 0:
        words += ["-runas", "nobody"]
    made = Contained(tmp_path, words)
    yield made
    made.close()


def test_guest_works_in_the_sandbox(contained: Contained, open_path: Path) -> None:
    contained.expect("pyhyve guest ready")
    status = Path(f"/proc/{contained.process.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    if os.geteuid() == 0:
        assert re.search(r"Uid:\t65534\t65534\t65534\t65534", status)
        assert "CapEff:\t0000000000000000" in status
    contained.type("echo written > /dev/vda; sync; head -n 1 /dev/vda; ip link show eth0; echo 1$((4*5))\n")
    assert "written" in contained.expect("\n120")
    assert (open_path / "disk").read_bytes().startswith(b"written\n")
    state = open_path / "state"
    (query, executed) = contained.ask(
        {"execute": "query-status"}, {"execute": "migrate", "arguments": {"uri": "exec:touch /tmp/escaped"}}
    )
    assert query["return"]["status"] == "running"
    assert "Operation not permitted" in executed["error"]["desc"]
    assert contained.ask({"execute": "migrate", "arguments": {"uri": f"file:{state}"}}) == [{"return": {}}]
    deadline = time.monotonic() + 60
    while (reply := contained.ask({"execute": "query-migrate"})[0]["return"])["status"] != "completed":
        assert time.monotonic() < deadline, reply
        time.sleep(0.05)
    assert state.stat().st_size > MIB
    if landlock.abi_version():
        (refused,) = contained.ask({"execute": "migrate", "arguments": {"uri": "file:/var/tmp/pyhyve-escaped"}})
        assert "Permission denied" in refused["error"]["desc"]
    contained.ask({"execute": "cont"})
    contained.type("poweroff -f\n")
    assert contained.process.wait(60) == 0


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["-sandbox", "maybe"], "-sandbox"),
        (["-sandbox", "on,spawn=allow"], "spawn=allow"),
        (["-sandbox", "on,files=some"], "files=some"),
        (["-runas", "nobody-of-that-name"], "no such user"),
    ],
)
def test_bad_containment_is_refused(words: list[str], reason: str) -> None:
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1
