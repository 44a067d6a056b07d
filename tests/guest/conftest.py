"""Guests that boot: each test types at a console and reads what comes back."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from pyhyve.guest.builder import Guest, GuestSpec, build_guest, find_guest
from pyhyve.guest.console import GuestConsole
from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
KERNEL_6_12 = "linux-image-6.12-cloud-amd64"
BOOT_TIMEOUT_S = 240.0
"""Generous: the first boot builds the engine's code cache, on a machine that may be busy."""
ACCEL = os.environ.get("PYHYVE_GUEST_ACCEL", "jit")
"""What runs the guests: with `kvm` these are the tests of the KVM accelerator (tests/nested)."""
SYSTEM_ACCEL = {"jit": "tcg"}.get(ACCEL, ACCEL)
"""The same in QEMU's words."""
PATIENCE = float(os.environ.get("PYHYVE_GUEST_PATIENCE", "1"))
"""What to multiply time limits with, on emulated hosts."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.guest)
            item.add_marker(pytest.mark.timeout(1200 * PATIENCE))


class StartMachine(Protocol):
    """Starts `pyhyve run` (or, with PYHYVE_GUEST_PEER=qemu, the same machine under QEMU)."""

    def __call__(self, guest: Guest, append: str = "console=ttyS0 quiet", *options: str) -> GuestConsole:
        """Gives the console; the machine is ended when the test is over."""


def guest_or_skip(spec: GuestSpec) -> Guest:
    try:
        if os.environ.get("PYHYVE_GUESTS_GIVEN"):
            return find_guest(spec.name)
        return build_guest(spec, lambda *_: None, lambda _text: None)
    except UserError as error:
        pytest.skip(f"the guest cannot be built here: {error}")


@pytest.fixture(scope="session")
def debian_6_1() -> Guest:
    return guest_or_skip(GuestSpec())


@pytest.fixture(scope="session")
def debian_6_12() -> Guest:
    return guest_or_skip(GuestSpec(name="debian-6.12", kernel_package=KERNEL_6_12))


@pytest.fixture(scope="session")
def installer() -> Guest:
    return guest_or_skip(GuestSpec(name="installer", installer=True))


def our_command(guest: Guest, append: str, options: tuple[str, ...]) -> list[str]:
    return [
        *(sys.executable, "-m", "pyhyve", "run", "--accel", ACCEL),
        *("--kernel", str(guest.kernel), "--initrd", str(guest.initrd), "--append", append, *options),
    ]


def peer_command(guest: Guest, append: str, options: tuple[str, ...]) -> list[str]:
    """What checks the guests themselves: the same tests against QEMU."""
    names = {"--memory": "-m", "--no-reboot": "-no-reboot"}
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    return [
        *(qemu, "-accel", "tcg", "-machine", "pc", "-nographic", "-m", "512M"),
        *("-kernel", str(guest.kernel), "-initrd", str(guest.initrd), "-append", append),
        *(names.get(option, option) for option in options),
    ]


@pytest.fixture
def start() -> Iterator[StartMachine]:
    consoles: list[GuestConsole] = []
    use_peer = os.environ.get("PYHYVE_GUEST_PEER") == "qemu"

    def start(guest: Guest, append: str = "console=ttyS0 quiet", *options: str) -> GuestConsole:
        command = peer_command if use_peer else our_command
        console = GuestConsole(command(guest, append, options), patience=PATIENCE)
        consoles.append(console)
        return console

    yield start
    for console in consoles:
        console.close()
