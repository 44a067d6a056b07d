"""A person's conversation: lines, prompts, and the terminal."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from pyhyve.accel.api import ExitKind
from pyhyve.backends.chardev import MemoryChardev
from pyhyve.machine.builder import build
from pyhyve.machine.config import MIB, MachineConfig
from pyhyve.machine.monitor.human import HumanMonitor
from pyhyve.machine.monitor.human_session import MAX_LINE_BYTES, HumanSession
from pyhyve.machine.monitor.monitor import Monitor, TerminalUse
from pyhyve.machine.outcome import OutcomeKind
from tests.unit.machine.fake_vm import FakeVm
from tests.unit.machine.test_machine import make_kernel

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from pyhyve.machine.machine import Machine
    from tests.unit.machine.fake_vm import FakeVcpu


def idle(cpu: FakeVcpu) -> Generator[None, None, None]:
    while True:
        yield from cpu.leave(ExitKind.HALT)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    config = MachineConfig(
        name="talker", memory_bytes=64 * MIB, kernel=make_kernel(tmp_path / "kernel"), start_paused=True, timeout_s=60
    )
    made = build(config, console=MemoryChardev(), open_engine=lambda _choice, memory: FakeVm(memory, idle))
    yield made
    made.close()


def talk(machine: Machine, *pieces: bytes) -> str:
    from pyhyve.machine.monitor.commands import MachineCommands

    sent = bytearray()
    session = HumanSession(MachineCommands(machine), "test", sent.extend)
    for piece in pieces:
        session.receive(piece)
    session.event(b"nobody sees this")
    return sent.decode()


BANNER = "test monitor - type 'help' for more information\r\n(qemu) "


def test_lines_are_answered_however_they_arrive(machine: Machine) -> None:
    answer = "talker\r\n(qemu) "
    assert talk(machine) == BANNER
    assert talk(machine, b"info name\r\n") == BANNER + answer
    assert talk(machine, b"in", b"fo name\n\ninfo na", b"me\r") == BANNER + answer + "(qemu) " + answer


def test_overlong_line_and_noise_are_refused(machine: Machine) -> None:
    long = [b"x" * 1000] * (MAX_LINE_BYTES // 1000 + 2)
    assert talk(machine, *long, b"\ninfo name\n") == f"{BANNER}line too long\r\n(qemu) talker\r\n(qemu) "
    assert "unknown command: '\ufffd\ufffd'" in talk(machine, b"\xff\xfe\n")


def test_mistake_of_ours_costs_one_answer(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = HumanMonitor.execute

    def execute(human: HumanMonitor, line: str) -> str:
        if line == "break":
            msg = "one\nline"
            raise OverflowError(msg)
        return answer(human, line)

    monkeypatch.setattr(HumanMonitor, "execute", execute)
    told = "Error: internal error: OverflowError: one line\r\n(qemu) talker\r\n(qemu) "
    assert talk(machine, b"break\ninfo name\n") == BANNER + told


def test_terminal_ends_the_machine(machine: Machine) -> None:
    saved = os.dup(0), os.dup(1)
    input_read, input_write = os.pipe()
    output_read, output_write = os.pipe()
    os.dup2(input_read, 0)
    os.dup2(output_write, 1)
    try:
        Monitor(machine, [], terminal=TerminalUse.PEOPLE).start()
        os.write(input_write, b"info status\nquit\n")
        outcome = []
        thread = threading.Thread(target=lambda: outcome.append(machine.run()))
        thread.start()
        thread.join(60)
    finally:
        for target, old in enumerate(saved):
            os.dup2(old, target)
            os.close(old)
        for descriptor in (input_read, input_write, output_write):
            os.close(descriptor)
    assert outcome[0].kind is OutcomeKind.STOPPED
    with os.fdopen(output_read, "rb") as output:
        text = output.read().decode()
    assert "(qemu) VM status: paused (prelaunch)\r\n(qemu) " in text
