"""The PyPI client `qemu.qmp` on our machine and on a real QEMU: one script, replies compared field by field.

Where values must differ (ids of threads, versions, devices only one of them has), their shape is compared: the same
members with the same JSON types. `DIFFERENCES` says what else differs, and why.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.machine.monitor.schema import SCHEMA
from tests.guest import tiny

if TYPE_CHECKING:
    from pathlib import Path

qmp = pytest.importorskip("qemu.qmp", reason="the client qemu.qmp is not installed (pip install qemu.qmp)")
QEMU = shutil.which("qemu-system-x86_64")
pytestmark = pytest.mark.skipif(QEMU is None, reason="qemu-system-x86_64 is not installed (package qemu-system-x86)")
_START_TIMEOUT_S = 120.0

EXACT = [
    ("query-status", {}),
    ("query-name", {}),
    ("query-uuid", {}),
    ("query-target", {}),
    ("query-iothreads", {}),
    ("query-memory-size-summary", {}),
    ("query-status", {"a": 1}),
    ("query-nothing", {}),
    ("qmp_capabilities", {}),
    ("human-monitor-command", {}),
    ("human-monitor-command", {"command-line": 5}),
    ("human-monitor-command", {"command-line": "info status"}),
    ("human-monitor-command", {"command-line": "info name"}),
    ("human-monitor-command", {"command-line": "info uuid"}),
    ("human-monitor-command", {"command-line": "info kvm"}),
    ("human-monitor-command", {"command-line": "nothing"}),
    ("human-monitor-command", {"command-line": "info nothing"}),
    ("human-monitor-command", {"command-line": "info name", "cpu-index": 1}),
    ("human-monitor-command", {"command-line": "info name", "cpu-index": 7}),
    ("human-monitor-command", {"command-line": "info name", "cpu-index": "a"}),
    ("set-action", {"reboot": "sometimes"}),
    ("set-action", {"reboot": 1}),
    ("set-action", {"reboot": "reset", "shutdown": "poweroff"}),
    ("cont", {}),
    ("query-status", {}),
    ("human-monitor-command", {"command-line": "info status"}),
    ("cont", {}),
    ("stop", {}),
    ("query-status", {}),
    ("stop", {}),
    ("human-monitor-command", {"command-line": "info status"}),
    ("human-monitor-command", {"command-line": "cont"}),
    ("query-status", {}),
    ("human-monitor-command", {"command-line": "stop"}),
    ("query-status", {}),
    ("system_reset", {}),
    ("cont", {}),
    ("system_powerdown", {}),
    ("stop", {}),
    ("inject-nmi", {}),  # to a guest that stands still: it has no handler
    ("quit", {}),
]
"""Commands whose replies must be equal, in this order."""

SHAPES = [
    "query-version",
    "query-kvm",
    "query-commands",
    "query-cpus-fast",
    "query-machines",
    "query-block",
    "query-named-block-nodes",
    "query-chardev",
    "query-pci",
    "query-current-machine",
]

DIFFERENCES = {
    "query-machines": {"default-cpu-type"},  # we have one processor per engine, without a QOM type
}
"""Optional members that only QEMU sends."""

EVENTS = ["RESUME", "STOP", "RESUME", "STOP", "RESET", "RESUME", "POWERDOWN", "STOP", "SHUTDOWN"]


@dataclass
class Peer:
    """What one of the two answered."""

    replies: list[Any]
    shapes: dict[str, Any]
    events: list[tuple[str, Any]]
    schema: list[dict[str, Any]]


async def converse(socket_path: str) -> Peer:
    client = qmp.QMPClient("test")
    events: list[tuple[str, Any]] = []
    ended = asyncio.Event()

    async def watch(listener: Any) -> None:
        async for event in listener:
            assert event["timestamp"]["seconds"] > 1_600_000_000
            events.append((event["event"], event.get("data")))
            if event["event"] == "SHUTDOWN":
                ended.set()

    async def ask(name: str, arguments: dict[str, Any]) -> Any:
        try:
            return await client.execute(name, arguments)
        except qmp.ExecuteError as error:
            return {"class": error.error.error.class_, "desc": error.error.error.desc}

    with client.listener() as listener:
        await client.connect(socket_path)
        watching = asyncio.create_task(watch(listener))
        shapes = {name: await ask(name, {}) for name in SHAPES}
        schema = await ask("query-qmp-schema", {})
        replies = [await ask(name, arguments) for name, arguments in EXACT]
        await asyncio.wait_for(ended.wait(), 60)
        watching.cancel()
        with contextlib.suppress(qmp.QMPError, EOFError):
            await client.disconnect()
    return Peer(replies, shapes, events, schema)


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def run_peer(command: list[str], directory: Path) -> Peer:
    directory.mkdir()
    disk, kernel, path = directory / "disk.img", directory / "kernel", directory / "qmp"
    disk.write_bytes(bytes(1 << 20))
    kernel.write_bytes(tiny.kernel(tiny.HALT))
    words = [
        *command,
        *("-machine", "pc", "-accel", "tcg", "-m", "64", "-smp", "2", "-nodefaults", "-display", "none", "-S"),
        *("-name", "foo", "-uuid", "01234567-89ab-cdef-0123-456789abcdef", "-serial", "null"),
        *("-kernel", str(kernel), "-qmp", f"unix:{path},server=on,wait=off"),
        *("-drive", f"file={disk},format=raw,if=none,id=d0", "-device", "virtio-blk-pci,drive=d0,id=vd0"),
    ]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + _START_TIMEOUT_S
            while not listens(path):
                assert process.poll() is None, process.stderr and process.stderr.read()
                assert time.monotonic() < deadline, "the monitor's socket does not appear"
                time.sleep(0.05)
            peer = asyncio.run(converse(str(path)))
            assert process.wait(60) == 0
        finally:
            process.kill()
    return peer


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Peer, Peer]:
    directory = tmp_path_factory.mktemp("qmp")
    assert QEMU is not None
    os.environ.setdefault("PYTHONPATH", "src")
    ours = run_peer([sys.executable, "-m", "pyhyve.cli.system"], directory / "ours")
    return ours, run_peer([QEMU], directory / "qemu")


def test_replies_are_equal(peers: tuple[Peer, Peer]) -> None:
    ours, qemu = peers
    for request, reply, wanted in zip(EXACT, ours.replies, qemu.replies, strict=True):
        assert reply == wanted, request


def test_events_are_equal(peers: tuple[Peer, Peer]) -> None:
    ours, qemu = peers
    assert [name for name, _ in ours.events] == EVENTS
    devices = {"NIC_RX_FILTER_CHANGED", "RTC_CHANGE"}
    assert ours.events == [event for event in qemu.events if event[0] not in devices]


def check_shape(ours: Any, qemu: Any, where: str, only_qemu: set[str]) -> None:
    if isinstance(ours, dict):
        for name, value in ours.items():
            assert name in qemu, f"{where}: QEMU does not send {name}"
            check_shape(value, qemu[name], f"{where}.{name}", only_qemu)
        assert set(qemu) - set(ours) <= only_qemu, where
    elif isinstance(ours, list):
        assert isinstance(qemu, list)
        examples = {frozenset(item): item for item in qemu}
        for item in ours:
            least = min((example for names, example in examples.items() if set(item) <= names), key=len, default=None)
            assert least is not None, f"{where}: QEMU has nothing like {item}"
            check_shape(item, least, f"{where}[]", only_qemu)
    else:
        assert type(ours) is type(qemu), where


@pytest.mark.parametrize("name", SHAPES)
def test_shape_of_reply(peers: tuple[Peer, Peer], name: str) -> None:
    ours, qemu = peers
    check_shape(ours.shapes[name], qemu.shapes[name], name, DIFFERENCES.get(name, set()))


def members(schema: dict[str, dict[str, Any]], type_name: str, depth: int = 0) -> Any:
    """A type with the names of its parts written out."""
    entry = schema[type_name]
    match entry["meta-type"]:
        case "object":
            return {
                member["name"]: (members(schema, member["type"], depth + 1) if depth < 6 else None, "default" in member)
                for member in entry["members"]
            }
        case "enum":
            return set(entry["values"])
        case "array":
            return [members(schema, entry["element-type"], depth)]
        case _:
            return entry.get("json-type")


def check_part(ours: Any, qemu: Any, where: str) -> None:
    """Ours is a part of QEMU's: no member, value or type that a client of QEMU does not know."""
    if isinstance(ours, dict):
        for name, (value, optional) in ours.items():
            assert name in qemu, f"{where}.{name}"
            check_part(value, qemu[name][0], f"{where}.{name}")
            assert optional or not qemu[name][1] or not where.endswith("arguments"), f"{where}.{name}"
    elif isinstance(ours, set):
        assert ours <= qemu, where
    elif isinstance(ours, list):
        check_part(ours[0], qemu[0], f"{where}[]")
    else:
        assert ours == qemu, where


def test_schema_is_a_part_of_qemus(peers: tuple[Peer, Peer]) -> None:
    ours, qemu = ({entry["name"]: entry for entry in peer.schema} for peer in peers)
    for name in SCHEMA.commands:
        if name == "query-qmp-schema":
            continue
        mine, theirs = ours[name], qemu[name]
        assert mine["meta-type"] == theirs["meta-type"] == "command"
        arguments = f"{name} arguments"
        check_part(members(ours, mine["arg-type"]), members(qemu, theirs["arg-type"]), arguments)
        check_part(members(ours, mine["ret-type"]), members(qemu, theirs["ret-type"]), name)
    for name in SCHEMA.events:
        check_part(members(ours, ours[name]["arg-type"]), members(qemu, qemu[name]["arg-type"]), name)
