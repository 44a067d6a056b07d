"""The demo's bridge and machines: starting them, and removing them by what is on record, whoever made them.

Layout of the lab's directory: `lock` (held while a demo works, with its process id), `lab.json`, `net/` (records of
the network), `ssh_config`, and for each machine `vmN.log` (its console) and `vmN.err` (what `pyhyve run` said).
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyhyve.cli.demo_namespace import command_lines, network_namespace
from pyhyve.hostnet.networks import Networks
from pyhyve.hostnet.records import RecordStore
from pyhyve.hostnet.spec import Mode, NetworkSpec
from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyhyve.guest.builder import Guest
    from pyhyve.guest.ssh import SshKeys

BRIDGE = "br100"
NETWORK = "demo"
HOST_ADDRESS = "10.0.0.1"
PREFIX = 24
SSH_PORT = 22
STOP_TIMEOUT_S = 15.0
TERM_TIMEOUT_S = 5.0
_POLL_S = 0.02
READY = b"pyhyve guest ready"


@dataclass(frozen=True, slots=True)
class Member:
    """One machine of the lab."""

    name: str
    address: str
    mac: str


MEMBERS = tuple(Member(f"vm{n}", f"10.0.0.{n + 1}", f"52:54:00:64:00:{n + 1:02x}") for n in (1, 2, 3))


@dataclass(frozen=True, slots=True)
class Hardware:
    """What every machine gets."""

    guest: Guest
    accel: str
    memory: str


class Lab:
    """The lab whose things are recorded in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._children: list[subprocess.Popen[bytes]] = []
        self._lock: int | None = None

    @property
    def uri(self) -> str | None:
        """Where a libvirt client finds the machines, if it can."""
        return None

    @property
    def ssh_config(self) -> Path:
        """Configuration for `ssh -F`: the machines by name."""
        return self.directory / "ssh_config"

    def log(self, member: Member) -> Path:
        """What a machine printed on its console."""
        return self.directory / f"{member.name}.log"

    # -- one at a time ------------------------------------------------------------------------------------------------

    @contextmanager
    def held(self, wait_s: float = 0.0) -> Iterator[None]:
        """Be the one that changes the lab. Raises UserError when another process still is after `wait_s`."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.directory / "lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + wait_s
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if error.errno != errno.EWOULDBLOCK:
                        raise
                    if time.monotonic() >= deadline:
                        msg = "another demo is at work (pyhyve demo --stop ends it)"
                        raise UserError(msg) from error
                time.sleep(_POLL_S)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            self._lock = descriptor
            yield
        finally:
            self._lock = None
            os.close(descriptor)

    def interrupt_holder(self) -> None:
        """Ask a demo that is at work to end, as Ctrl-C would."""
        try:
            descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            # Held, so the process id in it is that of a living demo.
            with suppress(ValueError, ProcessLookupError):
                os.kill(int(os.pread(descriptor, 32, 0)), signal.SIGTERM)
        finally:
            os.close(descriptor)

    # -- making -------------------------------------------------------------------------------------------------------

    def leftovers(self) -> bool:
        """Whether machines or a bridge of an earlier demo are still there."""
        return bool(self.machine_pids()) or (self._is_our_namespace() and bool(self._store().names()))

    def prepare(self, keys: SshKeys) -> None:
        """Files that belong to the lab; what an earlier one left behind goes."""
        self._clear()
        (self.directory / "lab.json").write_text(json.dumps({"network_namespace": network_namespace()}) + "\n")
        lines = ["# Machines of `pyhyve demo`, for ssh -F"]
        for member in MEMBERS:
            lines += [f"Host {member.name}", f"  HostName {member.address}"]
        lines += ["Host *", "  User root", *(f"  {line}" for line in keys.client_configuration())]
        self.ssh_config.write_text("\n".join(lines) + "\n")

    def make_network(self) -> None:
        """The bridge with the host's address. Raises HostNetError."""
        address = ipaddress.ip_interface(f"{HOST_ADDRESS}/{PREFIX}")
        Networks(self.directory / "net").create(NetworkSpec(NETWORK, BRIDGE, Mode.BRIDGE, (address,)))

    def start(self, member: Member, hardware: Hardware) -> None:
        """Start one machine, in a session of its own: a terminal's Ctrl-C is for the demo."""
        append = f"console=ttyS0 quiet pyhyve.hostname={member.name} pyhyve.net={member.address}/{PREFIX}"
        command = [
            *(sys.executable, "-m", "pyhyve", "run", "--name", member.name),
            *("--accel", hardware.accel, "--memory", hardware.memory),
            *("--kernel", str(hardware.guest.kernel), "--initrd", str(hardware.guest.initrd), "--append", append),
            *("--net", f"bridge={BRIDGE},mac={member.mac}", "--console", self._console_option(member)),
        ]
        with (self.directory / f"{member.name}.err").open("wb") as errors:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True
            )
        self._children.append(child)

    def _console_option(self, member: Member) -> str:
        return f"file:{self.log(member)}"

    def check_alive(self) -> None:
        """Raise UserError when a machine ended by itself."""
        for member, child in zip(MEMBERS, self._children, strict=False):
            if child.poll() is not None:
                said = (self.directory / f"{member.name}.err").read_text(errors="replace").split("\n")
                reason = next((line for line in reversed(said) if line.strip()), f"exit status {child.returncode}")
                msg = f"{member.name}: {reason}"
                raise UserError(msg)

    def is_booted(self, member: Member) -> bool:
        """Whether the guest said on its console that it is ready."""
        try:
            return READY in self.log(member).read_bytes()
        except OSError:
            return False

    @staticmethod
    def answers(member: Member, timeout_s: float = 1.0) -> bool:
        """Whether its ssh server takes connections."""
        try:
            with socket.create_connection((member.address, SSH_PORT), timeout_s) as link:
                return link.recv(4) == b"SSH-"
        except OSError:
            return False

    # -- removing -----------------------------------------------------------------------------------------------------

    def machine_pids(self) -> list[int]:
        """The machines' processes, found by a console that only they have: also after a SIGKILL of the demo."""
        wanted = {self._console_option(member).encode() for member in MEMBERS}
        return [pid for pid, line in command_lines() if wanted & set(line.split(b"\0"))]

    def remove(self) -> list[str]:
        """End all machines and remove the bridge; says what was removed. Raises UserError when something stays."""
        removed: list[str] = []
        machines = len(self.machine_pids())
        self._end_machines()
        if machines:
            removed.append(f"{machines} machine{'s' if machines > 1 else ''}")
        if self._is_our_namespace():
            # Elsewhere, the bridge went with the last process of its namespace.
            for name in self._store().names():
                Networks(self.directory / "net").delete(name)
                removed.append(f"bridge {BRIDGE}")
        self._clear()
        return removed

    def _end_machines(self) -> None:
        deadline = time.monotonic() + STOP_TIMEOUT_S
        kill_at = time.monotonic() + TERM_TIMEOUT_S
        asked: set[int] = set()
        while pids := self._running():
            late = time.monotonic() > kill_at
            for pid in pids:
                if late or pid not in asked:
                    asked.add(pid)
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
            if time.monotonic() > deadline:
                msg = f"processes {', '.join(map(str, pids))} do not end"
                raise UserError(msg)
            time.sleep(_POLL_S)
        for child in self._children:
            child.wait()
        self._children.clear()

    def _running(self) -> list[int]:
        """The machines' processes, with our children: one that was just started may not show its command line yet."""
        return sorted({*self.machine_pids(), *(child.pid for child in self._children if child.poll() is None)})

    def _store(self) -> RecordStore:
        return RecordStore(self.directory / "net")

    def _is_our_namespace(self) -> bool:
        try:
            fields = json.loads((self.directory / "lab.json").read_text())
            return bool(fields["network_namespace"] == network_namespace())
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _clear(self) -> None:
        """Remove all files but the lock, which may be held."""
        for path in self.directory.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != "lock":
                path.unlink(missing_ok=True)
