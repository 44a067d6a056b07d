"""How a guest ends its machine: power-off, reset, crash. The guests are a few instructions, so each test is quick."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Protocol

import pytest

from .conftest import ACCEL, PATIENCE
from .tiny import ACPI_SLEEP_S5, HALT, kernel, out32, print32

if TYPE_CHECKING:
    from pathlib import Path

RESETS = {
    "keyboard controller": out32(0x64, 0xFE),
    "reset control register": out32(0xCF9, 0x06),
    "port 0x92": out32(0x92, 0x01),
}


class RunKernel(Protocol):
    def __call__(self, code: bytes, *options: str) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def run(tmp_path: Path) -> RunKernel:
    """Runs `code` as a kernel under the translator."""

    def run(code: bytes, *options: str) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "kernel"
        path.write_bytes(kernel(code))
        command = [sys.executable, "-m", "pyhyve", "run", "--accel", ACCEL, "--memory", "16M", "--kernel", str(path)]
        return subprocess.run(
            [*command, "--timeout", f"{60 * PATIENCE:g}", *options],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300 * PATIENCE,
        )

    return run


def test_power_off_is_exit_status_0(run: RunKernel) -> None:
    done = run(print32("up\n") + ACPI_SLEEP_S5 + HALT)
    assert (done.returncode, done.stdout) == (0, "up\n")
    assert done.stderr == ""


@pytest.mark.parametrize("reset", RESETS.values(), ids=RESETS.keys())
def test_reset_starts_again_in_place(reset: bytes, run: RunKernel) -> None:
    # CMOS memory survives a reset: the second time round it holds the mark, and the guest powers off.
    mark = out32(0x70, 0x50) + out32(0x71, 0xA5)
    look = out32(0x70, 0x50) + b"\xba\x71\x00\x00\x00\xec\x3c\xa5"
    body = mark + reset + HALT
    done = run(print32("start\n") + look + b"\x0f\x84" + len(body).to_bytes(4, "little") + body + ACPI_SLEEP_S5 + HALT)
    assert (done.returncode, done.stdout) == (0, "start\nstart\n")


def test_reset_ends_the_machine_when_asked(run: RunKernel) -> None:
    done = run(print32("once\n") + RESETS["keyboard controller"] + HALT, "--no-reboot")
    assert (done.returncode, done.stdout) == (0, "once\n")


def crash_report(done: subprocess.CompletedProcess[str]) -> tuple[str, dict[str, int]]:
    """The line that says what happened, and the registers."""
    assert done.returncode == 1, done
    registers = {name: int(value, 16) for name, value in re.findall(r"\b(\w+)=([0-9a-f]+)\b", done.stderr)}
    return done.stderr.splitlines()[-1], registers


def test_triple_fault_is_reported_with_registers_and_code(run: RunKernel) -> None:
    lidt_zero = b"\x0f\x01\x1d" + (0x10_0000 + 256).to_bytes(4, "little")
    body = b"\xbb\x78\x56\x34\x12" + lidt_zero + b"\x0f\x0b"
    done = run(body.ljust(300, b"\0"))
    message, registers = crash_report(done)
    assert message == "pyhyve run: vCPU 0: the guest stopped with a triple fault"
    if ACCEL == "kvm" and not registers["rbx"]:
        return  # after a triple fault, KVM on AMD resets the processor before it leaves the guest
    assert registers["rbx"] == 0x1234_5678
    assert registers["rip"] == 0x10_0000 + len(body) - 2
    assert "code: 0f 0b" in done.stderr


def test_execution_where_there_is_no_memory_is_reported(run: RunKernel) -> None:
    message, registers = crash_report(run(b"\xb8\x00\x00\x00\xd0\xff\xe0"))
    assert "executes at 0xd0000000, where there is no memory" in message
    assert registers["rip"] == 0xD000_0000


@pytest.mark.parametrize("seed", range(4))
def test_garbage_ends_with_a_report_or_at_the_time_limit(seed: int, run: RunKernel) -> None:
    done = run(random.Random(seed).randbytes(4096), "--timeout", "2")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    reports = ("pyhyve run: vCPU 0: the guest ", "pyhyve run: vCPU 0: KVM ", "pyhyve run: gave up after 2 s")
    assert last.startswith(reports), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("code", [b"\xfa" + HALT, b"\xeb\xfe"], ids=["halted for ever", "endless loop"])
def test_guest_that_does_nothing_ends_at_the_time_limit(code: bytes, run: RunKernel) -> None:
    done = run(code, "--timeout", "0.5")
    assert (done.returncode, done.stderr) == (1, "pyhyve run: gave up after 0.5 s\n")
