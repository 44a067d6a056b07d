"""Debian's kernels to a shell on real KVM, through the whole machine: in the nested machine, or where a host has it."""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyhyve.backends.chardev import Chardev
from pyhyve.kvm.probe import cached_probe
from pyhyve.machine.builder import build
from pyhyve.machine.config import AccelChoice, MachineConfig
from pyhyve.machine.lifecycle import MachineState
from pyhyve.machine.outcome import OutcomeKind
from pyhyve.support.cache import cache_root

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.backends.chardev import Receiver
    from pyhyve.machine.machine import Machine

GUESTS = Path(os.environ.get("PYHYVE_KVM_GUESTS", cache_root() / "guests"))
READY = "pyhyve guest ready"
pytestmark = [
    pytest.mark.kvm,
    pytest.mark.guest,
    pytest.mark.skipif(not cached_probe().usable, reason=f"needs hardware KVM: {cached_probe().reason}"),
]


class Screen(Chardev):
    """A console that keeps what the guest prints and acts on it."""

    def __init__(self) -> None:
        self.text = ""
        self._actions: list[tuple[str, Callable[[], None]]] = []
        self._receiver: Receiver | None = None
        self._loop: object = None

    def start(self, loop: object, receiver: Receiver) -> None:
        self._receiver = receiver

    def write(self, data: bytes) -> None:
        self.text += data.decode("utf-8", "replace")
        for pattern, action in list(self._actions):
            if re.search(pattern, self.text):
                self._actions.remove((pattern, action))
                threading.Thread(target=action, daemon=True).start()

    def resume(self) -> None:
        pass

    def close(self) -> None:
        pass

    def type(self, text: str) -> None:
        if self._receiver is not None:
            self._receiver.receive(text.encode())

    def when(self, pattern: str, action: Callable[[], None]) -> None:
        self._actions.append((pattern, action))


def guest(name: str) -> tuple[Path, Path]:
    kernel, initrd = GUESTS / name / "kernel", GUESTS / name / "initrd"
    if not kernel.exists():
        pytest.skip(f"no guest {name}: run pyhyve guest build --name {name}")
    return kernel, initrd


def make(name: str, screen: Screen, *, cpus: int = 1, append: str = "", no_reboot: bool = True) -> Machine:
    kernel, initrd = guest(name)
    config = MachineConfig(
        memory_bytes=256 << 20,
        cpus=cpus,
        accel=AccelChoice.KVM,
        kernel=kernel,
        initrd=initrd,
        append=f"console=ttyS0 quiet panic=-1 {append}",
        no_reboot=no_reboot,
        timeout_s=150,
    )
    return build(config, console=screen)


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("name", ["debian", "debian-6.12"])
def test_debian_boots_to_a_shell_and_powers_off(name: str, cpus: int) -> None:
    screen = Screen()
    machine = make(name, screen, cpus=cpus, append="pyhyve.run=grep,-c,^processor,/proc/cpuinfo")
    screen.when(rf"{READY}[\s\S]*?\n{cpus}\r?\n[\s\S]*?#", lambda: screen.type("poweroff\n"))
    outcome = machine.run()
    assert outcome.kind is OutcomeKind.POWERED_OFF, f"{outcome}\n{screen.text}"
    assert READY in screen.text


def test_reboot_starts_again() -> None:
    screen = Screen()
    machine = make("debian", screen, no_reboot=False)
    screen.when(rf"{READY}[\s\S]*?# ", lambda: screen.type("reboot -f\n"))
    screen.when(rf"{READY}[\s\S]*?{READY}[\s\S]*?# ", lambda: screen.type("poweroff -f\n"))
    outcome = machine.run()
    assert outcome.kind is OutcomeKind.POWERED_OFF, f"{outcome}\n{screen.text}"
    assert screen.text.count(READY) == 2


def test_pause_and_resume_under_load() -> None:
    screen = Screen()
    machine = make("debian", screen, cpus=2, append="pyhyve.run=yes")
    done = threading.Event()

    def pause_often() -> None:
        for _ in range(200):
            machine.pause()
            wait_for(lambda: machine.state is MachineState.PAUSED)
            machine.resume()
            wait_for(lambda: machine.state is MachineState.RUNNING)
        before = len(screen.text)
        wait_for(lambda: len(screen.text) > before)
        done.set()
        machine.request_stop()

    screen.when(rf"{READY}[\s\S]*?\ny\r?\ny", pause_often)
    outcome = machine.run()
    assert outcome.kind is OutcomeKind.STOPPED, f"{outcome}\n{screen.text[-2000:]}"
    assert done.is_set()


def wait_for(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail("it took too long")
        time.sleep(0.001)
