"""A script of more than two hundred commands: a real QEMU's replies and ours, compared field by field."""

from __future__ import annotations

import asyncio
import shutil
import sys

import pytest

pytest.importorskip("qemu.qmp", reason="the client qemu.qmp is not installed (pip install qemu.qmp)")

from tests.conformance.qmp.comparing import ABSENT, compare
from tests.conformance.qmp.differences import DIFFERENCES, EVENT_DIFFERENCES
from tests.conformance.qmp.peer import Peer, converse, start
from tests.conformance.qmp.script import SCRIPT

QEMU = shutil.which("qemu-system-x86_64")
pytestmark = pytest.mark.skipif(QEMU is None, reason="qemu-system-x86_64 is not installed (package qemu-system-x86)")


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Peer, Peer]:
    """Ours and QEMU's."""
    assert QEMU is not None
    directory = tmp_path_factory.mktemp("script")
    answered = []
    for name, command in (("ours", [sys.executable, "-m", "pyhyve.cli.system"]), ("qemu", [QEMU])):
        with start(command, directory / name) as path:
            answered.append(asyncio.run(converse(path, SCRIPT)))
    return answered[0], answered[1]


def test_script_is_long_enough() -> None:
    assert sum(1 for name, _ in SCRIPT if not name.startswith("@")) >= 300


def test_replies_differ_only_where_there_is_a_reason(peers: tuple[Peer, Peer]) -> None:
    ours, qemu = peers
    unused, unexplained = {n for n, allowed in enumerate(DIFFERENCES) if not allowed.by_chance}, []
    for (command, arguments), reply, wanted in zip(SCRIPT, ours.replies, qemu.replies, strict=True):
        for gap in compare(reply, wanted):
            covering = [n for n, allowed in enumerate(DIFFERENCES) if allowed.covers(command, arguments, gap)]
            unused -= set(covering)
            if not covering:
                unexplained.append(f"{command} {arguments} {gap.path}: {gap.ours!r:.200}, QEMU: {gap.qemu!r:.200}")
    assert not unexplained, "\n".join(unexplained)
    assert not unused, f"no longer differ: {[DIFFERENCES[number] for number in unused]}"


def test_events_of_commands_are_equal(peers: tuple[Peer, Peer]) -> None:
    """Those of jobs come on threads of their own: each job's are compared by themselves."""
    ours, qemu = (by_subject(peer) for peer in peers)
    for subject in sorted(ours.keys() | qemu.keys()):
        assert ours.get(subject, ABSENT) == qemu.get(subject, ABSENT), subject


def by_subject(peer: Peer) -> dict[str, list[object]]:
    """The events of each job, and all others, in order."""
    found: dict[str, list[object]] = {"": []}
    for name, data in peer.events:
        if name in EVENT_DIFFERENCES or "virtio-backend" in (data or {}).get("path", ""):
            continue  # QEMU tells of the parts of a device too
        if name == "DEVICE_DELETED":  # by the guest's leave, or the reset's: when, is not said
            found.setdefault(data["path"], []).append(name)
            continue
        if "JOB" not in name:
            found[""].append((name, sorted(data or ())))
            continue
        shown = {key: value for key, value in data.items() if key not in {"offset", "len", "speed"}}
        told = found.setdefault(data.get("id") or data["device"], [])
        if shown.get("status") != "paused" and (name, shown) not in told:  # QEMU pauses its jobs now and then
            told.append((name, shown))
    return found
