"""The lab whose machines are domains: defined, started and removed through a libvirt-compatible daemon of its own.

In the lab's directory, `daemon/` is everything of that daemon; `lab.json` says that there is one.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from pyhyve.cli.demo_lab import BRIDGE, MEMBERS, PREFIX, Lab
from pyhyve.cli.demo_namespace import command_lines
from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from pyhyve.cli.demo_lab import Hardware, Member
    from pyhyve.client import Connection
    from pyhyve.guest.ssh import SshKeys

EMULATOR = "pyhyve-system-x86_64"
START_TIMEOUT_S = 60.0
_POLL_S = 0.05
_RUNNING = 1
_WITH_ALL = 2 | 8 | 16 | 64
"""Flags of undefine: whatever belongs to the domain goes with it."""
_DOMAIN = """\
<domain type='{kind}'>
  <name>{name}</name>
  <memory unit='b'>{memory}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>{append}</cmdline>
  </os>
  <devices>
    <emulator>{emulator}</emulator>
    <interface type='bridge'>
      <mac address='{mac}'/>
      <source bridge='{bridge}'/>
      <model type='virtio'/>
    </interface>
    <serial type='file'>
      <source path='{log}'/>
    </serial>
    <memballoon model='none'/>
  </devices>
</domain>
"""


class DaemonLab(Lab):
    """The lab with a daemon."""

    mode = "daemon"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._connection: Connection | None = None

    @property
    def root(self) -> Path:
        """Where everything of the daemon is."""
        return self.directory / "daemon"

    @property
    def uri(self) -> str:
        """Where clients find the daemon."""
        return f"qemu+unix:///system?socket={self.root}/run/virtpyhyved-sock"

    # -- the daemon ---------------------------------------------------------------------------------------------------

    def daemon_pid(self) -> int | None:
        """The daemon's process, found by its directory: also after a SIGKILL of the demo."""
        wanted = str(self.root).encode()
        lines = ((pid, line.split(b"\0")) for pid, line in command_lines())
        return next((pid for pid, words in lines if b"daemon" in words and wanted in words), None)

    def connection(self) -> Connection:
        """A connection to the daemon, started if it does not run. Raises UserError, LibvirtError."""
        from pyhyve.client import LibvirtError, connect

        if self._connection is not None and self._connection.is_alive():
            return self._connection
        process = None
        if self.daemon_pid() is None:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            command = [sys.executable, "-m", "pyhyve", "daemon", "--system", "--root", str(self.root)]
            with (self.directory / "daemon.err").open("wb") as errors:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True
                )
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self._connection = connect(self.uri)
            except LibvirtError as error:
                if time.monotonic() > deadline or (process is not None and process.poll() is not None):
                    said = (self.directory / "daemon.err").read_text(errors="replace").strip().split("\n")[-1]
                    msg = f"the daemon does not serve: {said or error}"
                    raise UserError(msg) from error
                time.sleep(_POLL_S)
            else:
                return self._connection

    # -- making -------------------------------------------------------------------------------------------------------

    def prepare(self, keys: SshKeys) -> None:
        """Files of the lab, and the daemon."""
        super().prepare(keys)
        self.connection()

    def start(self, member: Member, hardware: Hardware) -> None:
        """Define a domain and start it."""
        from pyhyve.cli.options import parse_size

        found = shutil.which(EMULATOR, path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
        if found is None:
            msg = f"{EMULATOR} is not installed beside {sys.executable} (pip install pyhyve)"
            raise UserError(msg)
        append = f"console=ttyS0 quiet pyhyve.hostname={member.name} pyhyve.net={member.address}/{PREFIX}"
        values = {
            "kind": "kvm" if self._has_kvm(hardware.accel) else "qemu",
            "name": member.name,
            "memory": parse_size("--memory", hardware.memory),
            "kernel": hardware.guest.kernel,
            "initrd": hardware.guest.initrd,
            "append": append,
            "emulator": found,
            "mac": member.mac,
            "bridge": BRIDGE,
            "log": self.log(member),
        }
        text = _DOMAIN.format_map({name: escape(str(value), {"'": "&apos;"}) for name, value in values.items()})
        self.connection().define_domain(text).start()

    @staticmethod
    def _has_kvm(accel: str) -> bool:
        from pyhyve.kvm.probe import probe

        return accel == "kvm" or (accel == "auto" and bool(probe().usable))

    def check_alive(self) -> None:
        """Raise UserError when a machine ended by itself."""
        for member in MEMBERS:
            state, _ = self.connection().domain(member.name).state()
            if state != _RUNNING:
                logs = sorted((self.root / "log").rglob(f"{member.name}.log"))
                said = [line for log in logs for line in log.read_text(errors="replace").split("\n") if line.strip()]
                msg = f"{member.name} ended: {said[-1] if said else 'its log says nothing'}"
                raise UserError(msg)

    # -- removing -----------------------------------------------------------------------------------------------------

    def leftovers(self) -> bool:
        """Whether a daemon, machines or a bridge of an earlier demo are still there."""
        return self.daemon_pid() is not None or super().leftovers()

    def machine_pids(self) -> list[int]:
        """The machines' processes, found by the consoles that only they have."""
        wanted = [str(self.log(member)).encode() for member in MEMBERS]
        return [pid for pid, line in command_lines() if any(log in line for log in wanted)]

    def remove(self) -> list[str]:
        """Undefine all domains, stop the daemon, then whatever else is there. Raises UserError when something stays."""
        removed: list[str] = []
        if self.root.exists() and self._is_our_namespace():
            domains = self._remove_domains()
            if domains:
                removed.append(f"{domains} domain{'s' if domains > 1 else ''}")
        if self._stop_daemon():
            removed.append("their daemon")
        return [*removed, *super().remove()]

    def _remove_domains(self) -> int:
        from pyhyve.client import LibvirtError

        count = 0
        with suppress(LibvirtError, UserError):
            connection = self.connection()
            for domain in connection.list_all_domains():
                with suppress(LibvirtError):
                    domain.destroy()
                domain.undefine(_WITH_ALL)
                count += 1
            connection.close()
        return count

    def _stop_daemon(self) -> bool:
        deadline, number, found = time.monotonic() + 10.0, signal.SIGTERM, False
        while (pid := self.daemon_pid()) is not None:
            found = True
            if time.monotonic() > deadline:
                if number is signal.SIGKILL:
                    msg = f"the daemon (process {pid}) does not end"
                    raise UserError(msg)
                number, deadline = signal.SIGKILL, time.monotonic() + 10.0
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            time.sleep(_POLL_S)
        return found


def open_lab(directory: Path, *, with_daemon: bool | None = None) -> Lab:
    """The lab in a directory; its kind is the one on record unless it is said."""
    if with_daemon is None:
        with_daemon = (directory / "daemon").exists()
    return DaemonLab(directory) if with_daemon else Lab(directory)
