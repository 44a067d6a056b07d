"""A saved guest to its answer: from the request to what the guest's shell prints."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import Case, Plan, Sample, require_program
from pyhyve.cli.guest import reporter, warn
from pyhyve.guest.builder import GuestSpec, build_guest
from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.guest.builder import Guest

SUMMARY = "a saved 512 MiB guest to its answer"
MEMORY_MIB = 512
TIMEOUT_S = 120
READY = b"pyhyve guest ready"
QUESTION, ANSWER = b"echo answer-$((6*7))\n", b"\nanswer-42"
_POLL_S = 0.0005


class Process:
    """A machine whose console is its standard input and output."""

    def __init__(self, command: Sequence[str]) -> None:
        # As installed: with compiled modules.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        )
        self.text = b""
        if self.process.stdout is None or self.process.stdin is None:
            raise ValueError
        self._output, self._input = self.process.stdout, self.process.stdin
        os.set_blocking(self._output.fileno(), False)

    def expect(self, pattern: bytes) -> None:
        """Wait for `pattern`. Raises UserError."""
        deadline = time.monotonic() + TIMEOUT_S
        while pattern not in self.text:
            try:
                data = os.read(self._output.fileno(), 1 << 16)
                ended = not data
            except BlockingIOError:
                data, ended = b"", False
            self.text += data
            if ended or time.monotonic() > deadline:
                msg = f"no {pattern!r} from the guest; it printed: {self.text[-300:]!r}"
                raise UserError(msg)
            if not data:
                time.sleep(_POLL_S)

    def type(self, text: bytes) -> None:
        """Type at the guest's console."""
        self._input.write(text)
        self._input.flush()

    def ask(self) -> str:
        """Put the question; what the answer was."""
        self.type(QUESTION)
        self.expect(ANSWER)
        return ANSWER.strip().decode()

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        self._output.close()
        with contextlib.suppress(OSError):
            self._input.close()


def our_command(guest: Guest) -> list[str]:
    """Our machine."""
    return [
        *(sys.executable, "-m", "pyhyve.cli.system", "-accel", "tcg", "-m", str(MEMORY_MIB), "-nographic"),
        *("-kernel", str(guest.kernel), "-initrd", str(guest.initrd), "-append", "console=ttyS0 quiet"),
    ]


def peer_command(qemu: str, guest: Guest) -> list[str]:
    """The same machine on QEMU's emulator."""
    return [
        *(qemu, "-accel", "tcg", "-machine", "pc", "-m", str(MEMORY_MIB), "-nodefaults", "-display", "none"),
        *("-serial", "stdio", "-kernel", str(guest.kernel), "-initrd", str(guest.initrd)),
        *("-append", "console=ttyS0 quiet"),
    ]


def ours(directory: Path, guest: Guest, *words: str) -> list[str]:
    """Our machine, with a monitor."""
    return [*our_command(guest), "-qmp", f"unix:{directory}/ours.qmp,server=on,wait=off", *words]


def peer(qemu: str, directory: Path, guest: Guest, *words: str) -> list[str]:
    """QEMU's, with a monitor; its state lives in a disk image."""
    return [
        *(*peer_command(qemu, guest), "-drive", f"file={directory}/state.qcow2,if=none,id=d0"),
        *("-device", "virtio-blk-pci,drive=d0", "-qmp", f"unix:{directory}/peer.qmp,server=on,wait=off", *words),
    ]


class Monitor:
    """A client of a QMP socket."""

    def __init__(self, path: Path) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        self._socket = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self._socket.connect(str(path))
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    msg = f"{path}: nobody listens"
                    raise UserError(msg) from error
                time.sleep(0.01)
        self._stream = self._socket.makefile("rwb")
        self._stream.readline()
        self.execute("qmp_capabilities")

    def execute(self, name: str, **arguments: str | int) -> object:
        """The reply to a command. Raises UserError."""
        self._stream.write(json.dumps({"execute": name, "arguments": arguments}).encode())
        self._stream.flush()
        while True:
            reply = json.loads(self._stream.readline())
            if "return" in reply:
                return reply["return"]
            if "error" in reply:
                msg = f"{name}: {reply['error']['desc']}"
                raise UserError(msg)

    def people(self, line: str) -> None:
        """A command of the monitor for people. Raises UserError when it complains."""
        said = self.execute("human-monitor-command", **{"command-line": line})
        if said:
            msg = f"{line}: {said}"
            raise UserError(msg)

    def close(self) -> None:
        """Disconnect."""
        self._stream.close()
        self._socket.close()


