"""`pyhyve daemon` as a process, with everything below a directory of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SOCKET = "run/virtpyhyved-sock"


class DaemonProcess:
    """A running daemon; ``socket`` is what clients connect to."""

    def __init__(self, root: Path, options: Sequence[str] = ()) -> None:
        self.root = root
        self.socket = root / SOCKET
        self.options = tuple(options)
        self.log = root / "log.txt"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it serves. RuntimeError with its log where it does not."""
        self.root.mkdir(exist_ok=True)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pyhyve", "daemon", "--root", str(self.root), *self.options],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        deadline = time.monotonic() + 60
        while b"ready, listening" not in self.log.read_bytes():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(self.log.read_text(encoding="utf-8", errors="replace"))
            time.sleep(0.02)

    def start_beside(self) -> None:
        """Start it where another may run already."""
        self.log = self.root / "log-2.txt"
        self.start()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; return the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)

    def uri(self, base: str = "test+unix:///default", *, read_only: bool = False) -> str:
        return f"{base}?socket={self.socket}{'-ro' if read_only else ''}"


@contextlib.contextmanager
def running_daemon(root: Path, *options: str) -> Iterator[DaemonProcess]:
    """Run a daemon for a time."""
    daemon = DaemonProcess(root, options)
    daemon.start()
    try:
        yield daemon
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.stop()


def virsh(uri: str, *command: str, read_only: bool = False) -> subprocess.CompletedProcess[str]:
    """Run real virsh."""
    return subprocess.run(
        ["virsh", *(["-r"] if read_only else []), "-c", uri, *command],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
    )
