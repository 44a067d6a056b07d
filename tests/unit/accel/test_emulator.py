"""The translator behind `accel.api`: exits, watched addresses, and code that the host writes over."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from pyhyve.accel.api import ExitKind
from pyhyve.accel.cpu_models import CpuModel, CpuUnavailableError
from pyhyve.accel.emulator import EmulatorVm
from pyhyve.cpu.engine.state import MAX_ACCESSES
from pyhyve.memory.guest import GuestMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.accel.emulator import EmulatorVcpu

CODE = 0x1000
RAM = 0xA_0000
VIDEO = 0xB_8000
HLT = b"\xf4"


class Pc:
    """One vCPU in real mode with 640 KiB of RAM and another region high up."""

    def __init__(self, model: str = "host") -> None:
        self.memory = GuestMemory(shared=False)
        self.memory.add(0, RAM)
        self.memory.add(0xC_0000, 0x4_0000)
        self.vm = EmulatorVm(self.memory, cpu_model=CpuModel.parse(model))
        self.vcpu: EmulatorVcpu = self.vm.create_vcpu(0)

    def start(self, code: bytes, at: int = CODE) -> None:
        self.memory.write(at, code)
        self.go(at)

    def go(self, at: int = CODE) -> None:
        self.vcpu.write_registers(
            {"cs.base": at & 0xF_0000, "cs.selector": at >> 4 & 0xF000, "rip": at & 0xFFFF, "ds.base": VIDEO}
        )

    def run(self) -> tuple[ExitKind, int, int]:
        done = self.vcpu.run()
        return ExitKind(done.kind), done.address, done.value

    @property
    def ax(self) -> int:
        return self.vcpu.read_registers()["rax"] & 0xFFFF


@pytest.fixture
def pc() -> Iterator[Pc]:
    pc = Pc()
    yield pc
    pc.vm.close()
    pc.memory.close()


def mov_ax(value: int) -> bytes:
    return b"\xb8" + value.to_bytes(2, "little")


OUT_AX = b"\xba\x34\x12\xef"
"""MOV DX, 1234h; OUT DX, AX."""
STORE_AX = b"\xa3\x10\x00"
"""MOV [10h], AX."""


def test_accesses_exit_and_take_their_answers(pc: Pc) -> None:
    pc.start(b"\xba\x34\x12\xed" + STORE_AX + HLT)  # IN AX, DX
    assert pc.run()[:2] == (ExitKind.IO, 0x1234)
    assert (pc.vcpu.exit.size, pc.vcpu.exit.is_write) == (2, False)
    pc.vcpu.exit.value = 0xFFFF_BEEF
    assert pc.run() == (ExitKind.MMIO, VIDEO + 0x10, 0xBEEF)
    assert (pc.vcpu.exit.size, pc.vcpu.exit.is_write) == (2, True)
    assert pc.run()[0] is ExitKind.HALT


def test_watched_port_and_memory_writes_do_not_exit(pc: Pc) -> None:
    seen: list[tuple[str, int]] = []
    pc.vm.on_notify(0x1234, 2, lambda value: seen.append(("port", value)), is_port=True)
    pc.vm.on_notify(VIDEO + 0x10, 2, lambda value: seen.append(("memory", value)))
    pc.start(mov_ax(7) + OUT_AX + mov_ax(8) + STORE_AX + OUT_AX + HLT)
    assert pc.run()[0] is ExitKind.HALT
    assert seen == [("port", 7), ("memory", 8), ("port", 8)]


def test_only_writes_of_the_watched_size_at_the_watched_address_count(pc: Pc) -> None:
    seen: list[int] = []
    pc.vm.on_notify(0x1234, 4, seen.append, is_port=True)
    pc.vm.on_notify(0x1234, 2, seen.append)
    pc.start(mov_ax(7) + OUT_AX + HLT)
    assert pc.run() == (ExitKind.IO, 0x1234, 7)
    assert seen == []


def test_removed_watch_exits_again(pc: Pc) -> None:
    seen: list[int] = []
    pc.vm.on_notify(VIDEO + 0x10, 2, seen.append)
    pc.start(mov_ax(1) + STORE_AX + mov_ax(2) + STORE_AX + HLT)
    pc.vm.remove_notify(VIDEO + 0x10)
    pc.vm.remove_notify(VIDEO + 0x10)
    assert pc.run() == (ExitKind.MMIO, VIDEO + 0x10, 1)
    pc.vm.on_notify(VIDEO + 0x10, 2, seen.append)
    assert pc.run()[0] is ExitKind.HALT
    assert seen == [2]


def test_handler_that_fails_does_not_stop_the_guest(pc: Pc, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_value: int) -> None:
        raise ZeroDivisionError

    pc.vm.on_notify(0x1234, 2, fail, is_port=True)
    pc.start(mov_ax(7) + OUT_AX + HLT)
    assert pc.run()[0] is ExitKind.HALT
    assert "a notification handler failed" in caplog.text


@pytest.mark.parametrize("at", [CODE, 0xC_1000], ids=["first region", "second region"])
def test_code_that_the_host_writes_over_is_translated_anew(at: int, pc: Pc) -> None:
    pc.start(mov_ax(1) + HLT, at)
    assert (pc.run()[0], pc.ax) == (ExitKind.HALT, 1)
    pc.memory.write(at, mov_ax(2) + HLT)
    pc.go(at)
    assert (pc.run()[0], pc.ax) == (ExitKind.HALT, 2)


def test_write_that_spans_regions_and_holes_reaches_the_code_in_it(pc: Pc) -> None:
    pc.start(mov_ax(1) + HLT)
    assert pc.run()[0] is ExitKind.HALT
    pc.memory.view(CODE, 3)[:] = mov_ax(3)
    pc.memory.mark_written(0, 0x20_0000)
    pc.go()
    assert (pc.run()[0], pc.ax) == (ExitKind.HALT, 3)


def test_writes_while_the_vcpu_sleeps_never_wait(pc: Pc) -> None:
    """Its list of pages is full after 256; then it forgets everything, and goes on right."""
    pc.start(mov_ax(1) + HLT)
    assert pc.run()[0] is ExitKind.HALT
    writes = [mov_ax(number) + HLT for number in range(1000)]
    writer = threading.Thread(target=lambda: [pc.memory.write(CODE, code) for code in writes], daemon=True)
    writer.start()
    writer.join(60)
    assert not writer.is_alive()
    pc.go()
    assert (pc.run()[0], pc.ax) == (ExitKind.HALT, 999)
    pc.memory.write(CODE, mov_ax(5) + HLT)
    pc.go()
    assert (pc.run()[0], pc.ax) == (ExitKind.HALT, 5)


def test_kick_and_interrupt_line(pc: Pc) -> None:
    pc.start(b"\xfb\x90\xeb\xfd")  # STI, NOP, and a loop
    pc.vcpu.kick()
    assert pc.run()[0] is ExitKind.KICKED
    pc.vcpu.set_interrupt(pending=True)
    assert pc.run()[0] is ExitKind.INTERRUPT_WINDOW
    pc.memory.write(4 * 0x21, (0x2000).to_bytes(4, "little"))
    pc.memory.write(0x2000, mov_ax(0x21) + HLT)
    pc.vcpu.set_interrupt(pending=False)
    pc.vcpu.write_registers({"rsp": 0x8000, "ss.base": 0})
    pc.vcpu.inject(0x21)
    assert (pc.run()[0], pc.ax) == (ExitKind.HALT, 0x21)


def test_code_at_address_0_runs_like_any_other(pc: Pc) -> None:
    pc.start(mov_ax(4) + b"\x40" * 8 + HLT, 0)
    assert (pc.run()[0], pc.ax) == (ExitKind.HALT, 12)


def test_instruction_makes_as_many_accesses_as_it_must(pc: Pc) -> None:
    # ENTER 0, 31 copies 30 frame pointers through the stack, here in the hole of the video memory.
    pc.start(b"\xc8\x00\x00\x1f" + HLT)
    pc.vcpu.write_registers({"ss.base": VIDEO, "rsp": 0x4000, "rbp": 0x2000})
    done, writes = pc.vcpu.run(), []
    while done.kind == ExitKind.MMIO:
        writes.append(done.is_write)
        done = pc.vcpu.run()
    assert done.kind == ExitKind.HALT
    assert writes == [True, *[False, True] * 30, True]


def test_instruction_with_too_many_accesses_is_reported(pc: Pc) -> None:
    pc.start(b"\xc8\x00\x00\x1f" + HLT)
    pc.vcpu.write_registers({"ss.base": VIDEO, "rsp": 0x4000, "rbp": 0x2000})
    assert pc.vcpu.run().kind == ExitKind.MMIO
    pc.vcpu.engine.set("access_done", MAX_ACCESSES)
    done = pc.vcpu.run()
    assert done.kind == ExitKind.INTERNAL_ERROR
    assert "device accesses in one instruction at 0x1000" in done.message


@pytest.mark.parametrize(
    ("model", "popcnt", "xsave"), [("host", 1, 1), ("x86-64-v2", 1, 0), ("max,-popcnt", 0, 1), ("qemu64", 0, 0)]
)
def test_cpuid_follows_the_model(model: str, popcnt: int, xsave: int) -> None:
    pc = Pc(model)
    # mov eax, 1 / cpuid / mov eax, ecx / out 0x10, eax
    pc.start(bytes.fromhex("66b801000000 0fa2 6689c8 66e710"))
    try:
        kind, _, ecx = pc.run()
    finally:
        pc.vm.close()
        pc.memory.close()
    assert (kind, ecx >> 23 & 1, ecx >> 26 & 1) == (ExitKind.IO, popcnt, xsave)


def test_model_beyond_the_engine_is_refused_by_name() -> None:
    memory = GuestMemory(shared=False)
    with pytest.raises(CpuUnavailableError, match=r"x86-64-v3 needs fma, .*avx2.*, which the emulator lacks"):
        EmulatorVm(memory, cpu_model=CpuModel.parse("x86-64-v3"))
    memory.close()


class Apic:
    """STI and a loop; vector n's handler puts n into AX, ends the interrupt and halts."""

    def __init__(self, pc: Pc) -> None:
        self.pc = pc
        self.vectors = pc.vcpu.apic_vectors
        self.vectors.enabled = True
        for vector in (0x41, 0x45, 0x61):
            pc.memory.write(4 * vector, (vector << 6).to_bytes(4, "little"))
            # XOR EAX, EAX; MOV [EOI], EAX; MOV AX, vector; HLT
            pc.memory.write(vector << 6, b"\x66\x31\xc0\x66\xa3\xb0\x00" + mov_ax(vector) + HLT)
        pc.memory.write(CODE, b"\xfb\x90\xeb\xfd")
        self.go()

    def go(self) -> None:
        self.pc.go()
        self.pc.vcpu.write_registers({"ds.base": 0xFEE0_0000, "rsp": 0x8000, "ss.base": 0})

    def post(self, vector: int, *, is_level: bool = False) -> None:
        self.vectors.post(vector, is_level=is_level)
        self.pc.vcpu.look_for_interrupts()

    def taken(self) -> int:
        """The vector whose handler runs."""
        assert self.pc.run()[0] is ExitKind.HALT
        return self.pc.ax

    def nothing_is_taken(self) -> bool:
        """Whether the guest goes on as if there were no interrupt."""
        timer = threading.Timer(0.05, self.pc.vcpu.kick)
        timer.start()
        kind = self.pc.run()[0]
        timer.join()
        return kind is ExitKind.KICKED


