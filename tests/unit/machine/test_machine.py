"""Whole machines with scripted vCPUs: life cycle, dispatch, interrupts."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyhyve.accel.api import ExitKind
from pyhyve.backends.chardev import MemoryChardev
from pyhyve.boot.errors import BootError
from pyhyve.machine.builder import build
from pyhyve.machine.config import MIB, ConfigError, DiskConfig, MachineConfig
from pyhyve.machine.lifecycle import MachineState
from pyhyve.machine.notices import Notice, NoticeKind
from pyhyve.machine.outcome import Outcome, OutcomeKind
from tests.unit.machine.fake_vm import FakeVm

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from pyhyve.machine.machine import Machine
    from pyhyve.memory.guest import GuestMemory
    from tests.unit.machine.fake_vm import FakeVcpu

    Script = Callable[[FakeVcpu], Generator[None, None, None]]

LAPIC = 0xFEE00000


def make_kernel(path: Path) -> Path:
    """A bzImage whose kernel is 4 KiB of nothing."""
    image = bytearray(0x400 + 4096)
    image[0x1F1] = 1
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x200:0x202] = b"\xeb\x6a"
    image[0x202:0x206] = b"HdrS"
    image[0x206:0x208] = (0x20F).to_bytes(2, "little")
    image[0x211] = 1
    image[0x1F4:0x1F8] = (4096 // 16).to_bytes(4, "little")
    image[0x22C:0x230] = (0x7FFFFFFF).to_bytes(4, "little")
    image[0x230:0x234] = (0x200000).to_bytes(4, "little")
    image[0x234] = 1
    image[0x236] = 1
    image[0x238:0x23C] = (2047).to_bytes(4, "little")
    image[0x258:0x260] = (0x1000000).to_bytes(8, "little")
    image[0x260:0x264] = (0x100000).to_bytes(4, "little")
    path.write_bytes(image)
    return path


class Run:
    """A machine built around scripts."""

    def __init__(
        self,
        tmp_path: Path,
        *scripts: Script,
        no_reboot: bool = False,
        timeout_s: float = 60,
        disks: tuple[DiskConfig, ...] = (),
        no_shutdown: bool = False,
        start_paused: bool = False,
    ) -> None:
        self.console = MemoryChardev()
        self.vms: list[FakeVm] = []
        config = MachineConfig(
            memory_bytes=64 * MIB,
            cpus=len(scripts),
            kernel=make_kernel(tmp_path / "kernel"),
            no_reboot=no_reboot,
            timeout_s=timeout_s,
            disks=disks,
            no_shutdown=no_shutdown,
            start_paused=start_paused,
        )

        def open_engine(_choice: str, memory: GuestMemory) -> FakeVm:
            vm = FakeVm(memory, *scripts)
            self.vms.append(vm)
            return vm

        self.machine: Machine = build(config, console=self.console, open_engine=open_engine)

    def run(self) -> Outcome:
        return self.machine.run()


def power_off(cpu: FakeVcpu) -> Generator[None, None, None]:
    yield from cpu.out(0x604, 0x2000 | 5 << 10, 2)
    yield from cpu.leave(ExitKind.HALT)


def test_power_off_ends_the_run_with_status_zero(tmp_path: Path) -> None:
    run = Run(tmp_path, power_off)
    outcome = run.run()
    assert outcome.kind is OutcomeKind.POWERED_OFF
    assert outcome.exit_status == 0
    assert run.machine.state is MachineState.SHUTDOWN
    assert run.vms[0].closed


def test_serial_output_reaches_the_console(tmp_path: Path) -> None:
    def script(cpu: FakeVcpu) -> Generator[None, None, None]:
        for byte in b"hello\nno newline":
            yield from cpu.out(0x3F8, byte)
        yield from power_off(cpu)

    run = Run(tmp_path, script)
    run.run()
    assert run.console.output == b"hello\nno newline"


def test_reset_restarts_in_place(tmp_path: Path) -> None:
    starts = []

    def script(cpu: FakeVcpu) -> Generator[None, None, None]:
        starts.append(cpu.registers["rip"])
        if len(starts) < 3:
            cpu.registers["rip"] = 0
            yield from cpu.out(0xCF9, 0x06)
            yield from cpu.leave(ExitKind.HALT)
        yield from power_off(cpu)

    run = Run(tmp_path, script)
    assert run.run().kind is OutcomeKind.POWERED_OFF
    assert starts == [0x1000200] * 3
    assert run.vms[0].vcpus[0].resets == 2


@pytest.mark.parametrize(("port", "value"), [(0x64, 0xFE), (0x92, 0x03), (0xCF9, 0x0E)])
def test_reset_without_reboot_ends_the_run(tmp_path: Path, port: int, value: int) -> None:
    def script(cpu: FakeVcpu) -> Generator[None, None, None]:
        yield from cpu.out(port, value)
        yield from cpu.leave(ExitKind.HALT)

    assert Run(tmp_path, script, no_reboot=True).run().kind is OutcomeKind.RESET


def test_triple_fault_reports_registers_and_code(tmp_path: Path) -> None:
    def script(cpu: FakeVcpu) -> Generator[None, None, None]:
        yield from cpu.leave(ExitKind.SHUTDOWN)

    run = Run(tmp_path, script)
    outcome = run.run()
    assert outcome.kind is OutcomeKind.TRIPLE_FAULT
    assert outcome.exit_status == 1
    assert "rip=0000000001000200" in outcome.detail
    assert "code: 00 00" in outcome.detail


def test_engine_failure_ends_the_run(tmp_path: Path) -> None:
    def script(cpu: FakeVcpu) -> Generator[None, None, None]:
        yield from cpu.leave(ExitKind.INTERNAL_ERROR, "out of stencils")

    outcome = Run(tmp_path, script).run()
    assert outcome.kind is OutcomeKind.INTERNAL_ERROR
    assert "out of stencils" in outcome.message


def test_broken_engine_is_reported(tmp_path: Path) -> None:
    def script(_cpu: FakeVcpu) -> Generator[None, None, None]:
        yield from ()
        msg = "boom"
        raise RuntimeError(msg)

    outcome = Run(tmp_path, script).run()
    assert outcome.kind is OutcomeKind.INTERNAL_ERROR
    assert "boom" in outcome.message


def halted(cpu: FakeVcpu) -> Generator[None, None, None]:
    while True:
        yield from cpu.leave(ExitKind.HALT)


def test_stop_request_ends_a_halted_guest(tmp_path: Path) -> None:
    run = Run(tmp_path, halted)
    threading.Timer(0.1, run.machine.request_stop).start()
    assert run.run().kind is OutcomeKind.STOPPED


def test_timeout_ends_the_run(tmp_path: Path) -> None:
    outcome = Run(tmp_path, halted, timeout_s=0.1).run()
    assert outcome.kind is OutcomeKind.TIMEOUT
    assert outcome.exit_status == 1


def test_pit_interrupt_wakes_a_halted_guest_through_the_i8259(tmp_path: Path) -> None:
    def script(cpu: FakeVcpu) -> Generator[None, None, None]:
        for port, value in ((0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xFE)):
            yield from cpu.out(port, value)
        for port, value in ((0x43, 0x34), (0x40, 0xA9), (0x40, 0x04)):
            yield from cpu.out(port, value)
        served = 0
        while served < 3:
            while served < len(cpu.vectors):
                served += 1
                yield from cpu.out(0x20, 0x20)
            yield from cpu.leave(ExitKind.HALT)
        yield from power_off(cpu)

    run = Run(tmp_path, script)
    assert run.run().kind is OutcomeKind.POWERED_OFF
    assert set(run.vms[0].vcpus[0].vectors) == {0x20}


def test_local_apic_timer_and_msrs(tmp_path: Path) -> None:
    seen: dict[str, object] = {}

    def script(cpu: FakeVcpu) -> Generator[None, None, None]:
        seen["base"] = yield from cpu.rdmsr(0x1B)
        seen["bad"] = yield from cpu.rdmsr(0x802)
        seen["version"] = yield from cpu.load(LAPIC + 0x30)
        yield from cpu.store(LAPIC + 0xF0, 0x1FF)
        yield from cpu.store(LAPIC + 0x320, 0x40000 | 0x55)
        yield from cpu.wrmsr(0x6E0, 1_000)
        while not cpu.vectors:
            yield from cpu.leave(ExitKind.HALT)
        yield from cpu.store(LAPIC + 0xB0, 0)
        yield from power_off(cpu)

    run = Run(tmp_path, script)
    assert run.run().kind is OutcomeKind.POWERED_OFF
    assert seen == {"base": 0xFEE00900, "bad": None, "version": 0x50014}
    assert run.vms[0].vcpus[0].vectors == [0x55]


def test_second_vcpu_starts_with_a_startup_message(tmp_path: Path) -> None:
    started = threading.Event()

    def first(cpu: FakeVcpu) -> Generator[None, None, None]:
        yield from cpu.store(LAPIC + 0xF0, 0x1FF)
        yield from cpu.store(LAPIC + 0x310, 1 << 24)
        yield from cpu.store(LAPIC + 0x300, 0x4500)
        yield from cpu.store(LAPIC + 0x300, 0x4609)
        assert started.wait(60)
        yield from power_off(cpu)

    def second(cpu: FakeVcpu) -> Generator[None, None, None]:
        started.set()
        while True:
            yield from cpu.leave(ExitKind.HALT)

    run = Run(tmp_path, first, second)
    assert run.run().kind is OutcomeKind.POWERED_OFF
    registers = run.vms[0].vcpus[1].registers
    assert (registers["cs.selector"], registers["cs.base"], registers["rip"]) == (0x900, 0x9000, 0)


def test_pause_and_resume(tmp_path: Path) -> None:
    count = [0]

    def script(cpu: FakeVcpu) -> Generator[None, None, None]:
        while True:
            count[0] += 1
            yield from cpu.inp(0x61)

    run = Run(tmp_path, script)
    thread = threading.Thread(target=run.run)
    thread.start()
    assert run.machine.pause().wait(60)
    for runner in run.machine.parts.runners:
        assert runner.wait_parked(60)
    frozen = count[0]
    time.sleep(0.05)
    assert count[0] == frozen
    assert run.machine.resume().wait(60)
    deadline = time.monotonic() + 60
    while count[0] == frozen:
        assert time.monotonic() < deadline
    run.machine.request_stop()
    thread.join(60)
    assert run.vms[0].pauses_noted == 1
    assert not thread.is_alive()
    assert run.machine.state is MachineState.SHUTDOWN


def test_output_before_a_pause_is_passed_on_before_it(tmp_path: Path) -> None:
    written = bytearray()

    def script(cpu: FakeVcpu) -> Generator[None, None, None]:
        for number in range(1 << 30):
            yield from cpu.out(0x3F8, 0x41 + number % 16)
            written.append(0x41 + number % 16)

    run = Run(tmp_path, script)
    thread = threading.Thread(target=run.run)
    thread.start()
    while not written:
        pass
    assert run.machine.pause().wait(60)
    assert len(run.console.output) >= len(written)
    assert run.console.output.startswith(written)
    run.machine.request_stop()
    thread.join(60)
    assert not thread.is_alive()


def test_power_button_raises_the_sci_event(tmp_path: Path) -> None:
    def script(cpu: FakeVcpu) -> Generator[None, None, None]:
        yield from cpu.out(0x602, 0x100, 2)
        run.machine.power_button()
        while True:
            status = yield from cpu.inp(0x600, 2)
            if status & 0x100:
                break
        yield from power_off(cpu)

    run = Run(tmp_path, script)
    assert run.run().kind is OutcomeKind.POWERED_OFF


def test_pci_devices_are_found_through_the_configuration_ports(tmp_path: Path) -> None:
    found = []

    def script(cpu: FakeVcpu) -> Generator[None, None, None]:
        for slot in range(3):
            yield from cpu.out(0xCF8, 0x80000000 | slot << 11, 4)
            found.append((yield from cpu.inp(0xCFC, 4)))
        yield from power_off(cpu)

    Run(tmp_path, script).run()
    assert found == [0x12378086, 0x70008086, 0xFFFFFFFF]


def test_missing_kernel_is_one_clear_line(tmp_path: Path) -> None:
    run = Run(tmp_path, power_off)
    (tmp_path / "kernel").unlink()
    with pytest.raises(BootError, match="kernel: No such file or directory"):
        run.run()
    assert run.vms[0].closed


def test_disks_are_plugged_into_the_first_free_slots(tmp_path: Path) -> None:
    found = []

    def script(cpu: FakeVcpu) -> Generator[None, None, None]:
        for slot in (2, 3, 4):
            yield from cpu.out(0xCF8, 0x80000000 | slot << 11, 4)
            found.append((yield from cpu.inp(0xCFC, 4)))
        yield from cpu.out(0xCF8, 0x80000000 | 2 << 11 | 0x3C, 4)
        found.append((yield from cpu.inp(0xCFC, 1)))
        yield from power_off(cpu)

    disks = []
    for name in ("a", "b"):
        path = tmp_path / name
        path.write_bytes(bytes(MIB))
        disks.append(DiskConfig(path, format="raw"))
    run = Run(tmp_path, script, disks=tuple(disks))
    assert run.run().kind is OutcomeKind.POWERED_OFF
    assert found == [0x10421AF4, 0x10421AF4, 0xFFFFFFFF, 10]


def test_missing_disk_is_one_clear_line_and_releases_everything(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(ConfigError, match="No such file"):
        Run(tmp_path, power_off, disks=(DiskConfig(tmp_path / "missing"),))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_start_paused_waits_for_resume_and_tells_observers(tmp_path: Path) -> None:
    run = Run(tmp_path, power_off, start_paused=True)
    seen = []
    run.machine.observers.append(lambda notice: seen.append((notice.kind, notice.cause)))

    def drive() -> None:
        run.machine.reset().wait(60)
        assert run.machine.prelaunch
        run.machine.resume()

    thread = threading.Thread(target=drive)
    thread.start()
    assert run.run().kind is OutcomeKind.POWERED_OFF
    thread.join()
    assert seen == [
        ("RESET", "host-qmp-system-reset"),
        ("RESUME", "none"),
        ("SHUTDOWN", "guest-shutdown"),
    ]


def test_no_shutdown_keeps_the_machine_until_it_is_stopped(tmp_path: Path) -> None:
    run = Run(tmp_path, power_off, no_shutdown=True)
    stopped = threading.Event()

    def watch(notice: Notice) -> None:
        if notice.kind is NoticeKind.STOP:
            stopped.set()

    run.machine.observers.append(watch)
    thread = threading.Thread(target=lambda: outcomes.append(run.run()))
    outcomes: list[Outcome] = []
    thread.start()
    assert stopped.wait(60)
    assert run.machine.powered_off
    run.machine.resume().wait(60)
    assert run.machine.state is MachineState.PAUSED
    run.machine.request_stop()
    thread.join(60)
    assert [outcome.kind for outcome in outcomes] == [OutcomeKind.STOPPED]
