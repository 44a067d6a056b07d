"""How `pyhyve run` ends when it is not the guest's wish."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING

import pytest

from pyhyve.cpu.engine.library import file_name
from pyhyve.guest.console import GuestConsole
from pyhyve.kvm.probe import probe

from .conftest import ACCEL, BOOT_TIMEOUT_S, PATIENCE, our_command
from .tiny import ACPI_SLEEP_S5, HALT, kernel, print32

if TYPE_CHECKING:
    from pathlib import Path

    from pyhyve.guest.builder import Guest

PROMPT_EXIT_S = 30.0 * PATIENCE


def run_command(*options: str) -> list[str]:
    return [sys.executable, "-m", "pyhyve", "run", "--accel", ACCEL, *options]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_a_running_guest_promptly(number: signal.Signals, debian_6_1: Guest) -> None:
    with GuestConsole(our_command(debian_6_1, "console=ttyS0", ()), patience=PATIENCE) as console:
        console.expect("Linux version", BOOT_TIMEOUT_S)
        start = time.monotonic()
        console.signal(number)
        assert console.wait_end(PROMPT_EXIT_S) == 1
        assert time.monotonic() - start < PROMPT_EXIT_S
        console.expect("pyhyve run: stopped")


def test_timeout_gives_up_with_exit_status_1(debian_6_1: Guest) -> None:
    options = ("--timeout", "0.5", "--console", "none")
    done = subprocess.run(
        our_command(debian_6_1, "console=ttyS0", options),
        capture_output=True,
        text=True,
        check=False,
        timeout=120 * PATIENCE,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "pyhyve run: gave up after 0.5 s"


def with_terminal(
    command: list[str], keys: bytes | signal.Signals, wait_for: bytes
) -> tuple[int, bytes, list[object], list[object]]:
    """Run `command` on a terminal of its own until `keys` are typed or a signal is sent.

    Gives exit status, output, and the terminal before and after.
    """
    leader, follower = pty.openpty()
    before = termios.tcgetattr(follower)
    child = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, start_new_session=True)
    output = b""
    try:
        deadline = time.monotonic() + BOOT_TIMEOUT_S * PATIENCE
        while wait_for not in output and time.monotonic() < deadline:
            output += os.read(leader, 1 << 16)
        assert termios.tcgetattr(follower) != before
        if isinstance(keys, bytes):
            os.write(leader, keys)
        else:
            child.send_signal(keys)
        status = child.wait(PROMPT_EXIT_S * 3)
        return status, output, before, termios.tcgetattr(follower)
    finally:
        child.kill()
        child.wait()
        os.close(leader)
        os.close(follower)


@pytest.mark.parametrize("keys", [b"\x01x", signal.SIGTERM, signal.SIGINT], ids=["ctrl-a x", "SIGTERM", "SIGINT"])
def test_terminal_is_raw_while_running_and_restored(keys: bytes | signal.Signals, debian_6_1: Guest) -> None:
    command = our_command(debian_6_1, "console=ttyS0", ())
    status, _, before, after = with_terminal(command, keys, b"Linux version")
    assert status == 1
    assert after == before


def refused(*options: str) -> str:
    """The one line with which bad input is refused, with exit status 2."""
    done = subprocess.run(run_command(*options), capture_output=True, text=True, check=False, timeout=60 * PATIENCE)
    assert done.returncode == 2, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("pyhyve run: ")
    return line


def test_file_that_is_not_a_kernel_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(b"\x90" * 100_000)
    assert "not a Linux kernel" in refused("--kernel", str(path))


def test_truncated_kernel_is_refused(debian_6_1: Guest, tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    whole = debian_6_1.kernel.read_bytes()
    for length in (0, 1, 512, 2048, 100_000, len(whole) // 2):
        path.write_bytes(whole[:length])
        assert str(path) in refused("--kernel", str(path))


def test_initrd_larger_than_memory_is_refused(debian_6_1: Guest, tmp_path: Path) -> None:
    initrd = tmp_path / "initrd"
    with initrd.open("wb") as file:
        file.truncate(600 << 20)
    assert "initrd" in refused("--kernel", str(debian_6_1.kernel), "--initrd", str(initrd), "--memory", "512M")


def test_kernel_that_does_not_fit_memory_is_refused(debian_6_1: Guest) -> None:
    assert "memory" in refused("--kernel", str(debian_6_1.kernel), "--memory", "4M")


@pytest.mark.skipif(probe().usable, reason="KVM can run a kernel here")
def test_kvm_that_cannot_run_a_kernel_says_why_and_what_to_use(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(kernel(HALT))
    command = [sys.executable, "-m", "pyhyve", "run", "--accel", "kvm", "--kernel", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("pyhyve run: accel kvm: ")
    assert line.endswith("--accel jit runs anywhere")


@pytest.mark.skipif(ACCEL != "jit", reason="the cache of the emulator")
@pytest.mark.parametrize("trouble", ["damaged", "unusable"])
def test_cache_that_is_damaged_or_cannot_be_written_is_done_without(trouble: str, tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(kernel(print32("up\n") + ACPI_SLEEP_S5 + HALT))
    cache = tmp_path / "cache"
    if trouble == "damaged":
        damaged = cache / "pyhyve" / "engine" / file_name("x86")
        damaged.parent.mkdir(parents=True)
        damaged.write_bytes(b"not an engine")
    else:
        cache.write_bytes(b"a file where a directory should be")
    done = subprocess.run(
        run_command("--kernel", str(path), "--memory", "16M", "--timeout", "240"),
        capture_output=True, text=True, check=False, timeout=300, stdin=subprocess.DEVNULL,
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "up\n")
    assert {"damaged": "is damaged", "unusable": "cache directory"}[trouble] in done.stderr
    assert "Traceback" not in done.stderr
