"""Both daemons for the benchmark, each with directories of its own."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.harness import require_program
from pyhyve.support.errors import UserError
from tests.conformance.rpc.libvirtd_process import SCRIPT

SYSTEM_PYTHON: Final = "/usr/bin/python3"
START_S: Final = 60
STOP_S: Final = 30


class Daemon:
    """A running daemon and its socket."""

    def __init__(
        self, command: list[str], directory: Path, socket: Path, environment: dict[str, str] | None = None
    ) -> None:
        """Start it and wait for its socket. Raises UserError with the end of its log where there comes none."""
        self.socket = socket
        self.directory = directory
        log = directory / "log.txt"
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=os.environ | (environment or {})
            )
        atexit.register(self.stop)
        deadline = time.monotonic() + START_S
        while not socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(encoding="utf-8", errors="replace")[-300:]
                msg = f"{command[0]} did not start: {said!r}"
                raise UserError(msg)
            time.sleep(0.05)

    @property
    def cpu_time_s(self) -> float:
        """CPU time it took, all threads."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """End it, and remove its directory."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def require_peers() -> str:
    """Check that the peers are there; return libvirtd's version. Raises UserError that names a package."""
    libvirtd = require_program("libvirtd", "libvirt-daemon-system")
    require_program("unshare", "util-linux")
    if subprocess.run([SYSTEM_PYTHON, "-c", "import libvirt"], capture_output=True, check=False).returncode:
        msg = "the peer's binding is not installed: apt-get install python3-libvirt"
        raise UserError(msg)
    if os.geteuid():
        msg = "libvirtd needs root here, for namespaces of its own"
        raise UserError(msg)
    return subprocess.run([libvirtd, "--version"], capture_output=True, text=True, check=True).stdout.strip()


def start_libvirtd() -> Daemon:
    """Start libvirtd."""
    directory = Path(tempfile.mkdtemp(prefix="bench-libvirtd-"))
    lines = [f'unix_sock_dir = "{directory}"', 'auth_unix_rw = "none"', 'auth_unix_ro = "none"']
    (directory / "libvirtd.conf").write_text("\n".join(lines) + "\n", encoding="ascii")
    command = ["unshare", "-m", "-n", "bash", "-c", SCRIPT, str(directory)]
    return Daemon(command, directory, directory / "libvirt-sock")


def start_ours() -> Daemon:
    """Start our daemon, in namespaces of its own too."""
    root = Path(tempfile.mkdtemp(prefix="bench-daemon-"))
    command = ["unshare", "-m", "-n", sys.executable, "-m", "pyhyve", "daemon", "--root", str(root)]
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return Daemon(command, root, root / "run" / "virtpyhyved-sock", environment)