def save_ours(directory: Path, guest: Guest) -> None:
    """Boot our guest and keep its state in a file."""
    machine = Process(ours(directory, guest))
    try:
        machine.expect(READY)
        machine.ask()
        monitor = Monitor(directory / "ours.qmp")
        monitor.execute("migrate", uri=f"file:{directory}/state")
        deadline = time.monotonic() + TIMEOUT_S
        while (status := monitor.execute("query-migrate")) and time.monotonic() < deadline:
            if isinstance(status, dict) and status.get("status") == "completed":
                break
            time.sleep(0.05)
        monitor.close()
    finally:
        machine.close()


def save_peer(qemu: str, directory: Path, guest: Guest) -> None:
    """Boot QEMU's guest and keep its state in an image."""
    machine = Process(peer(qemu, directory, guest))
    try:
        machine.expect(READY)
        machine.ask()
        monitor = Monitor(directory / "peer.qmp")
        monitor.people("savevm s0")
        monitor.close()
    finally:
        machine.close()


def whole_command(command: Sequence[str]) -> Sample:
    """Start a process that restores; its guest's answer ends the time."""
    started = time.perf_counter()
    machine = Process(command)
    try:
        answer = machine.ask()
        return Sample(time.perf_counter() - started, answer)
    finally:
        machine.close()


def waiting_ours(directory: Path, guest: Guest) -> Sample:
    """Ask a machine that waits for a state to take one."""
    machine = Process(ours(directory, guest, "-incoming", "defer"))
    try:
        monitor = Monitor(directory / "ours.qmp")
        started = time.perf_counter()
        monitor.execute("migrate-incoming", uri=f"file:{directory}/state")
        answer = machine.ask()
        seconds = time.perf_counter() - started
        monitor.close()
        return Sample(seconds, answer)
    finally:
        machine.close()


def waiting_peer(qemu: str, directory: Path, guest: Guest) -> Sample:
    """Ask a QEMU that has not started to load its snapshot, and to go on."""
    machine = Process(peer(qemu, directory, guest, "-S"))
    try:
        monitor = Monitor(directory / "peer.qmp")
        started = time.perf_counter()
        monitor.people("loadvm s0")
        monitor.execute("cont")
        answer = machine.ask()
        seconds = time.perf_counter() - started
        monitor.close()
        return Sample(seconds, answer)
    finally:
        machine.close()


def plan() -> Plan:
    """A request to a machine that waits against `-loadvm`; then like against like, in both ways."""
    qemu = require_program("qemu-system-x86_64", "qemu-system-x86")
    image_tool = require_program("qemu-img", "qemu-utils")
    guest = build_guest(GuestSpec(), reporter(), warn)
    holder = tempfile.TemporaryDirectory(prefix="pyhyve-restore-")
    directory = Path(holder.name)
    subprocess.run([image_tool, "create", "-q", "-f", "qcow2", str(directory / "state.qcow2"), "64M"], check=True)
    save_ours(directory, guest)
    save_peer(qemu, directory, guest)
    restore = [sys.executable, "-m", "pyhyve", "run", "--restore", str(directory / "state"), "--console", "stdio"]
    loadvm = peer(qemu, directory, guest, "-loadvm", "s0")

    def keep() -> Path:
        return Path(holder.name)

    first_line = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[0]
    return Plan(
        work=f"Linux {guest.release} with {MEMORY_MIB} MiB, from its saved state to an answer of its shell",
        unit="s",
        peer_name="qemu-system-x86_64 (TCG)",
        cases=[
            Case(
                "request to a waiting machine, against -loadvm",
                lambda: waiting_ours(keep(), guest),
                lambda: whole_command(loadvm),
            ),
            Case(
                "request to a waiting machine, both",
                lambda: waiting_ours(keep(), guest),
                lambda: waiting_peer(qemu, keep(), guest),
            ),
            Case("whole command, both", lambda: whole_command(restore), lambda: whole_command(loadvm)),
        ],
        versions={"QEMU": first_line.removeprefix("QEMU emulator version ").split(" ")[0]},
    )
