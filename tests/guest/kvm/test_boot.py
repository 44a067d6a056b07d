"""Debian's kernels to a shell on real KVM, through the whole machine: in the nested machine, or where a host has it."""

from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.backends.chardev import Chardev
from pyhyve.kvm.probe import cached_probe
from pyhyve.machine.builder import build
from pyhyve.machine.config import AccelChoice, DiskConfig, MachineConfig, NetConfig, NetKind
from pyhyve.machine.lifecycle import MachineState
from pyhyve.machine.outcome import OutcomeKind
from pyhyve.support.cache import cache_root

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.backends.chardev import Receiver
    from pyhyve.machine.machine import Machine

GUESTS = Path(os.environ.get("PYHYVE_KVM_GUESTS", cache_root() / "guests"))
READY = "pyhyve guest ready"
PAUSES = int(os.environ.get("PYHYVE_PAUSES", "50"))
DISK_BYTES = 4 << 20
HOST_ADDRESS, GUEST_ADDRESS = "10.219.33.1", "10.219.33.2"
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


def make(
    name: str, screen: Screen, *, cpus: int = 1, append: str = "", no_reboot: bool = True, **devices: Any
) -> Machine:
    kernel, initrd = guest(name)
    config = MachineConfig(
        memory_bytes=256 << 20,
        cpus=cpus,
        accel=AccelChoice.KVM,
        kernel=kernel,
        initrd=initrd,
        append=f"console=ttyS0 quiet panic=-1 {append}",
        no_reboot=no_reboot,
        timeout_s=1500,
        **devices,
    )
    return build(config, console=screen)


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("name", ["debian", "debian-6.12"])
def test_debian_uses_its_cpus_disk_and_network(name: str, cpus: int, tmp_path: Path) -> None:
    contents = random.Random(name).randbytes(DISK_BYTES)
    disk = tmp_path / "disk.img"
    disk.write_bytes(contents)
    # With one CPU the kernel moves the packets where it can, with two our device does.
    nets = tap_networks(vhost=None if cpus == 1 else False)
    has_vhost = cpus == 1 and os.access("/dev/vhost-net", os.R_OK | os.W_OK)
    screen = Screen()
    address = f"pyhyve.net={GUEST_ADDRESS}/24" if nets else ""
    devices = {"disks": (DiskConfig(disk, format="raw"),), "nets": nets}
    machine = make(name, screen, cpus=cpus, append=address, **devices)
    for net in nets:
        subprocess.run(["ip", "address", "add", f"{HOST_ADDRESS}/24", "dev", net.target], check=True)
        subprocess.run(["ip", "link", "set", net.target, "up"], check=True)
    commands = [
        "sha256sum /dev/vda",
        "seq 100000 | head -c 65536 >/dev/vda; sync",
        "grep -c ^processor /proc/cpuinfo",
        # A host that does not get a processor for seconds answers late, or not at all: ask again.
        *(f"until ping -c 3 -W 5 -s 1400 {HOST_ADDRESS}; do sleep 1; done" for _ in nets),
        "poweroff",
    ]
    helpers: list[str] = []

    def work() -> None:
        helpers.extend(vhost_workers())
        screen.type("; ".join(commands) + "\n")

    screen.when(rf"{READY}[\s\S]*?# ", work)
    outcome = machine.run()
    assert outcome.kind is OutcomeKind.POWERED_OFF, f"{outcome}\n{screen.text}"
    assert bool(helpers) == (bool(nets) and has_vhost)
    assert f"{hashlib.sha256(contents).hexdigest()}  /dev/vda" in screen.text
    assert re.search(rf"\n{cpus}\r?\n", screen.text)
    numbers = "".join(f"{number}\n" for number in range(1, 100001)).encode()[:65536]
    assert disk.read_bytes() == numbers + contents[65536:]
    if nets:
        assert re.search(r"3 packets transmitted, [1-3] packets received", screen.text)


def vhost_workers() -> list[str]:
    """The kernel's vhost threads of this process: threads of its own, or (before Linux 6.4) of the kernel."""
    wanted = f"vhost-{os.getpid()}"
    names = []
    for path in (*Path("/proc").glob("[0-9]*/comm"), *Path("/proc/self/task").glob("*/comm")):
        try:
            names.append(path.read_text().strip())
        except OSError:  # it has ended
            continue
    return [name for name in names if name.startswith(wanted)]


def tap_networks(*, vhost: bool | None) -> tuple[NetConfig, ...]:
    """A tap of our own, where taps can be made."""
    if os.geteuid() or not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return ()
    return (NetConfig(NetKind.TAP, f"pk{os.getpid()}", vhost=vhost),)


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
        for _ in range(PAUSES):
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


def wait_for(condition: Callable[[], bool], timeout_s: float = 300) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail("it took too long")
        time.sleep(0.001)
