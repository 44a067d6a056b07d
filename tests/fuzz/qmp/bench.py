"""A machine without a processor whose monitor is asked in-process."""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyhyve.image.opening import create_image
from pyhyve.machine.builder import build
from pyhyve.machine.config import AccelChoice, Additions, ConsoleConfig, ConsoleKind, MachineConfig
from pyhyve.machine.lifecycle import MachineState
from pyhyve.machine.monitor.commands import MachineCommands
from pyhyve.machine.monitor.session import Greeting, Session
from tests.fuzz.qmp.requests import Maker, is_harmless

if TYPE_CHECKING:
    from collections.abc import Iterator

SLOW_S = 20.0
CASES_PER_MACHINE = 2000


class FuzzError(AssertionError):
    """A request that the monitor did not answer as it must."""


class Bench:
    """One machine and one client."""

    def __init__(self) -> None:
        additions = Additions(
            blockdevs=(
                {"driver": "qcow2", "node-name": "n0", "file": {"driver": "file", "filename": "disk.qcow2"}},
                {"driver": "file", "node-name": "n1", "filename": "disk.raw"},
            ),
            chardevs=({"id": "c0", "backend": {"type": "ringbuf", "data": {}}},),
            objects=({"qom-type": "rng-builtin", "id": "o0"},),
            devices=(
                {"driver": "virtio-blk-pci", "drive": "n0", "id": "d0"},
                {"driver": "virtio-scsi-pci", "id": "scsi0"},
                {"driver": "scsi-cd", "id": "d1", "bus": "scsi0.0"},
                {"driver": "virtio-balloon-pci", "id": "a"},
            ),
            serials=(),
        )
        config = MachineConfig(
            memory_bytes=1 << 20,
            accel=AccelChoice.JIT,
            is_empty=True,
            start_paused=True,
            additions=additions,
            console=ConsoleConfig(ConsoleKind.NONE),
        )
        self.machine = build(config)
        self._thread = threading.Thread(target=self.machine.run, daemon=True)
        self._thread.start()
        self.sent: list[bytes] = []
        self.commands = MachineCommands(self.machine)
        self.session = self._session()

    def _session(self) -> Session:
        self.sent.clear()
        session = Session(self.commands, Greeting({}), self.sent.append)
        session.receive(b'{"execute": "qmp_capabilities"}')
        self.sent.clear()
        return session

    @property
    def has_ended(self) -> bool:
        """Whether a request ended the machine (a reset does, after `set-action reboot=shutdown`)."""
        return self.machine.state is MachineState.SHUTDOWN

    def ask(self, request: bytes) -> None:
        """Send a request; a reset byte, which is answered too, ends one that is not complete. Raises FuzzError."""
        began = time.monotonic()
        self.session.receive(request + b"\xff")
        took = time.monotonic() - began
        for reply in self.sent:
            value: dict[str, Any] = json.loads(reply)
            if ("return" in value) == ("error" in value):
                msg = f"{request!r}: {reply!r}"
                raise FuzzError(msg)
            if "error" in value and value["error"]["desc"].startswith("internal error"):
                msg = f"{request!r}: {value['error']['desc']}"
                raise FuzzError(msg)
        if len(self.sent) < 1 + is_complete(request) or took > SLOW_S:
            msg = f"{request!r}: {len(self.sent)} replies in {took:.1f} s"
            raise FuzzError(msg)
        self.sent.clear()

    def close(self) -> None:
        """End the machine. Raises FuzzError when something stays open, unless a request ended it half-way."""
        was_ended = self.has_ended
        self.machine.request_stop()
        self._thread.join(60)
        if self._thread.is_alive():
            msg = "the machine does not end"
            raise FuzzError(msg)
        here = str(Path.cwd())
        left = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.exists()]
        left = [name for name in left if name.startswith(here)]
        if left and not was_ended:
            msg = f"left open when the machine ended: {left}"
            raise FuzzError(msg)


def is_complete(request: bytes) -> bool:
    """Whether `request` is JSON, so that it is answered for itself."""
    try:
        json.loads(request)
    except (ValueError, RecursionError):
        return False
    return True


@contextmanager
def workplace(directory: Path) -> Iterator[None]:
    """Work in `directory`, with the images that requests name."""
    before = Path.cwd()
    os.chdir(directory)
    try:
        create_image("disk.qcow2", "qcow2", 1 << 20)
        create_image("disk.raw", "raw", 1 << 20)
        yield
    finally:
        os.chdir(before)


def run(cases: int, seed: int, directory: Path) -> int:
    """Ask `cases` requests; how many were asked. Raises FuzzError, which names the seed."""
    maker = Maker(seed)
    asked = 0
    with workplace(directory):
        while asked < cases:
            for path in directory.iterdir():
                if path.is_file() and path.name not in {"disk.qcow2", "disk.raw"}:
                    path.unlink()
            for name, form in (("disk.qcow2", "qcow2"), ("disk.raw", "raw")):
                create_image(name, form, 1 << 20)
            first = asked
            bench = Bench()
            try:
                for _ in range(min(CASES_PER_MACHINE, cases - asked)):
                    request = maker.request()
                    while not is_harmless(request):
                        request = maker.request()
                    bench.ask(request)
                    asked += 1
                    if bench.has_ended:
                        break
            except FuzzError as error:
                msg = f"seed {seed}, case {asked}: {error}"
                raise FuzzError(msg) from error
            finally:
                try:
                    bench.close()
                except FuzzError as error:
                    msg = f"seed {seed}, cases {first} to {asked}: {error}"
                    raise FuzzError(msg) from error
    return asked
