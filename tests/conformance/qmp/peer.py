"""A real QEMU, or pyhyve in its place, as the comparisons start it and speak to it with the client `qemu.qmp`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qemu import qmp

from pyhyve.image.opening import OpenSettings, create_image, open_image
from tests.guest import tiny

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.conformance.qmp.script import Step

START_TIMEOUT_S = 120.0
_WAIT_S = 60.0
_MIB = 1 << 20


@dataclass
class Peer:
    """What one of the two answered: a reply a step (None for a wait), and the events."""

    replies: list[Any]
    events: list[tuple[str, Any]]


@contextlib.contextmanager
def start(command: list[str], directory: Path) -> Iterator[str]:
    """Run a machine with all kinds of devices in `directory`; the path of its monitor."""
    directory.mkdir()
    (directory / "kernel").write_bytes(tiny.kernel(tiny.HALT))
    create_image(str(directory / "disk.qcow2"), "qcow2", _MIB)
    for name, size in (("disc.raw", _MIB), ("other.raw", 65536)):
        create_image(str(directory / name), "raw", size)
    words = [
        *command,
        *("-machine", "pc,usb=off", "-accel", "tcg", "-m", "64", "-smp", "2", "-nodefaults", "-display", "none", "-S"),
        *("-name", "foo", "-uuid", "01234567-89ab-cdef-0123-456789abcdef", "-kernel", "kernel"),
        *("-qmp", "unix:qmp,server=on,wait=off", "-serial", "null"),
        *("-chardev", "ringbuf,id=c0", "-object", "rng-builtin,id=rng0", "-object", "iothread,id=t0"),
        *("-blockdev", "driver=qcow2,node-name=disk,file.driver=file,file.filename=disk.qcow2,discard=unmap"),
        *("-blockdev", "driver=raw,node-name=disc,read-only=on,file.driver=file,file.filename=disc.raw"),
        *("-device", "virtio-scsi-pci,id=scsi0,addr=4", "-device", "scsi-cd,bus=scsi0.0,drive=disc,id=cd0"),
        *("-drive", "file=drive.qcow2,format=qcow2,if=none,id=d0"),
        *("-device", "virtio-blk-pci,drive=d0,id=vd0,addr=5", "-device", "virtio-serial-pci,id=vs0,addr=6"),
        *("-device", "virtserialport,bus=vs0.0,chardev=c0,name=port,id=p0"),
        *("-device", "virtio-rng-pci,rng=rng0,id=rd0,addr=7", "-device", "virtio-balloon-pci,id=balloon0,addr=8"),
    ]
    create_image(str(directory / "drive.qcow2"), "qcow2", _MIB)
    with open_image(str(directory / "drive.qcow2"), OpenSettings(writable=True)) as image:
        image.pwrite(b"data" * (_MIB // 4), 0)
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd() / "src")}
    path = str(directory / "qmp")
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=directory, env=environment) as process:
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not _listens(path):
                assert process.poll() is None, process.stderr and process.stderr.read()
                assert time.monotonic() < deadline, "the monitor's socket does not appear"
                time.sleep(0.05)
            yield path
            assert process.wait(60) == 0
        finally:
            process.kill()


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


async def converse(path: str, script: Iterable[Step]) -> Peer:
    """Take the steps of `script`, whose last one ends the machine."""
    client = qmp.QMPClient("test")
    peer = Peer([], [])
    heard = asyncio.Event()

    async def watch(listener: Any) -> None:
        async for event in listener:
            assert event["timestamp"]["seconds"] > 1_600_000_000
            peer.events.append((event["event"], event.get("data")))
            heard.set()

    async def wait_for(name: str, data: dict[str, Any]) -> None:
        deadline = time.monotonic() + _WAIT_S
        while (name, data) not in peer.events:
            left = deadline - time.monotonic()
            assert left > 0, f"no {name} with {data}: {peer.events}"
            heard.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(heard.wait(), min(left, 1))

    with client.listener() as listener:
        await client.connect(path)
        watching = asyncio.create_task(watch(listener))
        for name, arguments in script:
            if name == "@job":
                await wait_for("JOB_STATUS_CHANGE", arguments)
                peer.replies.append(None)
                continue
            try:
                peer.replies.append(await client.execute(name, arguments))
            except qmp.ExecuteError as error:
                peer.replies.append({"class": error.error.error.class_, "desc": error.error.error.desc})
        while not any(name == "SHUTDOWN" for name, _ in peer.events):
            await asyncio.wait_for(heard.wait(), _WAIT_S)
            heard.clear()
        watching.cancel()
        with contextlib.suppress(qmp.QMPError, EOFError):
            await client.disconnect()
    return peer
