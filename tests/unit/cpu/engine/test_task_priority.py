"""CR8 is the upper half of the local APIC's task priority (SDM Vol. 3A, 11.8.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyhyve.accel.api import ExitKind
from pyhyve.accel.emulator_state import RegisterState
from pyhyve.cpu.isa.x86.state import STATE
from tests.unit.cpu.engine.conftest import CODE

if TYPE_CHECKING:
    from tests.unit.cpu.engine.conftest import Guest

HANDLER = 0x18000
VECTOR = 0x51
IF = 0x202
MOV_CR8_RAX, MOV_RBX_CR8, HLT, NOP = "440f22c0", "440f20c3", "f4", "90"


def test_writing_cr8_sets_the_task_priority_without_an_exit(guest: Guest) -> None:
    guest.code(MOV_CR8_RAX + MOV_RBX_CR8 + HLT)
    after = guest.run_to_halt(rax=5)
    assert (after["rbx"], after["cr8"], guest.vcpu.apic_vectors.tpr) == (5, 5, 0x50)


def test_reading_cr8_gives_the_priority_that_was_set_elsewhere(guest: Guest) -> None:
    guest.code(MOV_RBX_CR8 + HLT)
    guest.vcpu.apic_vectors.tpr = 0x7A
    after = guest.run_to_halt()
    assert (after["rbx"], after["cr8"], guest.vcpu.apic_vectors.tpr) == (7, 7, 0x7A)


def test_sixteen_is_too_much(guest: Guest) -> None:
    guest.gate(13, HANDLER)
    guest.code(HLT, at=HANDLER)
    guest.code(MOV_CR8_RAX + HLT)
    after = guest.run_to_halt(rax=16)
    assert (after["rip"], after["cr8"]) == (HANDLER + 1, 0)


def _interruptible(guest: Guest) -> None:
    guest.gate(VECTOR, HANDLER)
    guest.code(HLT, at=HANDLER)
    guest.vcpu.apic_vectors.enabled = True


def test_interrupt_waits_until_cr8_is_lowered(guest: Guest) -> None:
    _interruptible(guest)
    guest.code(NOP * 4 + MOV_CR8_RAX + NOP + HLT)
    guest.vcpu.apic_vectors.tpr = 0x5F
    guest.vcpu.apic_vectors.post(VECTOR, is_level=False)
    guest.vcpu.look_for_interrupts()
    after = guest.run_to_halt(rax=4, rflags=IF)
    assert after["rip"] == HANDLER + 1
    assert int.from_bytes(guest.memory.read(after["rsp"], 8), "little") == CODE + 8
    assert guest.vcpu.apic_vectors.isr == 1 << VECTOR


def test_interrupt_of_the_same_class_waits_on(guest: Guest) -> None:
    _interruptible(guest)
    guest.code(MOV_CR8_RAX + NOP + HLT)
    guest.vcpu.apic_vectors.tpr = 0xF0
    guest.vcpu.apic_vectors.post(VECTOR, is_level=False)
    guest.vcpu.look_for_interrupts()
    assert guest.run_to_halt(rax=5, rflags=IF)["rip"] == CODE + 6


def test_interrupt_waits_for_if_after_cr8_was_lowered(guest: Guest) -> None:
    _interruptible(guest)
    guest.code(MOV_CR8_RAX + NOP + "fb" + NOP + NOP + HLT)  # sti
    guest.vcpu.apic_vectors.tpr = 0xF0
    guest.vcpu.apic_vectors.post(VECTOR, is_level=False)
    guest.vcpu.look_for_interrupts()
    after = guest.run_to_halt(rax=0)
    assert after["rip"] == HANDLER + 1
    assert int.from_bytes(guest.memory.read(after["rsp"], 8), "little") == CODE + 7


def test_cr8_set_from_outside_lets_an_interrupt_in(guest: Guest) -> None:
    _interruptible(guest)
    guest.code(NOP + HLT)
    guest.vcpu.apic_vectors.tpr = 0x5F
    guest.vcpu.apic_vectors.post(VECTOR, is_level=False)
    guest.vcpu.look_for_interrupts()
    assert guest.run_to_halt(rflags=IF)["rip"] == CODE + 2
    assert guest.run_to_halt(rip=CODE, cr8=4)["rip"] == HANDLER + 1


def test_writing_back_the_registers_keeps_the_lower_half_of_the_priority(guest: Guest) -> None:
    guest.vcpu.apic_vectors.tpr = 0x7A
    guest.vcpu.write_registers(guest.vcpu.read_registers())
    assert guest.vcpu.apic_vectors.tpr == 0x7A


@pytest.mark.parametrize("level", [0, 9])
def test_state_of_an_earlier_version_that_held_cr8_is_taken(guest: Guest, level: int) -> None:
    assert "cr8" not in STATE.fields
    state = guest.vcpu.save()
    former = (*state.registers, RegisterState(name="cr8", data=level.to_bytes(8, "little")))
    guest.vcpu.load(type(state)(registers=former, tsc_skew=0, nmi_pending=False))
    guest.code(HLT)
    assert guest.resume().kind == ExitKind.HALT