def test_apic_interrupts_are_taken_and_ended_without_an_exit(pc: Pc) -> None:
    apic = Apic(pc)
    apic.post(0x41)
    apic.post(0x61)
    assert apic.taken() == 0x61
    assert (apic.vectors.irr, apic.vectors.isr) == (1 << 0x41, 0)
    apic.go()
    assert apic.taken() == 0x41
    assert (apic.vectors.irr, apic.vectors.isr) == (0, 0)


def test_apic_priorities_hold_interrupts_back(pc: Pc) -> None:
    apic = Apic(pc)
    apic.vectors.tpr = 0x4F
    apic.post(0x45)
    assert apic.nothing_is_taken()
    apic.post(0x61)
    assert apic.taken() == 0x61
    apic.go()
    apic.vectors.tpr = 0
    apic.vectors.isr = 1 << 0x42
    pc.vcpu.look_for_interrupts()
    assert apic.nothing_is_taken(), "one of the same class is in service"
    apic.vectors.isr = 0
    apic.vectors.enabled = False
    pc.vcpu.look_for_interrupts()
    assert apic.nothing_is_taken()
    apic.vectors.enabled = True
    pc.vcpu.look_for_interrupts()
    assert apic.taken() == 0x45


def test_end_of_a_level_triggered_interrupt_is_the_machines(pc: Pc) -> None:
    apic = Apic(pc)
    apic.post(0x41, is_level=True)
    assert pc.run()[:2] == (ExitKind.MMIO, 0xFEE0_00B0)
    assert apic.vectors.isr == apic.vectors.tmr == 1 << 0x41
    apic.vectors.isr = 0
    assert pc.run()[0] is ExitKind.HALT


