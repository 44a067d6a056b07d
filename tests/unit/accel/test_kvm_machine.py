"""The in-kernel interrupt chip, event descriptors, dirty pages and several vCPUs, on tiny guests."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyhyve.accel.api import ExitKind
from pyhyve.accel.cpu_models import CpuModel, CpuUnavailableError, available
from pyhyve.accel.kvm import KvmSetupError
from pyhyve.kvm.abi import Cap, MpState
from pyhyve.kvm.system import KvmSystem
from pyhyve.memory.dirty import DirtyTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.accel.conftest import TinyMachine

    Tiny = Callable[..., TinyMachine]

# Program both 8259s (vectors 0x20, 0x28), unmask line 5, then wait: sti / hlt / jmp.
_PIC_SETUP = "b011 e620 b020 e621 b004 e621 b001 e621 b0df e621 fb f4 ebfd"
_HANDLER = 0x1080
_HANDLER_CODE = bytes.fromhex("b055 e610 b020 e620 cf")  # mov al, 0x55 / out 0x10, al / EOI / iret


def waiting_machine(tiny: Tiny) -> TinyMachine:
    machine = tiny(_PIC_SETUP)
    machine.memory.write(_HANDLER, _HANDLER_CODE)
    machine.memory.write(0x25 * 4, _HANDLER.to_bytes(4, "little"))
    machine.enter(**{"idtr.base": 0, "idtr.limit": 0x3FF})
    return machine


def run_while(machine: TinyMachine, action: Callable[[], None]) -> None:
    """Run the guest, which sleeps in the kernel, and let another thread wake it."""
    timer = threading.Timer(0.05, action)
    timer.start()
    machine.run_to(ExitKind.IO)
    timer.join()
    assert (machine.vcpu.exit.address, machine.vcpu.exit.value) == (0x10, 0x55)


def test_interrupt_line_wakes_a_halted_guest(tiny: Tiny) -> None:
    machine = waiting_machine(tiny)
    chip = machine.vm.irqchip()
    run_while(machine, lambda: chip.set_gsi(5, level=True))


def test_irqfd_wakes_a_halted_guest(tiny: Tiny) -> None:
    machine = waiting_machine(tiny)
    event_fd = os.eventfd(0)
    try:
        machine.vm.irqchip().attach_irqfd(event_fd, 5)
        run_while(machine, lambda: os.eventfd_write(event_fd, 1))
        run_while(machine, lambda: os.eventfd_write(event_fd, 1))
        machine.vm.irqchip().detach_irqfd(event_fd, 5)
    finally:
        os.close(event_fd)


def test_kick_ends_a_halt_in_the_kernel(tiny: Tiny) -> None:
    machine = waiting_machine(tiny)
    timer = threading.Timer(0.05, machine.vcpu.kick)
    timer.start()
    assert machine.vcpu.run().kind == ExitKind.KICKED


def test_reset_clears_the_interrupt_chip(tiny: Tiny) -> None:
    machine = waiting_machine(tiny)
    run_while(machine, lambda: machine.vm.irqchip().set_gsi(5, level=True))
    machine.vm.irqchip().set_gsi(5, level=False)
    machine.vcpu.reset()
    machine.enter(**{"idtr.base": 0, "idtr.limit": 0x3FF})
    run_while(machine, lambda: machine.vm.irqchip().set_gsi(5, level=True))


def test_second_vcpu_waits_for_startup(tiny: Tiny) -> None:
    machine = tiny("f4")
    second = machine.vm.create_vcpu(1)
    machine.enter()
    assert (machine.vcpu.handle.mp_state(), second.handle.mp_state()) == (MpState.RUNNABLE, MpState.UNINITIALIZED)
    timer = threading.Timer(0.05, second.kick)
    timer.start()
    assert second.run().kind == ExitKind.KICKED


@pytest.mark.parametrize("match", [None, 7])
def test_notify_calls_back_without_an_exit(tiny: Tiny, match: int | None) -> None:
    # mov ax, 0x9000 / mov ds, ax / mov word [0x50], 7 / out 0x10, al / hlt
    machine = tiny("b80090 8ed8 c70650000700 e610 f4", kernel_irqchip=False)
    called = threading.Event()
    values: list[int] = []

    def callback(value: int) -> None:
        values.append(value)
        called.set()

    machine.vm.on_notify(0x90050, 2, callback, match=match)
    machine.enter()
    machine.run_to(ExitKind.IO)
    assert called.wait(60)
    assert values == [match or 0]


def test_notify_that_does_not_match_is_an_exit(tiny: Tiny) -> None:
    machine = tiny("b007 e610 f4", kernel_irqchip=False)  # mov al, 7 / out 0x10, al
    values: list[int] = []
    machine.vm.on_notify(0x10, 1, values.append, is_port=True, match=8)
    machine.enter()
    machine.run_to(ExitKind.IO)
    assert values == []
    machine.vm.remove_notify(0x10)


# mov ax, 0x1000 / mov ds, ax / mov byte [0], 1 / mov byte [0x3000], 1 / out 0x10, al / hlt
_DIRTYING = "b80010 8ed8 c606000001 c606003001 e610 f4"


def test_dirty_bitmap_names_the_pages_written(tiny: Tiny) -> None:
    machine = tiny(_DIRTYING, kernel_irqchip=False)
    machine.vm.log_dirty(enable=True)
    machine.enter()
    machine.run_to(ExitKind.IO)
    dirty = set(machine.vm.take_dirty())
    assert {0x10000, 0x13000} <= dirty
    assert not {0x11000, 0x12000, 0x14000} & dirty
    assert machine.vm.take_dirty() == []
    machine.vm.log_dirty(enable=False)


def test_dirty_ring_names_the_pages_written(tiny: Tiny) -> None:
    with KvmSystem() as system:
        if not system.check(Cap.DIRTY_LOG_RING_ACQ_REL) and not system.check(Cap.DIRTY_LOG_RING):
            pytest.skip("this KVM has no dirty rings")
    machine = tiny(_DIRTYING, kernel_irqchip=False, dirty_ring_size_bytes=65536)
    machine.vm.log_dirty(enable=True)
    machine.enter()
    machine.run_to(ExitKind.IO)
    assert {0x10000, 0x13000} <= set(machine.vm.take_dirty())
    assert machine.vm.take_dirty() == []


def test_dirty_log_is_taken_into_a_table(tiny: Tiny) -> None:
    machine = tiny(_DIRTYING, kernel_irqchip=False)
    table = DirtyTable(machine.vm.memory)
    machine.vm.start_dirty_log(table)
    machine.enter()
    machine.run_to(ExitKind.IO)
    machine.vm.sync_dirty_log()
    dirty = {gpa + at for gpa, size in table.take() for at in range(0, size, 4096)}
    assert {0x10000, 0x13000} <= dirty
    assert not {0x11000, 0x12000, 0x14000} & dirty
    machine.vm.sync_dirty_log()
    assert table.take() == []
    machine.vm.stop_dirty_log()


@pytest.mark.parametrize(("model", "expected"), [("host", 1), ("host,-cx16", 0), ("host,-sse2", 1)])
def test_guest_sees_the_cpuid_of_its_model(tiny: Tiny, model: str, expected: int) -> None:
    # mov eax, 1 / cpuid / mov eax, ecx / out 0x10, eax
    machine = tiny("66b801000000 0fa2 6689c8 66e710 f4", cpu_model=CpuModel.parse(model))
    machine.enter()
    machine.run_to(ExitKind.IO)
    assert machine.vcpu.exit.value >> 13 & 1 == expected
    assert machine.vcpu.exit.value >> 31 == 1  # a hypervisor is present


def test_model_beyond_the_host_is_refused_by_name(tiny: Tiny) -> None:
    with KvmSystem() as system:
        lacking = [name for name in ("3dnow", "tbm", "avx512er") if name not in available(system.supported_cpuid())]
    if not lacking:
        pytest.skip("this host has every feature")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(CpuUnavailableError, match=f"{lacking[0]}, which this host lacks"):
        tiny("f4", cpu_model=CpuModel.parse(f"host,+{lacking[0]}"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 1  # the guest's memory


def test_tsc_runs_at_the_frequency_asked_for(tiny: Tiny) -> None:
    with KvmSystem() as system:
        if not system.check(Cap.GET_TSC_KHZ):
            pytest.skip("this KVM does not tell the frequency of the TSC")
    machine = tiny("f4")
    machine.enter()
    host_khz = machine.vcpu.handle.tsc_khz()
    assert host_khz > 0
    same = tiny("f4", tsc_khz=host_khz)
    same.enter()
    assert same.vcpu.handle.tsc_khz() == host_khz


def test_tsc_that_cannot_be_scaled_is_refused(tiny: Tiny) -> None:
    with KvmSystem() as system:
        if system.check(Cap.TSC_CONTROL) or not system.check(Cap.GET_TSC_KHZ):
            pytest.skip("this host scales the TSC")
    machine = tiny("f4")
    machine.enter()
    slower_khz = machine.vcpu.handle.tsc_khz() // 3
    slow = tiny("f4", tsc_khz=slower_khz)
    message = ""
    try:
        slow.enter()
    except KvmSetupError as error:
        message = str(error)
    # KVM may also accept a lower frequency without hardware for it, and catch up at exits.
    assert f"cannot be scaled to {slower_khz} kHz" in message or slow.vcpu.handle.tsc_khz() == slower_khz


def test_kvmclock_moves_on(tiny: Tiny) -> None:
    machine = tiny("f4")
    first = machine.vm.clock_ns()
    time.sleep(0.01)
    assert machine.vm.clock_ns() - first >= 10_000_000
    machine.vm.resume_clock(first)
    assert machine.vm.clock_ns() - first < 10_000_000_000


def test_pause_is_noted_whether_the_guest_cares_or_not(tiny: Tiny) -> None:
    machine = tiny("e610 f4")
    machine.enter()
    machine.vm.note_pause()
    machine.run_to(ExitKind.IO)
    machine.vm.note_pause()


def test_close_is_idempotent_and_frees_descriptors(tiny: Tiny) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    machine = tiny("f4")
    machine.vm.on_notify(0x10, 1, lambda _: None, is_port=True)
    machine.enter()
    machine.close()
    machine.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_event_becomes_a_message_in_the_kernel(tiny: Tiny) -> None:
    machine = tiny("f4")
    event_fd = os.eventfd(0)
    try:
        end = machine.vm.route_event(event_fd, 0xFEE00000, 0x4025)
        other = machine.vm.route_event(event_fd, 0xFEE00000, 0x4026)
        assert end is not None
        assert other is None  # one descriptor has one message
        end()
        end()
        again = machine.vm.route_event(event_fd, 0xFEE00000, 0x4026)
        assert again is not None
        again()
    finally:
        os.close(event_fd)
    assert tiny("f4", kernel_irqchip=False).vm.route_event(0, 0xFEE00000, 0x4025) is None