def test_pic_and_apic_interrupts_side_by_side(pc: Pc) -> None:
    apic = Apic(pc)
    pc.vcpu.set_interrupt(pending=True)
    apic.post(0x41)
    assert apic.taken() == 0x41
    apic.go()
    assert pc.run()[0] is ExitKind.INTERRUPT_WINDOW
    pc.vcpu.set_interrupt(pending=False)
    pc.vcpu.inject(0x61)
    assert apic.taken() == 0x61


def test_vcpu_that_a_kick_ended_in_its_sleep_sleeps_on(pc: Pc) -> None:
    apic = Apic(pc)
    pc.memory.write(CODE, b"\xfb" + HLT)
    assert pc.run()[0] is ExitKind.HALT
    pc.vcpu.sleep_by_itself()
    after = pc.vcpu.read_registers()["rip"]
    for _ in range(2):
        pc.vcpu.rest()
        timer = threading.Timer(0.02, pc.vcpu.kick)
        timer.start()
        assert pc.run()[0] is ExitKind.HALT, "the kick is served: the next one waits again"
        timer.join()
        assert pc.vcpu.read_registers()["rip"] == after
    pc.memory.write(0x41 << 6, mov_ax(0x41) + OUT_AX)
    apic.vectors.post(0x41, is_level=False)
    pc.vcpu.rest()  # what was posted meanwhile ends it, although nobody had it look
    assert pc.run() == (ExitKind.IO, 0x1234, 0x41)


def test_reset_ends_a_rest(pc: Pc) -> None:
    pc.vcpu.sleep_by_itself()
    pc.vcpu.rest()
    pc.vcpu.reset()
    pc.start(mov_ax(3) + OUT_AX)
    assert pc.run()[2] == 3
